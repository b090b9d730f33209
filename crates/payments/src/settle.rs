//! `payment.requested`: decide, debit, record, and say how it ended, in one transaction.

use async_trait::async_trait;
use gozon_contract::{
    Clock, PAYMENT_SETTLED, PAYMENTS_SOURCE, PaymentRequested, PaymentSettled, Timestamp,
    TraceParent,
};
use gozon_messaging::{Decision, Event, HandleError, Handler, Message};
use gozon_store::Tx;

use crate::{
    ledger::{Ledger, Payment},
    sql,
};

/// Settles payment requests.
///
/// Hardly ever is one of them settled already: the inbox knows repeats, and only those that it has
/// forgotten come this far. So a batch is decided as if none were; the key of `payments` says
/// whether that was right. If not, nothing of the batch is kept, and a careful attempt looks first.
pub(crate) struct Settle {
    pub(crate) clock: Clock,
}

#[async_trait]
impl Handler for Settle {
    async fn handle(
        &self,
        tx: &mut Tx,
        messages: &[Message],
        careful: bool,
    ) -> Result<Decision, HandleError> {
        let now = self.clock.now();
        let mut requests = Vec::with_capacity(messages.len());
        let mut traces = Vec::with_capacity(messages.len());
        for message in messages {
            let event = Event::<PaymentRequested>::read(message)?;
            requests.push(event.data);
            traces.push(event.traceparent);
        }

        let users = requests.iter().map(|request| request.user_id);
        let mut ledger = Ledger::open(sql::accounts_of(tx, users).await?, now);
        let stored = if careful { sql::find_payments(tx, &requests).await? } else { Vec::new() };
        let settlement = ledger
            .settle(&requests, stored)
            .map_err(|contradiction| HandleError::Failed(contradiction.to_string()))?;

        // A repeat is answered too: should the first answer be lost, this one heals it.
        let answers = settlement.answers.iter().zip(traces);
        Ok(Decision {
            statements: sql::store(&settlement.new, &ledger.close(), now),
            messages: answers.map(|(payment, trace)| settled(payment, now, trace)).collect(),
        })
    }

    fn committed(&self, sent: &mut dyn Iterator<Item = &Message>) {
        metrics::counter!("gozon_payments_settled_total").increment(sent.count() as u64);
    }
}

fn settled(payment: &Payment, now: Timestamp, trace: Option<TraceParent>) -> Message {
    let &Payment { order_id, user_id, outcome, .. } = payment;
    let data = PaymentSettled { order_id, user_id, outcome };
    let topic = PAYMENT_SETTLED.name;
    Event::about(order_id, topic, PAYMENTS_SOURCE, user_id, now, trace, data).into_message()
}

#[cfg(test)]
mod tests {
    use gozon_contract::{CancelReason, Money, Outcome};

    use super::*;

    #[test]
    fn the_results_are_as_published() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().ok();
        for (outcome, file) in [
            (Outcome::Paid, "api/events/payment.settled.paid.json"),
            (
                Outcome::Declined { reason: CancelReason::NoAccount },
                "api/events/payment.settled.declined.json",
            ),
        ] {
            let payment = Payment {
                order_id: "019aa3d9-a47b-774c-8000-0123456789ab".parse().unwrap(),
                user_id: "6f9b1c58-3a52-4e0e-9d5b-0f3c2a1b4d5e".parse().unwrap(),
                amount: Money::try_from(9_900).unwrap(),
                outcome,
            };
            let now = Timestamp::from_micros(1_763_683_200_127_000);
            let message = settled(&payment, now, trace);
            assert_eq!(message.topic, "payment.settled");
            assert_eq!(message.key, "6f9b1c58-3a52-4e0e-9d5b-0f3c2a1b4d5e");
            gozon_testkit::frozen(file, &gozon_testkit::pretty(&message.body));
        }
    }
}
