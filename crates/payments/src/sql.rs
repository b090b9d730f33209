//! All SQL of the payments service.

use gozon_contract::{
    Balance, CancelReason, Money, OrderId, Outcome, PaymentRequested, Timestamp, UserId,
};
use gozon_seam::mutation;
use gozon_store::{Error, Reader, Result, Rows, Statement, select};
use uuid::Uuid;

use crate::ledger::{Account, Changes, Entry, EntryKind, Payment};

/// A stored value that can't be: somebody else wrote to our tables.
fn corrupt(what: impl std::error::Error + Send + Sync + 'static) -> Error {
    sqlx::Error::Decode(Box::new(what)).into()
}

type RawAccount = (Uuid, i64, i64, i64);

fn account((user_id, balance, version, created_at): RawAccount) -> Result<Account> {
    Ok(Account {
        user_id: user_id.into(),
        balance: Balance::try_from(balance).map_err(corrupt)?,
        version,
        created_at: Timestamp::from_micros(created_at),
    })
}

/// Opens accounts. A user who has one already is a conflict.
pub(crate) fn insert_accounts(accounts: &[Account]) -> Statement {
    let rows = Rows::of(accounts)
        .uuid("user_id", |account| account.user_id.uuid())
        .int("balance", |account| account.balance.minor())
        .int("version", |account| account.version)
        .int("created_at", |account| account.created_at.micros())
        .done();
    if mutation!("an account opened again") {
        return Statement::new(
            "insert into accounts (user_id, balance, version, created_at)
             select user_id, balance, version, created_at from {rows} where true
             on conflict (user_id) do update set balance = 0, version = 1",
        )
        .rows(rows);
    }
    Statement::new(
        "insert into accounts (user_id, balance, version, created_at)
         select user_id, balance, version, created_at from {rows}
         where true order by user_id",
    )
    .rows(rows)
}

/// An account.
pub(crate) async fn find_account(reader: &mut Reader, user: UserId) -> Result<Option<Account>> {
    reader
        .query(select!(
            "select user_id, balance, version, created_at from accounts where user_id = $1"
        ))
        .bind(user.uuid())
        .fetch_optional()
        .await?
        .map(account)
        .transpose()
}

/// The accounts of these users, locked until the transaction ends, if it locks. Everybody locks them
/// in the same order, so that two batches wait for each other in turn and never in a circle.
pub(crate) async fn accounts_of(
    reader: &mut Reader,
    users: impl Iterator<Item = UserId>,
) -> Result<Vec<Account>> {
    let mut users: Vec<UserId> = users.collect();
    users.sort_unstable();
    users.dedup();
    let accounts: Vec<RawAccount> = reader
        .query(select!(
            "select user_id, balance, version, created_at from accounts
             where user_id {among}
             order by user_id {for_update}"
        ))
        .rows(Rows::of(&users).uuid("user_id", |user| user.uuid()).done())
        .fetch_all()
        .await?;
    accounts.into_iter().map(account).collect()
}

/// What stores what was decided: new payments, each for an order that has none, the entries, and one
/// update for each account that changed since it was read in the version that the update names. If
/// an order has a payment already, or an account has changed meanwhile, that is a conflict, and none
/// of it, and no debit, is kept.
///
/// The accounts come first, as they do for a transaction that locks them when it reads: of several that want
/// the same ones, all but one wait there, holding nothing that the others need.
pub(crate) fn store(payments: &[Payment], changes: &Changes, now: Timestamp) -> Vec<Statement> {
    let mut statements = Vec::new();
    if !changes.accounts.is_empty() {
        statements.push(update_accounts(&changes.accounts));
    }
    if !payments.is_empty() {
        statements.push(insert_payments(payments, now));
    }
    if !changes.entries.is_empty() {
        statements.push(insert_entries(&changes.entries));
    }
    statements
}

fn insert_payments(payments: &[Payment], now: Timestamp) -> Statement {
    let rows = Rows::of(payments)
        .uuid("order_id", |payment| payment.order_id.uuid())
        .uuid("user_id", |payment| payment.user_id.uuid())
        .int("amount", |payment| payment.amount.minor())
        .maybe_text("decline_reason", |payment| {
            payment.outcome.reason().map(|reason| reason.as_str().to_owned())
        })
        .done();
    if mutation!("a payment there already, debited all the same") {
        return Statement::new(
            "insert into payments (order_id, user_id, amount, decline_reason, created_at)
             select order_id, user_id, amount, decline_reason, $1 from {rows} where true
             on conflict do nothing",
        )
        .bind(now.micros())
        .rows(rows);
    }
    Statement::new(
        "insert into payments (order_id, user_id, amount, decline_reason, created_at)
         select order_id, user_id, amount, decline_reason, $1 from {rows} order by order_id",
    )
    .bind(now.micros())
    .rows(rows)
}

fn insert_entries(entries: &[Entry]) -> Statement {
    let rows = Rows::of(entries)
        .uuid("user_id", |entry| entry.user_id.uuid())
        .int("seq", |entry| entry.seq)
        .text("kind", |entry| entry.kind.as_str().to_owned())
        .int("amount", |entry| entry.amount)
        .int("balance_after", |entry| entry.balance_after.minor())
        .maybe_uuid("order_id", |entry| entry.order_id.map(OrderId::uuid))
        .int("created_at", |entry| entry.created_at.micros())
        .done();
    if mutation!("balances written without looking") {
        return Statement::new(
            "insert into entries
                (user_id, seq, kind, amount, balance_after, order_id, created_at)
             select user_id, seq, kind, amount, balance_after, order_id, created_at from {rows}
             where true on conflict do nothing",
        )
        .rows(rows);
    }
    Statement::new(
        "insert into entries
            (user_id, seq, kind, amount, balance_after, order_id, created_at)
         select user_id, seq, kind, amount, balance_after, order_id, created_at from {rows}
         order by user_id, seq",
    )
    .rows(rows)
}

fn update_accounts(accounts: &[(Account, i64)]) -> Statement {
    let rows = Rows::of(accounts)
        .uuid("user_id", |(account, _)| account.user_id.uuid())
        .int("balance", |(account, _)| account.balance.minor())
        .int("version", |(account, _)| account.version)
        .int("was", |(_, was)| *was)
        .done();
    if mutation!("balances written without looking") {
        return Statement::new(
            "update accounts set balance = rows.balance, version = rows.version from {rows}
             where accounts.user_id = rows.user_id",
        )
        .rows(rows);
    }
    Statement::new(
        "update accounts set balance = rows.balance, version = rows.version from {rows}
         where accounts.user_id = rows.user_id and accounts.version = rows.was",
    )
    .rows(rows)
    .expecting(accounts.len())
}

/// The payments that were decided for the orders of these requests.
pub(crate) async fn find_payments(
    reader: &mut Reader,
    requests: &[&PaymentRequested],
) -> Result<Vec<Payment>> {
    let found: Vec<(Uuid, Uuid, i64, Option<String>)> = reader
        .query(select!(
            "select order_id, user_id, amount, decline_reason from payments
             where order_id {among}"
        ))
        .rows(Rows::of(requests).uuid("order_id", |request| request.order_id.uuid()).done())
        .fetch_all()
        .await?;
    let read = |(order_id, user_id, amount, reason): (Uuid, Uuid, i64, Option<String>)| {
        let outcome = match reason {
            None => Outcome::Paid,
            Some(reason) => {
                let reason: CancelReason = reason.parse().map_err(corrupt)?;
                Outcome::Declined { reason }
            }
        };
        let amount = Money::try_from(amount).map_err(corrupt)?;
        Ok(Payment { order_id: order_id.into(), user_id: user_id.into(), amount, outcome })
    };
    found.into_iter().map(read).collect()
}

#[derive(sqlx::FromRow)]
struct RawEntry {
    seq: i64,
    kind: String,
    amount: i64,
    balance_after: i64,
    order_id: Option<Uuid>,
    created_at: i64,
}

/// Up to `limit` entries of an account with a `seq` below `before`, newest first.
pub(crate) async fn list_entries(
    reader: &mut Reader,
    user: UserId,
    before: i64,
    limit: usize,
) -> Result<Vec<Entry>> {
    let rows: Vec<RawEntry> = reader
        .query(select!(
            "select seq, kind, amount, balance_after, order_id, created_at from entries
             where user_id = $1 and seq < $2
             order by seq desc limit $3"
        ))
        .bind(user.uuid())
        .bind(before)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all()
        .await?;
    let read = |row: RawEntry| {
        let kind = if row.kind == EntryKind::Deposit.as_str() {
            EntryKind::Deposit
        } else {
            EntryKind::Payment
        };
        Ok(Entry {
            user_id: user,
            seq: row.seq,
            kind,
            amount: row.amount,
            balance_after: Balance::try_from(row.balance_after).map_err(corrupt)?,
            order_id: row.order_id.map(OrderId::from),
            created_at: Timestamp::from_micros(row.created_at),
        })
    };
    rows.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gozon_store::{Work, migrate};
    use gozon_testkit::TestDb;

    use super::*;
    use crate::ledger::Ledger;

    const USERS: [&str; 2] =
        ["6f9b1c58-3a52-4e0e-9d5b-0f3c2a1b4d5e", "7f9b1c58-3a52-4e0e-9d5b-0f3c2a1b4d5e"];

    /// What tops up these users, as the accounts are now.
    async fn top_up(work: &mut Work, users: &[UserId]) -> Vec<Statement> {
        let now = Timestamp::from_micros(1);
        let accounts = accounts_of(work.reader(), users.iter().copied()).await.unwrap();
        let mut ledger = Ledger::open(accounts, now);
        for user in users {
            ledger.deposit(*user, Money::try_from(5).unwrap()).unwrap();
        }
        store(&[], &ledger.close(), now)
    }

    /// A deadlock would hold up both, and all who wait behind them. That the late one waits at the
    /// account rests on PostgreSQL working on the parts of a statement in the order in which their
    /// counts are asked for. It does not promise that; should a release change it, this test fails.
    #[tokio::test]
    async fn the_later_writer_waits_holding_no_lock() {
        let test = TestDb::postgres().await;
        migrate(&test.db(), crate::MIGRATIONS).await.unwrap();
        let users = USERS.map(|user| user.parse::<UserId>().unwrap());
        let account = |user_id| Account {
            user_id,
            balance: Balance::ZERO,
            version: 1,
            created_at: Timestamp::from_micros(0),
        };
        let accounts = users.map(account);
        let opening = test.db().optimistic().await.unwrap();
        opening.commit(vec![insert_accounts(&accounts)]).await.unwrap();

        // Against one who has locked what it read, and against one who has locked nothing either.
        for locking in [true, false] {
            let mut first = test.db().locking().await.unwrap();
            let mut second = test.another().optimistic().await.unwrap();
            let late = top_up(&mut second, &[users[1], users[0]]).await;
            let early = top_up(&mut first, if locking { &users } else { &[] }).await;
            let mut early_too = test.another().optimistic().await.unwrap();
            let instead = top_up(&mut early_too, &users).await;
            if locking {
                let late = tokio::spawn(second.commit(late));
                tokio::time::sleep(Duration::from_millis(100)).await;
                first.commit(early).await.unwrap();
                let late = late.await.unwrap().unwrap_err();
                // On a slow machine its wait for the lock may have ended before.
                let waited = late.to_string().contains("division by zero");
                assert!(waited || matches!(late, Error::Locked(_)), "{late}");
            } else {
                let (one, two) = tokio::join!(second.commit(late), early_too.commit(instead));
                assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
                let late = one.and(two).unwrap_err().to_string();
                assert!(late.contains("division by zero"), "{late}");
            }
        }
        let mut reader = test.db().read().await.unwrap();
        let accounts = accounts_of(&mut reader, users.into_iter()).await.unwrap();
        assert!(accounts.iter().all(|account| account.balance.minor() == 10), "{accounts:?}");
    }
}
