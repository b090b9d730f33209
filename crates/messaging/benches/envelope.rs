//! Packing and unpacking an event.

use divan::{Bencher, black_box};
use gozon_contract::{
    Money, OrderId, PAYMENT_REQUESTED, PaymentRequested, RandomSource, Timestamp, TraceParent,
};
use gozon_messaging::Event;
use uuid::Uuid;

fn main() {
    divan::main();
}

fn event() -> Event<'static, PaymentRequested> {
    let random = RandomSource::seeded(1);
    let now = Timestamp::from_micros(1_763_683_200_000_000);
    let data = PaymentRequested {
        order_id: OrderId::new(now, &random),
        user_id: Uuid::from_u128(7).into(),
        amount: Money::try_from(9900).expect("a price"),
    };
    let trace = Some(TraceParent::start(&random));
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
