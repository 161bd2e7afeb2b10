//! The owner of the local store: opens it, opens it again when that failed or the store is
//! poisoned, and loads its keyring anew when the files change.
//!
//! It runs on a thread of its own, since all of it blocks. A store that cannot be opened never
//! ends the process: the reason stays visible, and a Secret put right heals it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use codexstore::{
    Code, Encryption, Error, Keyring, Options, Passphrase, Replacement, Store, needed_keys,
};
use codexstore_api::status::State;
use tracing::{error, info, warn};

use super::Engine;
use super::local::{Local, state_of};
use super::restore::{Order, encryption};
use crate::settings::{Keys, Settings};
use crate::watch::{Fingerprint, Refused};

/// First pause before the store is opened again; it doubles up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(10);

/// Longest pause where all data is read each time and only a restore will help.
const INTEGRITY_PAUSE: Duration = Duration::from_mins(1);

/// How long a poisoned store goes on serving reads before it is opened again.
const POISONED_FOR: Duration = Duration::from_secs(5);

/// How often the keyring's files are looked at.
const KEYRING_POLL: Duration = Duration::from_secs(2);

/// Opens the store and keeps it open.
pub struct Owner {
    settings: Arc<Settings>,
    local: Arc<Local>,
    /// The keyring's files as last read.
    seen: Option<Fingerprint>,
    /// What the store was opened with, where that is a passphrase.
    passphrase: Option<Passphrase>,
    /// When a keyring that was refused is tried again.
    refused: Refused,
    next_look: Instant,
    next_open: Option<Instant>,
    pause: Duration,
    last_error: Option<String>,
    poisoned_since: Option<Instant>,
    /// Whether a volume without a store waits for a restore.
    awaits: bool,
}

impl Owner {
    /// An owner that opens the store at its first step.
    pub fn new(settings: Arc<Settings>, local: Arc<Local>) -> Owner {
        Owner {
            awaits: settings.await_restore,
            settings,
            local,
            seen: None,
            passphrase: None,
            refused: Refused::default(),
            next_look: Instant::now(),
            next_open: Some(Instant::now()),
            pause: FIRST_PAUSE,
            last_error: None,
            poisoned_since: None,
        }
    }

    /// Does as it is told; false at the end.
    pub fn obey(&mut self, order: Order) -> bool {
        match order {
            Order::Stop => return false,
            Order::Replace(answer) => {
                let _ = answer.send(self.replace());
            }
            Order::OpenEmpty(answer) => {
                self.awaits = false;
                if self.next_open.is_some() {
                    self.open();
                }
                let _ = answer.send(self.local.store().map(drop).map_err(|_| self.why()));
            }
        }
        true
    }

    /// Closes the store, puts the restored one into its place, and opens it.
    fn replace(&mut self) -> codexstore::Result<Option<String>> {
        let why = Error::new(Code::Closed, "a restored store takes its place");
        if let Some(store) = self.local.closed(State::Recovering, why) {
            // What its last write became is set aside with it.
            let _ = store.close();
        }
        self.poisoned_since = None;
        let before = Replacement::of(&self.settings.data_dir).finish();
        self.pause = FIRST_PAUSE;
        self.open();
        let before = before?;
        if self.next_open.is_some() {
            return Err(self.why());
        }
        let name = before.as_deref().and_then(Path::file_name);
        Ok(name.map(|name| name.to_string_lossy().into_owned()))
    }

    /// Why the store is not open.
    fn why(&self) -> Error {
        let why = self.local.health().error;
        why.unwrap_or_else(|| Error::new(Code::Closed, "the store is not open"))
    }

    /// Does what is due, and says when to come again.
    pub fn step(&mut self) -> Duration {
        let now = Instant::now();
        if now >= self.next_look {
            self.look_at_keyring();
            self.look_at_store();
            self.next_look = Instant::now() + KEYRING_POLL;
        }
        if self.next_open.is_some_and(|at| Instant::now() >= at) {
            self.open();
        }
        let next = self
            .next_open
            .map_or(self.next_look, |at| at.min(self.next_look));
        next.saturating_duration_since(Instant::now())
    }

    /// The directory whose changes are followed.
    fn keys_dir(&self) -> Option<&Path> {
        match &self.settings.keys {
            Keys::None => None,
            Keys::Dir(dir) => Some(dir),
            Keys::Passphrase(file) => file.parent(),
        }
    }

    /// Opens the store, or notes why not and when to try again.
    fn open(&mut self) {
        let started = Instant::now();
        if self.awaits && self.nothing_there() {
            self.wait();
            return;
        }
        match self.try_open() {
            Ok(store) => {
                let stats = store.status();
                info!(
                    revision = stats.revision,
                    keys = stats.keys,
                    bytes = stats.bytes,
                    cipher = stats.cipher,
                    key_id = stats.key_id.as_ref().map(tracing::field::display),
                    millis = millis(started.elapsed()),
                    "the store is open"
                );
                for finding in &stats.findings {
                    warn!(%finding, "the store was opened, and something was dealt with");
                }
                self.local.notice(None);
                self.local.opened(store);
                self.next_open = None;
                self.pause = FIRST_PAUSE;
                self.last_error = None;
            }
            Err(why) => {
                let state = state_of(&why);
                let text = why.to_string();
                // Once per reason: a retry every few seconds must not fill the log.
                if self.last_error.as_ref() != Some(&text) {
                    error!(state = %state, code = why.code(), kind = %why.kind(), error = text,
                        "the store cannot be opened; nothing was changed, trying again");
                    self.last_error = Some(text);
                }
                self.local.closed(state, why);
                self.next_open = Some(Instant::now() + self.pause);
                let longest = match state {
                    State::IntegrityError => INTEGRITY_PAUSE,
                    _ => LAST_PAUSE,
                };
                self.pause = (self.pause * 2).min(longest);
            }
        }
    }

    /// Whether the volume holds no store, and no restored one that is to take its place. An error counts as no: opening
    /// it will say which.
    fn nothing_there(&self) -> bool {
        let replacement = Replacement::of(&self.settings.data_dir);
        replacement.finish().is_ok() && matches!(Store::exists(&self.settings.data_dir), Ok(false))
    }

    /// Says that nothing is opened before there is word of a backup.
    fn wait(&mut self) {
        let text = "the volume holds no store: waiting for its backup to be restored, or for word that there is none";
        if self.last_error.as_deref() != Some(text) {
            info!("{text}");
            self.last_error = Some(text.to_owned());
        }
        self.local
            .closed(State::AwaitingRestore, Error::new(Code::Closed, text));
        self.next_open = Some(Instant::now() + LAST_PAUSE);
    }

    fn try_open(&mut self) -> codexstore::Result<Store> {
        if let Some(dir) = self.keys_dir() {
            // Looked at first: a change while it is read is then seen at the next look.
            self.seen = Fingerprint::of(dir);
            self.refused = Refused::default();
        }
        let encryption = encryption(&self.settings)?;
        if let Encryption::Passphrase(passphrase) = &encryption {
            self.passphrase = Some(passphrase.clone());
        }
        let mut options = self.settings.options(encryption);
        // A restore that was cut after its decision, and room for what it set aside.
        let replacement = Replacement::of(&self.settings.data_dir);
        replacement.finish()?;
        let mut aside_keys = Some(BTreeSet::new());
        for aside in replacement.set_aside()? {
            match needed_keys(&aside.path) {
                Ok(keys) => {
                    if let Some(all) = &mut aside_keys {
                        all.extend(keys);
                    }
                }
                Err(why) => {
                    warn!(path = %aside.path.display(), code = why.code(), error = %why,
                        "what was set aside does not say which keys it needs: none is taken for superfluous while it is there");
                    aside_keys = None;
                }
            }
            let left = options.max_disk.saturating_sub(aside.bytes);
            options.max_disk = left.max(Options::MIN_DISK);
            info!(path = %aside.path.display(), bytes = aside.bytes, "set aside by a restore; it counts for the disk budget");
        }
        self.local.aside(aside_keys);
        Store::open(&self.settings.data_dir, options)
    }

    /// Loads the keyring anew if its files changed.
    fn look_at_keyring(&mut self) {
        let Some(dir) = self.keys_dir().map(Path::to_path_buf) else {
            return;
        };
        let now = Fingerprint::of(&dir);
        if now == self.seen && !self.refused.is_due() {
            return;
        }
        if self.next_open.is_some() {
            // Not open, maybe for want of what has just arrived.
            self.seen = now;
            self.next_open = Some(Instant::now());
            self.pause = FIRST_PAUSE;
            return;
        }
        let Ok(store) = self.local.store() else {
            return;
        };
        let loaded = match &self.settings.keys {
            Keys::Passphrase(file) => self.is_as_it_was(file),
            Keys::Dir(_) | Keys::None => load(&dir, &store),
        };
        match loaded {
            Ok(()) => {
                self.local.notice(None);
                self.refused = Refused::default();
                self.seen = now;
            }
            Err(why) => {
                let notice = format!("the keyring was not loaded anew, the old one stays: {why}");
                if self.refused.again(&notice) {
                    warn!(code = why.code(), error = %why, "the keyring was not loaded anew; trying again");
                }
                self.local.notice(Some(notice));
                self.seen = now;
            }
        }
    }

    /// A store that runs keeps the passphrase that it was opened with.
    fn is_as_it_was(&self, file: &Path) -> codexstore::Result<()> {
        let now = Passphrase::load(file)?;
        if self
            .passphrase
            .as_ref()
            .is_some_and(|was| was.is_same(&now))
        {
            return Ok(());
        }
        let what = "the passphrase is another one than the store was opened with, and will not open it: put that back, or change \
                    it with `codexctl passphrase --change` while the store is closed";
        Err(Error::new(Code::WrongKey, what))
    }

    /// A poisoned store goes on with reads for a while and is then opened again, which does not
    /// trust what the failed write left.
    fn look_at_store(&mut self) {
        if self.next_open.is_some() {
            return;
        }
        let health = self.local.health();
        let (State::Poisoned, Some(why)) = (health.state, health.error) else {
            self.poisoned_since = None;
            return;
        };
        match self.poisoned_since {
            None => {
                error!(code = why.code(), error = %why, "the store is poisoned: writes are refused");
                self.poisoned_since = Some(Instant::now());
            }
            Some(since) if since.elapsed() >= POISONED_FOR => {
                warn!("opening the poisoned store again");
                self.poisoned_since = None;
                if let Some(store) = self.local.closed(State::Recovering, why) {
                    // Its final write may fail as the one before it did; what counts is the lock.
                    let _ = store.close();
                }
                self.next_open = Some(Instant::now());
            }
            Some(_) => {}
        }
    }

    /// Closes the store for good.
    pub fn close(local: &Local) {
        let why = Error::new(Code::Closed, "the sidecar is stopping");
        if let Some(store) = local.closed(State::Stopping, why) {
            let started = Instant::now();
            match store.close() {
                Ok(()) => info!(millis = millis(started.elapsed()), "the store is closed"),
                Err(why) => {
                    warn!(code = why.code(), error = %why, "the store was not closed cleanly");
                }
            }
        }
    }
}

/// Gives a store that runs the keyring as its files are now.
fn load(dir: &Path, store: &Store) -> codexstore::Result<()> {
    let keyring = Keyring::load(dir)?;
    let ids: Vec<String> = keyring.ids().map(ToString::to_string).collect();
    let current = keyring.current().to_string();
    store.reload_keyring(keyring)?;
    info!(
        current,
        loaded = ids.join(","),
        "the keyring was loaded anew"
    );
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
