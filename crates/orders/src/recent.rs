//! Orders that this instance has placed and that wait for their payment.
//!
//! To move an order on, it must be known what it is; most were placed here a moment ago. What is
//! remembered is only a guess: an update names the version that it starts from, and if that is no
//! longer the stored one, nothing is written and the order is read.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use gozon_contract::{Order, OrderId};
use lru::LruCache;

/// Number of orders to remember.
const MAX_ORDERS: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// The latest orders placed here. Clones are the same memory.
#[derive(Clone)]
pub(crate) struct Recent(Arc<Mutex<LruCache<OrderId, Arc<Order>>>>);

impl Recent {
    /// Nothing remembered yet.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(LruCache::new(MAX_ORDERS))))
    }

    /// Remembers new orders.
    pub fn remember(&self, orders: &[Arc<Order>]) {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for order in orders {
            memory.put(order.id, Arc::clone(order));
        }
    }

    /// Those of these orders that are remembered.
    pub fn get(&self, ids: impl Iterator<Item = OrderId>) -> HashMap<OrderId, Arc<Order>> {
        let memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ids.filter_map(|id| Some((id, Arc::clone(memory.peek(&id)?)))).collect()
    }

    /// Forgets orders: they have changed.
    pub fn forget(&self, ids: impl Iterator<Item = OrderId>) {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            memory.pop(&id);
        }
    }
}
