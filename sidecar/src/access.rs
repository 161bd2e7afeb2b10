//! Access rules: which users on the socket may do what, to which keys.
//!
//! Without rules whoever can open the socket may do everything. With rules a connection may do what
//! some rule gives to its user or primary group, which the kernel vouches for when it connects
//! (`SO_PEERCRED`), and nothing else. Rules only give; the order of them does not matter.
//!
//! What a user may do is worked out once for a connection, as a [`Grant`]. Who lists sees permitted
//! keys only, and nothing of the names of others, in cursors neither. A denial says which rule is
//! missing, and the same whether the key is there or not.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use codexstore::{Code, Error, Scan};
use serde::Deserialize;

/// Most rules.
const MAX_RULES: usize = 32;

/// As whom Linux shows every user and group that has no number here, such as one of another user
/// namespace: nobody in particular.
const OVERFLOW: u32 = 65_534;

/// What a rule allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Verb {
    /// To see keys, values, their history and their changes.
    Read,
    /// To set, delete and expire.
    Write,
}

/// One rule, as `spec.access` has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    /// Users that it holds for.
    #[serde(default)]
    uids: Vec<u32>,
    /// Primary groups that it holds for.
    #[serde(default)]
    gids: Vec<u32>,
    /// Beginnings of the keys that it holds for; absent: every key.
    prefixes: Option<Vec<String>>,
    /// What it allows.
    verbs: Vec<Verb>,
}

/// Who connected: effective user and primary group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
}

/// The rules of a store; without any, everything is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access(Vec<Rule>);

impl Access {
    /// Reads rules from JSON: a list of objects `{"uids": [1000], "gids": [], "prefixes": ["a/"],
    /// "verbs": ["Read", "Write"]}`. An empty text means no rules.
    pub fn parse(json: &str) -> Result<Access> {
        if json.trim().is_empty() {
            return Ok(Access::default());
        }
        let rules: Vec<Rule> = serde_json::from_str(json).context(
            "it is not a list of rules such as {\"uids\": [1000], \"prefixes\": [\"orders/\"], \"verbs\": [\"Read\", \"Write\"]}",
        )?;
        ensure!(
            rules.len() <= MAX_RULES,
            "it has more than {MAX_RULES} rules"
        );
        for (n, rule) in rules.iter().enumerate() {
            ensure!(
                !rule.uids.is_empty() || !rule.gids.is_empty(),
                "rule {n} holds for nobody: give it uids or gids"
            );
            ensure!(
                !rule.uids.iter().chain(&rule.gids).any(|id| *id == OVERFLOW),
                "rule {n} holds for {OVERFLOW}, as whom the kernel shows every user and group that it cannot name: run the container as another one, and give the rule that"
            );
            ensure!(
                !rule.verbs.is_empty(),
                "rule {n} allows nothing: give it verbs"
            );
            ensure!(
                rule.prefixes.as_deref() != Some(&[]),
                "rule {n} holds for no key: give it prefixes, or leave them out to mean every key"
            );
        }
        Ok(Access(rules))
    }

    /// How many rules.
    pub fn rules(&self) -> usize {
        self.0.len()
    }

    /// What whoever connected may do; `None`: the kernel did not say who it is.
    pub fn grant(&self, peer: Option<Peer>) -> Grant {
        if self.0.is_empty() {
            return Grant::everything();
        }
        let has = |ids: &[u32], id| id != OVERFLOW && ids.contains(&id);
        let holds = |rule: &&Rule| {
            peer.is_some_and(|peer| has(&rule.uids, peer.uid) || has(&rule.gids, peer.gid))
        };
        let scope = |verb| {
            let rules = self.0.iter().filter(holds);
            Scope::of(rules.filter(|rule| rule.verbs.contains(&verb)))
        };
        Grant {
            peer,
            read: scope(Verb::Read),
            write: scope(Verb::Write),
        }
    }
}

/// Keys by their beginnings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Every key.
    All,
    /// Those that begin with one of these, which are in order; none begins with another.
    Under(Vec<Bytes>),
}

impl Scope {
    fn of<'a>(rules: impl Iterator<Item = &'a Rule>) -> Scope {
        let mut all = Vec::new();
        for rule in rules {
            match &rule.prefixes {
                None => return Scope::All,
                Some(prefixes) => all.extend(prefixes.iter().map(String::as_bytes)),
            }
        }
        all.sort_unstable();
        let mut kept: Vec<&[u8]> = Vec::new();
        for prefix in all {
            // In order, what begins with another stands right behind it.
            if kept.last().is_none_or(|last| !prefix.starts_with(last)) {
                kept.push(prefix);
            }
        }
        if matches!(kept.as_slice(), [b""]) {
            return Scope::All;
        }
        Scope::Under(kept.into_iter().map(Bytes::copy_from_slice).collect())
    }

    /// True if every key that begins with `prefix` is in it. For a key itself: if that is.
    pub fn covers(&self, prefix: &[u8]) -> bool {
        match self {
            Scope::All => true,
            Scope::Under(prefixes) => prefixes.iter().any(|own| prefix.starts_with(own)),
        }
    }

    /// The scans that together are the part of `scan` that is in it, in order.
    pub fn narrow(&self, scan: &Scan) -> Vec<Scan> {
        let Scope::Under(prefixes) = self else {
            return vec![scan.clone()];
        };
        let narrowed = |own: &Bytes| {
            let prefix = if own.starts_with(&scan.prefix) {
                own
            } else if scan.prefix.starts_with(own) {
                &scan.prefix
            } else {
                return None;
            };
            Some(Scan {
                prefix: prefix.clone(),
                ..scan.clone()
            })
        };
        prefixes.iter().filter_map(narrowed).collect()
    }
}

/// What a connection may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    peer: Option<Peer>,
    /// Keys that it may read.
    pub read: Scope,
    /// Keys that it may write.
    pub write: Scope,
}

impl Grant {
    /// Everything.
    pub fn everything() -> Grant {
        Grant {
            peer: None,
            read: Scope::All,
            write: Scope::All,
        }
    }

    /// Refuses, unless the connection may do this to a key.
    pub fn check(&self, verb: Verb, key: &[u8]) -> codexstore::Result<()> {
        self.check_all(verb, key, "this key")
    }

    /// Refuses, unless the connection may do this to every key that begins with `prefix`.
    pub fn check_prefix(&self, verb: Verb, prefix: &[u8]) -> codexstore::Result<()> {
        let what = if prefix.is_empty() {
            "every key"
        } else {
            "every key under this prefix"
        };
        self.check_all(verb, prefix, what)
    }

    fn check_all(&self, verb: Verb, prefix: &[u8], what: &str) -> codexstore::Result<()> {
        let scope = match verb {
            Verb::Read => &self.read,
            Verb::Write => &self.write,
        };
        if scope.covers(prefix) {
            return Ok(());
        }
        let who = match self.peer {
            Some(Peer { uid, gid }) => format!("uid {uid} with gid {gid}"),
            None => "a user that the system does not name".to_owned(),
        };
        Err(Error::new(
            Code::Denied,
            format!(
                "no rule gives {who} the verb {verb:?} for {what}: add one to spec.access of the CodexStore"
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: Peer = Peer {
        uid: 1000,
        gid: 100,
    };
    const BOB: Peer = Peer {
        uid: 1001,
        gid: 100,
    };
    const EVE: Peer = Peer {
        uid: 1002,
        gid: 102,
    };

    fn rules() -> Access {
        Access::parse(
            r#"[
            {"uids": [1000], "prefixes": ["a/", "a/b/", "c"], "verbs": ["Read", "Write"]},
            {"gids": [100], "prefixes": ["shared/"], "verbs": ["Read"]},
            {"uids": [0], "verbs": ["Read", "Write"]}
        ]"#,
        )
        .unwrap()
    }

    #[test]
    fn rules_give_by_user_and_by_primary_group_and_add_up() {
        let (alice, bob, eve) = (
            rules().grant(Some(ALICE)),
            rules().grant(Some(BOB)),
            rules().grant(Some(EVE)),
        );
        for (grant, verb, key, allowed) in [
            (&alice, Verb::Read, "a/b/1", true),
            (&alice, Verb::Write, "a/", true),
            (&alice, Verb::Write, "a", false),
            (&alice, Verb::Read, "cat", true),
            (&alice, Verb::Read, "shared/x", true),
            (&alice, Verb::Write, "shared/x", false),
            (&bob, Verb::Read, "a/b/1", false),
            (&bob, Verb::Read, "shared/x", true),
            (&eve, Verb::Read, "shared/x", false),
        ] {
            assert_eq!(
                grant.check(verb, key.as_bytes()).is_ok(),
                allowed,
                "{verb:?} {key}"
            );
        }
        let root = rules().grant(Some(Peer { uid: 0, gid: 0 }));
        assert_eq!((&root.read, &root.write), (&Scope::All, &Scope::All));
        assert!(rules().grant(None).check(Verb::Read, b"c").is_err());
        assert_eq!(Access::default().grant(None), Grant::everything());
    }

    #[test]
    fn whom_the_kernel_cannot_name_no_rule_holds_for() {
        // Such a rule is refused where rules are read; and were there one, it would give nothing.
        let rule = Rule {
            uids: vec![1000, OVERFLOW],
            gids: vec![100, OVERFLOW],
            prefixes: None,
            verbs: vec![Verb::Read],
        };
        let access = Access(vec![rule]);
        let reads = |uid, gid| {
            let grant = access.grant(Some(Peer { uid, gid }));
            grant.check(Verb::Read, b"k").is_ok()
        };
        assert!(!reads(OVERFLOW, OVERFLOW) && !reads(OVERFLOW, 7) && !reads(7, OVERFLOW));
        assert!(reads(1000, OVERFLOW) && reads(OVERFLOW, 100));
    }

    #[test]
    fn a_denial_says_which_rule_is_missing_and_not_the_key() {
        let error = rules()
            .grant(Some(EVE))
            .check(Verb::Write, b"secret-key")
            .unwrap_err();
        assert_eq!(error.as_code(), Code::Denied);
        let text = error.to_string();
        assert!(
            text.contains("uid 1002 with gid 102 the verb Write"),
            "{text}"
        );
        assert!(
            text.contains("spec.access") && !text.contains("secret"),
            "{text}"
        );
    }

    #[test]
    fn a_prefix_is_permitted_only_as_a_whole() {
        let alice = rules().grant(Some(ALICE));
        assert!(alice.check_prefix(Verb::Write, b"a/x").is_ok());
        assert!(alice.check_prefix(Verb::Write, b"a").is_err());
        assert!(alice.check_prefix(Verb::Write, b"").is_err());
    }

    #[test]
    fn a_scan_is_narrowed_to_what_is_permitted() {
        let scope = rules().grant(Some(ALICE)).read;
        let prefixes = |prefix: &'static str| -> Vec<Bytes> {
            let scans = scope.narrow(&Scan::prefix(prefix));
            scans.into_iter().map(|scan| scan.prefix).collect()
        };
        assert_eq!(prefixes(""), ["a/", "c", "shared/"]);
        assert_eq!(prefixes("a/b/"), ["a/b/"]);
        assert_eq!(prefixes("s"), ["shared/"]);
        assert!(prefixes("d").is_empty());
    }

    #[test]
    fn rules_that_mean_nothing_are_refused_with_what_is_wrong() {
        for (json, because) in [
            ("{}", "not a list of rules"),
            (r#"[{"verbs": ["Read"]}]"#, "rule 0 holds for nobody"),
            (r#"[{"uids": [1], "verbs": []}]"#, "rule 0 allows nothing"),
            (
                r#"[{"uids": [1, 65534], "verbs": ["Read"]}]"#,
                "rule 0 holds for 65534",
            ),
            (
                r#"[{"uids": [1], "verbs": ["Read"]}, {"gids": [65534], "verbs": ["Read"]}]"#,
                "rule 1 holds for 65534",
            ),
            (
                r#"[{"uids": [1], "verbs": ["Read"], "prefixes": []}]"#,
                "rule 0 holds for no key",
            ),
            (
                r#"[{"uids": [1], "verbs": ["Fly"]}]"#,
                "not a list of rules",
            ),
            (
                r#"[{"uids": [1], "verbs": ["Read"], "prefix": "a"}]"#,
                "not a list of rules",
            ),
        ] {
            let error = format!("{:#}", Access::parse(json).unwrap_err());
            assert!(error.contains(because), "{json}: {error}");
        }
        assert_eq!(Access::parse(" ").unwrap(), Access::default());
    }
}
