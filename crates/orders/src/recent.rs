//! Orders that this instance has placed and that wait for their payment.
//!
//! To move an order on it must be known what it is; most were placed here a moment ago. What is
//! remembered is only a guess: whoever acts on it says from which version, and if that is no longer
//! the stored one, nothing is written and the order is read.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gozon_contract::{Order, OrderId};

/// Of how many orders it is remembered; the oldest are forgotten first.
const MOST: usize = 10_000;

/// The latest orders placed here. Clones are the same memory.
#[derive(Clone, Default)]
pub(crate) struct Recent(Arc<Mutex<Orders>>);

#[derive(Default)]
struct Orders {
    by_id: HashMap<OrderId, Order>,
    oldest: VecDeque<OrderId>,
}

impl Recent {
    /// Remembers new orders.
    pub fn remember<'a>(&self, orders: impl Iterator<Item = &'a Order>) {
        let mut memory = self.memory();
        for order in orders {
            memory.by_id.insert(order.id, order.clone());
            memory.oldest.push_back(order.id);
        }
        while memory.oldest.len() > MOST {
            if let Some(forgotten) = memory.oldest.pop_front() {
                memory.by_id.remove(&forgotten);
            }
        }
    }

    /// Gives out, and forgets, those of these orders that are remembered.
    pub fn take(&self, ids: impl Iterator<Item = OrderId>) -> HashMap<OrderId, Order> {
        let mut memory = self.memory();
        ids.filter_map(|id| Some((id, memory.by_id.remove(&id)?))).collect()
    }

    fn memory(&self) -> MutexGuard<'_, Orders> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use gozon_contract::{Description, Money, OrderStatus, RandomSource, Timestamp};

    use super::*;

    fn order(n: i64, random: &RandomSource) -> Order {
        let now = Timestamp::from_micros(n);
        Order {
            id: OrderId::new(now, random),
            user_id: "6f9b1c58-3a52-4e0e-9d5b-0f3c2a1b4d5e".parse().unwrap(),
            amount: Money::try_from(9_900).unwrap(),
            description: Description::try_from("A red kettle".to_owned()).unwrap(),
            status: OrderStatus::New,
            cancel_reason: None,
            version: 1,
            created_at: now,
            updated_at: now,
        }
    }

    #[test]
    fn an_order_is_given_out_once() {
        let (recent, random) = (Recent::default(), RandomSource::seeded(1));
        let orders = [order(1, &random), order(2, &random)];
        recent.remember(orders.iter());
        let unknown = OrderId::new(Timestamp::from_micros(3), &random);
        let taken = recent.take([orders[1].id, unknown].into_iter());
        assert_eq!(taken.into_values().collect::<Vec<_>>(), [orders[1].clone()]);
        assert!(recent.take([orders[1].id].into_iter()).is_empty());
        assert_eq!(recent.take([orders[0].id].into_iter()).len(), 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (recent, random) = (Recent::default(), RandomSource::seeded(1));
        let orders: Vec<_> = (0..50_000).map(|n| order(n, &random)).collect();
        for some in orders.chunks(500) {
            recent.remember(some.iter());
        }
        assert_eq!(recent.memory().by_id.len(), MOST);
        let taken = recent.take(orders.iter().map(|order| order.id));
        assert!(orders[40_000..].iter().all(|order| taken.contains_key(&order.id)));
        // Those that were given out leave their place when their turn comes.
        recent.remember(orders[..1].iter());
        assert_eq!(recent.memory().oldest.len(), MOST);
    }
}
