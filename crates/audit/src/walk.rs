//! The audit's way through both databases: first along the orders, with their payments, entries
//! and messages beside them; then along the accounts.

use futures_util::TryStreamExt as _;
use gozon_store::{Db, Reader};
use tokio::try_join;

use crate::{
    AuditError, Clocks, Options, Progress, Report, Side,
    case::Case,
    cursor::Cursor,
    judge::Now,
    ledger::Ledger,
    recheck::Suspects,
    sql::{self, MessageRow, OrderRow, PaymentRow},
};

/// How many rows pass between two signs of progress.
const STRIDE: u64 = 4096;

struct Meter<F> {
    progress: F,
    rows: u64,
    of: u64,
}

impl<F: FnMut(Progress)> Meter<F> {
    fn add(&mut self, rows: u64) {
        let before = self.rows;
        self.rows += rows;
        if before / STRIDE != self.rows / STRIDE {
            self.show();
        }
    }

    fn show(&mut self) {
        (self.progress)(Progress { rows: self.rows, of: self.of });
    }
}

pub(crate) async fn walk(
    orders: &Db,
    payments: &Db,
    clocks: &Clocks,
    options: &Options,
    progress: impl FnMut(Progress) + Send,
) -> Result<Report, AuditError> {
    let (in_orders, in_payments) = (Side::Orders.failed(), Side::Payments.failed());
    let mut report = Report::new(clocks.orders.now(), options);
    // Messages wait upstream before what they bring about exists downstream, so each side's
    // messages are looked at before its rows, and orders before payments.
    let snapshots = async {
        let mut order_messages = orders.snapshot().await.map_err(in_orders)?;
        sql::look_at_orders(&mut order_messages).await.map_err(in_orders)?;
        let mut order_rows = orders.snapshot().await.map_err(in_orders)?;
        sql::look_at_orders(&mut order_rows).await.map_err(in_orders)?;
        let mut payment_messages = payments.snapshot().await.map_err(in_payments)?;
        sql::look_at_payments(&mut payment_messages).await.map_err(in_payments)?;
        let mut payment_rows = payments.snapshot().await.map_err(in_payments)?;
        sql::look_at_payments(&mut payment_rows).await.map_err(in_payments)?;
        Ok::<_, AuditError>((order_messages, order_rows, payment_messages, payment_rows))
    };
    let (mut order_messages, mut order_rows, mut payment_messages, mut payment_rows) =
        snapshots.await?;

    let mut meter = Meter { progress, rows: 0, of: 0 };
    if options.count_first {
        let (some, others) = try_join!(
            async { sql::count_orders(&mut order_rows).await.map_err(in_orders) },
            async { sql::count_payments(&mut payment_rows).await.map_err(in_payments) },
        )?;
        meter.of = u64::try_from(some + others).unwrap_or(0);
    }
    meter.show();

    let (orders_side, payments_side) = (Side::Orders, Side::Payments);
    let (order_messages, order_rows, payment_messages, cursor) = try_join!(
        Cursor::new(orders_side, sql::messages(&mut order_messages, orders_side)),
        Cursor::new(orders_side, sql::orders(&mut order_rows)),
        Cursor::new(payments_side, sql::messages(&mut payment_messages, payments_side)),
        Cursor::new(payments_side, sql::payments(&mut payment_rows)),
    )?;
    let along =
        Along { order_rows, payment_rows: cursor, messages: [order_messages, payment_messages] };
    let suspects = Suspects::new(orders, payments, clocks, options);
    along.orders(suspects, clocks.now(), options, &mut report, &mut meter).await?;
    along_accounts(&mut payment_rows, &mut report, &mut meter).await.map_err(in_payments)?;
    meter.show();
    Ok(report)
}

/// The four streams that are merged by order.
struct Along<'t> {
    order_rows: Cursor<'t, OrderRow>,
    payment_rows: Cursor<'t, PaymentRow>,
    messages: [Cursor<'t, MessageRow>; 2],
}

impl Along<'_> {
    async fn orders<F: FnMut(Progress)>(
        mut self,
        mut suspects: Suspects<'_>,
        now: Now,
        options: &Options,
        report: &mut Report,
        meter: &mut Meter<F>,
    ) -> Result<(), AuditError> {
        while let Some(case) = self.next().await? {
            meter.add(case.orders.count + case.payments.count + case.entries.count);
            report.saw(&case);
            report.add_all(case.within_payments());
            let found = case.across(now, options.into());
            if found.iter().all(|finding| finding.kind.is_warning()) {
                report.add_all(found);
            } else if suspects.add(case) {
                report.add_all(suspects.look_again().await?);
            }
        }
        report.add_all(suspects.look_again().await?);
        Ok(())
    }

    /// The next order that any table but those of messages speaks of.
    async fn next(&mut self) -> Result<Option<Case>, AuditError> {
        let heads = [self.order_rows.next_order(), self.payment_rows.next_order()];
        let Some(id) = heads.into_iter().flatten().min() else { return Ok(None) };
        let mut case = Case::new(id);
        while let Some(order) = self.order_rows.take(id).await? {
            case.orders.add(order);
        }
        while let Some(row) = self.payment_rows.take(id).await? {
            case.add_payment(row);
        }
        for messages in &mut self.messages {
            while let Some(message) = messages.take(id).await? {
                case.add_message(message);
            }
        }
        Ok(Some(case))
    }
}

async fn along_accounts<F: FnMut(Progress)>(
    reader: &mut Reader,
    report: &mut Report,
    meter: &mut Meter<F>,
) -> gozon_store::Result<()> {
    let mut ledger = Ledger::default();
    let mut rows = sql::ledger(reader)?;
    while let Some(row) = rows.try_next().await? {
        meter.add(1);
        ledger.next(&row, &mut |finding| report.add(finding));
    }
    ledger.finish(&mut |finding| report.add(finding));
    report.balance(&ledger);
    Ok(())
}
