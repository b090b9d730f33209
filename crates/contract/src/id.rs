//! Who and which: the ids that cross service borders.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::{Builder, Uuid};

use crate::{RandomSource, Timestamp};

/// Not a UUID in its hyphenated form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID such as 018f4e9a-3c1b-7c2d-9e4f-5a6b7c8d9e0f")]
pub struct InvalidId;

/// Reads only the hyphenated form, so that an id has one spelling (but for its case).
fn parse(text: &str) -> Result<Uuid, InvalidId> {
    if text.len() != 36 {
        return Err(InvalidId);
    }
    Uuid::try_parse(text).map_err(|_| InvalidId)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
            ToSchema,
        )]
        #[serde(transparent)]
        #[schema(value_type = Uuid)]
        pub struct $name(Uuid);

        impl $name {
            /// The id as a bare UUID.
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A user of the shop, as the infrastructure in front of us has authenticated it.
    UserId
}

id! {
    /// An order: a UUIDv7, so that ids sort by the time at which they were made.
    OrderId
}

impl OrderId {
    /// A new id for an order placed at `now`. Below the millisecond the 12 bits of `rand_a` carry
    /// the fraction (RFC 9562, section 6.2, method 3), so that ids made one after the other on one
    /// machine sort in that order.
    pub fn new(now: Timestamp, random: &RandomSource) -> Self {
        let micros = u64::try_from(now.micros()).unwrap_or(0);
        let fraction = u16::try_from((micros % 1000) * 4096 / 1000).unwrap_or(0);
        let mut bytes = [0; 10];
        bytes[..2].copy_from_slice(&fraction.to_be_bytes());
        bytes[2..].copy_from_slice(&random.next_u64().to_be_bytes());
        Self(Builder::from_unix_timestamp_millis(micros / 1000, &bytes).into_uuid())
    }

    /// When the id was made, to the millisecond; `None` for a UUID of another version.
    pub fn made_at(self) -> Option<Timestamp> {
        let (seconds, nanos) = self.0.get_timestamp()?.to_unix();
        let micros = seconds.checked_mul(1_000_000)?.checked_add(u64::from(nanos) / 1000)?;
        i64::try_from(micros).ok().map(Timestamp::from_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_ids_sort_by_the_microsecond() {
        let random = RandomSource::seeded(1);
        let start = 1_763_683_200_000_999;
        let ids: Vec<_> =
            (0..2000).map(|i| OrderId::new(Timestamp::from_micros(start + i), &random)).collect();
        assert!(ids.is_sorted());
        assert_eq!(ids[0].uuid().get_version_num(), 7);
        assert_eq!(ids[0].made_at(), Some(Timestamp::from_micros(1_763_683_200_000_000)));
    }

    #[test]
    fn only_the_hyphenated_form_is_an_id() {
        assert!("018f4e9a-3c1b-7c2d-9e4f-5a6b7c8d9e0f".parse::<UserId>().is_ok());
        assert!("018F4E9A-3C1B-7C2D-9E4F-5A6B7C8D9E0F".parse::<UserId>().is_ok());
        for bad in
            ["", "1", "018f4e9a3c1b7c2d9e4f5a6b7c8d9e0f", "{018f4e9a-3c1b-7c2d-9e4f-5a6b7c8d9e0f}"]
        {
            assert_eq!(bad.parse::<UserId>(), Err(InvalidId), "{bad}");
        }
    }
}
