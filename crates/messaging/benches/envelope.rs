//! Packing and unpacking events.

use divan::{Bencher, black_box, counter::ItemsCount};
use gozon_contract::{
    Money, OrderId, PAYMENT_REQUESTED, PaymentRequested, RandomSource, Timestamp, TraceParent,
    UserId,
};
use gozon_messaging::{Event, Outgoing, Received};
use uuid::Uuid;

fn main() {
    divan::main();
}

fn event() -> Event<'static, OrderId, UserId, PaymentRequested> {
    let random = RandomSource::seeded(1);
    let now = Timestamp::from_micros(1_763_683_200_000_000);
    let data = PaymentRequested {
        order_id: OrderId::new(now, &random),
        user_id: Uuid::from_u128(7).into(),
        amount: Money::try_from(9900).expect("a price"),
    };
    Event {
        topic: PAYMENT_REQUESTED.name,
        source: "/orders",
        subject: data.order_id,
        partition_key: data.user_id,
        time: now,
        traceparent: Some(TraceParent::start(&random)),
        data,
    }
}

#[divan::bench]
fn to_message(bencher: Bencher) {
    let event = event();
    bencher.bench_local(|| black_box(&event).to_message());
}

/// What a transaction sends, packed into batches.
#[divan::bench(args = [1, 100, 500])]
fn push(bencher: Bencher, count: u32) {
    let event = event();
    bencher.counter(ItemsCount::new(count)).bench_local(|| {
        let mut outgoing = Outgoing::default();
        (0..count).for_each(|_| outgoing.push(black_box(&event)));
        outgoing
    });
}

#[divan::bench]
fn read(bencher: Bencher) {
    let message = event().to_message();
    bencher.bench_local(|| Received::<PaymentRequested>::read(black_box(&message)));
}
