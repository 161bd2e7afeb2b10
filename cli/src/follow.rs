//! Following what the operator and its Jobs make of an object, until that has ended.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::Result;
use codexstore_api::codes;
use k8s_openapi::NamespaceResourceScope;
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use crate::{
    explain::cluster::Cluster,
    failure::{self, Coded},
};

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long an API server that answered before may be away.
const AWAY: Duration = Duration::from_mins(1);
/// How long nothing may be said before there is a hint.
const SILENCE: Duration = Duration::from_secs(30);

/// What was seen.
pub enum Seen<T> {
    /// It goes on; what is said of it, if anything is.
    Going(Option<String>),
    /// It has ended.
    Ended(T),
}

/// Looks at an object again and again, tells on stderr what is new, and returns what it ended with. `hint` is told where nothing was said for
/// long.
pub async fn follow<K, T>(
    cluster: &Cluster,
    object: &K,
    hint: &str,
    look: impl Fn(K) -> Seen<T>,
) -> Result<T>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + DeserializeOwned
        + Clone
        + Debug,
{
    let name = object.name_any();
    let (mut told, mut hinted) = (None, false);
    let (begun, mut heard) = (Instant::now(), Instant::now());
    loop {
        match cluster.get::<K>(&name).await {
            Ok(Some(found)) if found.meta().uid == object.meta().uid => {
                heard = Instant::now();
                match look(found) {
                    Seen::Ended(end) => return Ok(end),
                    Seen::Going(None) if !hinted && begun.elapsed() > SILENCE => {
                        hinted = true;
                        eprintln!("{hint}");
                    }
                    Seen::Going(None) => {}
                    Seen::Going(line) if line == told => {}
                    Seen::Going(line) => {
                        eprintln!("{}", line.as_deref().unwrap_or_default());
                        told = line;
                    }
                }
            }
            Ok(_) => {
                let what = format!("{} {name} was deleted before it had ended", K::kind(&()));
                return Err(Coded::not_found(what).into());
            }
            Err(error)
                if failure::report(&error).1 == codes::EXIT_UNREACHABLE
                    && heard.elapsed() < AWAY => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOOK).await;
    }
}
