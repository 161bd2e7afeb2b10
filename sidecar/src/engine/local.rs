//! The engine that is the store in this pod.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use codexstore::archive::{Archived, Position};
use codexstore::backup::BackupInfo;
use codexstore::format::Lineage;
use codexstore::{
    Batch, Code, Committed, Entry, Error, KeyId, Kind, Page, Program, Rewrapped, Scan, SetOptions,
    Snapshot, Store, Txn, Version, Watch,
};
use codexstore_api::status::{Reencryption, State};
use tokio::sync::oneshot;

use crate::trace::request::committing;

use super::reencrypt::Asked;
use super::{Conditions, Engine, Failure, Health, Look, Put, Result, Sight, Tag, Value, Written};

/// The store, while it is open.
enum Slot {
    Open(Store),
    Closed(State, Option<Error>),
}

/// The local store, which its [`super::owner::Owner`] opens and closes.
pub struct Local {
    slot: ArcSwap<Slot>,
    /// What is wrong with the keyring although the store serves.
    notice: Mutex<Option<String>>,
    /// The keys that what a restore set aside needs, as far as that is known.
    aside: Mutex<Option<BTreeSet<KeyId>>>,
    reencryption: Arc<Asked>,
}

impl Default for Local {
    fn default() -> Local {
        Local {
            slot: ArcSwap::from_pointee(Slot::Closed(State::Starting, None)),
            notice: Mutex::default(),
            aside: Mutex::default(),
            reencryption: Arc::default(),
        }
    }
}

impl Local {
    /// Serves this store from now on.
    pub fn opened(&self, store: Store) {
        self.slot.store(Arc::new(Slot::Open(store)));
    }

    /// Stops serving and says why; the store that was served is handed back.
    pub fn closed(&self, state: State, why: Error) -> Option<Store> {
        match &*self.slot.swap(Arc::new(Slot::Closed(state, Some(why)))) {
            Slot::Open(store) => Some(store.clone()),
            Slot::Closed(..) => None,
        }
    }

    /// The store, if it is open.
    pub fn store(&self) -> Result<Store> {
        match &**self.slot.load() {
            Slot::Open(store) => Ok(store.clone()),
            Slot::Closed(_, why) => Err(Failure::NotOpen(why.clone())),
        }
    }

    /// Sets or clears what is wrong with the keyring although the store serves.
    pub fn notice(&self, notice: Option<String>) {
        *self.notice.lock().unwrap_or_else(PoisonError::into_inner) = notice;
    }

    /// Takes note of the keys that what was set aside needs.
    pub fn aside(&self, keys: Option<BTreeSet<KeyId>>) {
        *self.aside.lock().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    async fn submit<P: Program>(
        store: &Store,
        program: P,
        share: impl Send + 'static,
    ) -> Result<P::Output> {
        let (answer, answered) = oneshot::channel();
        let deciding = async move {
            store.submit(program, move |result| {
                drop(share);
                // The request may have given up; its outcome is then unknown to the caller.
                let _ = answer.send(result);
            });
            answered.await
        };
        match committing(deciding).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(Error::internal("the committer dropped a request").into()),
        }
    }
}

fn value(store: &Store, entry: &Entry) -> Value {
    Value {
        bytes: entry.bytes(),
        tag: Tag {
            lineage: store.lineage(),
            revision: entry.modified(),
        },
        created: entry.created(),
        version: entry.version(),
        expires_at: entry.expires_at(),
    }
}

/// Which state an error at open means.
pub fn state_of(error: &Error) -> State {
    match error.as_code() {
        Code::Locked | Code::Fenced => State::Locked,
        Code::UnsupportedVersion => State::ConfigError,
        _ => match error.kind() {
            Kind::Encryption => State::KeyError,
            Kind::Integrity => State::IntegrityError,
            Kind::Validation => State::ConfigError,
            _ => State::IoError,
        },
    }
}

impl Look for Store {
    fn entry(&self, key: &[u8]) -> codexstore::Result<Option<Entry>> {
        self.get(key)
    }

    fn now_ms(&self) -> u64 {
        Store::now_ms(self)
    }

    fn live(&self) -> u64 {
        self.len()
    }
}

impl Look for Snapshot {
    fn entry(&self, key: &[u8]) -> codexstore::Result<Option<Entry>> {
        self.get(key)
    }

    fn now_ms(&self) -> u64 {
        Snapshot::now_ms(self)
    }

    fn live(&self) -> u64 {
        self.len()
    }
}

struct PutProgram {
    put: Put,
    lineage: u64,
}

impl Program for PutProgram {
    type Output = Written;

    fn run(self, txn: &mut Txn<'_>) -> codexstore::Result<Written> {
        let Put {
            key,
            value,
            ttl,
            conditions,
            actor,
        } = self.put;
        if let Some(actor) = actor {
            txn.set_actor(actor)?;
        }
        check(txn, &key, &conditions, self.lineage)?;
        txn.set_with(
            &key,
            &value,
            SetOptions {
                ttl,
                ..SetOptions::default()
            },
        )?;
        let expires_at = match ttl {
            Some(_) => txn.get(&key)?.and_then(|entry| entry.expires_at()),
            None => None,
        };
        let done = txn.outcome();
        Ok(Written {
            tag: Tag {
                lineage: self.lineage,
                revision: done.revision,
            },
            created: done.created > 0,
            expires_at,
        })
    }

    fn size_hint(&self) -> usize {
        self.put.key.len() + self.put.value.len()
    }
}

struct DeleteProgram {
    key: Vec<u8>,
    conditions: Conditions,
    actor: Option<String>,
    lineage: u64,
}

impl Program for DeleteProgram {
    type Output = Option<u64>;

    fn run(self, txn: &mut Txn<'_>) -> codexstore::Result<Option<u64>> {
        if let Some(actor) = self.actor {
            txn.set_actor(actor)?;
        }
        check(txn, &self.key, &self.conditions, self.lineage)?;
        let was_there = txn.delete(&self.key)?;
        Ok(was_there.then(|| txn.outcome().revision))
    }

    fn size_hint(&self) -> usize {
        self.key.len()
    }
}

fn check(
    txn: &Txn<'_>,
    key: &[u8],
    conditions: &Conditions,
    lineage: u64,
) -> codexstore::Result<()> {
    if conditions.is_empty() {
        return Ok(());
    }
    let found = txn.get(key)?.map(|entry| Tag {
        lineage,
        revision: entry.modified(),
    });
    conditions.check(found)
}

/// What a clock that is not believed means, and what to do.
fn clock_notice(jump_ms: Option<u64>) -> Option<String> {
    let hours = jump_ms? / 3_600_000;
    Some(format!(
        "the wall clock is {hours} hours ahead of the last write; nothing expires for as long, unless the clock is right and you \
         say so: codexctl accept-clock, or POST /v1/clock/accept on the socket"
    ))
}

impl Engine for Local {
    async fn get(&self, key: &[u8]) -> Result<Option<Value>> {
        let slot = self.slot.load();
        let store = match &**slot {
            Slot::Open(store) => store,
            Slot::Closed(_, why) => return Err(Failure::NotOpen(why.clone())),
        };
        let Some(entry) = store.get(key)? else {
            return Ok(None);
        };
        Ok(Some(value(store, &entry)))
    }

    async fn put(&self, put: Put, share: impl Send + 'static) -> Result<Written> {
        let store = self.store()?;
        let lineage = store.lineage();
        Local::submit(&store, PutProgram { put, lineage }, share).await
    }

    async fn delete(
        &self,
        key: Vec<u8>,
        conditions: Conditions,
        actor: Option<String>,
    ) -> Result<Option<u64>> {
        let store = self.store()?;
        let lineage = store.lineage();
        Local::submit(
            &store,
            DeleteProgram {
                key,
                conditions,
                actor,
                lineage,
            },
            (),
        )
        .await
    }

    async fn delete_prefix(
        &self,
        prefix: Vec<u8>,
        place: impl Send + 'static,
    ) -> Result<(u64, u64)> {
        let store = self.store()?;
        // It commits several batches in turn and waits for each: not for the I/O thread.
        let work = tokio::task::spawn_blocking(move || {
            let _place = place;
            let deleted = store.delete_prefix(&prefix)?;
            Ok((deleted, store.status().revision))
        });
        work.await
            .unwrap_or_else(|_| Err(Error::internal("a deletion ended early").into()))
    }

    async fn commit(&self, batch: Batch, share: impl Send + 'static) -> Result<Committed> {
        let store = self.store()?;
        Local::submit(&store, batch, share).await
    }

    async fn run<P: Program>(&self, program: P, share: impl Send + 'static) -> Result<P::Output> {
        let store = self.store()?;
        Local::submit(&store, program, share).await
    }

    async fn accept_clock(&self) -> Result<()> {
        let store = self.store()?;
        // It waits for the committer.
        let work = tokio::task::spawn_blocking(move || Ok(store.accept_clock()?));
        work.await
            .unwrap_or_else(|_| Err(Error::internal("accepting the clock ended early").into()))
    }

    async fn rewrap(&self) -> Result<Rewrapped> {
        let store = self.store()?;
        // It waits for the disk.
        let work = tokio::task::spawn_blocking(move || Ok(store.rewrap()?));
        work.await
            .unwrap_or_else(|_| Err(Error::internal("a rewrap ended early").into()))
    }

    fn reencrypt(&self, id: &str) -> Result<Reencryption> {
        let store = self.store()?;
        if store.status().key_id.is_none() {
            return Err(Error::new(
                Code::EncryptionMismatch,
                "the store is not encrypted: there are no data keys to be replaced",
            )
            .into());
        }
        Ok(self.reencryption.ask(store, id)?)
    }

    fn scan(&self, scans: &[Scan]) -> Result<Page> {
        Ok(self.store()?.scan_all(scans)?)
    }

    fn look<T>(&self, sight: Sight, with: impl FnOnce(&dyn Look) -> T) -> Result<T> {
        match &**self.slot.load() {
            Slot::Open(store) => Ok(match sight {
                Sight::Latest => with(store),
                Sight::OnePoint => with(&store.snapshot()),
            }),
            Slot::Closed(_, why) => Err(Failure::NotOpen(why.clone())),
        }
    }

    fn submit_all<P: Program>(
        &self,
        programs: impl Iterator<Item = (P, impl FnOnce(Result<P::Output>) + Send + 'static)>,
    ) {
        match &**self.slot.load() {
            Slot::Open(store) => store.submit_all(programs.map(|(program, done)| {
                let done = |result: codexstore::Result<_>| done(result.map_err(Failure::Failed));
                (program, done)
            })),
            Slot::Closed(_, why) => {
                programs.for_each(|(_, done)| done(Err(Failure::NotOpen(why.clone()))));
            }
        }
    }

    fn revisions(&self) -> Result<(u64, u64)> {
        let store = self.store()?;
        Ok((store.snapshot().revision(), store.anchor().revision))
    }

    fn backup(&self, out: &mut impl std::io::Write) -> Result<BackupInfo> {
        Ok(self.store()?.backup(out)?)
    }

    fn archive_position(&self) -> Result<Position> {
        Ok(self.store()?.archive_position())
    }

    fn archive(&self, lineage: u64, after: u64) -> Result<Archived> {
        Ok(self.store()?.archive(Lineage(lineage), after)?)
    }

    fn lineage(&self) -> Result<u64> {
        Ok(self.store()?.lineage())
    }

    fn watch(&self, from: Option<u64>, prefix: Bytes) -> Result<Watch> {
        Ok(self.store()?.watch(from, prefix)?)
    }

    fn versions(
        &self,
        key: &[u8],
        from: u64,
    ) -> Result<impl Iterator<Item = codexstore::Result<Version>>> {
        Ok(self.store()?.versions(key, from)?)
    }

    fn get_at(&self, key: &[u8], revision: u64) -> Result<Option<Value>> {
        let store = self.store()?;
        let entry = store.get_at(key, revision)?;
        Ok(entry.map(|entry| value(&store, &entry)))
    }

    fn health(&self) -> Health {
        let aside = self.aside.lock();
        let aside = aside.unwrap_or_else(PoisonError::into_inner).clone();
        let notice = self
            .notice
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match &**self.slot.load() {
            Slot::Open(store) => {
                let numbers = store.status();
                let (state, error) = match &numbers.poisoned {
                    Some(error) => (State::Poisoned, Some(error.clone())),
                    None => (State::Ready, None),
                };
                let notices = [clock_notice(numbers.clock_jump_ms), notice];
                let notices: Vec<String> = notices.into_iter().flatten().collect();
                let notices = Some(notices.join("; ")).filter(|text| !text.is_empty());
                let message = error.as_ref().map(ToString::to_string).or(notices);
                Health {
                    state,
                    message,
                    error,
                    set_aside_keys: aside,
                    reencryption: self.reencryption.told(store.reencrypting()),
                    stats: numbers,
                }
            }
            Slot::Closed(state, why) => Health {
                state: *state,
                message: why.as_ref().map(ToString::to_string),
                error: why.clone(),
                reencryption: self.reencryption.told(None),
                ..Health::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_store_has_the_same_row_in_the_table_of_the_protocols() {
        for code in Code::ALL {
            let row = codexstore_api::codes::TABLE
                .iter()
                .find(|row| row.code == code.as_str())
                .unwrap_or_else(|| panic!("{code} has no row"));
            assert_eq!(row.kind.as_str(), code.kind().as_str(), "{code}");
            assert_eq!(row.retry.as_str(), code.retry().as_str(), "{code}");
        }
    }

    #[tokio::test]
    async fn a_clock_that_jumped_is_told_of_until_it_is_accepted_whatever_the_keyring_does() {
        use codexstore::{Encryption, Options};
        let dir = tempfile::tempdir().unwrap();
        let mut options = Options::new(Encryption::None);
        options.max_disk = 64 << 20;
        let store = Store::open(dir.path(), options.clone()).unwrap();
        store.set(b"k", b"value").unwrap();
        store.close().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        options.max_clock_jump = std::time::Duration::ZERO;
        let local = Local::default();
        local.opened(Store::open(dir.path(), options).unwrap());
        let message = || local.health().message.unwrap_or_default();
        assert!(message().contains("accept-clock"), "{}", message());
        local.notice(Some("no keyring".to_string()));
        assert!(message().contains("accept-clock") && message().contains("no keyring"));
        local.notice(None);
        assert!(message().contains("accept-clock"), "{}", message());
        local.accept_clock().await.unwrap();
        assert_eq!(message(), "");
    }

    #[tokio::test]
    async fn a_write_that_nobody_waits_for_holds_its_share_until_it_is_decided() {
        use codexstore::{Encryption, Options};
        let dir = tempfile::tempdir().unwrap();
        let mut options = Options::new(Encryption::None);
        options.max_disk = 64 << 20;
        let store = Store::open(dir.path(), options).unwrap();
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        store.submit(
            move |_: &mut Txn<'_>| {
                let _ = wait.recv();
                Ok(())
            },
            |_| {},
        );
        let local = Local::default();
        local.opened(store);
        let share = Arc::new(());
        let put = Put {
            key: b"k".to_vec(),
            value: bytes::Bytes::from_static(b"v"),
            ttl: None,
            conditions: Conditions::default(),
            actor: None,
        };
        let short = std::time::Duration::from_millis(10);
        let gave_up = tokio::time::timeout(short, local.put(put, share.clone())).await;
        assert!(gave_up.is_err());
        assert_eq!(Arc::strong_count(&share), 2, "given back before its time");
        go_on.send(()).unwrap();
        for _ in 0..1000 {
            if Arc::strong_count(&share) == 1 {
                break;
            }
            tokio::time::sleep(short).await;
        }
        assert_eq!(Arc::strong_count(&share), 1, "never given back");
        assert!(local.get(b"k").await.unwrap().is_some());
    }

    #[test]
    fn states_say_where_to_look() {
        let state = |code| state_of(&Error::new(code, ""));
        assert_eq!(state(Code::WrongKey), State::KeyError);
        assert_eq!(state(Code::InvalidKeyring), State::KeyError);
        assert_eq!(state(Code::Corrupt), State::IntegrityError);
        assert_eq!(state(Code::Locked), State::Locked);
        assert_eq!(state(Code::Denied), State::IoError);
    }
}
