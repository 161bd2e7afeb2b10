//! Commands to compare by: some that were thought of, and any number that chance makes.

/// Commands whose answers are compared one by one, in this order.
pub const SCRIPT: &str = "
SET a 1
SET a 2 NX
SET a 2 XX
SET a 3 XX GET
SET a 4 NX GET
SET new 1 NX GET
SET new 1 NX XX
SET new 1 EX 10 PX 10
SET new 1 EX 10 KEEPTTL
SET new 1 EX
SET new 1 EX 0
SET new 1 EX -1
SET new 1 PX x
SET new 1 EX 9223372036854775807
SET new 1 PX 9223372036854775807
SET new 1 EXAT 1
EXISTS new
SET new 1 WHAT
SET new
GET a b
GET
SETNX a 1
SETNX fresh 1
SETEX ex 100 v
TTL ex
SETEX ex 0 v
SETEX ex x v
SETEX ex -5 v
PSETEX ex 100000 v
TTL ex
SET ex w KEEPTTL
TTL ex
SET ex w
TTL ex
GETSET a 5
GETSET nothing 5
GETDEL nothing
GETDEL nothing
GETEX a
GETEX a EX 100
TTL a
GETEX a PERSIST
TTL a
GETEX a PERSIST EX 1
GETEX a EX
GETEX a EX 0
GETEX a EXAT 1
EXISTS a
GETEX a
MSET a 1 b 2 a 3
MGET a b c a
MSET a 1 b
MSET a
MSETNX a 1 z 1
EXISTS z
MSETNX y 1 z 1
MSETNX y
DEL y z y
UNLINK
EXISTS a a b none
TOUCH a none
TYPE a
TYPE none
STRLEN a
STRLEN none
APPEND text hello
APPEND text -world
APPEND none2 x
GETRANGE text 0 -1
GETRANGE text 0 0
GETRANGE text -5 -1
GETRANGE text 3 1
GETRANGE text -1 -5
GETRANGE text -100 2
GETRANGE text 5 100
GETRANGE text 100 200
GETRANGE none 0 -1
GETRANGE text x 1
GETRANGE text 0 9223372036854775807
GETRANGE text -9223372036854775808 -1
SUBSTR text 1 2
SETRANGE text 6 WORLD
GET text
SETRANGE text 12 !
GET text
SETRANGE gap 3 x
GET gap
SETRANGE text -1 x
SETRANGE text x x
SETRANGE text 99999999999 x
INCR n
INCR n
DECR n
INCRBY n 10
DECRBY n 3
INCRBY n x
INCRBY n 9223372036854775807
INCRBY n -9223372036854775808
DECRBY n -9223372036854775808
INCR text
SET lead 007
INCR lead
SET space 1
APPEND space -
INCR space
SET plus +1
INCR plus
SET big 9223372036854775807
INCR big
DECR big
SET small -9223372036854775808
DECR small
INCRBYFLOAT f 1.5
INCRBYFLOAT f 1.5
INCRBYFLOAT f 0.1
INCRBYFLOAT f -3
INCRBYFLOAT f 5.0e1
INCRBYFLOAT f abc
INCRBYFLOAT text 1
INCRBYFLOAT f inf
INCRBYFLOAT n 1
EXPIRE a 100
TTL a
EXPIRE a 200 NX
EXPIRE a 200 XX
EXPIRE a 100 GT
EXPIRE a 300 GT
EXPIRE a 400 LT
EXPIRE a 50 LT
TTL a
EXPIRE b 10 GT
EXPIRE b 10 XX
TTL b
EXPIRE b 10 LT
TTL b
EXPIRE b 10 NX XX
EXPIRE b 10 NX GT
EXPIRE b 10 GT LT
EXPIRE b 100 XX GT
EXPIRE none 10
EXPIRE b x
EXPIRE b 9223372036854775807
EXPIRE b -9223372036854775808
EXPIREAT a 33177117420
EXPIRETIME a
PEXPIRETIME a
PEXPIREAT a 33177117420123
EXPIRETIME a
PEXPIRETIME a
EXPIRETIME none
PEXPIRETIME text
PEXPIRE a 100000
TTL a
PERSIST a
PERSIST a
PERSIST none
TTL a
PTTL none
PTTL text
EXPIRE a -1
EXISTS a
EXPIREAT text 1
EXISTS text
SET from v EX 100
RENAME from to
TTL to
EXISTS from
RENAME none to
RENAME to to
RENAMENX to b
RENAMENX to to
RENAMENX to free
RENAMENX none free
COPY free copied
TTL copied
COPY free copied
COPY free copied REPLACE
COPY none copied
COPY free free
COPY free other DB 0
COPY free other2 DB 99
COPY free other2 DB
COPY free other2 WHAT
DBSIZE
KEYS f*
KEYS *
KEYS [fg]*
KEYS ?
KEYS none*
MULTI
SET t 1
INCR t
INCR copied
GET t
MGET t none
EXEC
GET t
MULTI
INCR t
DISCARD
GET t
EXEC
DISCARD
MULTI
MULTI
WATCH t
GET
EXEC
GET t
MULTI
EXEC
WATCH t
GET t
MULTI
INCR t
EXEC
WATCH t
SET t 10
MULTI
INCR t
EXEC
GET t
WATCH t none
UNWATCH
SET t 11
MULTI
INCR t
EXEC
WATCH gone
SET gone 1
DEL gone
PING
PING x
PING x y
ECHO x
ECHO
SELECT 0
SELECT x
AUTH x
AUTH default x
AUTH other x
CLIENT GETNAME
CLIENT SETNAME me
CLIENT GETNAME
CLIENT NO-EVICT ON
WAIT 0 0
WAIT 0 -1
WAIT x 0
SET fresh 12
OBJECT ENCODING fresh
SET fresh word
OBJECT ENCODING fresh
SET fresh 012345678901234567890123456789012345678901234
OBJECT ENCODING fresh
OBJECT REFCOUNT fresh
OBJECT ENCODING none
HELLO 9
HELLO x
RESET
CLIENT GETNAME
COMMAND GETKEYS MSET a 1 b 2
COMMAND GETKEYS GET a
FLUSHDB WHAT
FLUSHDB
DBSIZE
RANDOMKEY
KEYS *
SET a 1
RANDOMKEY
FLUSHALL ASYNC
EXISTS a
";

/// Random numbers that are the same in each run of a seed.
pub struct Chance(u64, usize);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1, 0)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn of<'a>(&mut self, some: &[&'a str]) -> &'a str {
        some[self.below(some.len())]
    }

    fn key(&mut self) -> String {
        self.of(&["k1", "k2", "k3", "k4", "k5", "key:6"]).to_owned()
    }

    fn value(&mut self) -> String {
        match self.below(5) {
            0 => self
                .of(&["0", "1", "-7", "100", "3.5", "0.25", "-1.75"])
                .to_owned(),
            1 => self
                .of(&["text", "", "01", "9223372036854775807"])
                .to_owned(),
            2 => "x".repeat(self.below(3000)),
            _ => self.below(1000).to_string(),
        }
    }

    fn number(&mut self) -> String {
        let odd = [
            "x",
            "",
            "9223372036854775807",
            "-9223372036854775808",
            "1.5",
        ];
        match self.below(12) {
            0 => self.of(&odd).to_owned(),
            1 => format!("-{}", self.below(50)),
            _ => self.below(50).to_string(),
        }
    }

    /// Seconds that are over long after the test, or never were. None are the same twice: which of two
    /// such is later would be a matter of milliseconds.
    fn seconds(&mut self) -> String {
        self.1 += 10;
        match self.below(6) {
            0 => self.of(&["0", "-1", "x"]).to_owned(),
            _ => (self.1 + 100_000 * (1 + self.below(9))).to_string(),
        }
    }

    /// One command.
    pub fn command(&mut self) -> Vec<String> {
        let (key, other, value) = (self.key(), self.key(), self.value());
        let words: Vec<String> = match self.below(40) {
            0..=5 => {
                let mut words = vec!["SET".into(), key, value];
                for _ in 0..self.below(3) {
                    match self.below(7) {
                        0 => words.push("NX".into()),
                        1 => words.push("XX".into()),
                        2 => words.push("GET".into()),
                        3 => words.push("KEEPTTL".into()),
                        4 => words.extend(["EX".into(), self.seconds()]),
                        5 => words.extend(["EXAT".into(), "33177117420".into()]),
                        _ => {}
                    }
                }
                words
            }
            6..=8 => vec!["GET".into(), key],
            9 => vec!["SETNX".into(), key, value],
            10 => vec!["SETEX".into(), key, self.seconds(), value],
            11 => vec!["GETSET".into(), key, value],
            12 => vec!["GETDEL".into(), key],
            13 => vec!["GETEX".into(), key, self.of(&["PERSIST", "WHAT"]).into()],
            14 => vec!["MGET".into(), key, other],
            15 => vec!["MSET".into(), key, value, other, self.value()],
            16 => vec!["MSETNX".into(), key, value, other, self.value()],
            17 => vec!["DEL".into(), key, other],
            18 => vec!["EXISTS".into(), key, other],
            19 => vec!["STRLEN".into(), key],
            20 => vec!["APPEND".into(), key, value],
            21 => vec!["GETRANGE".into(), key, self.number(), self.number()],
            22 => vec!["SETRANGE".into(), key, self.below(60).to_string(), value],
            23..=24 => vec!["INCR".into(), key],
            25 => vec!["INCRBY".into(), key, self.number()],
            26 => vec!["DECRBY".into(), key, self.number()],
            // On keys of its own: of large numbers Redis keeps no more than a binary fraction does.
            27 => {
                let start = self.of(&["0", "3.5", "0.25", "-1.75", "7", "x"]).into();
                vec!["SET".into(), self.of(&["f1", "f2"]).into(), start]
            }
            28 => {
                let by = self.of(&["0.5", "-0.25", "2", "1e1", "0.1", "x"]).into();
                vec!["INCRBYFLOAT".into(), self.of(&["f1", "f2"]).into(), by]
            }
            29..=30 => {
                let mut words = vec!["EXPIRE".into(), key, self.seconds()];
                if self.below(2) == 0 {
                    words.push(self.of(&["NX", "XX", "GT", "LT"]).into());
                }
                words
            }
            31 => vec!["PERSIST".into(), key],
            32..=33 => vec!["TTL".into(), key],
            34 => vec!["RENAME".into(), key, other],
            35 => vec!["RENAMENX".into(), key, other],
            36 => vec!["COPY".into(), key, other, "REPLACE".into()],
            37 => vec!["TYPE".into(), key],
            38 => vec!["DBSIZE".into()],
            _ => vec!["KEYS".into(), self.of(&["*", "k?", "key:*", "[k]1"]).into()],
        };
        words
    }
}
