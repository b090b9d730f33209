//! The protocol, searched completely; and with each trap, a run that breaks a promise.

use gozon_model::{Faults, Shop, Trap};

const ONE_OF_EACH: Faults = Faults { crashes: 1, duplicates: 1, lost: 1, messages_lost: 0 };

/// One order, of which the account could pay two.
fn one_order(faults: Faults) -> Shop {
    Shop { amounts: vec![40], funds: Some(100), faults, trap: None }
}

/// Two orders of one user, whose account covers one of them.
fn two_orders(faults: Faults) -> Shop {
    Shop { amounts: vec![60, 60], ..one_order(faults) }
}

/// An order of a user without an account.
fn no_account(faults: Faults) -> Shop {
    Shop { funds: None, ..one_order(faults) }
}

fn holds(name: &str, shop: &Shop) {
    let search = shop.search();
    println!("{name}: {} states, the farthest {} steps away", search.states, search.depth);
    if let Some(counterexample) = search.counterexample {
        panic!("{name}: {counterexample}");
    }
}

#[test]
fn one_order_keeps_every_promise() {
    holds("one order, one fault of each kind", &one_order(ONE_OF_EACH));
}

#[test]
fn an_order_without_an_account_keeps_every_promise() {
    holds(
        "no account, a crash and a lost answer",
        &no_account(Faults { duplicates: 0, ..ONE_OF_EACH }),
    );
    holds("no account, a duplicate", &no_account(Faults { duplicates: 1, ..Faults::default() }));
}

#[test]
fn a_message_that_the_broker_lost_is_asked_for_again() {
    let lost = Faults { messages_lost: 1, ..Faults::default() };
    holds("one order, a lost message and a crash", &one_order(Faults { crashes: 1, ..lost }));
    holds("one order, a lost message and a lost answer", &one_order(Faults { lost: 1, ..lost }));
}

#[test]
fn two_orders_of_one_account_keep_every_promise() {
    holds("two orders, a crash", &two_orders(Faults { crashes: 1, ..Faults::default() }));
    holds("two orders, a lost answer", &two_orders(Faults { lost: 1, ..Faults::default() }));
}

#[test]
fn each_trap_has_a_counterexample() {
    for trap in Trap::ALL {
        let search = trap.scene().search();
        let found = search.counterexample.unwrap_or_else(|| panic!("{trap:?} breaks no promise"));
        println!("{trap:?}, after {} states; {found}", search.states);
        let lines = found.to_json_lines().unwrap();
        assert_eq!(lines.lines().count(), found.steps.len());
    }
}
