//! All SQL of the payments service.

use gozon_contract::{
    Balance, CancelReason, Money, OrderId, Outcome, PaymentRequested, Timestamp, UserId,
};
use gozon_store::{Error, Result, Rows, Statement, Tx};
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

/// Opens accounts; the users who did not have one yet.
pub(crate) async fn insert_accounts(tx: &mut Tx, accounts: &[Account]) -> Result<Vec<UserId>> {
    let rows = Rows::of(accounts)
        .uuid("user_id", |account| account.user_id.uuid())
        .int("balance", |account| account.balance.minor())
        .int("version", |account| account.version)
        .int("created_at", |account| account.created_at.micros())
        .done();
    let opened: Vec<(Uuid,)> = tx
        .query(
            "insert into accounts (user_id, balance, version, created_at)
             select user_id, balance, version, created_at from {rows}
             where true order by user_id
             on conflict (user_id) do nothing
             returning user_id",
        )
        .rows(rows)
        .fetch_all()
        .await?;
    Ok(opened.into_iter().map(|(user,)| user.into()).collect())
}

/// An account.
pub(crate) async fn find_account(tx: &mut Tx, user: UserId) -> Result<Option<Account>> {
    tx.query("select user_id, balance, version, created_at from accounts where user_id = $1")
        .bind(user.uuid())
        .fetch_optional()
        .await?
        .map(account)
        .transpose()
}

/// The accounts of these users, locked until the transaction ends. Everybody locks them in the
/// same order, so that two batches wait for each other in turn and never in a circle.
pub(crate) async fn lock_accounts(
    tx: &mut Tx,
    users: impl Iterator<Item = UserId>,
) -> Result<Vec<Account>> {
    let mut users: Vec<UserId> = users.collect();
    users.sort_unstable();
    users.dedup();
    let accounts: Vec<RawAccount> = tx
        .query(
            "select user_id, balance, version, created_at from accounts
             where user_id {among}
             order by user_id {for_update}",
        )
        .rows(Rows::of(&users).uuid("user_id", |user| user.uuid()).done())
        .fetch_all()
        .await?;
    accounts.into_iter().map(account).collect()
}

/// Stores what was decided: new payments, each for an order that has none, the entries, and one
/// update for each account that changed. The version guards the update once more, beside the lock.
/// If an order has a payment already, that is a conflict, and none of it, and no debit, is kept.
pub(crate) async fn store(
    tx: &mut Tx,
    payments: &[Payment],
    changes: &Changes,
    now: Timestamp,
) -> Result<()> {
    let (statements, rows): (Vec<_>, Vec<_>) = [
        (insert_payments(payments, now), payments.len() as u64),
        (insert_entries(&changes.entries), changes.entries.len() as u64),
        (update_accounts(&changes.accounts), changes.accounts.len() as u64),
    ]
    .into_iter()
    .filter(|(_, rows)| *rows > 0)
    .unzip();
    if statements.is_empty() {
        return Ok(());
    }
    let written = tx.run_all(statements).await?;
    if written != rows {
        return Err(Error::conflict("an account changed under its lock"));
    }
    Ok(())
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
    Statement::new(
        "insert into entries
            (user_id, seq, kind, amount, balance_after, order_id, created_at)
         select user_id, seq, kind, amount, balance_after, order_id, created_at from {rows}",
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
    Statement::new(
        "update accounts set balance = rows.balance, version = rows.version from {rows}
         where accounts.user_id = rows.user_id and accounts.version = rows.was",
    )
    .rows(rows)
}

/// The payments that were decided for the orders of these requests.
pub(crate) async fn find_payments(
    tx: &mut Tx,
    requests: &[PaymentRequested],
) -> Result<Vec<Payment>> {
    let found: Vec<(Uuid, Uuid, i64, Option<String>)> = tx
        .query(
            "select order_id, user_id, amount, decline_reason from payments
             where order_id {among}",
        )
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
    tx: &mut Tx,
    user: UserId,
    before: i64,
    limit: usize,
) -> Result<Vec<Entry>> {
    let rows: Vec<RawEntry> = tx
        .query(
            "select seq, kind, amount, balance_after, order_id, created_at from entries
             where user_id = $1 and seq < $2
             order by seq desc limit $3",
        )
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
