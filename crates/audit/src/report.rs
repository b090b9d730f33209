//! What an audit found.

use std::{collections::BTreeMap, fmt};

use gozon_contract::Timestamp;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::{Options, case::Case, ledger::Ledger};

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// 1: deposits less payments are not what the accounts hold.
    SumMismatch,
    /// 1: an account holds less than nothing, or did after an entry.
    NegativeBalance,
    /// 2: an account's balance is not its last entry's, or not the sum of its entries.
    BalanceMismatch,
    /// 2: an entry is missing, or there twice.
    SeqGap,
    /// 2: a `balance_after` does not follow from the entry and the one before it.
    WrongBalanceAfter,
    /// 2: an entry whose kind, sign and order don't go together.
    MalformedEntry,
    /// 2: entries of a user without an account.
    EntriesWithoutAccount,
    /// 2: a user with more than one account.
    SeveralAccounts,
    /// 3: an order id that several users have.
    SeveralOrders,
    /// 3: an order with more than one payment.
    SeveralPayments,
    /// 3: a payment of no order.
    PaymentWithoutOrder,
    /// 3: a payment by somebody else than the order's user.
    PaymentUserMismatch,
    /// 3: a payment of another amount than the order's.
    PaymentAmountMismatch,
    /// 3: a paid payment that no entry debits.
    PaidWithoutEntry,
    /// 3: a paid payment that several entries debit.
    SeveralEntries,
    /// 3: an entry of another user or amount than its payment.
    EntryMismatch,
    /// 3: a declined payment that an entry debits.
    DeclinedWithEntry,
    /// 3: an entry for an order without a payment.
    EntryWithoutPayment,
    /// 4: an order FINISHED without a payment.
    FinishedWithoutPayment,
    /// 4: an order FINISHED although its payment was declined.
    FinishedButDeclined,
    /// 4: an order CANCELLED without a declined payment.
    CancelledWithoutPayment,
    /// 4: an order CANCELLED although it was paid.
    CancelledButPaid,
    /// 4: an order CANCELLED for another reason than its payment was declined for.
    ReasonMismatch,
    /// 4: an order in a status that does not exist.
    UnknownStatus,
    /// 5: an order that is NEW for too long, without a payment, and no request is on its way.
    RequestLost,
    /// 5: an order that is NEW, settled too long ago, and no result is on its way.
    ResultLost,
    /// 5, a warning: the request of an order that is NEW waits in an outbox or inbox for too long.
    StuckRequest,
    /// 5, a warning: the result of an order that is NEW waits in an outbox or inbox for too long.
    StuckResult,
    /// 5, a warning: the request of an order that is NEW was given up on.
    DeadRequest,
    /// 5, a warning: the result of an order that is NEW was given up on.
    DeadResult,
}

impl Kind {
    /// Which of the five checks finds it, from 1.
    pub const fn check(self) -> usize {
        match self {
            Self::SumMismatch | Self::NegativeBalance => 1,
            Self::BalanceMismatch
            | Self::SeqGap
            | Self::WrongBalanceAfter
            | Self::MalformedEntry
            | Self::EntriesWithoutAccount
            | Self::SeveralAccounts => 2,
            Self::SeveralOrders
            | Self::SeveralPayments
            | Self::PaymentWithoutOrder
            | Self::PaymentUserMismatch
            | Self::PaymentAmountMismatch
            | Self::PaidWithoutEntry
            | Self::SeveralEntries
            | Self::EntryMismatch
            | Self::DeclinedWithEntry
            | Self::EntryWithoutPayment => 3,
            Self::FinishedWithoutPayment
            | Self::FinishedButDeclined
            | Self::CancelledWithoutPayment
            | Self::CancelledButPaid
            | Self::ReasonMismatch
            | Self::UnknownStatus => 4,
            Self::RequestLost
            | Self::ResultLost
            | Self::StuckRequest
            | Self::StuckResult
            | Self::DeadRequest
            | Self::DeadResult => 5,
        }
    }

    /// Whether the order is NEW and nothing of ours will change that: its payment has to be asked
    /// for again.
    pub const fn is_lost(self) -> bool {
        matches!(self, Self::RequestLost | Self::ResultLost)
    }

    /// Whether nothing is violated, but somebody should look.
    pub const fn is_warning(self) -> bool {
        matches!(
            self,
            Self::StuckRequest | Self::StuckResult | Self::DeadRequest | Self::DeadResult
        )
    }
}

/// One row, or for the sums all rows, that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What is wrong.
    pub kind: Kind,
    /// Whose account or order it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<Uuid>,
    /// Which order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_id: Option<Uuid>,
    /// Which entry of the account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<i64>,
    /// The same for people, with the values.
    pub detail: String,
}

/// One of the five checks.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// From 1 to 5.
    pub number: usize,
    /// What must hold.
    pub title: &'static str,
    /// What was looked at.
    pub of: &'static str,
    /// How many of them.
    pub rows: u64,
    /// Whether it holds.
    pub ok: bool,
    /// How many findings there are of each kind, warnings too.
    pub counts: BTreeMap<Kind, u64>,
    /// The first findings.
    pub findings: Vec<Finding>,
}

/// All money there is, in minor units. As JSON they are texts: they may be larger than what
/// readers can tell apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    /// All deposits.
    #[serde(serialize_with = "as_text")]
    pub deposits: i128,
    /// All payments that were not declined.
    #[serde(serialize_with = "as_text")]
    pub paid: i128,
    /// What all accounts hold.
    #[serde(serialize_with = "as_text")]
    pub balances: i128,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn as_text<S: Serializer>(sum: &i128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(sum)
}

/// What an audit found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether everything holds. Warnings don't change that.
    pub ok: bool,
    /// When it started.
    pub audited_at: Timestamp,
    /// The age from which a NEW order needs an explanation.
    pub new_age_limit_seconds: u64,
    /// The age from which a message that waits is stuck.
    pub message_age_limit_seconds: u64,
    /// All money.
    pub sums: Sums,
    /// The five checks.
    pub checks: Vec<Check>,
    /// The first [`MAX_LOST`] orders that are NEW with nothing on its way, as user and order.
    #[serde(skip)]
    pub lost: Vec<(Uuid, Uuid)>,
    #[serde(skip)]
    max_findings: usize,
}

/// How many lost orders a report names for repair, so that memory has a bound.
pub const MAX_LOST: usize = 100_000;

/// What must hold, and over which rows.
const CHECKS: [(&str, &str); 5] = [
    ("deposits less payments are what the accounts hold, none below 0", "accounts"),
    ("each balance follows from an account's entries, without a gap", "entries"),
    ("each payment is its order's, and debited once if paid", "payments"),
    ("each settled order says what its payment says", "settled orders"),
    ("each NEW order is young, or its request or result is on its way", "NEW orders"),
];

impl Report {
    pub(crate) fn new(now: Timestamp, options: &Options) -> Self {
        let check = |(at, &(title, of)): (usize, &(&'static str, &'static str))| Check {
            number: at + 1,
            title,
            of,
            rows: 0,
            ok: true,
            counts: BTreeMap::new(),
            findings: Vec::new(),
        };
        Self {
            ok: true,
            audited_at: now,
            new_age_limit_seconds: options.new_age_limit.as_secs(),
            message_age_limit_seconds: options.message_age_limit.as_secs(),
            sums: Sums::default(),
            checks: CHECKS.iter().enumerate().map(check).collect(),
            lost: Vec::new(),
            max_findings: options.max_findings,
        }
    }

    /// Adds a finding to its check.
    pub(crate) fn add(&mut self, finding: Finding) {
        let check = &mut self.checks[finding.kind.check() - 1];
        if !finding.kind.is_warning() {
            check.ok = false;
            self.ok = false;
        }
        if let (true, Some(user), Some(order)) = (
            finding.kind.is_lost() && self.lost.len() < MAX_LOST,
            finding.user_id,
            finding.order_id,
        ) {
            self.lost.push((user, order));
        }
        *check.counts.entry(finding.kind).or_default() += 1;
        if check.findings.len() < self.max_findings {
            check.findings.push(finding);
        }
    }

    /// Adds findings to their checks.
    pub(crate) fn add_all(&mut self, findings: Vec<Finding>) {
        for finding in findings {
            self.add(finding);
        }
    }

    /// Counts what was seen of an order.
    pub(crate) fn saw(&mut self, case: &Case) {
        self.checks[2].rows += case.payments.count;
        if let Some(order) = &case.orders.first {
            let check = if order.status == "NEW" { 4 } else { 3 };
            self.checks[check].rows += case.orders.count;
        }
        self.sums.paid += case.paid;
    }

    /// Compares the sums.
    pub(crate) fn balance(&mut self, ledger: &Ledger) {
        self.checks[0].rows = ledger.accounts;
        self.checks[1].rows = ledger.entries;
        self.sums.deposits = ledger.deposits;
        self.sums.balances = ledger.balances;
        let Sums { deposits, paid, balances } = self.sums;
        let difference = balances - (deposits - paid);
        if difference != 0 {
            let detail = format!(
                "deposited {deposits}, paid {paid}, but the accounts hold {balances}: \
                 {difference:+} than they should"
            );
            let kind = Kind::SumMismatch;
            self.add(Finding { kind, user_id: None, order_id: None, seq: None, detail });
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.kind.is_warning() { "!" } else { "✗" };
        write!(f, "{mark} {}", self.kind)?;
        if let Some(order) = self.order_id {
            write!(f, " order {order}")?;
        }
        if let Some(user) = self.user_id {
            write!(f, " user {user}")?;
        }
        if let Some(seq) = self.seq {
            write!(f, " seq {seq}")?;
        }
        write!(f, ": {}", self.detail)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            let state = if check.ok { "ok      " } else { "VIOLATED" };
            let Check { number, title, rows, of, .. } = check;
            writeln!(f, "{number} {state}  {title} ({rows} {of})")?;
            for (kind, count) in &check.counts {
                writeln!(f, "    {count} × {kind}")?;
            }
            for finding in &check.findings {
                writeln!(f, "      {finding}")?;
            }
            let all: u64 = check.counts.values().sum();
            let more = all - check.findings.len() as u64;
            if more > 0 {
                writeln!(f, "      and {more} more")?;
            }
        }
        let Sums { deposits, paid, balances } = self.sums;
        writeln!(f, "deposited {deposits}, paid {paid}, held {balances}")?;
        let verdict = if self.ok { "Everything holds." } else { "Not everything holds." };
        writeln!(f, "{verdict}")
    }
}
