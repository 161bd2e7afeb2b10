//! What Jobs write of their tries. A Job has some, and its pods do not know which of them is the last: one that failed says why and has not
//! ended, and once there is no other the operator says that it failed.

use codexstore_crds::codex_backup::{TRY_FAILED, condition};
use codexstore_crds::status::{self, bounded};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// The message and the condition `Completed` of a status after a try that failed.
pub fn tried(why: &str) -> (String, Condition) {
    let message = format!("a try failed, and its Job goes on as long as it has others left: {why}");
    let completed = condition_of(condition::COMPLETED, false, TRY_FAILED, why);
    (bounded(&message), completed)
}

/// A condition, as of now.
pub fn condition_of(type_: &str, status: bool, reason: &str, message: &str) -> Condition {
    let status = if status { "True" } else { "False" };
    status::condition_of(type_, status, reason, message, Time(Timestamp::now()))
}
