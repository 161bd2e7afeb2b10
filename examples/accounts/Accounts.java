import io.lettuce.core.ClientOptions;
import io.lettuce.core.RedisClient;
import io.lettuce.core.RedisURI;
import io.lettuce.core.SocketOptions;
import io.lettuce.core.api.StatefulRedisConnection;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.Executors;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.atomic.AtomicInteger;

/** Money that eight threads move between three accounts: a transaction that is made anew when somebody else was first. With Lettuce. */
class Accounts {
    static final List<String> NAMES = List.of("account:ann", "account:bob", "account:eve");

    public static void main(String[] args) throws Exception {
        RedisClient client = RedisClient.create(RedisURI.Builder.socket(System.getenv("CODEXSTORE_REDIS_SOCKET")).build());
        // A Unix socket has no probes to keep a connection alive with.
        client.setOptions(ClientOptions.builder().socketOptions(SocketOptions.builder().keepAlive(false).build()).build());
        AtomicInteger again = new AtomicInteger();
        try (StatefulRedisConnection<String, String> connection = client.connect()) {
            for (String name : NAMES) {
                connection.sync().set(name, "1000");
            }
            Callable<Integer> mover = () -> move(client, 50, again);
            var threads = Executors.newFixedThreadPool(8);
            int transfers = 0;
            for (var moved : threads.invokeAll(Collections.nCopies(8, mover))) {
                transfers += moved.get();
            }
            threads.shutdown();
            System.out.println("transfers: " + transfers);
            int total = NAMES.stream().mapToInt(name -> Integer.parseInt(connection.sync().get(name))).sum();
            System.out.println("together they have: " + total);
            System.out.println("some were made anew: " + (again.get() > 0));
        } finally {
            client.shutdown();
        }
    }

    /** Moves money {@code count} times, on a connection of its own, since WATCH is a connection's. */
    static int move(RedisClient client, int count, AtomicInteger again) {
        try (StatefulRedisConnection<String, String> connection = client.connect()) {
            var store = connection.sync();
            var random = ThreadLocalRandom.current();
            for (int done = 0; done < count; ) {
                int from = random.nextInt(NAMES.size());
                int to = (from + 1 + random.nextInt(NAMES.size() - 1)) % NAMES.size();
                store.watch(NAMES.get(from), NAMES.get(to));
                int rich = Integer.parseInt(store.get(NAMES.get(from)));
                int poor = Integer.parseInt(store.get(NAMES.get(to)));
                int amount = random.nextInt(rich + 1);
                store.multi();
                store.set(NAMES.get(from), Integer.toString(rich - amount));
                store.set(NAMES.get(to), Integer.toString(poor + amount));
                if (store.exec().wasDiscarded()) {
                    again.incrementAndGet();
                } else {
                    done++;
                }
            }
            return count;
        }
    }
}
