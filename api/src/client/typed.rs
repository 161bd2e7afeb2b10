//! Values that are JSON of a type.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Client, Found, Put, Written};
use crate::{Error, Result};

impl Found {
    /// The value as JSON of this type. `invalid-argument` if it is none; the error says where, and nothing of what is there.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.value).map_err(|e| {
            let what = format!(
                "the value is no JSON of the type that was asked for, at line {} column {}",
                e.line(),
                e.column()
            );
            Error::new("invalid-argument", what)
        })
    }
}

impl Client {
    /// Writes a value as JSON; else as [`Client::set`]. `invalid-argument` for what JSON has no form for, such as a map whose keys
    /// are no text.
    pub async fn set_json<T>(&self, key: &[u8], value: &T, put: &Put) -> Result<Written>
    where
        T: Serialize + ?Sized,
    {
        let json = serde_json::to_vec(value)
            .map_err(|_| Error::new("invalid-argument", "the value cannot be written as JSON"))?;
        self.set(key, json, put).await
    }

    /// Changes a value that is JSON: what `change` makes of it is written if nobody was faster, else it is asked again with what is
    /// there by then. It gets `None` where there is no such key, and whatever it fails with is the result. What is written expires
    /// after `ttl`, or never.
    pub async fn update_json<T, F>(
        &self,
        key: &[u8],
        ttl: Option<Duration>,
        mut change: F,
    ) -> Result<Written>
    where
        T: Serialize + DeserializeOwned,
        F: FnMut(Option<T>) -> Result<T>,
    {
        loop {
            let found = self.get(key).await?;
            let before = found.as_ref().map(Found::json).transpose()?;
            let value = change(before)?;
            let absent = found.is_none().then(|| "*".to_owned());
            let put = Put {
                ttl,
                if_match: found.map(|found| found.etag),
                if_none_match: absent,
            };
            match self.set_json(key, &value, &put).await {
                Err(error) if error.is("precondition-failed") => {}
                done => return done,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_another_type_is_told_by_its_place_alone() {
        let found = Found {
            value: "{\"secret\": 1}".into(),
            etag: String::new(),
            revision: 1,
            version: 1,
            expires_at: None,
        };
        let wrong = found.json::<Vec<u8>>().unwrap_err();
        assert!(wrong.is("invalid-argument"), "{wrong}");
        assert!(wrong.message().ends_with("at line 1 column 0"), "{wrong}");
        assert!(!wrong.message().contains("secret"), "{wrong}");
    }
}
