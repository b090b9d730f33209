//! The pure core: accounts and what is asked of them in, decisions and ledger entries out.
//!
//! Load the accounts, ask a [`Ledger`] for decisions, store the [`Changes`]. However many requests
//! concern an account, its row is written once.

use std::collections::{BTreeMap, HashMap};

use gozon_contract::{
    Balance, CancelReason, Money, OrderId, Outcome, PaymentRequested, Timestamp, UserId,
};

pub use gozon_contract::{Account, Entry, EntryKind};

/// What was decided for an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payment {
    /// Which order.
    pub order_id: OrderId,
    /// Whose.
    pub user_id: UserId,
    /// How much.
    pub amount: Money,
    /// How it ended.
    pub outcome: Outcome,
}

/// Why a top-up was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DepositRefused {
    /// The user has no account.
    #[error("the user has no account")]
    NoAccount,
    /// The balance would pass its limit.
    #[error("the balance would pass its limit")]
    BalanceLimit,
}

/// A request for an order that was settled before, but for another user or amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("order {0} was settled before, for another user or amount")]
pub struct Contradiction(pub OrderId);

/// The accounts at hand, and what has been decided for them so far.
#[derive(Debug)]
pub struct Ledger {
    now: Timestamp,
    accounts: BTreeMap<UserId, Account>,
    loaded_versions: BTreeMap<UserId, i64>,
    entries: Vec<Entry>,
}

/// The rows to store.
#[derive(Debug)]
pub struct Changes {
    /// The accounts that changed, each with the version it had before, in order of user.
    pub accounts: Vec<(Account, i64)>,
    /// The new entries; those of one account in order.
    pub entries: Vec<Entry>,
}

impl Ledger {
    /// Starts from `accounts` as they stand. A user who is not among them has no account.
    pub fn open(accounts: impl IntoIterator<Item = Account>, now: Timestamp) -> Self {
        let accounts: BTreeMap<_, _> =
            accounts.into_iter().map(|account| (account.user_id, account)).collect();
        let loaded_versions =
            accounts.iter().map(|(user, account)| (*user, account.version)).collect();
        Self { now, accounts, loaded_versions, entries: Vec::new() }
    }

    /// Tops up an account; the account after it.
    ///
    /// # Errors
    /// There is none, or it would hold too much. Nothing changed then.
    pub fn deposit(&mut self, user: UserId, amount: Money) -> Result<Account, DepositRefused> {
        let account = self.accounts.get_mut(&user).ok_or(DepositRefused::NoAccount)?;
        let balance = account.balance.plus(amount).ok_or(DepositRefused::BalanceLimit)?;
        let entry = post(account, balance, EntryKind::Deposit, amount.minor(), None, self.now);
        self.entries.push(entry);
        Ok(*account)
    }

    /// Decides a payment, and debits the account if it is covered.
    fn pay(&mut self, request: &PaymentRequested) -> Outcome {
        let Some(account) = self.accounts.get_mut(&request.user_id) else {
            return Outcome::Declined { reason: CancelReason::NoAccount };
        };
        let Some(balance) = account.balance.minus(request.amount) else {
            return Outcome::Declined { reason: CancelReason::InsufficientFunds };
        };
        let amount = -request.amount.minor();
        let order = Some(request.order_id);
        self.entries.push(post(account, balance, EntryKind::Payment, amount, order, self.now));
        Outcome::Paid
    }

    /// Settles requests in the order of their arrival. `settled` holds the payments that are
    /// already stored for any of their orders; a request for one of those, or a repeat within the
    /// batch, gets the same outcome again and changes nothing. Returns a payment for each request,
    /// and how many of them, in which places, are new.
    ///
    /// # Errors
    /// A repeat that contradicts the payment it repeats.
    pub fn settle(
        &mut self,
        requests: &[&PaymentRequested],
        settled: impl IntoIterator<Item = Payment>,
    ) -> Result<Settlement, Contradiction> {
        let mut known: HashMap<OrderId, Payment> =
            settled.into_iter().map(|payment| (payment.order_id, payment)).collect();
        let mut settlement = Settlement { answers: Vec::new(), new: Vec::new() };
        for request in requests {
            let &&PaymentRequested { order_id, user_id, amount } = request;
            let payment = if let Some(payment) = known.get(&order_id) {
                if (payment.user_id, payment.amount) != (user_id, amount) {
                    return Err(Contradiction(order_id));
                }
                *payment
            } else {
                let payment = Payment { order_id, user_id, amount, outcome: self.pay(request) };
                known.insert(order_id, payment);
                settlement.new.push(payment);
                payment
            };
            settlement.answers.push(payment);
        }
        Ok(settlement)
    }

    /// The rows to store.
    pub fn close(self) -> Changes {
        let changed = |account: &Account| {
            let before = *self.loaded_versions.get(&account.user_id)?;
            (before != account.version).then_some((*account, before))
        };
        Changes {
            accounts: self.accounts.values().filter_map(changed).collect(),
            entries: self.entries,
        }
    }
}

/// What [`Ledger::settle`] decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// One payment to each request.
    pub answers: Vec<Payment>,
    /// Those that were not settled before.
    pub new: Vec<Payment>,
}

/// Moves the account on by one entry.
fn post(
    account: &mut Account,
    balance_after: Balance,
    kind: EntryKind,
    amount: i64,
    order_id: Option<OrderId>,
    created_at: Timestamp,
) -> Entry {
    let entry = Entry {
        user_id: account.user_id,
        seq: account.version,
        kind,
        amount,
        balance_after,
        order_id,
        created_at,
    };
    account.balance = balance_after;
    account.version += 1;
    entry
}
