//! Properties of the pure core that hold for all requests.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, HashMap, HashSet};

use gozon_contract::{
    Balance, CancelReason, Money, OrderId, Outcome, PaymentRequested, Timestamp, UserId,
};
use gozon_payments::ledger::{Account, Changes, Entry, EntryKind, Ledger, Payment};
use proptest::{collection::vec, prelude::*};
use uuid::Uuid;

/// Users 0 to 3 have accounts; 4 has none.
const USERS: u128 = 5;

/// What the tables hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct Tables {
    accounts: BTreeMap<UserId, Account>,
    entries: Vec<Entry>,
    payments: Vec<Payment>,
}

#[derive(Clone, Debug)]
enum Step {
    Deposits(Vec<(UserId, Money)>),
    /// By number, into the requests of the case: a number that comes again is a repeat.
    Requests(Vec<usize>),
}

#[derive(Clone, Debug)]
struct Case {
    balances: Vec<i64>,
    requests: Vec<PaymentRequested>,
    steps: Vec<Step>,
}

fn user(number: u128) -> UserId {
    Uuid::from_u128(number + 1).into()
}

fn money() -> impl Strategy<Value = Money> {
    prop_oneof![1..=20_i64, 1..=Money::MAX].prop_map(|minor| Money::try_from(minor).unwrap())
}

fn case() -> impl Strategy<Value = Case> {
    let balances = vec(prop_oneof![0..=100_i64, 0..=Balance::MAX], 4);
    let requests = vec((0..USERS, money()), 1..40).prop_map(|requests| {
        let request = |(number, (whose, amount)): (usize, (u128, Money))| PaymentRequested {
            order_id: OrderId::from(Uuid::from_u128(1_000 + number as u128)),
            user_id: user(whose),
            amount,
        };
        requests.into_iter().enumerate().map(request).collect::<Vec<_>>()
    });
    (balances, requests).prop_flat_map(|(balances, requests)| {
        let deposit = (0..USERS, money()).prop_map(|(whose, amount)| (user(whose), amount));
        let step = prop_oneof![
            1 => vec(deposit, 1..10).prop_map(Step::Deposits),
            3 => vec(0..requests.len(), 1..30).prop_map(Step::Requests),
        ];
        (Just(balances), Just(requests), vec(step, 1..8))
            .prop_map(|(balances, requests, steps)| Case { balances, requests, steps })
    })
}

impl Case {
    fn tables(&self) -> Tables {
        let account = |(number, balance): (usize, &i64)| {
            let user_id = user(number as u128);
            let balance = Balance::try_from(*balance).unwrap();
            (user_id, Account { user_id, balance, version: 1, created_at: now() })
        };
        Tables {
            accounts: self.balances.iter().enumerate().map(account).collect(),
            ..Tables::default()
        }
    }

    fn requested(&self, numbers: &[usize]) -> Vec<PaymentRequested> {
        numbers.iter().map(|number| self.requests[*number].clone()).collect()
    }

    fn run(&self) -> Tables {
        let mut tables = self.tables();
        for step in &self.steps {
            match step {
                Step::Deposits(deposits) => tables.deposit(deposits),
                Step::Requests(numbers) => drop(tables.settle(&self.requested(numbers))),
            }
        }
        tables
    }
}

fn now() -> Timestamp {
    Timestamp::from_micros(0)
}

impl Tables {
    fn open(&self) -> Ledger {
        Ledger::open(self.accounts.values().copied(), now())
    }

    fn deposit(&mut self, deposits: &[(UserId, Money)]) {
        let mut ledger = self.open();
        for (user, amount) in deposits {
            // Refused for lack of an account or of room: then nothing may change.
            let _ = ledger.deposit(*user, *amount);
        }
        self.store(ledger.close());
    }

    /// The outcomes, request by request.
    fn settle(&mut self, requests: &[PaymentRequested]) -> Vec<Outcome> {
        let mut ledger = self.open();
        let requests: Vec<_> = requests.iter().collect();
        let settlement = ledger.settle(&requests, self.payments.iter().copied()).unwrap();
        self.store(ledger.close());
        self.payments.extend(&settlement.new);
        settlement.answers.iter().map(|payment| payment.outcome).collect()
    }

    /// As the database does it: an account is replaced if its version is still the one loaded.
    fn store(&mut self, changes: Changes) {
        for (account, was) in changes.accounts {
            let stored = self.accounts.insert(account.user_id, account).unwrap();
            assert_eq!(stored.version, was);
        }
        self.entries.extend(changes.entries);
    }

    fn total(&self) -> i128 {
        self.accounts.values().map(|account| i128::from(account.balance.minor())).sum()
    }
}

proptest! {
    #[test]
    fn money_is_conserved_and_every_chain_holds(case in case()) {
        let before = case.tables();
        let after = case.run();

        let moved: i128 = after.entries.iter().map(|entry| i128::from(entry.amount)).sum();
        prop_assert_eq!(before.total() + moved, after.total());

        for (user, account) in &after.accounts {
            let start = before.accounts[user];
            let (mut balance, mut seq) = (start.balance.minor(), start.version);
            for entry in after.entries.iter().filter(|entry| entry.user_id == *user) {
                balance += entry.amount;
                prop_assert_eq!(entry.seq, seq);
                prop_assert_eq!(entry.balance_after.minor(), balance);
                prop_assert!((0..=Balance::MAX).contains(&balance));
                prop_assert_eq!(entry.kind == EntryKind::Payment, entry.amount < 0);
                seq += 1;
            }
            prop_assert_eq!((account.balance.minor(), account.version), (balance, seq));
        }
    }

    #[test]
    fn every_order_is_decided_once(case in case()) {
        let after = case.run();
        let orders: HashSet<_> = after.payments.iter().map(|payment| payment.order_id).collect();
        prop_assert_eq!(orders.len(), after.payments.len());

        let mut debits: HashMap<OrderId, i64> = HashMap::new();
        for entry in after.entries.iter().filter(|entry| entry.kind == EntryKind::Payment) {
            let again = debits.insert(entry.order_id.unwrap(), entry.amount);
            prop_assert_eq!(again, None);
        }
        for payment in &after.payments {
            let debited = debits.remove(&payment.order_id);
            let expected = (payment.outcome == Outcome::Paid).then_some(-payment.amount.minor());
            prop_assert_eq!(debited, expected);
        }
        prop_assert!(debits.is_empty());
    }

    /// Requests are decided in the order in which they arrive: a clerk with a pencil, taking them
    /// one after the other, comes to the same.
    #[test]
    fn deciding_one_by_one_on_paper_agrees(case in case()) {
        let mut tables = case.tables();
        let mut balances: HashMap<UserId, i64> = tables
            .accounts
            .values()
            .map(|account| (account.user_id, account.balance.minor()))
            .collect();
        let mut decided: HashMap<OrderId, Outcome> = HashMap::new();
        for step in &case.steps {
            match step {
                Step::Deposits(deposits) => {
                    tables.deposit(deposits);
                    for (user, amount) in deposits {
                        if let Some(balance) = balances.get_mut(user)
                            && *balance + amount.minor() <= Balance::MAX
                        {
                            *balance += amount.minor();
                        }
                    }
                }
                Step::Requests(numbers) => {
                    let requests = case.requested(numbers);
                    let answers = tables.settle(&requests);
                    for (request, answer) in requests.iter().zip(answers) {
                        let outcome = decided.entry(request.order_id).or_insert_with(|| {
                            let Some(balance) = balances.get_mut(&request.user_id) else {
                                return Outcome::Declined { reason: CancelReason::NoAccount };
                            };
                            if *balance < request.amount.minor() {
                                return Outcome::Declined { reason: CancelReason::InsufficientFunds };
                            }
                            *balance -= request.amount.minor();
                            Outcome::Paid
                        });
                        prop_assert_eq!(answer, *outcome);
                    }
                }
            }
        }
        for account in tables.accounts.values() {
            prop_assert_eq!(account.balance.minor(), balances[&account.user_id]);
        }
    }

    #[test]
    fn one_batch_is_the_same_requests_one_by_one(case in case()) {
        let mut one_by_one = case.tables();
        for step in &case.steps {
            match step {
                Step::Deposits(deposits) => {
                    deposits.chunks(1).for_each(|deposit| one_by_one.deposit(deposit));
                }
                Step::Requests(numbers) => {
                    for number in numbers {
                        one_by_one.settle(&case.requested(&[*number]));
                    }
                }
            }
        }
        prop_assert_eq!(case.run(), one_by_one);
    }

    #[test]
    fn repeats_change_nothing(case in case(), order in any::<prop::sample::Index>()) {
        let settled = case.run();
        let mut again = settled.clone();
        let known: Vec<_> = settled.payments.iter().map(|payment| payment.order_id).collect();
        let mut repeats = case.requests.clone();
        repeats.retain(|request| known.contains(&request.order_id));
        if !repeats.is_empty() {
            let middle = order.index(repeats.len());
            repeats.rotate_left(middle);
        }
        let outcomes = again.settle(&repeats);
        prop_assert_eq!(&again, &settled);
        for (request, outcome) in repeats.iter().zip(outcomes) {
            let payment = settled.payments.iter().find(|p| p.order_id == request.order_id);
            prop_assert_eq!(payment.map(|payment| payment.outcome), Some(outcome));
        }
    }

    #[test]
    fn contradicting_repeat_is_refused(case in case(), more in 1..100_i64) {
        let settled = case.run();
        for payment in &settled.payments {
            let amount = payment.amount.minor() % (Money::MAX - 100) + more;
            prop_assume!(amount != payment.amount.minor());
            for forged in [
                PaymentRequested {
                    order_id: payment.order_id,
                    user_id: payment.user_id,
                    amount: Money::try_from(amount).unwrap(),
                },
                PaymentRequested {
                    order_id: payment.order_id,
                    user_id: user(99),
                    amount: payment.amount,
                },
            ] {
                let mut ledger = settled.open();
                prop_assert!(ledger.settle(&[&forged], settled.payments.iter().copied()).is_err());
                prop_assert!(ledger.close().entries.is_empty());
            }
        }
    }
}
