//! What the databases hold, read past the services, and what must be true of it. It is written
//! apart from the auditor on purpose: two judges, one law.

use std::{collections::HashMap, fmt::Write as _};

use gozon_store::{Db, FromRow, Select};
use uuid::Uuid;

/// Everything that both databases hold.
#[derive(Debug, PartialEq, Eq)]
pub struct Truth {
    pub orders: Vec<Order>,
    pub accounts: Vec<Account>,
    pub entries: Vec<Entry>,
    pub payments: Vec<Payment>,
    /// How many idempotency keys are kept.
    pub keys: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Order {
    pub user_id: Uuid,
    pub id: Uuid,
    pub amount: i64,
    pub description: String,
    pub status: String,
    pub cancel_reason: Option<String>,
    pub version: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Account {
    pub user_id: Uuid,
    pub balance: i64,
    pub version: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Entry {
    pub user_id: Uuid,
    pub seq: i64,
    pub kind: String,
    pub amount: i64,
    pub balance_after: i64,
    pub order_id: Option<Uuid>,
}

#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Payment {
    pub order_id: Uuid,
    pub user_id: Uuid,
    pub amount: i64,
    pub decline_reason: Option<String>,
}

impl Truth {
    /// Reads both databases.
    pub async fn read(orders_url: &str, payments_url: &str) -> Self {
        let orders = Db::open(orders_url, 1).expect("a database URL");
        let payments = Db::open(payments_url, 1).expect("a database URL");
        let truth = Self {
            orders: all(
                &orders,
                "select user_id, id, amount, description, status, cancel_reason, version
                 from orders order by user_id, id",
            )
            .await,
            accounts: all(
                &payments,
                "select user_id, balance, version from accounts order by user_id",
            )
            .await,
            entries: all(
                &payments,
                "select user_id, seq, kind, amount, balance_after, order_id from entries
                 order by user_id, seq",
            )
            .await,
            payments: all(
                &payments,
                "select order_id, user_id, amount, decline_reason from payments order by order_id",
            )
            .await,
            keys: count(&orders, "select count(*) from idempotency_keys").await
                + count(&payments, "select count(*) from idempotency_keys").await,
        };
        orders.close().await;
        payments.close().await;
        truth
    }

    /// How many orders have this status.
    pub fn with_status(&self, status: &str) -> usize {
        self.orders.iter().filter(|order| order.status == status).count()
    }

    /// The balance of a user's account.
    pub fn balance(&self, user: Uuid) -> i64 {
        let account = self.accounts.iter().find(|account| account.user_id == user);
        account.expect("an account").balance
    }

    /// Checks every invariant of a shop in which nothing is under way.
    pub fn check(&self) {
        self.check_money();
        self.check_chains();
        self.check_payments();
        self.check_orders();
    }

    fn check_money(&self) {
        let balances: i64 = self.accounts.iter().map(|account| account.balance).sum();
        let deposits = self.entries.iter().filter(|entry| entry.kind == "deposit");
        let deposited: i64 = deposits.map(|entry| entry.amount).sum();
        let paid = self.payments.iter().filter(|payment| payment.decline_reason.is_none());
        let paid: i64 = paid.map(|payment| payment.amount).sum();
        assert_eq!(deposited - paid, balances, "money appeared or vanished");
        assert!(self.accounts.iter().all(|account| account.balance >= 0), "a balance below 0");
    }

    fn check_chains(&self) {
        let mut chains: HashMap<Uuid, Vec<&Entry>> = HashMap::new();
        for entry in &self.entries {
            chains.entry(entry.user_id).or_default().push(entry);
        }
        for account in &self.accounts {
            let mut balance = 0;
            let chain = chains.remove(&account.user_id).unwrap_or_default();
            for (entry, seq) in chain.iter().zip(1..) {
                balance += entry.amount;
                assert_eq!((entry.seq, entry.balance_after), (seq, balance), "{entry:?}");
            }
            assert_eq!(account.balance, balance, "{account:?}");
            let length = i64::try_from(chain.len()).expect("a length");
            assert_eq!(account.version, length + 1, "{account:?}");
        }
        assert!(chains.is_empty(), "entries without an account: {chains:?}");
    }

    fn check_payments(&self) {
        let mut debits: HashMap<Uuid, Vec<&Entry>> = HashMap::new();
        for entry in self.entries.iter().filter(|entry| entry.kind == "payment") {
            debits.entry(entry.order_id.expect("an order")).or_default().push(entry);
        }
        for payment in &self.payments {
            let debits = debits.remove(&payment.order_id).unwrap_or_default();
            if payment.decline_reason.is_some() {
                assert!(debits.is_empty(), "declined and debited: {payment:?} {debits:?}");
                continue;
            }
            let [debit] = debits[..] else { panic!("not debited once: {payment:?} {debits:?}") };
            assert_eq!((debit.user_id, debit.amount), (payment.user_id, -payment.amount));
        }
        assert!(debits.is_empty(), "debits without a payment: {debits:?}");
    }

    fn check_orders(&self) {
        let mut payments: HashMap<Uuid, &Payment> =
            self.payments.iter().map(|payment| (payment.order_id, payment)).collect();
        assert_eq!(payments.len(), self.payments.len(), "two payments for one order");
        for order in &self.orders {
            let payment = payments.remove(&order.id);
            let payment = payment.unwrap_or_else(|| panic!("never decided: {order:?}"));
            assert_eq!((payment.user_id, payment.amount), (order.user_id, order.amount));
            assert_eq!(payment.decline_reason, order.cancel_reason, "{order:?}");
            let expected = if order.cancel_reason.is_none() { "FINISHED" } else { "CANCELLED" };
            assert_eq!((order.status.as_str(), order.version), (expected, 2), "{order:?}");
        }
        assert!(payments.is_empty(), "payments without an order: {payments:?}");
    }
}

async fn all<T: FromRow>(db: &Db, sql: &'static str) -> Vec<T> {
    let mut reader = db.read().await.expect("a connection");
    reader.query(Select::new(sql)).fetch_all().await.expect(sql)
}

async fn count(db: &Db, sql: &'static str) -> i64 {
    all::<(i64,)>(db, sql).await[0].0
}

/// Who writes the same rows as others has them in the same order as they: a deadlock costs everybody
/// who waits a second.
pub async fn check_deadlocks(url: &str) {
    if !url.starts_with("postgres") {
        return;
    }
    let db = Db::open(url, 1).expect("a database URL");
    let met =
        count(&db, "select deadlocks from pg_stat_database where datname = current_database()");
    assert_eq!(met.await, 0, "deadlocks");
    db.close().await;
}

/// What is not settled or not sent yet; nothing, if the text is empty.
pub async fn under_way(orders_url: &str, payments_url: &str) -> String {
    const QUEUES: [(&str, &str); 4] = [
        ("outbox", "select count(*) from outbox_batches"),
        ("old outbox", "select count(*) from outbox"),
        ("inbox_pending", "select count(*) from inbox_pending"),
        ("dead_letters", "select count(*) from dead_letters"),
    ];
    let mut text = String::new();
    for (name, url) in [("orders", orders_url), ("payments", payments_url)] {
        let db = Db::open(url, 1).expect("a database URL");
        for (queue, sql) in QUEUES {
            let rows = count(&db, sql).await;
            if rows > 0 {
                let _ = write!(text, "{rows} rows in the {queue} of {name}; ");
            }
        }
        if name == "orders" {
            let new = count(&db, "select count(*) from orders where status = 'NEW'").await;
            if new > 0 {
                let _ = write!(text, "{new} orders are NEW; ");
            }
        }
        db.close().await;
    }
    text
}

/// Empties the memory of what was received, as its retention does in time.
pub async fn forget_inboxes(orders_url: &str, payments_url: &str) {
    for url in [orders_url, payments_url] {
        let db = Db::open(url, 1).expect("a database URL");
        let mut tx = db.begin().await.expect("a connection");
        tx.query("delete from inbox").execute().await.expect("an inbox");
        tx.commit().await.expect("a commit");
        db.close().await;
    }
}
