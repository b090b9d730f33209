//! Money: whole minor units (kopecks), never a float.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An amount outside 1 to [`Money::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a whole number of minor units from 1 to 1000000000000")]
pub struct InvalidAmount;

/// What one operation moves: 1 to 10^12 minor units. Digits only: `12.0` and `1.2e1` are refused,
/// since a sender that has floats will send a fraction one day.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(try_from = "i64", into = "i64")]
#[schema(value_type = i64, minimum = 1, maximum = 1_000_000_000_000_i64, example = 150_000)]
pub struct Money(i64);

impl Money {
    /// The most that one operation may move: 10^12 minor units.
    pub const MAX: i64 = 1_000_000_000_000;

    /// The amount in minor units.
    pub const fn minor(self) -> i64 {
        self.0
    }
}

impl TryFrom<i64> for Money {
    type Error = InvalidAmount;
    fn try_from(minor: i64) -> Result<Self, InvalidAmount> {
        if (1..=Self::MAX).contains(&minor) { Ok(Self(minor)) } else { Err(InvalidAmount) }
    }
}

impl From<Money> for i64 {
    fn from(money: Money) -> Self {
        money.0
    }
}

/// What an account holds: 0 to 2^53 − 1 minor units, the largest integer that every JSON reader
/// agrees on (RFC 8259, section 6).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(try_from = "i64", into = "i64")]
#[schema(value_type = i64, minimum = 0, maximum = 9_007_199_254_740_991_i64, example = 150_000)]
pub struct Balance(i64);

impl Balance {
    /// An empty account.
    pub const ZERO: Self = Self(0);
    /// The most that an account may hold.
    pub const MAX: i64 = (1 << 53) - 1;

    /// The balance in minor units.
    pub const fn minor(self) -> i64 {
        self.0
    }

    /// The balance after a top-up; `None` if it would pass [`Balance::MAX`].
    pub fn plus(self, amount: Money) -> Option<Self> {
        Self::try_from(self.0 + amount.0).ok()
    }

    /// The balance after a payment; `None` if there is not enough.
    pub fn minus(self, amount: Money) -> Option<Self> {
        Self::try_from(self.0 - amount.0).ok()
    }
}

impl From<Balance> for i64 {
    fn from(balance: Balance) -> Self {
        balance.0
    }
}

impl TryFrom<i64> for Balance {
    type Error = InvalidAmount;
    fn try_from(minor: i64) -> Result<Self, InvalidAmount> {
        if (0..=Self::MAX).contains(&minor) { Ok(Self(minor)) } else { Err(InvalidAmount) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn money_has_its_bounds() {
        for bad in [i64::MIN, -1, 0, Money::MAX + 1, i64::MAX] {
            assert_eq!(Money::try_from(bad), Err(InvalidAmount), "{bad}");
        }
        assert!(Money::try_from(1).is_ok() && Money::try_from(Money::MAX).is_ok());
        assert!(serde_json::from_str::<Money>("1.0").is_err());
        assert!(serde_json::from_str::<Money>("0").is_err());
    }

    proptest! {
        #[test]
        fn a_balance_never_leaves_its_range(start in 0..=Balance::MAX, amount in 1..=Money::MAX) {
            let (balance, amount) = (Balance::try_from(start).unwrap(), Money::try_from(amount).unwrap());
            match balance.plus(amount) {
                Some(more) => prop_assert_eq!(more.minus(amount), Some(balance)),
                None => prop_assert!(start + amount.minor() > Balance::MAX),
            }
            prop_assert_eq!(balance.minus(amount).is_none(), start < amount.minor());
        }
    }
}
