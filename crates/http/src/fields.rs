//! Request bodies: a JSON object, read field by field into types that can't be wrong.

use std::{borrow::Cow, fmt};

use axum::{
    body::Body,
    extract::{FromRequest, OptionalFromRequest, Request},
    http::{HeaderMap, StatusCode, header},
};
use gozon_contract::{Description, Money};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};
use serde_json::{Map, Value};

use crate::{FieldError, Problem};

/// The largest request body, in bytes.
pub const BODY_LIMIT: usize = 64 * 1024;

/// What is wrong with a field's value: a code and a sentence.
pub type FieldIssue = (&'static str, String);

/// The fields of a JSON object. Take each, then [`finish`](Fields::finish), so
/// that a client hears of all its mistakes at once. Fields that nobody takes are ignored.
#[derive(Debug, Default)]
pub struct Fields {
    values: Map<String, Value>,
    errors: Vec<FieldError>,
}

impl Fields {
    fn parse(body: &[u8], headers: &HeaderMap) -> Result<Self, Problem> {
        if !is_json(headers) {
            let detail = "the body must be application/json";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(Problem::new(status, "unsupported_media_type", detail));
        }
        let Unique(values) = serde_json::from_slice(body).map_err(|error| {
            let detail = format!("the body is not a JSON object: {error}");
            Problem::unreadable("invalid_json", detail)
        })?;
        Ok(Self { values, errors: Vec::new() })
    }

    /// Takes a field that must be there; `None` if it is not, or `parse` won't have it.
    pub fn take<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(Value) -> Result<T, FieldIssue>,
    ) -> Option<T> {
        let parsed = match self.values.remove(name) {
            Some(value) => parse(value),
            None => Err(("required", "is required".to_owned())),
        };
        parsed
            .map_err(|(code, detail)| {
                let code = Cow::Borrowed(code);
                self.errors.push(FieldError { field: name.to_owned(), code, detail });
            })
            .ok()
    }

    /// Takes an amount of money.
    pub fn money(&mut self, name: &'static str) -> Option<Money> {
        self.take(name, |value| {
            let Value::Number(number) = value else {
                return Err(("wrong_type", "must be a whole number".to_owned()));
            };
            let whole = number.is_i64() || number.is_u64() || is_whole_beyond_64_bits(&number);
            match number.as_i64().map(Money::try_from) {
                Some(Ok(money)) => Ok(money),
                Some(Err(error)) => Err(("out_of_range", error.to_string())),
                None if whole => Err(("out_of_range", gozon_contract::InvalidAmount.to_string())),
                None => Err(("wrong_type", "must be a whole number".to_owned())),
            }
        })
    }

    /// Takes a description.
    pub fn description(&mut self, name: &'static str) -> Option<Description> {
        self.take(name, |value| match value {
            Value::String(text) => {
                Description::try_from(text).map_err(|error| ("out_of_range", error.to_string()))
            }
            _ => Err(("wrong_type", "must be a text".to_owned())),
        })
    }

    /// What the fields taken make together.
    ///
    /// # Errors
    /// 422 `validation_failed`, naming each bad field.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Problem> {
        match value {
            Some(value) if self.errors.is_empty() => Ok(value),
            _ => Err(Problem::invalid(self.errors)),
        }
    }
}

/// Integers that don't fit 64 bits are read as floats; those are out of range, not of a wrong type.
fn is_whole_beyond_64_bits(number: &serde_json::Number) -> bool {
    number.as_f64().is_some_and(|float| float.abs() >= 9.0e18)
}

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let body = read(body, &parts.headers).await?;
        Self::parse(&body, &parts.headers)
    }
}

impl<S: Send + Sync> OptionalFromRequest<S> for Fields {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Option<Self>, Problem> {
        let (parts, body) = request.into_parts();
        let body = read(body, &parts.headers).await?;
        if body.is_empty() { Ok(None) } else { Self::parse(&body, &parts.headers).map(Some) }
    }
}

async fn read(body: Body, headers: &HeaderMap) -> Result<Vec<u8>, Problem> {
    let coding = headers.get(header::CONTENT_ENCODING);
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let detail = "send the body as it is, without Content-Encoding";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(Problem::new(status, "unsupported_content_encoding", detail));
    }
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let too_large = || {
        let detail = format!("the body is larger than {BODY_LIMIT} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    };
    if declared.and_then(|length| length.parse().ok()).is_some_and(|n: u64| n > BODY_LIMIT as u64) {
        return Err(too_large());
    }
    match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(bytes) => Ok(bytes.to_bytes().into()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(Problem::unreadable("body_unreadable", "the body could not be read")),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    media.eq_ignore_ascii_case("application/json")
        || (media.len() > 17
            && media[..12].eq_ignore_ascii_case("application/")
            && media[media.len() - 5..].eq_ignore_ascii_case("+json"))
}

/// An object in which no name stands twice: which one is meant could be read either way.
struct Unique(Map<String, Value>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Unique;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Unique, A::Error> {
                let mut map = Map::new();
                while let Some((name, value)) = access.next_entry::<String, Value>()? {
                    if map.contains_key(&name) {
                        return Err(de::Error::custom(format!("{name:?} stands twice")));
                    }
                    map.insert(name, value);
                }
                Ok(Unique(map))
            }
        }

        deserializer.deserialize_map(Names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: &str) -> Fields {
        let Unique(values) = serde_json::from_str(json).unwrap();
        Fields { values, errors: Vec::new() }
    }

    #[test]
    fn every_bad_field_is_named() {
        let mut fields =
            fields(r#"{"a": 0, "b": "1", "c": 1.5, "d": 99999999999999999999, "f": 7}"#);
        for name in ["a", "b", "c", "d", "e"] {
            assert_eq!(fields.money(name), None);
        }
        assert_eq!(fields.money("f").map(Money::minor), Some(7));
        let problem = fields.finish(Some(())).unwrap_err();
        let codes: Vec<_> = problem.errors.iter().map(|error| error.code.as_ref()).collect();
        assert_eq!(codes, ["out_of_range", "wrong_type", "wrong_type", "out_of_range", "required"]);
    }

    #[test]
    fn a_name_may_stand_only_once() {
        assert!(serde_json::from_str::<Unique>(r#"{"a": 1, "a": 1}"#).is_err());
        assert!(serde_json::from_str::<Unique>("[1]").is_err());
    }

    #[test]
    fn only_json_is_json() {
        let json = |kind: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            is_json(&headers)
        };
        assert!(json("application/json") && json("Application/JSON; charset=utf-8"));
        assert!(json("application/vnd.shop+json"));
        assert!(!json("text/json") && !json("application/xml") && !json("application/x-json"));
        assert!(!is_json(&HeaderMap::new()));
    }
}
