//! Kubernetes quantities: `512Mi`, `1Gi`, `10m`, `1.5`, `1e9`.

use std::{borrow::Cow, fmt};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as K8sQuantity;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};

/// A quantity as in pods: a number, then `m`, a decimal suffix (`k M G T P E`), a binary one (`Ki Mi Gi
/// Ti Pi Ei`) or an exponent (`e9`). At most 24 characters, never negative. A YAML number is fine too.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Quantity(String);

/// What a quantity looks like; the same in the schema and in [`Quantity::parse`].
const PATTERN: &str = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|[MGTPE]i?|[eE][0-9]+)?$";
const MAX_LENGTH: usize = 24;

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a quantity: write for example 512Mi, 1Gi or 250m")]
pub struct NotAQuantity(String);

impl Quantity {
    /// Checks and takes `text`.
    pub fn parse(text: &str) -> Result<Self, NotAQuantity> {
        match thousandths(text) {
            Some(_) => Ok(Self(text.to_owned())),
            None => Err(NotAQuantity(text.chars().take(MAX_LENGTH).collect())),
        }
    }

    /// For texts in this crate that a test has parsed.
    pub(crate) fn known(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// In whole units, rounded up as Kubernetes does: for sizes, bytes.
    pub fn units(&self) -> u64 {
        let thousandths = thousandths(&self.0).unwrap_or_default();
        u64::try_from(thousandths.div_ceil(1000)).unwrap_or(u64::MAX)
    }

    /// Times 1000, rounded up: the same for every spelling of an amount.
    pub(crate) fn thousandths(&self) -> u128 {
        thousandths(&self.0).unwrap_or_default()
    }

    /// `percent` of it, in whole units, rounded down.
    pub fn percent(&self, percent: u64) -> u64 {
        let part = u128::from(self.units()) * u128::from(percent) / 100;
        u64::try_from(part).unwrap_or(u64::MAX)
    }

    /// As the Kubernetes type.
    pub fn to_k8s(&self) -> K8sQuantity {
        K8sQuantity(self.0.clone())
    }
}

/// The value times 1000, rounded up, and cut at what fits; `None` only if `text` does not look like a quantity. So
/// whatever the schema lets through can be read.
fn thousandths(text: &str) -> Option<u128> {
    if text.len() > MAX_LENGTH {
        return None;
    }
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let (whole, fraction) = number
        .split_once('.')
        .map_or((number, None), |(w, f)| (w, Some(f)));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !fraction.is_none_or(digits) {
        return None;
    }
    let fraction = fraction.unwrap_or("");
    // value = digits * factor / 10^places, with `factor` in thousandths
    let value: u128 = format!("{whole}{fraction}").parse().ok()?; // 24 digits fit
    let places = u32::try_from(fraction.len()).ok()?;
    let factor: u128 = match suffix {
        "" => 1000,
        "m" => 1,
        "k" => 1000 * 1000,
        "M" => 1000 * 1000_u128.pow(2),
        "G" => 1000 * 1000_u128.pow(3),
        "T" => 1000 * 1000_u128.pow(4),
        "P" => 1000 * 1000_u128.pow(5),
        "E" => 1000 * 1000_u128.pow(6),
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        "Pi" => 1000 << 50,
        "Ei" => 1000 << 60,
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).filter(|e| digits(e))?;
            10_u128
                .saturating_pow(exponent.parse().unwrap_or(u32::MAX))
                .saturating_mul(1000)
        }
    };
    Some(
        value
            .saturating_mul(factor)
            .div_ceil(10_u128.saturating_pow(places)),
    )
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Quantity;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity such as 512Mi, 1Gi or 250m")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Quantity, E> {
                Quantity::parse(text).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Quantity, E> {
                self.visit_str(&n.to_string())
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Quantity, E> {
                self.visit_str(&n.to_string())
            }
            fn visit_f64<E: de::Error>(self, n: f64) -> Result<Quantity, E> {
                self.visit_str(&n.to_string())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Quantity {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": MAX_LENGTH,
            "minimum": 0,
            "pattern": PATTERN,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_mean_what_kubernetes_says() {
        for (text, units) in [
            ("0", 0),
            ("1", 1),
            ("1073741824", 1 << 30),
            ("1Gi", 1 << 30),
            ("1G", 1_000_000_000),
            ("512Mi", 512 << 20),
            ("64Ki", 64 << 10),
            ("1.5Gi", 3 << 29),
            ("0.5k", 500),
            ("1e3", 1000),
            ("2E6", 2_000_000),
            ("1E", 1_000_000_000_000_000_000),
            ("1m", 1),
            ("1500m", 2),
            ("100m", 1),
            ("16Ei", u64::MAX),
            ("99999999999999999999Ei", u64::MAX),
            ("1e99999999999", u64::MAX),
            ("0.000000000000000000001", 1),
        ] {
            assert_eq!(Quantity::parse(text).unwrap().units(), units, "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in [
            "",
            "Gi",
            "1gi",
            "1 Gi",
            "-1",
            "+1",
            "1.",
            ".5",
            "1.2.3",
            "1GiB",
            "1e",
            "1e-3",
            "1é",
            "é",
            "1000000000000000000000000000",
        ] {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_quantities_too() {
        let q: Quantity = serde_json::from_str("1073741824").unwrap();
        assert_eq!(q.as_str(), "1073741824");
        let q: Quantity = serde_json::from_str("0.5").unwrap();
        assert_eq!(q.as_str(), "0.5");
        assert!(serde_json::from_str::<Quantity>("-1").is_err());
    }

    #[test]
    fn a_percentage_is_rounded_down_and_does_not_overflow() {
        assert_eq!(Quantity::parse("1Gi").unwrap().percent(85), 912_680_550);
        assert_eq!(
            Quantity::parse("16Ei").unwrap().percent(85),
            u64::MAX / 100 * 85 + 12
        );
    }
}
