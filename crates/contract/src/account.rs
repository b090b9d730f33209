//! An account and its ledger, as the payments service and its clients see them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Balance, OrderId, Timestamp, UserId};

/// An account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Account {
    /// Whose it is.
    pub user_id: UserId,
    /// What it holds, in minor units.
    pub balance: Balance,
    /// 1 when opened, and one more with each ledger entry.
    #[schema(minimum = 1)]
    pub version: i64,
    /// When it was opened.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// What an entry records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A top-up.
    Deposit,
    /// A payment for an order.
    Payment,
}

impl EntryKind {
    /// The name used in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deposit => "deposit",
            Self::Payment => "payment",
        }
    }
}

/// One line of an account's ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Entry {
    /// Whose account; not told, since only its owner can ask.
    #[serde(skip)]
    pub user_id: UserId,
    /// 1, 2, 3, … without a gap.
    #[schema(minimum = 1)]
    pub seq: i64,
    /// What it records.
    pub kind: EntryKind,
    /// What was added to the balance, in minor units: below zero for a payment.
    #[schema(example = -9900)]
    pub amount: i64,
    /// The balance after it.
    pub balance_after: Balance,
    /// The order that was paid for, if it was a payment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_id: Option<OrderId>,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}
