//! Orders that this instance has placed and that wait for their payment.
//!
//! To move an order on, it must be known what it is; most were placed here a moment ago. What is
//! remembered is only a guess: an update names the version that it starts from, and if that is no
//! longer the stored one, nothing is written and the order is read.

use std::{
    collections::HashMap,
    mem::size_of,
    sync::{Arc, Mutex, PoisonError},
};

use gozon_contract::{Order, OrderId};
use lru::LruCache;

/// About how many bytes of orders to remember: 20,000 as a rule, 1,500 with the longest descriptions.
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// What remembering an order costs beside the order itself: its places in the list and the map.
const OVERHEAD_BYTES: usize = 128;

/// The latest orders placed here. Clones are the same memory.
#[derive(Clone)]
pub(crate) struct Recent(Arc<Mutex<Memory>>);

struct Memory {
    orders: LruCache<OrderId, Arc<Order>>,
    bytes: usize,
}

impl Memory {
    fn put(&mut self, order: &Arc<Order>) {
        self.bytes += size(order);
        if let Some(before) = self.orders.put(order.id, Arc::clone(order)) {
            self.bytes -= size(&before);
        }
        while self.bytes > MAX_BYTES
            && let Some((_, oldest)) = self.orders.pop_lru()
        {
            self.bytes -= size(&oldest);
        }
    }

    fn pop(&mut self, id: OrderId) {
        if let Some(order) = self.orders.pop(&id) {
            self.bytes -= size(&order);
        }
    }
}

fn size(order: &Order) -> usize {
    size_of::<Order>() + order.description.as_str().len() + OVERHEAD_BYTES
}

impl Recent {
    /// Nothing remembered yet.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Memory { orders: LruCache::unbounded(), bytes: 0 })))
    }

    /// Remembers new orders.
    pub fn remember(&self, orders: &[Arc<Order>]) {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for order in orders {
            memory.put(order);
        }
    }

    /// Those of these orders that are remembered.
    pub fn get(&self, ids: impl Iterator<Item = OrderId>) -> HashMap<OrderId, Arc<Order>> {
        let memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ids.filter_map(|id| Some((id, Arc::clone(memory.orders.peek(&id)?)))).collect()
    }

    /// Forgets orders: they have changed.
    pub fn forget(&self, ids: impl Iterator<Item = OrderId>) {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            memory.pop(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use gozon_contract::{Description, Money, OrderStatus, RandomSource, Timestamp};

    use super::*;

    fn order(description: &str) -> Arc<Order> {
        let at = Timestamp::from_micros(1);
        Arc::new(Order {
            id: OrderId::new(at, &RandomSource::system()),
            user_id: "6f9b1c58-3a52-4e0e-9d5b-0f3c2a1b4d5e".parse().unwrap(),
            amount: Money::try_from(1).unwrap(),
            description: Description::try_from(description.to_owned()).unwrap(),
            status: OrderStatus::New,
            cancel_reason: None,
            version: 1,
            created_at: at,
            updated_at: at,
        })
    }

    #[test]
    fn memory_is_bounded_in_bytes() {
        let recent = Recent::new();
        let orders: Vec<_> = (0..5_000).map(|_| order(&"ы".repeat(1_000))).collect();
        recent.remember(&orders);
        let known = recent.get(orders.iter().map(|order| order.id));
        let bytes: usize = known.values().map(|order| size(order)).sum();
        assert!(bytes <= MAX_BYTES && bytes > MAX_BYTES / 2, "{bytes}");
        // The latest are kept.
        assert!(known.contains_key(&orders[4_999].id) && !known.contains_key(&orders[0].id));

        recent.forget(orders.iter().map(|order| order.id));
        assert_eq!(recent.0.lock().unwrap().bytes, 0);
    }

    #[test]
    fn an_order_remembered_twice_counts_once() {
        let (recent, order) = (Recent::new(), order("a kettle"));
        recent.remember(&[Arc::clone(&order), Arc::clone(&order)]);
        recent.forget([order.id].into_iter());
        assert_eq!(recent.0.lock().unwrap().bytes, 0);
    }
}
