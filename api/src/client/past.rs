//! The past of a key, which a store with the strategy Ledger has.

use http::Method;

use super::{Call, Client, Found, key_uri};
use crate::Result;
use crate::bodies::{History, HistoryQuery};

impl Client {
    /// A key's value as it was right after a revision; `None` if it was not there. `unsupported`
    /// from a store that keeps the present only, `past-gone` where a ledger does not reach back so
    /// far.
    pub async fn get_at(&self, key: &[u8], revision: u64) -> Result<Option<Found>> {
        let uri = format!("{}?revision={revision}", key_uri(key));
        self.read_key(Call::new(Method::GET, uri)).await
    }

    /// A page of what became of a key, oldest first. To go on, ask from [`History::next`]. Errors as
    /// [`Client::get_at`].
    pub async fn history(&self, key: &[u8], query: &HistoryQuery) -> Result<History> {
        let mut pairs = vec![format!("values={}", query.values)];
        pairs.extend(query.from.map(|from| format!("from={from}")));
        pairs.extend(query.limit.map(|limit| format!("limit={limit}")));
        let uri = format!("{}/history?{}", key_uri(key), pairs.join("&"));
        self.json(Call::new(Method::GET, uri)).await
    }
}
