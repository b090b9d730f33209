//! The second look at what seems wrong between the two databases.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use gozon_store::Db;
use uuid::Uuid;

use crate::{
    AuditError, Clocks, Finding, Options, Side,
    case::{Case, Seen, Whereabouts},
    judge::Limits,
    sql::{self, MessageRow, OrderRow},
};

/// How many suspects are looked at together.
const BATCH: usize = 500;

/// Orders that seem wrong, waiting for a second look.
pub(crate) struct Suspects<'a> {
    orders: &'a Db,
    payments: &'a Db,
    clocks: &'a Clocks,
    limits: Limits,
    /// How long to wait before the next look.
    pause: Duration,
    cases: BTreeMap<Uuid, Case>,
}

impl<'a> Suspects<'a> {
    pub fn new(orders: &'a Db, payments: &'a Db, clocks: &'a Clocks, options: &Options) -> Self {
        let (limits, pause) = (options.into(), options.pause);
        Self { orders, payments, clocks, limits, pause, cases: BTreeMap::new() }
    }

    /// Adds one; `true` if it is time to look.
    pub fn add(&mut self, case: Case) -> bool {
        self.cases.insert(case.id, case);
        self.cases.len() >= BATCH
    }

    /// Reads everything about the suspects again, in the same order as the snapshots were taken:
    /// orders, then payments. What is still wrong is found.
    pub async fn look_again(&mut self) -> Result<Vec<Finding>, AuditError> {
        if self.cases.is_empty() {
            return Ok(Vec::new());
        }
        // By the time of later batches, everything is long in its place.
        tokio::time::sleep(std::mem::take(&mut self.pause)).await;
        let mut cases = std::mem::take(&mut self.cases);
        for case in cases.values_mut() {
            case.request = Whereabouts::default();
            case.result = Whereabouts::default();
        }
        self.read_orders(&mut cases).await?;
        self.read_payments(&mut cases).await?;
        let mut found = Vec::new();
        let now = self.clocks.now();
        let mut lost = BTreeMap::new();
        for (id, case) in cases {
            let findings = case.across(now, self.limits);
            if findings.iter().any(|finding| finding.kind.is_lost()) {
                lost.insert(id, case);
            } else {
                found.extend(findings);
            }
        }
        found.extend(self.look_for_arrivals(lost).await?);
        Ok(found)
    }

    /// A result can have gone from payments to orders between the two reads: orders, once more.
    async fn look_for_arrivals(
        &self,
        mut lost: BTreeMap<Uuid, Case>,
    ) -> Result<Vec<Finding>, AuditError> {
        let now = self.clocks.now();
        let mut found: BTreeMap<Uuid, Vec<Finding>> =
            lost.iter().map(|(id, case)| (*id, case.across(now, self.limits))).collect();
        if lost.is_empty() {
            return Ok(Vec::new());
        }
        self.read_orders(&mut lost).await?;
        for (id, case) in lost {
            let order = case.orders.first.as_ref();
            let arrived = order.is_some_and(|order| order.status != "NEW");
            let again = case.across(now, self.limits);
            let explained = arrived || !again.iter().any(|finding| finding.kind.is_lost());
            if let (true, Some(findings)) = (explained, found.get_mut(&id)) {
                findings.retain(|finding| !finding.kind.is_lost());
                findings.extend(again.into_iter().filter(|finding| finding.kind.is_warning()));
            }
        }
        Ok(found.into_values().flatten().collect())
    }

    async fn read_orders(&self, cases: &mut BTreeMap<Uuid, Case>) -> Result<(), AuditError> {
        let failed = Side::Orders.failed();
        let ids: Vec<Uuid> = cases.keys().copied().collect();
        let keys: Vec<(Uuid, Uuid)> = cases.values().filter_map(key).collect();
        let mut tx = self.orders.snapshot().await.map_err(failed)?;
        let messages = sql::find_messages(&mut tx, &ids, Side::Orders).await.map_err(failed)?;
        let orders = sql::find_orders(&mut tx, &keys).await.map_err(failed)?;
        let mut orders: HashMap<Uuid, OrderRow> =
            orders.into_iter().map(|order| (order.id, order)).collect();
        for (id, case) in cases.iter_mut() {
            let count = case.orders.count.max(1);
            case.orders = match orders.remove(id) {
                Some(order) => Seen { first: Some(order), count },
                None => Seen::nothing(),
            };
        }
        add_messages(cases, messages);
        Ok(())
    }

    async fn read_payments(&self, cases: &mut BTreeMap<Uuid, Case>) -> Result<(), AuditError> {
        let failed = Side::Payments.failed();
        let ids: Vec<Uuid> = cases.keys().copied().collect();
        let mut tx = self.payments.snapshot().await.map_err(failed)?;
        let messages = sql::find_messages(&mut tx, &ids, Side::Payments).await.map_err(failed)?;
        let payments = sql::find_payments(&mut tx, &ids).await.map_err(failed)?;
        for case in cases.values_mut() {
            case.payments = Seen::nothing();
        }
        for payment in payments {
            if let Some(case) = cases.get_mut(&payment.order_id) {
                case.add_payment(payment);
            }
        }
        add_messages(cases, messages);
        Ok(())
    }
}

/// Under which user and id the order is, or should be.
fn key(case: &Case) -> Option<(Uuid, Uuid)> {
    let order = case.orders.first.as_ref().map(|order| order.user_id);
    let payment = case.payments.first.as_ref().map(|payment| payment.user_id);
    Some((order.or(payment)?, case.id))
}

fn add_messages(cases: &mut BTreeMap<Uuid, Case>, messages: Vec<MessageRow>) {
    for message in messages {
        if let Some(case) = cases.get_mut(&message.order_id) {
            case.add_message(message);
        }
    }
}
