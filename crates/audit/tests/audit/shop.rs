//! A small healthy shop, and how to damage it.

use std::time::Duration;

use gozon_audit::{Clocks, Kind, Options, Report, audit};
use gozon_contract::{Clock, Timestamp};
use gozon_store::{Arg, Db, migrate};
use gozon_testkit::TestDb;
use uuid::Uuid;

/// An hour before the audit.
pub const LONG_AGO: i64 = NOW - 3_600_000_000;
/// Ten seconds before the audit.
pub const JUST_NOW: i64 = NOW - 10_000_000;
pub const NOW: i64 = 1_763_683_200_000_000;

/// Has an account with four entries.
pub const ANNA: Uuid = Uuid::from_u128(0xa << 64);
/// Has an account with one entry.
pub const BORIS: Uuid = Uuid::from_u128(0xb << 64);
/// Has no account.
pub const CLARA: Uuid = Uuid::from_u128(0xc << 64);
/// Has an account that was never used.
pub const DORA: Uuid = Uuid::from_u128(0xd << 64);

pub const fn order(number: u128) -> Uuid {
    Uuid::from_u128((0x019a_0000_0000 << 80) + (0x7 << 76) + (0x8 << 60) + number)
}

pub const REQUEST: &str = "payment.requested";
pub const RESULT: &str = "payment.settled";

pub struct Shop {
    pub orders: TestDb,
    pub payments: TestDb,
}

type Named = (Kind, Option<Uuid>, Option<Uuid>, Option<i64>);

/// A finding about an account.
pub const fn account(kind: Kind, user: Uuid) -> Named {
    (kind, Some(user), None, None)
}

/// A finding about an entry.
pub const fn entry(kind: Kind, user: Uuid, seq: i64) -> Named {
    (kind, Some(user), None, Some(seq))
}

/// A finding about an order or its payment.
pub const fn about(kind: Kind, user: Uuid, number: u128) -> Named {
    (kind, Some(user), Some(order(number)), None)
}

/// The sums don't agree.
pub const SUM: Named = (Kind::SumMismatch, None, None, None);

impl Shop {
    pub async fn empty(orders: TestDb) -> Self {
        let payments =
            if orders.is_postgres() { TestDb::postgres().await } else { TestDb::sqlite() };
        let steps = [gozon_messaging::MIGRATIONS, gozon_orders::MIGRATIONS].concat();
        migrate(&orders.db(), &steps).await.unwrap();
        let steps = [gozon_messaging::MIGRATIONS, gozon_payments::MIGRATIONS].concat();
        migrate(&payments.db(), &steps).await.unwrap();
        Self { orders, payments }
    }

    pub async fn healthy(orders: TestDb) -> Self {
        let shop = Self::empty(orders).await;
        shop.account(ANNA, 650, 5).await;
        shop.entry(ANNA, 1, 1000, 1000, None).await;
        shop.entry(ANNA, 2, -300, 700, Some(1)).await;
        shop.entry(ANNA, 3, 50, 750, None).await;
        shop.entry(ANNA, 4, -100, 650, Some(2)).await;
        shop.account(BORIS, 500, 2).await;
        shop.entry(BORIS, 1, 500, 500, None).await;
        shop.account(DORA, 0, 1).await;

        shop.order(ANNA, 1, 300, "FINISHED", None).await;
        shop.payment(ANNA, 1, 300, None, LONG_AGO).await;
        shop.order(ANNA, 2, 100, "FINISHED", None).await;
        shop.payment(ANNA, 2, 100, None, LONG_AGO).await;
        let poor = Some("insufficient_funds");
        shop.order(BORIS, 3, 9000, "CANCELLED", poor).await;
        shop.payment(BORIS, 3, 9000, poor, LONG_AGO).await;
        shop.order(CLARA, 4, 10, "CANCELLED", Some("no_account")).await;
        shop.payment(CLARA, 4, 10, Some("no_account"), LONG_AGO).await;

        // All that can explain that an order is NEW.
        shop.order(ANNA, 5, 10, "NEW", None).await;
        send(&shop.orders.db(), 5, REQUEST).await;
        shop.order(ANNA, 6, 10, "NEW", None).await;
        receive(&shop.payments.db(), 6, REQUEST).await;
        shop.order(BORIS, 7, 9000, "NEW", None).await;
        shop.payment(BORIS, 7, 9000, poor, LONG_AGO).await;
        send(&shop.payments.db(), 7, RESULT).await;
        shop.order(BORIS, 8, 9000, "NEW", None).await;
        shop.payment(BORIS, 8, 9000, poor, LONG_AGO).await;
        receive(&shop.orders.db(), 8, RESULT).await;
        shop.order(ANNA, 9, 10, "NEW", None).await;
        shop.in_orders("update orders set created_at = $1 where id = $2", args([JUST_NOW], [9]))
            .await;
        shop.order(BORIS, 10, 9000, "NEW", None).await;
        shop.payment(BORIS, 10, 9000, poor, JUST_NOW).await;
        shop
    }

    pub async fn account(&self, user: Uuid, balance: i64, version: i64) {
        let sql = "insert into accounts (user_id, balance, version, created_at)
                   values ($1, $2, $3, $4)";
        let args = vec![user.into(), balance.into(), version.into(), LONG_AGO.into()];
        run(&self.payments.db(), sql, args).await;
    }

    pub async fn entry(
        &self,
        user: Uuid,
        seq: i64,
        amount: i64,
        balance_after: i64,
        number: Option<u128>,
    ) {
        let mut args: Vec<Arg> =
            vec![user.into(), seq.into(), amount.into(), balance_after.into(), LONG_AGO.into()];
        let sql = if let Some(number) = number {
            args.push(order(number).into());
            "insert into entries (user_id, seq, kind, amount, balance_after, created_at, order_id)
             values ($1, $2, 'payment', $3, $4, $5, $6)"
        } else {
            "insert into entries (user_id, seq, kind, amount, balance_after, created_at)
             values ($1, $2, 'deposit', $3, $4, $5)"
        };
        run(&self.payments.db(), sql, args).await;
    }

    pub async fn payment(
        &self,
        user: Uuid,
        number: u128,
        amount: i64,
        decline_reason: Option<&str>,
        created_at: i64,
    ) {
        let sql = "insert into payments (order_id, user_id, amount, decline_reason, created_at)
                   values ($1, $2, $3, $4, $5)";
        let args = vec![
            order(number).into(),
            user.into(),
            amount.into(),
            decline_reason.into(),
            created_at.into(),
        ];
        run(&self.payments.db(), sql, args).await;
    }

    pub async fn order(
        &self,
        user: Uuid,
        number: u128,
        amount: i64,
        status: &str,
        cancel_reason: Option<&str>,
    ) {
        let sql = "insert into orders (user_id, id, amount, description, status, cancel_reason,
                                       version, created_at, updated_at)
                   values ($1, $2, $3, 'A red kettle', $4, $5, 1, $6, $6)";
        let args = vec![
            user.into(),
            order(number).into(),
            amount.into(),
            status.into(),
            cancel_reason.into(),
            LONG_AGO.into(),
        ];
        run(&self.orders.db(), sql, args).await;
    }

    /// Runs a statement on the orders database.
    pub async fn in_orders(&self, sql: &'static str, args: Vec<Arg>) {
        run(&self.orders.db(), sql, args).await;
    }

    /// Runs a statement on the payments database.
    pub async fn in_payments(&self, sql: &'static str, args: Vec<Arg>) {
        run(&self.payments.db(), sql, args).await;
    }

    /// Lets rows in that the tables' checks would refuse.
    pub async fn without_checks(&self) {
        let sql = if self.orders.is_postgres() {
            "do $$ declare c record; begin
                for c in select conrelid::regclass as name, conname from pg_constraint
                         where contype = 'c' and connamespace = 'public'::regnamespace
                loop execute format('alter table %s drop constraint %I', c.name, c.conname);
                end loop;
             end $$"
        } else {
            "pragma ignore_check_constraints = on"
        };
        self.in_orders(sql, vec![]).await;
        self.in_payments(sql, vec![]).await;
    }

    /// Audits the shop as it stands.
    pub async fn audit(&self) -> Report {
        let options = Options {
            new_age_limit: Duration::from_mins(1),
            message_age_limit: Duration::from_hours(2),
            max_findings: 100,
            pause: Duration::ZERO,
            count_first: true,
        };
        let clock = Clock::manual(Timestamp::from_micros(NOW));
        let clocks = Clocks { orders: clock.clone(), payments: clock };
        audit(&self.orders.db(), &self.payments.db(), &clocks, &options, |_| {}).await.unwrap()
    }

    /// Audits the shop and expects exactly these findings.
    pub async fn expect(&self, expected: &[Named]) {
        let report = self.audit().await;
        let findings = report.checks.iter().flat_map(|check| &check.findings);
        let mut found: Vec<Named> = findings
            .map(|finding| (finding.kind, finding.user_id, finding.order_id, finding.seq))
            .collect();
        let mut expected = expected.to_vec();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{report}");
        assert_eq!(report.ok, expected.iter().all(|named| named.0.is_warning()), "{report}");
    }
}

/// Parameters: numbers, then the ids of orders.
pub fn args<const N: usize, const M: usize>(numbers: [i64; N], orders: [u128; M]) -> Vec<Arg> {
    let numbers = numbers.into_iter().map(Arg::from);
    numbers.chain(orders.into_iter().map(|number| order(number).into())).collect()
}

pub async fn run(db: &Db, sql: &'static str, args: Vec<Arg>) {
    let mut tx = db.begin().await.unwrap();
    let query = args.into_iter().fold(tx.query(sql), gozon_store::Query::bind);
    query.execute().await.unwrap();
    tx.commit().await.unwrap();
}

/// The event about an order, as far as an audit looks at it.
pub fn event(number: u128, topic: &str) -> String {
    format!(r#"{{"id": "{}:{topic}"}}"#, order(number))
}

/// Puts a batch of one event into an outbox.
pub async fn send(db: &Db, number: u128, topic: &str) {
    send_batch(db, topic, &event(number, topic), 1).await;
}

/// Puts a batch into an outbox.
pub async fn send_batch(db: &Db, topic: &str, body: &str, events: i64) {
    let sql = "insert into outbox_batches
                   (available_at, id, topic, body, events, created_at, attempts)
               values (1, $1, $2, $1, $3, $4, 0)";
    run(db, sql, vec![body.into(), topic.into(), events.into(), LONG_AGO.into()]).await;
}

/// Leaves a message in an outbox, as the release before did.
pub async fn leave(db: &Db, number: u128, topic: &str) {
    let sql = "insert into outbox
                   (available_at, id, topic, partition_key, body, created_at, attempts)
               values (1, $1, $2, '', '', $3, 0)";
    let id = format!("{}:{topic}", order(number));
    run(db, sql, vec![id.as_str().into(), topic.into(), LONG_AGO.into()]).await;
}

/// Puts a message into an inbox, for another attempt.
pub async fn receive(db: &Db, number: u128, topic: &str) {
    let sql = "insert into inbox_pending (id, topic, partition_key, body, received_at, attempts,
                                          next_attempt_at, error)
               values ($1, $2, '', $3, $4, 1, 1, 'the dog ate it')";
    let id = format!("{}:{topic}", order(number));
    let body = [].as_slice().into();
    run(db, sql, vec![id.as_str().into(), topic.into(), body, LONG_AGO.into()]).await;
}

/// Gives up on a message.
pub async fn bury(db: &Db, number: u128, topic: &str) {
    let sql = "insert into dead_letters (id, origin, topic, partition_key, body, received_at,
                                         attempts, died_at, error)
               values ($1, 'inbox', $2, '', $3, 1, 1, 1, 'the dog ate it')";
    let id = format!("{}:{topic}", order(number));
    run(db, sql, vec![id.as_str().into(), topic.into(), [].as_slice().into()]).await;
}
