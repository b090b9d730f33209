//! Accounts and their chains of entries, walked in order. No I/O.

use uuid::Uuid;

use crate::{Finding, Kind, sql::LedgerRow};

/// What the walk is in the middle of: one user's account and chain.
#[derive(Debug)]
struct Chain {
    user: Uuid,
    /// The accounts seen: how many, and the first one's balance and version.
    accounts: u64,
    balance: i64,
    version: i64,
    entries: u64,
    last_seq: i64,
    last_balance: i64,
    /// What the entries add up to.
    sum: i128,
    /// What `balance_after` should be: the sum, set right again after each gap.
    running: i128,
}

/// Walks accounts and entries by user and `seq`, and adds them up.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    chain: Option<Chain>,
    /// How many accounts there were.
    pub accounts: u64,
    /// How many entries there were.
    pub entries: u64,
    /// What was deposited.
    pub deposits: i128,
    /// What the accounts hold.
    pub balances: i128,
}

impl Ledger {
    /// The next row.
    pub fn next(&mut self, row: &LedgerRow, found: &mut impl FnMut(Finding)) {
        if self.chain.as_ref().is_none_or(|chain| chain.user != row.user_id) {
            self.finish(found);
            self.chain = Some(Chain::of(row.user_id));
        }
        let Some(chain) = &mut self.chain else { return };
        if let Some(kind) = &row.kind {
            self.entries += 1;
            if kind == "deposit" {
                self.deposits += i128::from(row.amount);
            }
            chain.entry(row, kind, found);
        } else {
            self.accounts += 1;
            self.balances += i128::from(row.balance);
            chain.account(row, found);
        }
    }

    /// There are no more rows.
    pub fn finish(&mut self, found: &mut impl FnMut(Finding)) {
        if let Some(chain) = self.chain.take() {
            chain.finish(found);
        }
    }
}

impl Chain {
    fn of(user: Uuid) -> Self {
        Self {
            user,
            accounts: 0,
            balance: 0,
            version: 1,
            entries: 0,
            last_seq: 0,
            last_balance: 0,
            sum: 0,
            running: 0,
        }
    }

    fn finding(&self, kind: Kind, seq: Option<i64>, detail: String) -> Finding {
        Finding { kind, user_id: Some(self.user), order_id: None, seq, detail }
    }

    fn account(&mut self, row: &LedgerRow, found: &mut impl FnMut(Finding)) {
        self.accounts += 1;
        if self.accounts == 1 {
            self.balance = row.balance;
            self.version = row.amount;
        }
        if row.balance < 0 {
            let detail = format!("the account holds {}", row.balance);
            found(self.finding(Kind::NegativeBalance, None, detail));
        }
    }

    fn entry(&mut self, row: &LedgerRow, kind: &str, found: &mut impl FnMut(Finding)) {
        let seq = Some(row.seq);
        let fits = match kind {
            "deposit" => row.amount > 0 && row.order_id.is_none(),
            "payment" => row.amount < 0 && row.order_id.is_some(),
            _ => false,
        };
        if !fits {
            let order = if row.order_id.is_some() { "an order" } else { "no order" };
            let detail = format!("a {kind} of {} for {order}", row.amount);
            found(self.finding(Kind::MalformedEntry, seq, detail));
        }
        if row.balance < 0 {
            let detail = format!("the balance after this entry is {}", row.balance);
            found(self.finding(Kind::NegativeBalance, seq, detail));
        }
        if Some(row.seq) == self.last_seq.checked_add(1) {
            self.running += i128::from(row.amount);
            let chained = i128::from(self.last_balance) + i128::from(row.amount);
            // A row that follows from a wrong one before it is not wrong once more.
            if ![self.running, chained].contains(&row.balance.into()) {
                let detail = format!("balance_after is {}, expected {chained}", row.balance);
                found(self.finding(Kind::WrongBalanceAfter, seq, detail));
            }
        } else {
            let detail = format!("seq {} follows {}", row.seq, self.last_seq);
            found(self.finding(Kind::SeqGap, seq, detail));
            self.running = row.balance.into();
        }
        self.entries += 1;
        self.sum += i128::from(row.amount);
        self.last_seq = row.seq;
        self.last_balance = row.balance;
    }

    fn finish(self, found: &mut impl FnMut(Finding)) {
        if self.accounts == 0 {
            let detail = format!("{} entries, but no account", self.entries);
            return found(self.finding(Kind::EntriesWithoutAccount, None, detail));
        }
        if self.accounts > 1 {
            let detail = format!("the user has {} accounts", self.accounts);
            found(self.finding(Kind::SeveralAccounts, None, detail));
        }
        if self.balance != self.last_balance || self.sum != self.balance.into() {
            let detail = format!(
                "the balance is {}, the last entry's balance_after {}, the sum of entries {}",
                self.balance, self.last_balance, self.sum
            );
            found(self.finding(Kind::BalanceMismatch, None, detail));
        }
        if self.last_seq.checked_add(1) != Some(self.version) {
            let detail =
                format!("seq ends at {}, but the version is {}", self.last_seq, self.version);
            found(self.finding(Kind::SeqGap, None, detail));
        }
    }
}
