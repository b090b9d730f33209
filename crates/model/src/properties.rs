//! What must hold in every state that can be reached.

use stateright::Property;

use crate::{Service, Shop, State, Status};

/// An order is debited at most once, however often its request comes.
pub const DEBITED_ONCE: &str = "an order is debited at most once";
/// What was there at the start is what is left and what was debited.
pub const MONEY_IS_CONSERVED: &str = "money is conserved, and no balance is below 0";
/// A client that asks again does not get a second order.
pub const ONE_ORDER: &str = "a request places one order";
/// A payment belongs to an order that was placed.
pub const PAYMENT_OF_AN_ORDER: &str = "a payment is of an order";
/// An order is FINISHED if and only if it was debited, as soon as it is not NEW.
pub const AS_PAID: &str = "an order ends as its payment did";
/// Where nothing can happen any more, nothing was lost.
pub const SETTLED: &str = "when all is quiet, every order is settled";

/// All properties.
pub fn all() -> Vec<Property<Shop>> {
    vec![
        Property::always(DEBITED_ONCE, |_, state: &State| {
            state.debits.windows(2).all(|two| two[0] != two[1])
        }),
        Property::always(MONEY_IS_CONSERVED, |shop: &Shop, state: &State| {
            let debits = state.debits.iter().map(|order| i32::from(shop.amount(*order)));
            let debited: i32 = debits.sum();
            state.balance.is_none_or(|balance| balance >= 0)
                && state.balance.map(|balance| i32::from(balance) + debited)
                    == shop.funds.map(i32::from)
        }),
        Property::always(ONE_ORDER, |shop: &Shop, state: &State| {
            state.orders.len() <= shop.amounts.len()
        }),
        Property::always(PAYMENT_OF_AN_ORDER, |_, state: &State| {
            let begun = |order: &u8| state.begun.iter().any(|(request, _)| request == order);
            state.payments.keys().all(|order| state.orders.contains_key(order) || begun(order))
        }),
        Property::always(AS_PAID, |_, state: &State| {
            state.orders.iter().all(|(order, status)| {
                *status == Status::New
                    || (*status == Status::Finished) == state.debits.contains(order)
            })
        }),
        Property::always(SETTLED, |shop: &Shop, state: &State| {
            !shop.regular_actions(state).is_empty() || is_settled(shop, state)
        }),
    ]
}

/// Whether every order that a client knows of, and every order that there is, has ended, and nothing
/// waits anywhere.
fn is_settled(shop: &Shop, state: &State) -> bool {
    state.answered.len() == shop.amounts.len()
        && state.orders.values().all(|status| *status != Status::New)
        && Service::ALL.iter().all(|service| state.queue[*service as usize].is_empty())
}
