//! Commands that may take long: they run beside the connections, a few at a time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use codexstore::{Entry, OsRandom, Random, Scan};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout};

use super::command::{Long, Read};
use super::commands::keys::flush_takes;
use super::commands::{NOT_INTEGER, SYNTAX, is};
use super::number;
use super::reply::{OK, Reply};
use super::request::{Args, Request};
use super::{Redis, unserved};
use crate::access::{Grant, Scope};
use crate::engine::{Engine, Result, Sight};

/// Entries that are looked at in one piece.
const SLICE: usize = 16 << 10;

/// Most entries that one `SCAN` looks at, whatever its COUNT.
const MOST_COUNT: usize = 100_000;

/// What a scan looks at on the connections' thread: it takes less time than to hand it over.
const AT_ONCE: usize = 500;

/// Most bytes of keys in one answer, where there is memory for as much.
const MOST_BYTES: usize = 32 << 20;

/// How long `SAVE` waits for the disk.
const SAVE_PATIENCE: Duration = Duration::from_secs(10);

/// Runs a command to its end, for a connection that may do what `grant` says.
pub async fn run<E: Engine>(
    redis: Arc<Redis<E>>,
    grant: Arc<Grant>,
    which: Long,
    request: Request,
) -> Reply {
    let done = match which {
        Long::Save => save(&redis).await,
        Long::Scan => scan(&redis, grant, request.args()).await,
        Long::Keys => keys(&redis, grant, &request).await,
        Long::RandomKey => random_key(&redis, grant).await,
        Long::DbSize => db_size(&redis, grant).await,
        Long::Flush => flush(&redis, request.args()).await,
        Long::Many(read) => many(&redis, read, request).await,
    };
    done.unwrap_or_else(|failure| unserved(&failure))
}

/// A place among what computes for long, of which HTTP's lists are a part.
async fn place<E>(redis: &Redis<E>) -> std::result::Result<OwnedSemaphorePermit, Reply> {
    let place = Arc::clone(&redis.app.scans).acquire_owned();
    match timeout(redis.app.limits.request, place).await {
        Ok(Ok(place)) => Ok(place),
        _ => Err(Reply::error(
            "BUSY too many scans are being computed (overloaded)",
        )),
    }
}

/// Computes on a thread of its own.
async fn apart<E: Engine>(
    redis: &Arc<Redis<E>>,
    work: impl FnOnce(&E) -> Result<Reply> + Send + 'static,
) -> Result<Reply> {
    let place = match place(redis).await {
        Ok(place) => place,
        Err(busy) => return Ok(busy),
    };
    let engine = Arc::clone(&redis.app.engine);
    let work = tokio::task::spawn_blocking(move || {
        let _place = place;
        work(&engine)
    });
    let lost = codexstore::Error::internal("a scan ended early");
    work.await.unwrap_or_else(|_| Err(lost.into()))
}

/// `SAVE`: waits until what is acknowledged is on disk, which it mostly is already.
async fn save<E: Engine>(redis: &Redis<E>) -> Result<Reply> {
    let (latest, _) = redis.app.engine.revisions()?;
    let begun = Instant::now();
    while redis.app.engine.revisions()?.1 < latest {
        if begun.elapsed() > SAVE_PATIENCE {
            return Ok(Reply::error("ERR the disk does not answer in time"));
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(OK)
}

/// `FLUSHALL`, `FLUSHDB`: in slices, each of which is atomic.
async fn flush<E: Engine>(redis: &Arc<Redis<E>>, args: Args<'_>) -> Result<Reply> {
    if !flush_takes(args) {
        return Ok(SYNTAX);
    }
    match place(redis).await {
        Ok(place) => redis.app.engine.delete_prefix(Vec::new(), place).await?,
        Err(busy) => return Ok(busy),
    };
    Ok(OK)
}

/// A pattern, unless it matches everything.
fn glob(pattern: &[u8]) -> Option<Bytes> {
    (pattern != b"*").then(|| Bytes::copy_from_slice(pattern))
}

fn key(entry: &Entry) -> Reply {
    Reply::Bulk(Bytes::copy_from_slice(entry.key()))
}

/// A command that reads, such as `MGET`, of very many keys: at one point in time, and not on the
/// connections' thread.
async fn many<E: Engine>(redis: &Arc<Redis<E>>, read: Read, request: Request) -> Result<Reply> {
    let work = move |engine: &E| {
        let read = engine.look(Sight::OnePoint, |look| read(look, request.args()))?;
        Ok(read?)
    };
    apart(redis, work).await
}

/// How many keys there are that may be seen.
fn count<E: Engine>(engine: &E, grant: &Grant) -> Result<u64> {
    if grant.read == Scope::All {
        return engine.look(Sight::Latest, |look| look.live());
    }
    let mut scan = Scan {
        max_examined: SLICE,
        ..Scan::default()
    };
    let mut count = 0;
    loop {
        let page = engine.scan(&grant.read.narrow(&scan))?;
        count += page.items.len() as u64;
        match page.cursor {
            Some(cursor) => scan.cursor = Some(cursor),
            None => return Ok(count),
        }
    }
}

/// `DBSIZE`
async fn db_size<E: Engine>(redis: &Arc<Redis<E>>, grant: Arc<Grant>) -> Result<Reply> {
    if grant.read == Scope::All {
        return Ok(Reply::number(count(&*redis.app.engine, &grant)?));
    }
    apart(redis, move |engine| {
        Ok(Reply::number(count(engine, &grant)?))
    })
    .await
}

/// `KEYS pattern`
async fn keys<E: Engine>(
    redis: &Arc<Redis<E>>,
    grant: Arc<Grant>,
    request: &Request,
) -> Result<Reply> {
    let mut scan = Scan {
        glob: glob(request.args().get(1)),
        max_examined: SLICE,
        ..Scan::default()
    };
    let most = MOST_BYTES.min(redis.app.limits.in_flight_bytes / 4);
    let work = move |engine: &E| {
        let (mut found, mut bytes) = (Vec::new(), 0);
        loop {
            let page = engine.scan(&grant.read.narrow(&scan))?;
            for entry in &page.items {
                bytes += entry.key().len() + 3 * size_of::<Reply>();
                found.push(key(entry));
            }
            if bytes > most {
                return Ok(Reply::error(
                    "ERR more keys match than one answer may hold: use SCAN (too-large)",
                ));
            }
            match page.cursor {
                Some(cursor) => scan.cursor = Some(cursor),
                None => return Ok(Reply::Array(found)),
            }
        }
    };
    apart(redis, work).await
}

/// What `SCAN` is asked for.
struct Asked {
    cursor: u64,
    pattern: Option<Bytes>,
    count: usize,
    strings: bool,
}

impl Asked {
    fn parse(args: Args<'_>) -> std::result::Result<Asked, Reply> {
        let cursor = std::str::from_utf8(args.get(1))
            .ok()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| text.parse().ok())
            .ok_or(Reply::error("ERR invalid cursor"))?;
        let mut asked = Asked {
            cursor,
            pattern: None,
            count: 10,
            strings: true,
        };
        let mut rest = args.from(2);
        while let Some(word) = rest.next() {
            let value = rest.next().ok_or(SYNTAX)?;
            if is(word, "MATCH") {
                asked.pattern = glob(value);
            } else if is(word, "COUNT") {
                let count = number::integer(value).ok_or(NOT_INTEGER)?;
                let count = usize::try_from(count).ok().filter(|count| *count > 0);
                asked.count = count.ok_or(SYNTAX)?.min(MOST_COUNT);
            } else if is(word, "TYPE") {
                asked.strings = is(value, "string");
            } else {
                return Err(SYNTAX);
            }
        }
        Ok(asked)
    }
}

/// `SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]`
async fn scan<E: Engine>(
    redis: &Arc<Redis<E>>,
    grant: Arc<Grant>,
    args: Args<'_>,
) -> Result<Reply> {
    let asked = match Asked::parse(args) {
        Ok(asked) => asked,
        Err(error) => return Ok(error),
    };
    let from = match asked.cursor {
        0 => None,
        cursor => {
            let Some(key) = redis.cursors.find(cursor) else {
                return Ok(Reply::error(
                    "ERR unknown cursor: it is from before a restart, or too many scans were begun since; begin again with 0",
                ));
            };
            Some(key)
        }
    };
    if !asked.strings {
        return Ok(page(0, Vec::new()));
    }
    // A long pattern may take as many steps a key as both have bytes together.
    let simple = asked
        .pattern
        .as_ref()
        .is_none_or(|pattern| pattern.len() <= 64);
    let scan = Scan {
        glob: asked.pattern,
        cursor: from,
        max_examined: asked.count,
        ..Scan::default()
    };
    let shared = Arc::clone(redis);
    let work = move |engine: &E| {
        // Others' keys are not told, and no place in a scan is one of theirs.
        let found = engine.scan(&grant.read.narrow(&scan))?;
        let keys = found.items.iter().map(key).collect();
        let cursor = if let Some(key) = found.cursor {
            shared.cursors.keep(asked.cursor, key)?
        } else {
            shared.cursors.end(asked.cursor);
            0
        };
        Ok(page(cursor, keys))
    };
    if asked.count <= AT_ONCE && simple {
        return work(&redis.app.engine);
    }
    apart(redis, work).await
}

fn page(cursor: u64, keys: Vec<Reply>) -> Reply {
    Reply::Array(vec![Reply::text(cursor.to_string()), Reply::Array(keys)])
}

/// `RANDOMKEY`: each key is as likely as any other, at the price of walking up to it.
async fn random_key<E: Engine>(redis: &Arc<Redis<E>>, grant: Arc<Grant>) -> Result<Reply> {
    let work = move |engine: &E| {
        let all = count(engine, &grant)?;
        let mut bytes = [0; 8];
        OsRandom.fill(&mut bytes)?;
        let mut left = match all {
            0 => return Ok(Reply::Null),
            all => u64::from_le_bytes(bytes) % all,
        };
        let mut scan = Scan {
            limit: SLICE,
            ..Scan::default()
        };
        let mut last = Reply::Null;
        loop {
            let page = engine.scan(&grant.read.narrow(&scan))?;
            let place = usize::try_from(left).unwrap_or(usize::MAX);
            if let Some(entry) = page.items.get(place) {
                return Ok(key(entry));
            }
            left -= page.items.len() as u64;
            if let Some(entry) = page.items.last() {
                last = key(entry);
            }
            match page.cursor {
                Some(cursor) => scan.cursor = Some(cursor),
                // Keys went while this walked.
                None => return Ok(last),
            }
        }
    };
    apart(redis, work).await
}
