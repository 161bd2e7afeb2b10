//! A table of a SQLite database.

use std::path::Path;

use anyhow::{Context, Result};
use rusqlite::{Connection, OpenFlags, types::ValueRef};

use super::{Record, Records};
use crate::{failure::Coded, offline::args::Sqlite};

/// Rows that are fetched at once, so that memory holds few of them.
const PAGE: i64 = 512;

/// The rows of a table in the order of their row ids. Keys and values may be text, blobs or numbers, which
/// become their decimal text; NULL is an error.
pub fn read(file: &Path, args: &Sqlite) -> Result<Records> {
    let refuse =
        |what: &str, e: rusqlite::Error| Coded::invalid(format!("{what} {}: {e}", file.display()));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(file, flags).map_err(|e| refuse("open", e))?;
    // One view for all pages, whoever writes meanwhile.
    database
        .execute_batch("BEGIN")
        .map_err(|e| refuse("read", e))?;
    let (table, key, value) = (
        quoted(args.table.as_deref().unwrap_or_default()),
        quoted(args.key_column.as_deref().unwrap_or_default()),
        quoted(args.value_column.as_deref().unwrap_or_default()),
    );
    let expiry = match &args.expires_column {
        Some(column) => quoted(column),
        None => "NULL".to_owned(),
    };
    let query = format!(
        "SELECT rowid, {key}, {value}, {expiry} FROM {table} WHERE rowid > ?1 ORDER BY rowid LIMIT {PAGE}"
    );
    // A table or column that is not there shows here.
    database
        .prepare(&query)
        .map_err(|e| refuse("read the table of", e))
        .context("import")?;
    let mut after = i64::MIN;
    let mut page: std::vec::IntoIter<Result<Record, String>> = Vec::new().into_iter();
    let mut number = 0;
    let mut done = false;
    Ok(Box::new(std::iter::from_fn(move || {
        loop {
            if let Some(record) = page.next() {
                number += 1;
                return Some((number, record));
            }
            if done {
                return None;
            }
            match fetch(&database, &query, &mut after) {
                Ok(rows) => {
                    done = rows.is_empty();
                    page = rows.into_iter();
                }
                Err(e) => {
                    done = true;
                    return Some((number + 1, Err(format!("cannot be read: {e}"))));
                }
            }
        }
    })))
}

type Rows = Vec<Result<Record, String>>;

fn fetch(database: &Connection, query: &str, after: &mut i64) -> rusqlite::Result<Rows> {
    let mut statement = database.prepare_cached(query)?;
    let mut rows = statement.query([*after])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        *after = row.get(0)?;
        let record = (|| {
            Ok(Record {
                key: bytes(&row.get_ref(1), "key")?,
                value: bytes(&row.get_ref(2), "value")?,
                expires_at: expiry(&row.get_ref(3))?,
            })
        })();
        found.push(record);
    }
    Ok(found)
}

fn bytes(value: &rusqlite::Result<ValueRef<'_>>, column: &str) -> Result<Vec<u8>, String> {
    match value {
        Ok(ValueRef::Text(text)) => Ok(text.to_vec()),
        Ok(ValueRef::Blob(blob)) => Ok(blob.to_vec()),
        Ok(ValueRef::Integer(number)) => Ok(number.to_string().into_bytes()),
        Ok(ValueRef::Real(number)) => Ok(number.to_string().into_bytes()),
        Ok(ValueRef::Null) => Err(format!("the {column} is NULL")),
        Err(_) => Err(format!("the {column} cannot be read")),
    }
}

/// Unix time, in seconds, with a fraction if there is one.
fn expiry(value: &rusqlite::Result<ValueRef<'_>>) -> Result<Option<u64>, String> {
    let wrong = || "the expiry is not a Unix time in seconds".to_owned();
    match value {
        Ok(ValueRef::Null) => Ok(None),
        Ok(ValueRef::Integer(seconds)) => u64::try_from(*seconds)
            .ok()
            .and_then(|seconds| seconds.checked_mul(1000))
            .map(Some)
            .ok_or_else(wrong),
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // it is in the range
        Ok(ValueRef::Real(seconds)) if (0.0..1e15).contains(seconds) => {
            Ok(Some((seconds * 1000.0) as u64))
        }
        _ => Err(wrong()),
    }
}

/// A name in SQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_with_all_types_and_in_pages() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("app.db");
        let database = Connection::open(&file).unwrap();
        database
            .execute_batch("CREATE TABLE \"a \"\"b\" (k, v, e); BEGIN")
            .unwrap();
        for n in 0..1300 {
            database
                .execute(
                    "INSERT INTO \"a \"\"b\" VALUES (?1, ?2, ?3)",
                    (format!("k{n}"), n, (n % 2 == 0).then_some(n)),
                )
                .unwrap();
        }
        database
            .execute_batch(
                "INSERT INTO \"a \"\"b\" VALUES (x'ff00', 'text', 1.5), ('k', NULL, NULL); COMMIT",
            )
            .unwrap();
        let mut args = Sqlite {
            sqlite: None,
            table: Some("a \"b".to_owned()),
            key_column: Some("k".to_owned()),
            value_column: Some("v".to_owned()),
            expires_column: Some("e".to_owned()),
        };
        let rows: Vec<_> = read(&file, &args).unwrap().collect();
        assert_eq!(rows.len(), 1302);
        assert_eq!(rows[1298].1.as_ref().unwrap().value, b"1298");
        assert_eq!(rows[1298].1.as_ref().unwrap().expires_at, Some(1_298_000));
        let binary = rows[1300].1.as_ref().unwrap();
        assert_eq!(
            (&binary.key[..], binary.expires_at),
            (&[0xff, 0][..], Some(1500))
        );
        assert_eq!(rows[1301].1.as_ref().unwrap_err(), "the value is NULL");
        args.table = Some("none".to_owned());
        assert!(read(&file, &args).is_err());
    }
}
