//! A lease: one process of the pod at a time does what only one may do, and another goes on soon after that one died. With the
//! Rust client.

use std::time::Duration;

use codexstore_api::Client;
use codexstore_api::client::Put;

/// How long a holder that says nothing any more still has it.
const TTL: Duration = Duration::from_secs(1);

/// Somebody who wants the lease.
struct Candidate {
    name: &'static str,
    store: Client,
    /// The entity tag of what we wrote, while we hold it.
    held: Option<String>,
}

impl Candidate {
    fn new(name: &'static str) -> anyhow::Result<Candidate> {
        let socket = std::env::var("CODEXSTORE_SOCKET")?;
        Ok(Candidate {
            name,
            store: Client::unix(socket),
            held: None,
        })
    }

    /// Takes the lease, or renews it; true if we hold it now. Nobody can come between: the write is made only if the key is
    /// as it was left.
    async fn hold(&mut self) -> anyhow::Result<bool> {
        let mut put = Put {
            ttl: Some(TTL),
            ..Put::default()
        };
        match &self.held {
            Some(tag) => put.if_match = Some(tag.clone()),
            None => put.if_none_match = Some("*".to_owned()),
        }
        match self.store.set(b"leader", self.name, &put).await {
            Ok(written) => {
                self.held = Some(written.etag);
                Ok(true)
            }
            Err(error) if error.is("precondition-failed") => {
                self.held = None;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let (mut ada, mut bob) = (Candidate::new("ada")?, Candidate::new("bob")?);
    println!("ada: {}, bob: {}", ada.hold().await?, bob.hold().await?);
    println!("ada renews: {}", ada.hold().await?);
    println!("ada stops");
    while !bob.hold().await? {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("bob: true, ada: {}", ada.hold().await?);
    Ok(())
}
