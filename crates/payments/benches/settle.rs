//! Deciding a batch of payment requests, without I/O.

use divan::{Bencher, black_box, counter::ItemsCount};
use gozon_contract::{Balance, Money, OrderId, PaymentRequested, RandomSource, Timestamp, UserId};
use gozon_payments::ledger::{Account, Ledger};
use uuid::Uuid;

fn main() {
    divan::main();
}

const NOW: Timestamp = Timestamp::from_micros(1_763_683_200_000_000);

fn user(index: usize) -> UserId {
    Uuid::from_u128(index as u128).into()
}

fn account(index: usize) -> Account {
    let balance = Balance::try_from(1_000_000_000_000).expect("below the limit");
    Account { user_id: user(index), balance, version: 1, created_at: NOW }
}

fn requests(count: usize, users: usize) -> Vec<PaymentRequested> {
    let random = RandomSource::seeded(1);
    let amount = Money::try_from(9900).expect("a price");
    let request = |index| PaymentRequested {
        order_id: OrderId::new(NOW, &random),
        user_id: user(index % users),
        amount,
    };
    (0..count).map(request).collect()
}

/// A batch of 500 requests for as many users as given: from one hot account to one each.
#[divan::bench(args = [1, 50, 500])]
fn settle_500(bencher: Bencher, users: usize) {
    let (requests, accounts) = (requests(500, users), (0..users).map(account));
    let requests: Vec<_> = requests.iter().collect();
    bencher.counter(ItemsCount::new(500_usize)).bench_local(|| {
        let mut ledger = Ledger::open(accounts.clone(), NOW);
        let settlement = ledger.settle(black_box(&requests), []).expect("no contradiction");
        (settlement, ledger.close())
    });
}
