//! Lists in pages, newest first, and the query parameters that ask for them.

use std::{borrow::Cow, collections::HashMap};

use axum::{extract::FromRequestParts, http::request::Parts};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{FieldError, Problem};

/// One page of a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// The items, newest first.
    pub items: Vec<T>,
    /// Pass it as `cursor` to get the next page; null on the last one. Opaque.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A page out of up to `limit + 1` items: the one too many only says that there is more.
    pub fn cut(mut items: Vec<T>, limit: usize, cursor: impl Fn(&T) -> String) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next_cursor = items.last().filter(|_| more).map(cursor);
        Self { items, next_cursor }
    }
}

/// The query parameters of a request, none of them given twice.
#[derive(Debug, Default)]
pub struct Params(HashMap<String, String>);

/// Which page of a list.
#[derive(Clone, Debug)]
pub struct PageQuery {
    /// The most items, 1 to 100.
    pub limit: usize,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

impl Params {
    /// A parameter's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// `limit` and `cursor`.
    ///
    /// # Errors
    /// 400 `invalid_limit` if `limit` is no number, 422 if it is not 1 to 100.
    pub fn page(&self) -> Result<PageQuery, Problem> {
        let limit = match self.get("limit").map(str::parse::<i128>) {
            None => 20,
            Some(Ok(limit @ 1..=100)) => usize::try_from(limit).unwrap_or(100),
            Some(Ok(_)) => {
                return Err(Self::out_of_range("limit", "must be 1 to 100"));
            }
            Some(Err(_)) => {
                return Err(Problem::unreadable("invalid_limit", "limit must be a whole number"));
            }
        };
        Ok(PageQuery { limit, cursor: self.get("cursor").map(str::to_owned) })
    }

    /// 422: a parameter's value is not one of those allowed.
    pub fn out_of_range(name: &str, detail: impl Into<String>) -> Problem {
        Problem::invalid(vec![FieldError {
            field: name.to_owned(),
            code: Cow::Borrowed("out_of_range"),
            detail: detail.into(),
        }])
    }
}

impl PageQuery {
    /// Reads the cursor.
    ///
    /// # Errors
    /// 400 `invalid_cursor` if `parse` makes nothing of it.
    pub fn cursor<T>(&self, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, Problem> {
        let invalid = || Problem::unreadable("invalid_cursor", "this cursor was not made here");
        self.cursor.as_deref().map(|text| parse(text).ok_or_else(invalid)).transpose()
    }
}

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut params = HashMap::new();
        for (name, value) in form_urlencoded::parse(parts.uri.query().unwrap_or("").as_bytes()) {
            if params.insert(name.to_string(), value.into_owned()).is_some() {
                let detail = format!("the parameter {name:?} is given twice");
                return Err(Problem::unreadable("invalid_query", detail));
            }
        }
        Ok(Self(params))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_page_has_a_cursor_only_if_there_is_more() {
        let cursor = |item: &u8| item.to_string();
        assert_eq!(Page::cut(vec![3, 2, 1], 2, cursor).next_cursor.as_deref(), Some("2"));
        assert_eq!(Page::cut(vec![3, 2], 2, cursor).next_cursor, None);
        assert_eq!(Page::cut(Vec::<u8>::new(), 2, cursor).next_cursor, None);
    }

    #[test]
    fn limits_are_checked() {
        let limit =
            |value: &str| Params(HashMap::from([("limit".to_owned(), value.to_owned())])).page();
        assert_eq!(limit("100").unwrap().limit, 100);
        assert_eq!(limit("0").unwrap_err().status, 422);
        assert_eq!(limit("101").unwrap_err().status, 422);
        assert_eq!(limit("ten").unwrap_err().code, "invalid_limit");
        assert_eq!(Params::default().page().unwrap().limit, 20);
    }
}
