"""What an app does with redis-py: run by clients.rs with the socket and the version of the protocol."""

import sys
import threading

import redis

path, version = sys.argv[1], int(sys.argv[2])


def client(**options):
    return redis.Redis(unix_socket_path=path, protocol=version, **options)


def raises(kind, call, says=""):
    try:
        call()
    except kind as error:
        assert says in str(error), str(error)
    else:
        raise AssertionError(f"{kind} was expected")


r = client(decode_responses=True, client_name="app")
r.flushall()
assert r.ping() and r.client_getname() == "app"
assert r.info()["redis_version"] == "7.2.4" and r.info("clients")["connected_clients"] >= 1
assert any(c["name"] == "app" for c in r.client_list())
assert r.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
assert r.command_count() > 60 and r.command()["get"]["arity"] == 2
assert r.time()[0] > 1_600_000_000 and r.lastsave() and r.wait(1, 0) == 0

# Values, as text and as bytes.
assert r.set("a", "1", ex=100) and r.get("a") == "1" and 98 <= r.ttl("a") <= 100
assert r.set("a", "2", nx=True) is None and r.set("a", "2", xx=True, keepttl=True)
assert 98 <= r.ttl("a") <= 100 and r.getdel("a") == "2" and r.get("a") is None
binary = bytes(range(256)) * 4096
raw = client()
assert raw.set(b"\x00\xff", binary) and raw.get(b"\x00\xff") == binary
assert raw.getrange(b"\x00\xff", 1, 3) == b"\x01\x02\x03"
assert r.mset({"x": 1, "y": 2}) and r.mget("x", "none", "y") == ["1", None, "2"]
assert r.incr("n") == 1 and r.incrby("n", 9) == 10 and r.incrbyfloat("n", 0.5) == 10.5
assert r.append("text", "hello") == 5 and r.setrange("text", 5, "!") == 6 and r.strlen("text") == 6
assert r.type("text") == "string" and r.exists("text", "none") == 1 and r.rename("text", "other")
assert r.copy("other", "third") and r.expire("third", 10, nx=True) and r.persist("third")
assert r.object("encoding", "x") == "int" and r.memory_usage("x") > 0 and raw.randomkey()

# Scans.
with r.pipeline(transaction=False) as p:
    for n in range(1000):
        p.set(f"scan:{n}", n)
    assert p.execute() == [True] * 1000
assert sorted(r.scan_iter("scan:*", count=50)) == sorted(f"scan:{n}" for n in range(1000))
assert len(r.keys("scan:99*")) == 11

# Errors are those that the library knows.
raises(redis.ResponseError, lambda: r.hset("h", "f", "v"), "HSET is not offered")
raises(redis.ResponseError, lambda: r.incr("other"), "not an integer")
raises(redis.ResponseError, lambda: r.set("k" * 2000, 1), "invalid-key")
raises(redis.ResponseError, lambda: r.execute_command("NONSENSE", "secret"), "NONSENSE")

# A transaction, and one that is tried again until nobody is in the way: eight threads, one pool.
with r.pipeline() as p:
    p.set("t", 1).incr("t").get("t")
    assert p.execute() == [True, 2, "2"]
with r.pipeline() as p:
    p.set("t", 5)
    p.execute_command("SET", "t")
    raises(redis.ResponseError, p.execute, "wrong number of arguments")
assert r.get("t") == "2"
pool = redis.BlockingConnectionPool(
    connection_class=redis.UnixDomainSocketConnection, path=path, protocol=version, max_connections=4, decode_responses=True
)
shared = redis.Redis(connection_pool=pool)
shared.set("counter", 0)


def count():
    def step(p):
        value = int(p.get("counter"))
        p.multi()
        p.set("counter", value + 1)

    for _ in range(10):
        shared.transaction(step, "counter")
        shared.incr("atomic")


threads = [threading.Thread(target=count) for _ in range(8)]
for t in threads:
    t.start()
for t in threads:
    t.join()
assert shared.get("counter") == "80" and shared.get("atomic") == "80"

# A lock of the usual kind, without scripts: set if absent, with an expiry.
assert r.set("lock", "me", nx=True, px=10_000) and not r.set("lock", "you", nx=True, px=10_000)

# The sidecar restarts: the next command connects anew, and all is there.
print("restart", flush=True)
sys.stdin.readline()
assert r.get("t") == "2" and shared.incr("atomic") == 81 and raw.get(b"\x00\xff") == binary
r.flushdb()
assert r.dbsize() == 0
print("done", flush=True)
