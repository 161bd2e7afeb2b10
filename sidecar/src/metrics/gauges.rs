//! What a store has at a moment.

use codexstore_api::status::{Reencryption, ReencryptionState, State};

use crate::engine::Health;

/// How far the last re-encryption is.
pub fn reencryption(told: &Reencryption) -> [(&'static str, &'static str, u64); 4] {
    let is = |state| u64::from(told.state == state);
    [
        (
            "reencryption_running",
            "1 while all files are sealed anew under fresh data keys",
            is(ReencryptionState::Running),
        ),
        (
            "reencryption_failed",
            "1 if the last re-encryption was given up",
            is(ReencryptionState::Failed),
        ),
        (
            "reencryption_done_bytes",
            "Bytes that the last re-encryption has sealed",
            told.done_bytes,
        ),
        (
            "reencryption_total_bytes",
            "Of about how many",
            told.total_bytes,
        ),
    ]
}

/// The store's numbers of this moment: name, help, value.
pub fn gauges(health: &Health) -> [(&'static str, &'static str, u64); 18] {
    let stats = &health.stats;
    [
        (
            "ready",
            "1 while the store is open for reads and writes",
            u64::from(health.state.is_ready()),
        ),
        (
            "poisoned",
            "1 while writes are refused after a failed one",
            u64::from(health.state == State::Poisoned),
        ),
        ("revision", "The newest revision", stats.revision),
        ("keys", "Live keys", stats.keys),
        ("live_bytes", "Bytes of live keys and values", stats.bytes),
        ("disk_bytes", "Bytes of the store's files", stats.disk_bytes),
        ("disk_limit_bytes", "Budget of disk_bytes", stats.max_disk),
        (
            "memory_bytes",
            "Bytes of memory that entries take",
            stats.memory_bytes,
        ),
        (
            "memory_limit_bytes",
            "Budget of memory_bytes",
            stats.max_memory,
        ),
        (
            "journal_bytes",
            "Bytes of journal since the image",
            stats.journal_bytes,
        ),
        (
            "image_bytes",
            "Bytes of the image, which holds what is older than the journal",
            stats.image_bytes,
        ),
        ("queued", "Writes waiting for the committer", stats.queued),
        (
            "log_bytes",
            "Bytes of the log on disk, what is kept for watches and history included",
            stats.log_bytes,
        ),
        (
            "first_revision",
            "The lowest revision that can be watched from",
            stats.first_revision,
        ),
        (
            "data_key_messages",
            "Messages under the data key in use",
            stats.data_key_messages,
        ),
        (
            "data_key_messages_limit",
            "Messages at which a fresh data key is taken",
            stats.max_data_key_messages,
        ),
        (
            "clock_jump_seconds",
            "How far the wall clock is ahead, where that is not believed; 0 otherwise",
            stats.clock_jump_ms.unwrap_or(0) / 1000,
        ),
        (
            "findings",
            "What was unusual at the last open and was dealt with",
            stats.findings.len() as u64,
        ),
    ]
}
