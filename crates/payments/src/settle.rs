//! `payment.requested`: decide, debit, record, and say how it ended, in one transaction.

use async_trait::async_trait;
use gozon_contract::{
    Clock, OrderId, PAYMENT_SETTLED, PAYMENTS_SOURCE, PaymentRequested, PaymentSettled, Timestamp,
    TraceParent, UserId,
};
use gozon_messaging::{Decision, Event, Failure, Mode, Outgoing, Received, UseCase};
use gozon_seam::mutation;
use gozon_store::Reader;

use crate::{
    ledger::{Ledger, Payment},
    sql,
};

/// Settles payment requests.
///
/// Hardly ever is one of them settled already: the inbox recognises repeats, and only those that it
/// has forgotten come this far. So in optimistic mode a batch is decided as if none were; the key of
/// `payments` says whether that was right.
pub(crate) struct Settle {
    pub(crate) clock: Clock,
}

#[async_trait]
impl UseCase for Settle {
    type Command = Received<PaymentRequested>;
    type Reply = ();

    async fn decide(
        &self,
        reader: &mut Reader,
        mode: Mode,
        events: &[&Received<PaymentRequested>],
    ) -> Result<Decision<()>, Failure> {
        let now = self.clock.now();
        let requests: Vec<_> = events.iter().map(|event| &event.data).collect();
        let users = requests.iter().map(|request| request.user_id);
        let accounts = sql::accounts_of(reader, users).await?;
        if mutation!("an order without an account waits for one") {
            let has_account = |request: &&PaymentRequested| {
                accounts.iter().any(|account| account.user_id == request.user_id)
            };
            if !requests.iter().all(has_account) {
                return Err(Failure::Refused("the user has no account".to_owned()));
            }
        }
        let mut ledger = Ledger::open(accounts, now);
        let stored = match mode {
            Mode::Optimistic => Vec::new(),
            Mode::Locking if mutation!("payments there already not looked for") => Vec::new(),
            Mode::Locking => sql::find_payments(reader, &requests).await?,
        };
        let settlement = ledger
            .settle(&requests, stored)
            .map_err(|contradiction| Failure::Refused(contradiction.to_string()))?;

        // A repeat is answered too: should the first answer be lost, this one heals it.
        let mut outgoing = Outgoing::default();
        for (payment, event) in settlement.answers.iter().zip(events) {
            if mutation!("repeats are not answered") && !settlement.new.contains(payment) {
                continue;
            }
            outgoing.push(&settled(payment, now, event.traceparent));
        }
        let new = settlement.new.len() as u64;
        Ok(Decision {
            replies: vec![(); events.len()],
            writes: sql::store(&settlement.new, &ledger.close(), now),
            outgoing,
            after_commit: Some(Box::new(move || {
                metrics::counter!("gozon_payments_settled_total").increment(new);
            })),
        })
    }
}

fn settled(
    payment: &Payment,
    time: Timestamp,
    traceparent: Option<TraceParent>,
) -> Event<'static, OrderId, UserId, PaymentSettled> {
    let &Payment { order_id, user_id, outcome, .. } = payment;
    Event {
        topic: PAYMENT_SETTLED.name,
        source: PAYMENTS_SOURCE,
        subject: order_id,
        partition_key: user_id,
        time,
        traceparent,
        data: PaymentSettled { order_id, user_id, outcome },
    }
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
            let message = settled(&payment, now, trace).to_message();
            assert_eq!(message.topic, "payment.settled");
            assert_eq!(message.key, "6f9b1c58-3a52-4e0e-9d5b-0f3c2a1b4d5e");
            gozon_testkit::frozen(file, &gozon_testkit::pretty(&message.body));
        }
    }
}
