//! Commands that clients know and this store does not offer: each is answered by what to use.

use super::command::{Command, Run};

const HASH: &str = "a key for each field, such as NAME:FIELD, or a document as the value";
const LIST: &str = "a key for each element, such as NAME:000001, with INCR for the next number";
const SET: &str = "a key for each member, such as NAME:MEMBER, with SCAN MATCH";
const SORTED: &str = "a key for each member, with its rank in the key: keys are listed in order";
const STREAM: &str = "a key for each entry, with INCR for the next number";
const PUBSUB: &str = "the store itself: readers look, or watch keys over HTTP";
const SCRIPT: &str = "MULTI with WATCH, SET with NX, XX or IFEQ, or POST /v1/batch over HTTP";
const BITS: &str = "GETRANGE and SETRANGE, or a key for each flag";
const WHOLE: &str = "codexctl export and import, or backups";
const NODE: &str = "nothing: a store is one pod's, without replicas and without a cluster";
const RUN: &str = "INFO, GET /metrics on the HTTP socket, or the CodexStore resource";
const ACCESS: &str = "the permissions of the socket: there are no users and no passwords";
const PART: &str = "GETRANGE";

/// A row: what to use, and the names.
macro_rules! table {
    ($($instead:ident: $($name:literal)*;)*) => {
        /// The commands.
        pub static TABLE: &[Command] = &[$($(Command {
            name: $name,
            arity: -1,
            flags: 0,
            keys: (0, 0, 0),
            verbs: 0,
            group: "",
            since: "",
            summary: "",
            run: Run::Refused($instead),
        },)*)*];
    };
}

table! {
    HASH: "hset" "hget" "hgetall" "hmset" "hmget" "hdel" "hexists" "hlen" "hkeys" "hvals" "hincrby" "hincrbyfloat" "hsetnx"
        "hstrlen" "hscan" "hrandfield" "hgetdel" "hgetex" "hsetex" "hexpire" "hpexpire" "httl" "hpttl" "hpersist";
    LIST: "lpush" "rpush" "lpushx" "rpushx" "lpop" "rpop" "llen" "lrange" "lindex" "lset" "lrem" "ltrim" "linsert" "lpos" "lmove"
        "rpoplpush" "blpop" "brpop" "blmove" "brpoplpush" "lmpop" "blmpop" "sort" "sort_ro";
    SET: "sadd" "srem" "smembers" "sismember" "smismember" "scard" "spop" "srandmember" "smove" "sinter" "sintercard"
        "sinterstore" "sunion" "sunionstore" "sdiff" "sdiffstore" "sscan";
    SORTED: "zadd" "zrem" "zscore" "zmscore" "zrange" "zrevrange" "zrangebyscore" "zrevrangebyscore" "zrangebylex"
        "zrevrangebylex" "zrangestore" "zrank" "zrevrank" "zcard" "zcount" "zlexcount" "zincrby" "zpopmin" "zpopmax" "bzpopmin"
        "bzpopmax" "zmpop" "bzmpop" "zrandmember" "zremrangebyrank" "zremrangebyscore" "zremrangebylex" "zunion" "zunionstore"
        "zinter" "zinterstore" "zintercard" "zdiff" "zdiffstore" "zscan" "geoadd" "geodist" "geohash" "geopos" "georadius"
        "georadiusbymember" "geosearch" "geosearchstore";
    STREAM: "xadd" "xread" "xrange" "xrevrange" "xlen" "xdel" "xtrim" "xgroup" "xreadgroup" "xack" "xclaim" "xautoclaim"
        "xpending" "xinfo" "xsetid";
    PUBSUB: "publish" "spublish" "subscribe" "psubscribe" "ssubscribe" "unsubscribe" "punsubscribe" "sunsubscribe" "pubsub";
    SCRIPT: "eval" "evalsha" "eval_ro" "evalsha_ro" "script" "function" "fcall" "fcall_ro";
    BITS: "setbit" "getbit" "bitcount" "bitop" "bitpos" "bitfield" "bitfield_ro" "pfadd" "pfcount" "pfmerge";
    WHOLE: "dump" "restore" "migrate" "bgrewriteaof" "move" "swapdb";
    NODE: "replicaof" "slaveof" "role" "psync" "sync" "replconf" "cluster" "asking" "readonly" "readwrite" "failover" "waitaof";
    RUN: "monitor" "slowlog" "latency" "debug" "module" "shutdown" "lolwut";
    ACCESS: "acl";
    PART: "lcs";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_command_is_both_offered_and_refused_nor_refused_twice() {
        let mut seen = std::collections::BTreeSet::new();
        for command in TABLE {
            assert!(seen.insert(command.name), "{}", command.name);
            let found = crate::redis::table::find(command.name.as_bytes()).unwrap();
            assert!(!found.offered(), "{}", command.name);
        }
    }
}
