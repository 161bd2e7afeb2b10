//! The ratios that the project asks of itself.

/// Name of a case, beginning of a peer's name, least ratio.
const BARS: &[(&str, &str, f64)] = &[
    ("store.set.durable.t32", "SQLite", 20.0),
    ("store.set.durable.t32", "redb", 20.0),
    ("store.set.durable.t32", "fjall", 5.0),
    ("store.set.durable.t1", "SQLite", 1.3),
    ("store.set.durable.t1", "redb", 1.3),
    ("store.set.group-size.t32", "", 2.0),
    ("store.get.100k.t1", "redb", 2.0),
    ("store.get.100k.t1", "SQLite", 4.0),
    ("store.get.100k.t2", "ours, one thread", 1.7),
    ("store.get.100k-while-writing.t1", "ours, no writers", 0.9),
    ("store.scan.100k.t1", "bar", 1.0),
    ("store.scan.100k.t1", "redb", 2.0),
    ("store.set.interval.t1", "ours, always", 5.0),
    (
        "store.batch.10000.t1",
        "ours, single sets by 8 threads",
        50.0,
    ),
    ("store.open.1m", "bar", 1.0),
    ("store.reopen.1m", "bar", 1.0),
    ("store.memory.1m", "Redis", 1.0 / 0.8),
    ("store.backup.1g", "bar", 1.0),
    ("store.restore.1g", "bar", 1.0),
    ("store.memory.backup.1g", "bar", 1.0),
    ("store.rewrap.1g", "bar", 1.0),
    ("store.reencrypt.1g", "bar", 1.0),
    ("store.set.during-reencrypt.t8", "ours, without", 0.8),
    ("store.migrate-encryption.1g", "bar", 1.0),
    ("store.rate.during-fold.t8", "offered", 0.9),
    ("store.rate.during-backup.t8", "offered", 0.9),
    ("store.set.during-fold.t8", "ours, without", 1.0 / 3.0),
    ("store.set.during-backup.t8", "ours, without", 1.0 / 3.0),
    ("store.ledger-set.1m.t8", "ours, a history of 10k", 0.9),
    ("store.ledger-set.10m.t8", "ours, a history of 10k", 0.9),
    ("sidecar.ready", "bar", 1.0),
    ("sidecar.memory.idle", "bar", 1.0),
    ("sidecar.memory.idle.10k", "bar", 1.0),
    ("http.watch.1k", "bar", 1.0),
    ("http.set.always.c1", "Redis", 1.2),
    ("http.set.always.c8", "Redis", 1.5),
    ("http.set.always.c32", "Redis", 1.5),
    ("http.get.c32", "daprd", 3.0),
    ("grpc.get.c32", "daprd", 2.0),
    ("redis.set.always.c1", "Redis", 1.2),
    ("redis.set.always.c8", "Redis", 1.5),
    ("redis.set.always.c32", "Redis", 1.5),
    ("redis.set.always.p16.c32", "Redis", 1.5),
    ("redis.set.interval.c32", "Redis", 1.0),
    ("redis.incr.one-key.c32", "ours, 32 keys", 0.95),
    ("redis.get.c1", "Redis", 0.95),
    ("redis.get.c8", "Redis", 0.95),
    ("redis.get.c32", "Redis", 0.95),
    ("redis.get.p16.c32", "Redis", 0.95),
    ("redis.get.c1.cpu", "Redis", 1.0),
    ("redis.get.c8.cpu", "Redis", 1.0),
    ("redis.get.c32.cpu", "Redis", 1.0),
    ("redis.get.p16.c32.cpu", "Redis", 1.0),
];

/// The bar of a case against a peer.
pub fn bar(name: &str, peer: &str) -> Option<f64> {
    BARS.iter()
        .find(|(case, whom, _)| *case == name && peer.starts_with(whom))
        .map(|(_, _, bar)| *bar)
}
