//! Query strings: names that the path knows, each once, percent-decoded.

use codexstore_api::encoding::unpercent;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::answer::Reject;

/// What [`Query::flag`] takes, as it is described: true or false, or a text that stands for one.
pub struct Flag;

impl PartialSchema for Flag {
    fn schema() -> RefOr<Schema> {
        let truth = ObjectBuilder::new().schema_type(Type::Boolean);
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(["", "0", "1"]));
        OneOfBuilder::new().item(truth).item(text).into()
    }
}

impl ToSchema for Flag {}

/// The parameters of a request.
#[derive(Debug)]
pub struct Query(Vec<(&'static str, Vec<u8>)>);

impl Query {
    /// Reads a query string. An unknown name is an error rather than ignored, so that a misspelt
    /// `ttl` does not store for ever. As in HTML forms, `+` is a space and `%2B` is a plus.
    pub fn parse(query: Option<&str>, known: &[&'static str]) -> Result<Query, Reject> {
        let mut found: Vec<(&'static str, Vec<u8>)> = Vec::new();
        for pair in query
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
        {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(name) = known.iter().find(|known| **known == name) else {
                let known = if known.is_empty() {
                    "none".to_string()
                } else {
                    known.join(", ")
                };
                return Err(wrong(format!(
                    "unknown query parameter; this path knows {known}"
                )));
            };
            if found.iter().any(|(seen, _)| seen == name) {
                return Err(wrong(format!("query parameter {name} is given twice")));
            }
            let spaced = value.replace('+', " ");
            let value = unpercent(spaced.as_bytes()).ok_or_else(|| {
                wrong(format!(
                    "query parameter {name} has malformed percent-encoding"
                ))
            })?;
            found.push((name, value));
        }
        Ok(Query(found))
    }

    /// A parameter's bytes.
    pub fn take(&mut self, name: &str) -> Option<Vec<u8>> {
        let at = self.0.iter().position(|(found, _)| *found == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// A parameter as text.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Reject> {
        self.take(name)
            .map(|bytes| {
                String::from_utf8(bytes).map_err(|_| wrong(format!("{name} is not UTF-8")))
            })
            .transpose()
    }

    /// A parameter that is `true`, `1` or empty, or `false` or `0`.
    pub fn flag(&mut self, name: &str) -> Result<bool, Reject> {
        match self.take(name).as_deref() {
            None | Some(b"false" | b"0") => Ok(false),
            Some(b"true" | b"1" | b"") => Ok(true),
            Some(_) => Err(wrong(format!("{name} is true or false"))),
        }
    }
}

fn wrong(detail: String) -> Reject {
    Reject::new("invalid-argument", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_taken_once() {
        let mut query = Query::parse(
            Some("prefix=a%2Fb+c%2B&values&x="),
            &["prefix", "values", "x"],
        )
        .unwrap();
        assert_eq!(query.take("prefix").unwrap(), b"a/b c+");
        assert!(query.flag("values").unwrap());
        assert_eq!(query.take("x").unwrap(), b"");
        assert!(query.take("prefix").is_none());
    }

    #[test]
    fn unknown_repeated_and_malformed_parameters_are_refused() {
        for bad in ["tll=3s", "ttl=1&ttl=2", "ttl=%zz", "TTL=1"] {
            assert!(Query::parse(Some(bad), &["ttl"]).is_err(), "{bad}");
        }
        assert!(
            Query::parse(Some("values=maybe"), &["values"])
                .unwrap()
                .flag("values")
                .is_err()
        );
        assert!(Query::parse(None, &[]).is_ok() && Query::parse(Some(""), &[]).is_ok());
    }
}
