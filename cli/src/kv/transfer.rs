//! `export` and `import` of a store that runs, over its socket.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use codexstore_api::bodies::{Batch, Condition, ListQuery, Operation, Precondition};
use codexstore_api::client::{Client, Put};

use super::list::entry;
use crate::args::Socket;
use crate::offline::{Conflict, Done, Record};

/// Entries in one page.
const PAGE: u32 = 100;
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A store that runs.
pub struct Live {
    client: Client,
    socket: Socket,
}

impl Live {
    /// Behind this socket.
    pub fn new(socket: &Path) -> Live {
        let socket = Socket {
            socket: socket.to_owned(),
            timeout: TIMEOUT,
        };
        Live {
            client: super::client(&socket),
            socket,
        }
    }

    fn call<T>(&self, answer: codexstore_api::Result<T>) -> Result<T> {
        super::call(&self.socket, answer)
    }

    /// Gives each entry as a line of JSON, in order of the keys; how many, and the revision of the last page.
    pub async fn lines(
        &self,
        prefix: &[u8],
        mut line: impl FnMut(&str) -> std::io::Result<()>,
    ) -> Result<(u64, u64)> {
        let mut query = ListQuery {
            prefix: Some(prefix.to_vec()),
            limit: Some(PAGE),
            values: true,
            ..ListQuery::default()
        };
        let mut count = 0;
        loop {
            let page = self.call(self.client.list(&query).await)?;
            for item in &page.items {
                let text = serde_json::to_string(&entry(item)?).context("make JSON")?;
                line(&text)?;
                count += 1;
            }
            match page.cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return Ok((count, page.revision)),
            }
        }
    }

    /// Whether there is a key.
    pub async fn has(&self, key: &[u8]) -> Result<bool> {
        Ok(self.call(self.client.head(key).await)?.is_some())
    }

    /// The present revision.
    pub async fn revision(&self) -> Result<u64> {
        Ok(self.call(self.client.status().await)?.revision)
    }

    /// Puts records, all of them in one revision or none, but for [`Conflict::Skip`], where each has its own. What was
    /// done is added. An error with the code `precondition-failed`: one of the keys is there.
    pub async fn put(
        &self,
        records: Vec<Record>,
        conflict: Conflict,
        done: &mut Done,
    ) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let mut batch = Batch::default();
        for record in records {
            let ttl = match record.expires_at {
                None => None,
                Some(at) => match Duration::from_millis(at).checked_sub(now) {
                    Some(left) if !left.is_zero() => Some(left),
                    _ => {
                        done.expired += 1;
                        continue;
                    }
                },
            };
            if conflict == Conflict::Skip {
                let put = Put {
                    ttl,
                    if_none_match: Some("*".to_owned()),
                    ..Put::default()
                };
                match self.client.set(&record.key, record.value, &put).await {
                    Ok(_) => done.created += 1,
                    Err(there) if there.is("precondition-failed") => done.skipped += 1,
                    Err(error) => return self.call(Err(error)),
                }
                continue;
            }
            let set = Operation::set(&record.key, &record.value);
            batch.operations.push(match ttl {
                Some(ttl) => set.ttl(ttl),
                None => set,
            });
            if conflict == Conflict::Fail {
                let absent = Precondition::new(&record.key, Condition::Absent);
                batch.preconditions.push(absent);
            }
        }
        if batch.operations.is_empty() {
            return Ok(());
        }
        let count = batch.operations.len() as u64;
        let committed = self.call(self.client.batch(&batch).await)?;
        done.created += committed.created;
        done.replaced += count.saturating_sub(committed.created);
        Ok(())
    }
}
