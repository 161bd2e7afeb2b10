//! What needs a key. Pure: what was seen goes in, and who would lose data without the key comes out.
//!
//! Whatever is not known counts as a need: a member that does not answer, a claim that no member has mounted, a backup that is
//! not done. A key that is deleted too late costs nothing; one that is deleted too early costs all that it wrapped.

use std::collections::BTreeSet;
use std::sync::Arc;

use codexstore_crds::archive::Record;
use codexstore_crds::codex_backup::MAX_BACKUP_MEMBERS;
use codexstore_crds::{CodexBackup, CodexBackupStatus, CodexRestore, CodexStore};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt as _;

use super::kept::Kept;
use super::members::{self, Member};

/// Where keys may be needed.
#[derive(Clone, Copy)]
pub struct Places<'a> {
    /// The store.
    pub store: &'a CodexStore,
    /// Whether volumes of the user's (`podVolume`) may hold data of it, or of an earlier one of its name.
    pub pod_volumes: bool,
    /// Its members, and what each said.
    pub members: &'a [Member],
    /// Its claims.
    pub claims: &'a [Arc<PersistentVolumeClaim>],
    /// Its backups.
    pub backups: &'a [Arc<CodexBackup>],
    /// Files of backups whose CodexBackup is gone.
    pub kept: &'a Kept,
    /// Its restores, and those that copy its data.
    pub restores: &'a [Arc<CodexRestore>],
    /// What is known of its archive, if it has or had one.
    pub archive: Option<&'a Record>,
}

impl Places<'_> {
    /// What needs the key of this id, in words; empty if nothing that is known does.
    pub fn needing(&self, id: &str) -> Vec<String> {
        let mut found = Vec::new();
        for member in self.members {
            let name = member.pod.name_any();
            match keys_of(member) {
                Some(ids) if !ids.contains(&id) => {}
                Some(_) => found.push(format!("pod {name}")),
                // It never ran: what its volume holds is said of its claim.
                None if !members::has_started(&member.pod) => {}
                None => found.push(format!("pod {name} (it does not say which keys it needs)")),
            }
        }
        for claim in self.claims {
            let name = claim.name_any();
            let mut members = self.members.iter();
            let told = members.any(|m| members::has_data_on(&m.pod, &name) && keys_of(m).is_some());
            if !told {
                let what = "no member that has it mounted says which keys it needs";
                found.push(format!("claim {name} ({what})"));
            }
        }
        if self.pod_volumes {
            found.push("volumes of your own (podVolume), which may not be mounted now".to_owned());
        }
        found.extend(
            self.backups
                .iter()
                .filter_map(|backup| of_backup(backup, id)),
        );
        found.extend(self.kept.needing(id));
        if let Some(record) = self.archive.filter(|record| record.needs(id)) {
            let what = match (&record.key_ids, record.unlisted()) {
                (None, _) => " (it does not say which keys it needs)".to_owned(),
                (_, Some(location)) => format!(" (nobody has listed the one at {location})"),
                _ => String::new(),
            };
            found.push(format!("the archive{what}"));
        }
        let going = self.restores.iter().filter(|restore| !restore.ended());
        found.extend(going.map(|restore| format!("cxr/{} (not done)", restore.name_any())));
        found
    }
}

fn of_backup(backup: &CodexBackup, id: &str) -> Option<String> {
    let name = backup.name_any();
    let Some(status) = backup.status.as_ref().filter(|status| status.ended()) else {
        return Some(format!("cxb/{name} (not done)"));
    };
    let ids = keys_of_backup(status);
    let needs = ids.is_none_or(|ids| ids.iter().any(|key| key == id));
    needs.then(|| format!("cxb/{name}"))
}

/// The keys that the files of a backup need, sorted. None where they may need any: it is not done, has more members than are listed, or
/// one does not say which key it needs.
pub fn keys_of_backup(status: &CodexBackupStatus) -> Option<Vec<String>> {
    let listed = status.ended() && status.members.len() < MAX_BACKUP_MEMBERS;
    let stored = status.members.iter().filter(|m| m.stored && listed);
    let ids: BTreeSet<_> = stored.map(|m| m.key_id.clone()).collect::<Option<_>>()?;
    listed.then(|| ids.into_iter().collect())
}

/// Whether the files of a backup may need a key at all: without encryption no member names one.
pub fn may_need_keys(status: &CodexBackupStatus) -> bool {
    let named = status
        .members
        .iter()
        .any(|m| m.stored && m.key_id.is_some());
    let known = status.ended() && status.members.len() < MAX_BACKUP_MEMBERS;
    named || (!known && status.directory.is_some())
}

/// Whether this is the need of a member that said so.
pub fn is_members(need: &str) -> bool {
    need.starts_with("pod ") && !need.contains('(')
}

/// The keys that a member's volume needs, if it says so of all that is there.
fn keys_of(member: &Member) -> Option<Vec<&str>> {
    let status = member.answer.as_ref()?.as_ref().ok()?;
    let needed = status.needed_key_ids.as_ref()?;
    let aside = status.set_aside_key_ids.as_ref()?;
    Some(needed.iter().chain(aside).map(String::as_str).collect())
}

/// Whether a member has its store open, with the keyring that it has loaded.
pub fn is_open(member: &Member) -> bool {
    let state = member
        .answer
        .as_ref()
        .and_then(|answer| answer.as_ref().ok());
    state.is_some_and(|status| status.state.is_open())
}

#[cfg(test)]
mod tests {
    use codexstore_api::Status;
    use codexstore_api::status::State;
    use codexstore_crds::names;
    use serde_json::json;

    use super::super::fixtures::{claim_store, pod_of, store};
    use super::super::members::Unreachable;
    use super::*;

    fn member(name: &str, answer: Option<Result<Status, Unreachable>>) -> Member {
        of_store(&claim_store("1Gi"), name, answer)
    }

    fn of_store(
        store: &CodexStore,
        name: &str,
        answer: Option<Result<Status, Unreachable>>,
    ) -> Member {
        let mut pod = pod_of(store, name);
        if answer.is_some() {
            let ran = json!({"initContainerStatuses": [{"name": names::CONTAINER, "image": "", "imageID": "", "ready": true,
                "restartCount": 0, "state": {"running": {}}}]});
            pod.status = serde_json::from_value(ran).unwrap();
        }
        Member {
            pod: Arc::new(pod),
            answer,
        }
    }

    fn says(needed: &[&str], aside: Option<&[&str]>) -> Status {
        let texts = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        Status {
            state: State::Ready,
            needed_key_ids: Some(texts(needed)),
            set_aside_key_ids: aside.map(texts),
            ..Status::default()
        }
    }

    fn claim(pod: &str) -> Arc<PersistentVolumeClaim> {
        let claim = json!({"metadata": {"name": format!("cxs-orders-{pod}"), "annotations": {names::POD_ANNOTATION: pod}}});
        Arc::new(serde_json::from_value(claim).unwrap())
    }

    fn backup<'a>(name: &str, phase: &str, key: impl Into<Option<&'a str>>) -> Arc<CodexBackup> {
        let key: Option<&str> = key.into();
        let backup = json!({
            "apiVersion": "codexstore.dev/v1alpha1", "kind": "CodexBackup", "metadata": {"name": name},
            "spec": {"storeRef": {"name": "orders"}},
            "status": {"phase": phase, "members": [{"pod": "web-0", "stored": true, "keyId": key},
                {"pod": "web-1", "stored": false}]},
        });
        Arc::new(serde_json::from_value(backup).unwrap())
    }

    #[test]
    fn what_is_not_known_counts_as_a_need() {
        let store = claim_store("1Gi");
        let check = |members: &[Member], claims: &[&str], backups: &[Arc<CodexBackup>]| {
            let claims: Vec<_> = claims.iter().map(|pod| claim(pod)).collect();
            let places = Places {
                store: &store,
                pod_volumes: false,
                members,
                claims: &claims,
                backups,
                restores: &[],
                kept: &Kept::default(),
                archive: None,
            };
            places.needing("old").join("; ")
        };
        let new = || member("web-0", Some(Ok(says(&["new"], Some(&[])))));
        assert_eq!(check(&[new()], &["web-0"], &[]), "");
        assert_eq!(
            check(
                &[member("web-0", Some(Ok(says(&["new", "old"], Some(&[])))))],
                &["web-0"],
                &[]
            ),
            "pod web-0"
        );
        assert_eq!(
            check(
                &[member("web-0", Some(Ok(says(&["new"], Some(&["old"])))))],
                &[],
                &[]
            ),
            "pod web-0"
        );
        // What was set aside cannot be read, it does not answer, it is of an earlier version.
        for answer in [
            Ok(says(&["new"], None)),
            Err(Unreachable("no answer".into())),
            Ok(Status {
                state: State::Ready,
                ..Status::default()
            }),
        ] {
            let said = check(&[member("web-0", Some(answer))], &["web-0"], &[]);
            assert!(
                said.contains("pod web-0 (it does not say")
                    && said.contains("claim cxs-orders-web-0"),
                "{said}"
            );
        }
        // Scaled down, and a pod that has not started yet.
        assert!(check(&[new()], &["web-0", "web-1"], &[]).starts_with("claim cxs-orders-web-1 ("));
        assert!(
            check(&[member("web-1", None)], &["web-1"], &[])
                .starts_with("claim cxs-orders-web-1 (")
        );
        let kept = [
            backup("b", "Succeeded", "old"),
            backup("c", "PartiallyFailed", "new"),
        ];
        assert_eq!(check(&[new()], &[], &kept), "cxb/b");
        let silent = backup("e", "Succeeded", None);
        assert_eq!(check(&[new()], &[], &[silent]), "cxb/e", "it does not say");
        assert_eq!(
            check(&[new()], &[], &[backup("d", "Running", "new")]),
            "cxb/d (not done)"
        );
        let members = [new()];
        // Be the store on claims by now.
        let places = Places {
            store: &store,
            pod_volumes: true,
            members: &members,
            claims: &[],
            backups: &[],
            restores: &[],
            kept: &Kept::default(),
            archive: None,
        };
        assert!(places.needing("old").join("").contains("podVolume"));
    }

    /// A store that was deleted, and made again under its name with volumes of another kind: what its pods say, which are called as those of
    /// before, says nothing of the claims that stayed.
    #[test]
    fn a_claim_is_told_of_by_the_member_that_has_it_mounted_and_no_other_of_its_name() {
        let says_new = || Some(Ok(says(&["new"], Some(&[]))));
        let mut beside = of_store(&store(), "web-0", says_new());
        // A container of the user's reads what is there.
        let volume =
            json!({"name": "old", "persistentVolumeClaim": {"claimName": "cxs-orders-web-0"}});
        let mut pod = (*beside.pod).clone();
        let volumes = pod.spec.as_mut().unwrap().volumes.as_mut().unwrap();
        volumes.push(serde_json::from_value(volume).unwrap());
        beside.pod = Arc::new(pod);
        let of = |store: &CodexStore, member: Member| {
            let places = Places {
                store,
                pod_volumes: false,
                members: &[member],
                claims: &[claim("web-0")],
                backups: &[],
                restores: &[],
                kept: &Kept::default(),
                archive: None,
            };
            places.needing("old").join("; ")
        };
        let claims = claim_store("1Gi");
        assert_eq!(of(&claims, member("web-0", says_new())), "");
        for (store, member) in [
            (store(), of_store(&store(), "web-0", says_new())),
            (store(), beside),
            // A pod of before, in a store that has claims now.
            (claims, of_store(&store(), "web-0", says_new())),
        ] {
            let said = of(&store, member);
            assert!(said.starts_with("claim cxs-orders-web-0 ("), "{said}");
        }
    }

    #[test]
    fn a_key_that_the_archive_needs_is_needed() {
        let store = claim_store("1Gi");
        let of = |archive: Option<&Record>| {
            let places = Places {
                store: &store,
                pod_volumes: false,
                members: &[],
                claims: &[],
                backups: &[],
                restores: &[],
                kept: &Kept::default(),
                archive,
            };
            places.needing("old").join("; ")
        };
        assert_eq!(of(None), "");
        assert_eq!(
            of(Some(&Record::default())),
            "the archive (it does not say which keys it needs)"
        );
        let with = |id: &str| Record {
            key_ids: Some(vec![id.to_owned()]),
            ..Record::default()
        };
        assert_eq!(of(Some(&with("old"))), "the archive");
        assert_eq!(of(Some(&with("new"))), "");
        let mut moved = Record {
            location: "pvc/backups".to_owned(),
            ..Record::default()
        };
        moved.moved("s3://b");
        moved.key_ids = with("new").key_ids;
        assert_eq!(
            of(Some(&moved)),
            "the archive (nobody has listed the one at pvc/backups)"
        );
    }
}
