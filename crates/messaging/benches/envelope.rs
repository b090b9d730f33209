//! Packing and unpacking an event.

use divan::{Bencher, black_box};
use gozon_contract::{Dice, Money, OrderId, PAYMENT_REQUESTED, PaymentRequested, Timestamp};
use gozon_messaging::{Event, TraceParent};
use uuid::Uuid;

fn main() {
    divan::main();
}

fn event() -> Event<'static, PaymentRequested> {
    let dice = Dice::seeded(1);
    let now = Timestamp::from_micros(1_763_683_200_000_000);
    let data = PaymentRequested {
        order_id: OrderId::new(now, &dice),
        user_id: Uuid::from_u128(7).into(),
        amount: Money::try_from(9900).expect("a price"),
    };
    let trace = Some(TraceParent::start(&dice));
    let (id, user) = (data.order_id, data.user_id);
    Event::about(id, PAYMENT_REQUESTED.name, "/orders", user, now, trace, data)
}

#[divan::bench]
fn about_and_into_message(bencher: Bencher) {
    bencher.bench_local(|| event().into_message());
}

#[divan::bench]
fn read(bencher: Bencher) {
    let message = event().into_message();
    bencher.bench_local(|| Event::<PaymentRequested>::read(black_box(&message)));
}
