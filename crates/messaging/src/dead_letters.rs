//! Messages that were given up on, and what a person may do about them.

use std::{fmt, str::FromStr};

use gozon_contract::{Clock, RandomSource, Timestamp};
use gozon_seam::mutation;
use gozon_store::{Db, Result, Tx};

use crate::{
    Message,
    outbox::new_batch_id,
    sql::{self, outbox::row_of, pending::PendingRow},
};

/// How many are moved or dropped in one transaction.
const MAX_MOVED: i64 = 500;

/// A message that was given up on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where it got stuck, and where a retry puts it back.
    pub origin: Origin,
    /// The message.
    pub message: Message,
    /// When it was received, or put into the outbox.
    pub received_at: Timestamp,
    /// How often it was tried.
    pub attempts: i64,
    /// When it was given up on.
    pub died_at: Timestamp,
    /// What went wrong last.
    pub error: String,
}

/// Where a message got stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// It was received, and its handler failed.
    Inbox,
    /// It was to be sent, and the broker would not take it.
    Outbox,
}

/// Which dead letters: those that match all that is given. The default matches every one.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// With this id.
    pub id: Option<String>,
    /// Of this topic.
    pub topic: Option<String>,
    /// With this partition key.
    pub key: Option<String>,
    /// With this text somewhere in the error.
    pub error: Option<String>,
    /// Given up on at this instant or later.
    pub since: Option<Timestamp>,
    /// Given up on at this instant or earlier.
    pub until: Option<Timestamp>,
}

/// Where a [page](Page) goes on. Opaque; has one text form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub(crate) died_at: Timestamp,
    pub(crate) origin: Origin,
    pub(crate) id: String,
}

/// Not a cursor that this program made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor from an earlier page")]
pub struct InvalidCursor;

/// Some dead letters, newest first.
#[derive(Clone, Debug)]
pub struct Page {
    /// The letters.
    pub letters: Vec<DeadLetter>,
    /// Where the next page begins, if there is more.
    pub next: Option<Cursor>,
}

/// The dead letters of one database.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    db: Db,
    clock: Clock,
}

impl DeadLetters {
    /// The dead letters in `db`.
    pub fn new(db: Db, clock: Clock) -> Self {
        Self { db, clock }
    }

    /// Up to `limit` of those that match, newest first, beginning behind `after`.
    ///
    /// # Errors
    /// As the database says.
    pub async fn list(&self, filter: &Filter, after: Option<&Cursor>, limit: u32) -> Result<Page> {
        let mut reader = self.db.read().await?;
        let limit = limit.max(1) as usize;
        let more = i64::try_from(limit + 1).unwrap_or(i64::MAX);
        let mut letters = sql::dead_letters::list(&mut reader, filter, after, more).await?;
        let has_more = letters.len() > limit;
        letters.truncate(limit);
        let next = letters.last().filter(|_| has_more).map(Cursor::at);
        Ok(Page { letters, next })
    }

    /// Gives those that match another chance, with all attempts before them: a received one goes
    /// back to its handler, one that was to be sent back to the outbox. How many there were. Those
    /// that die again meanwhile are not taken twice.
    ///
    /// # Errors
    /// As the database says; those of earlier batches are moved by then.
    pub async fn retry(&self, filter: &Filter) -> Result<u64> {
        self.in_batches(filter, true).await
    }

    /// Drops those that match, for good. How many there were.
    ///
    /// # Errors
    /// As the database says; those of earlier batches are dropped by then.
    pub async fn discard(&self, filter: &Filter) -> Result<u64> {
        self.in_batches(filter, false).await
    }

    async fn in_batches(&self, filter: &Filter, retry: bool) -> Result<u64> {
        let now = self.clock.now();
        let until = Some(filter.until.map_or(now, |until| until.min(now)));
        let filter = Filter { until, ..filter.clone() };
        let mut total = 0;
        loop {
            let mut tx = self.db.begin().await?;
            let letters = sql::dead_letters::take(&mut tx, &filter, MAX_MOVED).await?;
            if letters.is_empty() {
                return Ok(total);
            }
            total += letters.len() as u64;
            if retry {
                put_back(&mut tx, letters, self.clock.now()).await?;
            }
            tx.commit().await?;
        }
    }
}

/// What was to be sent goes back to the outbox; what was received, to its handler.
async fn put_back(tx: &mut Tx, letters: Vec<DeadLetter>, now: Timestamp) -> Result<()> {
    let random = RandomSource::system();
    let (mut received, mut unsent) = (Vec::new(), Vec::new());
    for letter in letters {
        let DeadLetter { origin, message, received_at, error, .. } = letter;
        match origin {
            Origin::Inbox => received.push(PendingRow { message, received_at, attempts: 0, error }),
            Origin::Outbox => {
                unsent.push(row_of(&message, new_batch_id(&random), received_at, now));
            }
        }
    }
    let mut writes = Vec::new();
    if !received.is_empty() && !mutation!("a retry takes the letter and loses it") {
        writes.push(sql::pending::keep(&received, now));
    }
    if !unsent.is_empty() {
        writes.push(sql::outbox::insert(&unsent));
    }
    tx.run_all(writes).await.map(drop)
}

impl Origin {
    /// The name in the database and for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbox => "inbox",
            Self::Outbox => "outbox",
        }
    }

    /// The database holds only these two names.
    pub(crate) fn of(name: &str) -> Self {
        if name == Self::Outbox.as_str() { Self::Outbox } else { Self::Inbox }
    }
}

impl Cursor {
    fn at(letter: &DeadLetter) -> Self {
        Self { died_at: letter.died_at, origin: letter.origin, id: letter.message.id.clone() }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.died_at.micros(), self.origin.as_str(), self.id)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> std::result::Result<Self, InvalidCursor> {
        let mut parts = text.splitn(3, '.');
        let mut next = || parts.next().ok_or(InvalidCursor);
        let died_at = next()?.parse().map(Timestamp::from_micros).map_err(|_| InvalidCursor)?;
        let origin = match next()? {
            "inbox" => Origin::Inbox,
            "outbox" => Origin::Outbox,
            _ => return Err(InvalidCursor),
        };
        Ok(Self { died_at, origin, id: next()?.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back() {
        let cursor = Cursor {
            died_at: Timestamp::from_micros(17),
            origin: Origin::Outbox,
            id: "order:payment.requested".to_owned(),
        };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for bad in ["", "1", "x.inbox.id", "1.elsewhere.id"] {
            assert_eq!(bad.parse::<Cursor>(), Err(InvalidCursor), "{bad}");
        }
    }
}
