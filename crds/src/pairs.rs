//! Which member of a backup each pod of a copy gets. Pure.

use std::collections::BTreeMap;

use crate::codex_restore::RestoreTarget;
use crate::status::first_few;

/// Pods that are named one by one.
const NAMED: usize = 8;

/// Pairs of a pod and the member whose data it gets, sorted by pod. `pods` are the copy's members, which all get something where
/// none are `named`; `stored` are those in the backup.
///
/// A pod gets the member of its own name, or else the only one with its ordinal, or else the only one that there is, for a single pod without
/// an ordinal. Anything else would be a guess: the error says what to write.
pub fn pairs(
    named: &[RestoreTarget],
    pods: &[String],
    backup: &str,
    stored: &[&str],
) -> Result<Vec<(String, String)>, String> {
    let holds = || format!("cxb/{backup} holds {}", list(stored));
    if named.is_empty() {
        let mut pairs = BTreeMap::new();
        for pod in pods {
            let from = counterpart(pod, pods.len(), stored);
            let from = from.ok_or_else(|| unclear(pod, &holds()))?;
            if let Some(other) = pairs.insert(from, pod.as_str()) {
                return Err(format!(
                    "both {other} and {pod} would get what {from} had: say which gets what in `members`"
                ));
            }
        }
        return Ok(sorted(pairs.into_iter().map(|(from, pod)| (pod, from))));
    }
    let mut pairs = Vec::new();
    for target in named {
        let pod = target.pod.as_str();
        let from = match target.from.as_deref() {
            Some(from) if stored.contains(&from) => from,
            Some(from) => return Err(format!("{from} is not stored: {}", holds())),
            None => counterpart(pod, named.len(), stored).ok_or_else(|| unclear(pod, &holds()))?,
        };
        pairs.push((pod, from));
    }
    Ok(sorted(pairs.into_iter()))
}

fn sorted<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(String, String)> {
    let mut pairs: Vec<_> = pairs
        .map(|(pod, from)| (pod.to_owned(), from.to_owned()))
        .collect();
    pairs.sort();
    pairs
}

fn counterpart<'a>(pod: &str, pods: usize, stored: &[&'a str]) -> Option<&'a str> {
    if let Some(same) = stored.iter().find(|name| **name == pod) {
        return Some(same);
    }
    let Some(number) = ordinal(pod) else {
        return match stored {
            [only] if pods == 1 => Some(only),
            _ => None,
        };
    };
    let mut like = stored.iter().filter(|name| ordinal(name) == Some(number));
    match (like.next(), like.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

/// The number at the end of a pod's name, as a StatefulSet gives it.
fn ordinal(pod: &str) -> Option<u32> {
    let number = pod.rsplit_once('-')?.1;
    let canonical = number == "0" || !number.starts_with(['0', '+']);
    number.parse().ok().filter(|_| canonical)
}

fn unclear(pod: &str, holds: &str) -> String {
    format!(
        "which member's data {pod} gets is not clear: {holds}. Say it in `members`, such as `[{{pod: {pod}, from: POD}}]`"
    )
}

fn list(pods: &[&str]) -> String {
    if pods.is_empty() {
        return "no member".to_owned();
    }
    first_few(pods, pods.len(), NAMED)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `pods` get of a backup of `stored`, as `pod<from`; targets are `pod` or `pod<from`.
    fn check(named: &[&str], pods: &[&str], stored: &[&str]) -> Result<String, String> {
        let target = |text: &&str| {
            let (pod, from) = text
                .split_once('<')
                .map_or((*text, None), |(p, f)| (p, Some(f)));
            RestoreTarget {
                pod: pod.to_owned(),
                from: from.map(str::to_owned),
            }
        };
        let named: Vec<_> = named.iter().map(target).collect();
        let pods: Vec<_> = pods.iter().map(|pod| (*pod).to_owned()).collect();
        let pairs = pairs(&named, &pods, "b", stored)?;
        let pairs = pairs.iter().map(|(pod, from)| format!("{pod}<{from}"));
        Ok(pairs.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn pods_get_their_namesakes_or_those_of_their_ordinal() {
        let web = ["web-0", "web-1", "web-10"];
        let all = |pods: &[&str]| check(&[], pods, &web);
        assert_eq!(
            all(&["copy-1", "copy-0"]).unwrap(),
            "copy-0<web-0 copy-1<web-1"
        );
        assert_eq!(
            all(&["web-10", "web-0"]).unwrap(),
            "web-0<web-0 web-10<web-10"
        );
        let two = check(&[], &["api-0"], &["web-0", "api-0"]);
        assert_eq!(two.unwrap(), "api-0<api-0");
        let single = check(&[], &["copy-7d9f-x2b4z"], &["web-7c5-q"]);
        assert_eq!(single.unwrap(), "copy-7d9f-x2b4z<web-7c5-q");
    }

    #[test]
    fn what_would_be_a_guess_is_refused_and_says_what_to_write() {
        let refused = |pods: &[&str], stored: &[&str], says: &str| {
            let why = check(&[], pods, stored).unwrap_err();
            assert!(why.contains(says), "{why}");
        };
        let unclear = "`[{pod: copy-1, from: POD}]`";
        refused(&["copy-0", "copy-1"], &["web-0"], unclear);
        refused(&["copy-1"], &["web-1", "api-1"], unclear);
        refused(&["copy-1"], &["web-01", "web-+1", "web"], unclear);
        refused(&["copy-1"], &["web-0"], "holds web-0.");
        refused(
            &["copy-x", "copy-y"],
            &["web-0"],
            "copy-x gets is not clear",
        );
        refused(&["copy-x"], &["web-0", "web-1"], "copy-x gets is not clear");
        refused(&["a-0", "b-0"], &["web-0"], "both a-0 and b-0");
        refused(&["copy-x"], &[], "holds no member");
        let many: Vec<_> = (0..20).map(|n| format!("web-{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        refused(&["copy"], &many, "web-7 and 12 more");
    }

    #[test]
    fn members_that_are_named_get_what_they_ask_for() {
        let web = ["web-0", "web-1"];
        let of = |named: &[&str]| check(named, &["copy-0", "copy-1"], &web);
        assert_eq!(of(&["copy-1<web-0"]).unwrap(), "copy-1<web-0");
        assert_eq!(of(&["copy-1"]).unwrap(), "copy-1<web-1");
        let both = of(&["copy-1<web-0", "copy-0<web-0"]).unwrap();
        assert_eq!(
            both, "copy-0<web-0 copy-1<web-0",
            "that is said in so many words"
        );
        let gone = of(&["copy-0<web-7"]).unwrap_err();
        assert_eq!(gone, "web-7 is not stored: cxb/b holds web-0, web-1");
        assert!(
            of(&["copy-5"])
                .unwrap_err()
                .contains("copy-5 gets is not clear")
        );
    }
}
