//! `INFO` and `CONFIG GET`: what tools and clients ask a server about itself.

use std::fmt::Write;

use super::Redis;
use super::commands::is;
use super::reply::Reply;
use super::request::Args;
use crate::access::{Grant, Scope};
use crate::engine::{Engine, Health};

/// The version of Redis whose commands are offered, by which clients decide what they send.
pub const LEVEL: &str = "7.2.4";

/// `INFO [section …]`, for a connection that may do what `grant` says.
pub fn info<E: Engine>(redis: &Redis<E>, grant: &Grant, args: Args<'_>) -> Reply {
    let asked = |section: &str| {
        let all = ["default", "all", "everything"];
        args.len() == 1
            || args
                .from(1)
                .any(|word| is(word, section) || all.iter().any(|all| is(word, all)))
    };
    let health = redis.app.engine.health();
    let (stats, limits, up) = (
        &health.stats,
        &redis.app.limits,
        redis.app.started.elapsed(),
    );
    let mut sections: Vec<String> = Vec::new();
    let mut section = |name: &str, lines: &[(&str, String)]| {
        if !asked(name) {
            return;
        }
        let mut letters = name.chars();
        let title: String = letters
            .next()
            .map(|first| first.to_ascii_uppercase())
            .into_iter()
            .chain(letters)
            .collect();
        let mut text = format!("# {title}\r\n");
        for (name, value) in lines {
            let _ = write!(text, "{name}:{value}\r\n");
        }
        sections.push(text);
    };
    section(
        "server",
        &[
            ("redis_version", LEVEL.to_owned()),
            ("redis_mode", "standalone".to_owned()),
            ("server_name", "codexstore".to_owned()),
            ("codexstore_version", env!("CARGO_PKG_VERSION").to_owned()),
            ("arch_bits", usize::BITS.to_string()),
            ("process_id", std::process::id().to_string()),
            ("tcp_port", "0".to_owned()),
            ("uptime_in_seconds", up.as_secs().to_string()),
            ("uptime_in_days", (up.as_secs() / 86_400).to_string()),
            ("executable", "codexstore-sidecar".to_owned()),
        ],
    );
    section(
        "clients",
        &[
            ("connected_clients", redis.clients.count().to_string()),
            ("maxclients", limits.max_connections.to_string()),
            ("blocked_clients", "0".to_owned()),
        ],
    );
    section(
        "memory",
        &[
            ("used_memory", stats.memory_bytes.to_string()),
            ("used_memory_dataset", stats.bytes.to_string()),
            ("maxmemory", stats.max_memory.to_string()),
            ("maxmemory_policy", "noeviction".to_owned()),
        ],
    );
    section("persistence", &persistence(redis, &health));
    section(
        "stats",
        &[
            (
                "total_connections_received",
                redis.clients.ever().to_string(),
            ),
            (
                "total_commands_processed",
                redis.app.metrics.answered().to_string(),
            ),
            ("expired_keys", stats.expired.to_string()),
            ("evicted_keys", "0".to_owned()),
            ("codexstore_commits", stats.commits.to_string()),
            ("codexstore_groups", stats.groups.to_string()),
            ("codexstore_syncs", stats.syncs.to_string()),
        ],
    );
    section(
        "replication",
        &[
            ("role", "master".to_owned()),
            ("connected_slaves", "0".to_owned()),
        ],
    );
    section("cluster", &[("cluster_enabled", "0".to_owned())]);
    // Of keys that it may not read, a connection is not told how many there are: `DBSIZE` counts the others.
    let told = grant.read == Scope::All && stats.keys > 0;
    let keys = told.then(|| format!("keys={},expires=0,avg_ttl=0", stats.keys));
    let keyspace: Vec<_> = keys.into_iter().map(|keys| ("db0", keys)).collect();
    section("keyspace", &keyspace);
    Reply::Verbatim(sections.join("\r\n"))
}

/// What tools look at to see whether writes are safe.
fn persistence<E: Engine>(redis: &Redis<E>, health: &Health) -> [(&'static str, String); 13] {
    let stats = &health.stats;
    let open = health.state.is_open();
    let fine = if stats.poisoned.is_none() {
        "ok"
    } else {
        "err"
    };
    [
        ("loading", u8::from(!open).to_string()),
        ("rdb_changes_since_last_save", "0".to_owned()),
        ("rdb_bgsave_in_progress", "0".to_owned()),
        ("rdb_last_save_time", (stats.now_ms / 1000).to_string()),
        ("rdb_last_bgsave_status", fine.to_owned()),
        ("aof_enabled", "1".to_owned()),
        ("aof_rewrite_in_progress", "0".to_owned()),
        ("aof_last_bgrewrite_status", fine.to_owned()),
        ("aof_last_write_status", fine.to_owned()),
        ("aof_current_size", stats.disk_bytes.to_string()),
        ("codexstore_durability", redis.facts.durability.to_owned()),
        ("codexstore_revision", stats.revision.to_string()),
        ("codexstore_cipher", stats.cipher.to_owned()),
    ]
}

/// `CONFIG GET name …`, where a name may hold stars. Nothing can be set: the resource, or the flags of
/// the sidecar, say it all.
pub fn config<E: Engine>(redis: &Redis<E>, args: Args<'_>) -> Reply {
    if !is(args.get(1), "GET") || args.len() < 3 {
        return Reply::error(
            "ERR CONFIG takes GET and names; settings are the flags of codexstore-sidecar, or fields of the CodexStore",
        );
    }
    let stats = redis.app.engine.health().stats;
    let always = redis.facts.durability == "always";
    let settings = [
        (
            "appendfsync",
            if always { "always" } else { "everysec" }.to_owned(),
        ),
        ("appendonly", "yes".to_owned()),
        ("databases", "1".to_owned()),
        ("maxclients", redis.app.limits.max_connections.to_string()),
        ("maxmemory", stats.max_memory.to_string()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("port", "0".to_owned()),
        ("proto-max-bulk-len", redis.app.limits.max_value.to_string()),
        ("save", String::new()),
        ("timeout", "0".to_owned()),
        ("unixsocket", redis.facts.socket.clone()),
        ("unixsocketperm", format!("{:o}", redis.facts.socket_mode)),
    ];
    let wanted = |name: &str| args.from(2).any(|pattern| like(pattern, name.as_bytes()));
    let found = settings.into_iter().filter(|(name, _)| wanted(name));
    Reply::Map(
        found
            .map(|(name, value)| (Reply::text(name), Reply::text(value)))
            .collect(),
    )
}

/// True if a name is what a pattern of letters and stars says.
fn like(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => {
            like(rest, name)
                || name
                    .split_first()
                    .is_some_and(|(_, shorter)| !rest.is_empty() && like(pattern, shorter))
                || rest.is_empty()
        }
        ([a, rest @ ..], [b, others @ ..]) => a.eq_ignore_ascii_case(b) && like(rest, others),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_with_stars() {
        for (pattern, name, expected) in [
            ("save", "save", true),
            ("SAVE", "save", true),
            ("*", "save", true),
            ("max*", "maxmemory", true),
            ("*memory*", "maxmemory-policy", true),
            ("maxmemory", "maxmemory-policy", false),
            ("*x", "save", false),
            ("", "save", false),
        ] {
            let found = like(pattern.as_bytes(), name.as_bytes());
            assert_eq!(found, expected, "{pattern} {name}");
        }
    }
}
