//! Messages of the contracts as plain values, and back.

use gozon_contract::{
    Account, CancelReason, Entry, EntryKind, Order, OrderStatus, Timestamp, UserId,
};

use crate::proto::{orders, payments};

pub(crate) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let (seconds, micros) = (at.micros().div_euclid(1_000_000), at.micros().rem_euclid(1_000_000));
    // Less than a million, so that it fits.
    prost_types::Timestamp { seconds, nanos: i32::try_from(micros * 1000).unwrap_or(0) }
}

/// The instant; `None` if it is none, or too far away.
pub(crate) fn read_timestamp(at: &prost_types::Timestamp) -> Option<Timestamp> {
    let micros = i64::from(u32::try_from(at.nanos).ok().filter(|n| *n < 1_000_000_000)? / 1000);
    at.seconds.checked_mul(1_000_000)?.checked_add(micros).map(Timestamp::from_micros)
}

pub(crate) fn order_status(status: OrderStatus) -> orders::OrderStatus {
    match status {
        OrderStatus::New => orders::OrderStatus::New,
        OrderStatus::Finished => orders::OrderStatus::Finished,
        OrderStatus::Cancelled => orders::OrderStatus::Cancelled,
    }
}

/// The status; `None` if it is unspecified.
pub(crate) fn read_order_status(status: orders::OrderStatus) -> Option<OrderStatus> {
    match status {
        orders::OrderStatus::Unspecified => None,
        orders::OrderStatus::New => Some(OrderStatus::New),
        orders::OrderStatus::Finished => Some(OrderStatus::Finished),
        orders::OrderStatus::Cancelled => Some(OrderStatus::Cancelled),
    }
}

pub(crate) fn order(order: &Order) -> orders::Order {
    let cancel_reason = match order.cancel_reason {
        None => orders::CancelReason::Unspecified,
        Some(CancelReason::NoAccount) => orders::CancelReason::NoAccount,
        Some(CancelReason::InsufficientFunds) => orders::CancelReason::InsufficientFunds,
    };
    orders::Order {
        id: order.id.to_string(),
        user_id: order.user_id.to_string(),
        amount: order.amount.minor(),
        description: order.description.to_string(),
        status: order_status(order.status).into(),
        cancel_reason: cancel_reason.into(),
        version: order.version,
        created_at: Some(timestamp(order.created_at)),
        updated_at: Some(timestamp(order.updated_at)),
    }
}

/// The order; `None` if it can't be one.
pub(crate) fn read_order(order: orders::Order) -> Option<Order> {
    let cancel_reason = match orders::CancelReason::try_from(order.cancel_reason).ok()? {
        orders::CancelReason::Unspecified => None,
        orders::CancelReason::NoAccount => Some(CancelReason::NoAccount),
        orders::CancelReason::InsufficientFunds => Some(CancelReason::InsufficientFunds),
    };
    Some(Order {
        id: order.id.parse().ok()?,
        user_id: order.user_id.parse().ok()?,
        amount: order.amount.try_into().ok()?,
        description: order.description.try_into().ok()?,
        status: read_order_status(order.status.try_into().ok()?)?,
        cancel_reason,
        version: order.version,
        created_at: read_timestamp(&order.created_at?)?,
        updated_at: read_timestamp(&order.updated_at?)?,
    })
}

pub(crate) fn account(account: &Account) -> payments::Account {
    payments::Account {
        user_id: account.user_id.to_string(),
        balance: account.balance.minor(),
        version: account.version,
        created_at: Some(timestamp(account.created_at)),
    }
}

/// The account; `None` if it can't be one.
pub(crate) fn read_account(account: &payments::Account) -> Option<Account> {
    Some(Account {
        user_id: account.user_id.parse().ok()?,
        balance: account.balance.try_into().ok()?,
        version: account.version,
        created_at: read_timestamp(account.created_at.as_ref()?)?,
    })
}

pub(crate) fn entry(entry: &Entry) -> payments::Entry {
    let kind = match entry.kind {
        EntryKind::Deposit => payments::EntryKind::Deposit,
        EntryKind::Payment => payments::EntryKind::Payment,
    };
    payments::Entry {
        seq: entry.seq,
        kind: kind.into(),
        amount: entry.amount,
        balance_after: entry.balance_after.minor(),
        order_id: entry.order_id.map(|id| id.to_string()).unwrap_or_default(),
        created_at: Some(timestamp(entry.created_at)),
    }
}

/// The entry of this user; `None` if it can't be one.
pub(crate) fn read_entry(user_id: UserId, entry: &payments::Entry) -> Option<Entry> {
    let kind = match payments::EntryKind::try_from(entry.kind).ok()? {
        payments::EntryKind::Unspecified => return None,
        payments::EntryKind::Deposit => EntryKind::Deposit,
        payments::EntryKind::Payment => EntryKind::Payment,
    };
    let order_id =
        if entry.order_id.is_empty() { None } else { Some(entry.order_id.parse().ok()?) };
    Some(Entry {
        user_id,
        seq: entry.seq,
        kind,
        amount: entry.amount,
        balance_after: entry.balance_after.try_into().ok()?,
        order_id,
        created_at: read_timestamp(entry.created_at.as_ref()?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let id = "019aa3d9-a47b-774c-8000-0123456789ab";
        let at = Timestamp::from_micros(1_763_683_200_123_456);
        for (status, cancel_reason) in [
            (OrderStatus::New, None),
            (OrderStatus::Finished, None),
            (OrderStatus::Cancelled, Some(CancelReason::NoAccount)),
            (OrderStatus::Cancelled, Some(CancelReason::InsufficientFunds)),
        ] {
            let sent = Order {
                id: id.parse().unwrap(),
                user_id: id.parse().unwrap(),
                amount: 9_900.try_into().unwrap(),
                description: "Чайник 🫖".to_owned().try_into().unwrap(),
                status,
                cancel_reason,
                version: 2,
                created_at: at,
                updated_at: Timestamp::from_micros(-1),
            };
            assert_eq!(read_order(order(&sent)), Some(sent));
        }
        let user_id: UserId = id.parse().unwrap();
        let balance = 7.try_into().unwrap();
        let sent = Account { user_id, balance, version: 3, created_at: at };
        assert_eq!(read_account(&account(&sent)), Some(sent));
        for (kind, order_id) in
            [(EntryKind::Deposit, None), (EntryKind::Payment, Some(id.parse().unwrap()))]
        {
            let balance_after = 7.try_into().unwrap();
            let sent = Entry {
                user_id,
                seq: 2,
                kind,
                amount: -1,
                balance_after,
                order_id,
                created_at: at,
            };
            assert_eq!(read_entry(user_id, &entry(&sent)), Some(sent));
        }
    }

    #[test]
    fn times_that_are_none_are_not_read() {
        for (seconds, nanos) in [(0, -1), (0, 1_000_000_000), (i64::MAX, 0)] {
            assert_eq!(read_timestamp(&prost_types::Timestamp { seconds, nanos }), None);
        }
    }
}
