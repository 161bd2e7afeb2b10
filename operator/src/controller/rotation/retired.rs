//! Keys that went because nothing needed them: the last ones stay in the status, which is where it can be seen that a key is gone, and since
//! when.
//!
//! They are known from the status of before. A key that was not taken for unneeded there, and is on no record any more, is not called
//! retired: somebody may have given up what was written with it. An operator that dies just when it has deleted a key may so leave it out.

use codexstore_crds::status::{KeyStatus, MAX_KEYS};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::super::keyring::Facts;
use super::Look;

/// The state of such a key.
pub const RETIRED: &str = "Retired";
/// As many are listed.
const SHOWN: usize = 8;

/// Lists them behind the keys that there are. `went` are those that nothing needed and that came off the record at this look, at which they
/// were still on it.
pub fn list(look: &Look<'_>, facts: &Facts, went: &[String], keys: &mut Vec<KeyStatus>) {
    let before = look.store.status.iter().flat_map(|s| &s.encryption_keys);
    let before: Vec<_> = before.cloned().collect();
    let all = gone(&before, facts, went, &Time(Timestamp::now()));
    let room = MAX_KEYS.saturating_sub(keys.len()).min(SHOWN);
    keys.extend(all.into_iter().take(room));
}

/// Puts those that are retired behind the others, the latest first.
pub fn sort(keys: &mut [KeyStatus]) {
    keys.sort_by(|a, b| {
        let is = |key: &KeyStatus| key.state == RETIRED;
        is(a)
            .cmp(&is(b))
            .then_with(|| b.retired_at.cmp(&a.retired_at))
    });
}

/// Those that are gone, the latest first.
fn gone(before: &[KeyStatus], facts: &Facts, went: &[String], now: &Time) -> Vec<KeyStatus> {
    let there = |id: &String| {
        let on_record = facts.lost.contains(id) && !went.contains(id);
        facts.ids.contains(id) || on_record
    };
    let unneeded = |key: &KeyStatus| match &*key.state {
        RETIRED => true,
        "Retiring" => key.needed_by.is_empty() || went.contains(&key.id),
        _ => went.contains(&key.id),
    };
    let mut all: Vec<_> = before
        .iter()
        .filter(|key| unneeded(key) && !there(&key.id))
        .map(|key| of(key, now))
        .collect();
    let unlisted = went
        .iter()
        .filter(|id| before.iter().all(|key| key.id != **id));
    all.extend(unlisted.map(|id| {
        let key = KeyStatus {
            id: id.clone(),
            ..KeyStatus::default()
        };
        of(&key, now)
    }));
    sort(&mut all);
    all
}

/// What stays known of a key that is gone since now, or was gone already.
pub fn of(key: &KeyStatus, now: &Time) -> KeyStatus {
    KeyStatus {
        id: key.id.clone(),
        state: RETIRED.to_owned(),
        first_seen_at: key.first_seen_at.clone(),
        retired_at: key.retired_at.clone().or_else(|| Some(now.clone())),
        messages: key.messages,
        max_messages: key.max_messages,
        ..KeyStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::fixtures::{at, facts};

    fn key(id: &str, state: &str, needed_by: &[&str]) -> KeyStatus {
        KeyStatus {
            id: id.to_owned(),
            state: state.to_owned(),
            needed_by: needed_by.iter().map(|by| (*by).to_owned()).collect(),
            loaded: Some("1/1".to_owned()),
            first_seen_at: Some(at(1)),
            messages: Some(7),
            messages_elsewhere: Some(8),
            ..KeyStatus::default()
        }
    }

    fn ids(keys: &[KeyStatus]) -> Vec<&str> {
        keys.iter().map(|key| key.id.as_str()).collect()
    }

    #[test]
    fn only_a_key_that_nothing_needed_is_called_retired() {
        let before = [
            key("there", "Active", &[]),
            key("unneeded", "Retiring", &[]),
            key("needed", "Retiring", &["cxb/b"]),
            key("missing", "Missing", &["cxb/b"]),
            key("new", "Adding", &[]),
        ];
        let mut now = facts("there", &["there"]);
        let found = gone(&before, &now, &[], &at(100));
        assert_eq!(ids(&found), ["unneeded"]);
        assert_eq!(found[0].state, "Retired");
        assert_eq!(
            (found[0].first_seen_at.clone(), found[0].messages),
            (Some(at(1)), Some(7))
        );
        assert_eq!(found[0].retired_at, Some(at(100)));
        assert_eq!(
            (&found[0].loaded, found[0].messages_elsewhere),
            (&None, None)
        );
        // Since when stays as it was; and one that is put back is a key like any other.
        assert_eq!(gone(&found, &now, &[], &at(200)), found);
        now.ids.push("unneeded".to_owned());
        assert_eq!(ids(&gone(&found, &now, &[], &at(200))), [""; 0]);
    }

    #[test]
    fn one_that_came_off_the_record_just_now_is_retired_be_it_listed_or_not() {
        let before = [key("missing", "Missing", &["cxb/b"])];
        let mut now = facts("there", &["there"]);
        now.lost = vec!["missing".to_owned(), "unlisted".to_owned()];
        assert_eq!(ids(&gone(&before, &now, &[], &at(100))), [""; 0]);
        let found = gone(&before, &now, &now.lost, &at(100));
        assert_eq!(ids(&found), ["missing", "unlisted"]);
    }

    #[test]
    fn the_latest_come_first() {
        let one = |n: i64| KeyStatus {
            retired_at: Some(at(n)),
            ..key(&format!("k{n}"), RETIRED, &[])
        };
        let before: Vec<_> = (1..=3).map(one).collect();
        let found = gone(&before, &facts("there", &["there"]), &[], &at(100));
        assert_eq!(ids(&found), ["k3", "k2", "k1"]);
    }
}
