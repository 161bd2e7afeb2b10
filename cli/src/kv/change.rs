//! `cas` and `ttl`: changes of what is there, and of nothing else.

use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use codexstore_api::client::{Client, Found, Put};
use codexstore_api::time::parse_rfc3339;
use k8s_openapi::jiff::SignedDuration;

use super::args::{Cas, Ttl};
use super::{absent, call, client, named};
use crate::failure::Coded;
use crate::output::{self, Format, printable};

/// How often a write is tried again that another one came before, and changed nothing that matters.
const TRIES: usize = 16;

/// `cas`.
pub async fn cas(args: &Cas, format: Format) -> Result<()> {
    let key = args.key.as_bytes();
    let client = named(client(&args.socket), &args.actor);
    for _ in 0..TRIES {
        let found = call(&args.socket, client.get(key).await)?;
        let found = found.filter(|found| found.value == args.expected.as_bytes());
        let Some(found) = found else {
            let text = format!(
                "key `{}` does not have the value that was expected",
                printable(key)
            );
            return Err(Coded::conflict(text).into());
        };
        let put = Put {
            ttl: args.ttl,
            if_match: Some(found.etag),
            ..Put::default()
        };
        match client.set(key, args.value.as_bytes().to_vec(), &put).await {
            // Written meanwhile, maybe with the same value.
            Err(error) if error.is("precondition-failed") => {}
            written => {
                let written = call(&args.socket, written)?;
                return match format {
                    Format::Table => Ok(()),
                    Format::Json => output::json(&serde_json::json!({
                        "revision": written.revision,
                        "etag": written.etag,
                    })),
                };
            }
        }
    }
    Err(busy(key).into())
}

/// `ttl`.
pub async fn ttl(args: &Ttl, format: Format) -> Result<()> {
    let key = args.key.as_bytes();
    let client = named(client(&args.socket), &args.actor);
    if args.time.is_some() || args.persist {
        return set_ttl(args, &client, key).await;
    }
    let found = call(&args.socket, client.head(key).await)?;
    let found = found.ok_or_else(|| absent(key))?;
    let left = left(&found);
    match format {
        Format::Table => {
            let text = left.map_or_else(|| "never".to_owned(), words);
            output::line(&text)
        }
        Format::Json => output::json(&serde_json::json!({
            "expiresAt": found.expires_at,
            "seconds": left.map(|left| left.as_secs_f64()),
        })),
    }
}

/// Time until it expires, by this machine's clock.
fn left(found: &Found) -> Option<Duration> {
    let at = parse_rfc3339(found.expires_at.as_deref()?)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Some(Duration::from_millis(at).saturating_sub(now.unwrap_or_default()))
}

/// As people write it: `1h29m59s`.
fn words(left: Duration) -> String {
    let whole = Duration::from_secs(left.as_secs());
    let text = SignedDuration::try_from(whole).map(|left| format!("{left:#}"));
    text.unwrap_or_default().replace(' ', "")
}

/// Writes the value that is there once more, with another time to live.
async fn set_ttl(args: &Ttl, client: &Client, key: &[u8]) -> Result<()> {
    for _ in 0..TRIES {
        let found = call(&args.socket, client.get(key).await)?;
        let found = found.ok_or_else(|| absent(key))?;
        let put = Put {
            ttl: args.time,
            if_match: Some(found.etag),
            ..Put::default()
        };
        match client.set(key, found.value, &put).await {
            Err(error) if error.is("precondition-failed") => {}
            written => return call(&args.socket, written).map(drop),
        }
    }
    Err(busy(key).into())
}

fn busy(key: &[u8]) -> Coded {
    Coded::conflict(format!(
        "key `{}` is written by others again and again",
        printable(key)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_as_people_write_it() {
        assert_eq!(words(Duration::from_secs(5399)), "1h29m59s");
        assert_eq!(words(Duration::from_millis(900)), "0s");
    }
}
