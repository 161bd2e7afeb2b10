//! Re-encryptions: asked for by an id, done on a thread of their own, and told of until the process ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use codexstore::{Code, Error, Reencrypting, Store};
use codexstore_api::status::{Reencryption, ReencryptionState};

/// The last one that was asked for. It is kept in memory only: a process that was started since is simply asked again.
#[derive(Default)]
pub struct Asked {
    last: Mutex<Option<Reencryption>>,
}

impl Asked {
    /// How far it is; `progress` is the store's word on the one that is under way.
    pub fn told(&self, progress: Option<Reencrypting>) -> Option<Reencryption> {
        let mut told = self.lock().clone()?;
        if let (ReencryptionState::Running, Some(progress)) = (told.state, progress) {
            told.done_bytes = progress.done;
            told.total_bytes = progress.total;
        }
        Some(told)
    }

    /// Begins one, unless the last has this id and did not fail, and says how far it is. `overloaded` while one of another id is under
    /// way: what is written until that ends may be under data keys of before this was asked.
    pub fn ask(self: &Arc<Asked>, store: Store, id: &str) -> Result<Reencryption, Error> {
        let mut last = self.lock();
        if let Some(known) = &*last {
            let running = known.state == ReencryptionState::Running;
            if known.id == id && known.state != ReencryptionState::Failed {
                drop(last);
                let told = self.told(store.reencrypting());
                return told.ok_or_else(|| Error::internal("a re-encryption that is not there"));
            }
            if running {
                return Err(Error::new(
                    Code::Overloaded,
                    format!("re-encryption {} is under way", known.id),
                ));
            }
        }
        let begun = Reencryption {
            id: id.to_owned(),
            state: ReencryptionState::Running,
            ..Reencryption::default()
        };
        let (asked, id) = (Arc::clone(self), id.to_owned());
        thread::Builder::new()
            .name("codexstore-seal".to_owned())
            .spawn(move || asked.run(&store, id))
            .map_err(|e| Error::io("start the thread of a re-encryption", e))?;
        *last = Some(begun.clone());
        Ok(begun)
    }

    fn run(&self, store: &Store, id: String) {
        tracing::info!(id, "a re-encryption begins");
        let started = Instant::now();
        let told = match store.reencrypt() {
            Ok(done) => {
                let (files, bytes) = (done.files, done.bytes);
                let seconds = started.elapsed().as_secs_f64();
                tracing::info!(
                    id,
                    files,
                    bytes,
                    seconds,
                    "all files are under fresh data keys"
                );
                Reencryption {
                    id,
                    state: ReencryptionState::Done,
                    done_bytes: bytes,
                    total_bytes: bytes,
                    ..Reencryption::default()
                }
            }
            Err(error) => {
                let code = error.code();
                tracing::warn!(id, code, %error, "a re-encryption was given up");
                Reencryption {
                    id,
                    state: ReencryptionState::Failed,
                    code: Some(code.to_owned()),
                    message: Some(error.to_string()),
                    ..Reencryption::default()
                }
            }
        };
        *self.lock() = Some(told);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Reencryption>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
