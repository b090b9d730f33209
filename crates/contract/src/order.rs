//! An order, as every service and client sees it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Money, OrderId, Timestamp, UserId};

/// Where an order stands. It starts NEW and moves exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum OrderStatus {
    /// Placed; payment is under way.
    New,
    /// Paid.
    Finished,
    /// Declined; the order's `cancel_reason` says why.
    Cancelled,
}

/// Not one of the order statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be NEW, FINISHED or CANCELLED")]
pub struct UnknownStatus;

impl OrderStatus {
    /// The name used in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "NEW",
            Self::Finished => "FINISHED",
            Self::Cancelled => "CANCELLED",
        }
    }
}

impl FromStr for OrderStatus {
    type Err = UnknownStatus;
    /// Reads a status; the American spelling `CANCELED` is understood too.
    fn from_str(text: &str) -> Result<Self, UnknownStatus> {
        match text {
            "NEW" => Ok(Self::New),
            "FINISHED" => Ok(Self::Finished),
            "CANCELLED" | "CANCELED" => Ok(Self::Cancelled),
            _ => Err(UnknownStatus),
        }
    }
}

/// Why an order was cancelled: the reason payments gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    /// The user has no account.
    NoAccount,
    /// The balance was smaller than the amount.
    InsufficientFunds,
}

/// Not one of the reasons for which an order is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a known reason")]
pub struct UnknownReason;

impl CancelReason {
    /// The name used in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoAccount => "no_account",
            Self::InsufficientFunds => "insufficient_funds",
        }
    }
}

impl FromStr for CancelReason {
    type Err = UnknownReason;
    fn from_str(text: &str) -> Result<Self, UnknownReason> {
        match text {
            "no_account" => Ok(Self::NoAccount),
            "insufficient_funds" => Ok(Self::InsufficientFunds),
            _ => Err(UnknownReason),
        }
    }
}

/// What was ordered: 1 to 1000 characters, none of them NUL.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, min_length = 1, max_length = 1000, example = "A red kettle")]
pub struct Description(String);

/// Empty, too long, or with a character that can't be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 1000 characters, without U+0000")]
pub struct InvalidDescription;

impl Description {
    /// The most characters (Unicode scalar values) that a description may have.
    pub const MAX_CHARS: usize = 1000;

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Description {
    type Error = InvalidDescription;
    fn try_from(text: String) -> Result<Self, InvalidDescription> {
        let length = text.chars().count();
        // PostgreSQL can't store U+0000 in a text.
        if length == 0 || length > Self::MAX_CHARS || text.contains('\0') {
            return Err(InvalidDescription);
        }
        Ok(Self(text))
    }
}

impl From<Description> for String {
    fn from(description: Description) -> Self {
        description.0
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Order {
    /// Its id, a UUIDv7.
    pub id: OrderId,
    /// Whose it is.
    pub user_id: UserId,
    /// What it costs, in minor units.
    pub amount: Money,
    /// What was ordered.
    pub description: Description,
    /// Where it stands.
    pub status: OrderStatus,
    /// Why it was cancelled; only there when it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel_reason: Option<CancelReason>,
    /// 1 when NEW, and more with each change: the highest seen is the newest.
    #[schema(minimum = 1)]
    pub version: i64,
    /// When it was placed.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_reasons_read_back() {
        for status in [OrderStatus::New, OrderStatus::Finished, OrderStatus::Cancelled] {
            assert_eq!(status.as_str().parse(), Ok(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
        assert_eq!("CANCELED".parse(), Ok(OrderStatus::Cancelled));
        assert_eq!("new".parse::<OrderStatus>(), Err(UnknownStatus));
        for reason in [CancelReason::NoAccount, CancelReason::InsufficientFunds] {
            assert_eq!(reason.as_str().parse(), Ok(reason));
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }

    #[test]
    fn a_description_counts_characters_not_bytes() {
        assert!(Description::try_from("я".repeat(1000)).is_ok());
        for bad in [String::new(), "я".repeat(1001), "a\0b".to_owned()] {
            assert_eq!(Description::try_from(bad), Err(InvalidDescription));
        }
    }
}
