//! What the clients know: what they asked for, and what they were answered.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use hyper::body::Bytes;
use uuid::Uuid;

/// What a client asked to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Account,
    Deposit,
    Order,
}

/// Something to be done once, and what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub what: What,
    pub user: Uuid,
    /// Tells it from all others: an order's description, a deposit's amount.
    pub marker: String,
    pub amount: i64,
    pub key: Option<String>,
    /// Attempts that were answered: done.
    pub sure: u32,
    /// Attempts that may have been done or not.
    pub maybe: u32,
    /// The order's id, and the first answer.
    pub id: Option<String>,
    pub answer: Option<Bytes>,
}

/// A live client of a user: what it has seen of each order.
#[derive(Debug)]
pub(crate) struct View {
    pub user: Uuid,
    pub is_open: bool,
    /// The version and status of each order, as far as this connection has told.
    pub seen: BTreeMap<String, (i64, String)>,
}

/// What all clients know. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Notes(Rc<RefCell<Inner>>);

#[derive(Default)]
struct Inner {
    writes: Vec<Write>,
    views: Vec<Rc<RefCell<View>>>,
    /// The highest version of each order that any client was told.
    versions: BTreeMap<String, i64>,
    busy: usize,
}

impl Notes {
    /// A client begins.
    pub fn begin(&self) {
        self.0.borrow_mut().busy += 1;
    }

    /// A client is done.
    pub fn end(&self) {
        self.0.borrow_mut().busy -= 1;
    }

    /// Whether any client still has something to do.
    pub fn is_busy(&self) -> bool {
        self.0.borrow().busy > 0
    }

    pub fn add(&self, write: Write) {
        self.0.borrow_mut().writes.push(write);
    }

    /// The first thing that a user had done with a key.
    pub fn first_keyed(&self, user: Uuid) -> Option<Write> {
        let inner = self.0.borrow();
        let keyed = |write: &&Write| write.user == user && write.key.is_some() && write.sure > 0;
        inner.writes.iter().find(keyed).cloned()
    }

    /// The highest version that was told of each order.
    pub fn versions(&self) -> BTreeMap<String, i64> {
        self.0.borrow().versions.clone()
    }

    pub fn writes(&self) -> Vec<Write> {
        self.0.borrow().writes.clone()
    }

    pub fn add_view(&self, user: Uuid) -> Rc<RefCell<View>> {
        let view = Rc::new(RefCell::new(View { user, is_open: false, seen: BTreeMap::new() }));
        self.0.borrow_mut().views.push(Rc::clone(&view));
        view
    }

    pub fn views(&self) -> Vec<Rc<RefCell<View>>> {
        self.0.borrow().views.clone()
    }

    /// The highest version that any client was told of an order before this one is noted.
    pub fn version(&self, order: &str) -> i64 {
        self.0.borrow().versions.get(order).copied().unwrap_or(0)
    }

    /// A client was told a version of an order.
    pub fn told(&self, order: &str, version: i64) {
        let mut inner = self.0.borrow_mut();
        let highest = inner.versions.entry(order.to_owned()).or_default();
        *highest = version.max(*highest);
    }
}
