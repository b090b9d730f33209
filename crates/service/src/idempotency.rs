//! Idempotency keys, stored in the same transaction as what they guard.
//! After <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>.

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use axum::http::{HeaderMap, StatusCode};
use gozon_contract::{Timestamp, UserId};
use gozon_messaging::Expiring;
use gozon_store::{Migration, Result, Rows, Statement, Tx};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use gozon_http::{Answer, Problem};

/// The table of a service that takes idempotency keys.
pub const MIGRATIONS: &[Migration] = &[Migration {
    component: "idempotency",
    version: 1,
    postgres: include_str!("../migrations/postgres/1_idempotency.sql"),
    sqlite: include_str!("../migrations/sqlite/1_idempotency.sql"),
}];

/// How long a key and its answer are kept.
const KEEP: Duration = Duration::from_hours(25);

/// The keys that nobody will ask about again.
pub const EXPIRING: Expiring = Expiring {
    table: "idempotency_keys",
    keep: KEEP,
    delete: "delete from idempotency_keys where (user_id, key) in (
                select user_id, key from idempotency_keys
                where created_at < $1 order by created_at limit $2 {skip_locked}
             )",
};

/// The key that a client gave to a request, and what it was given to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    key: String,
    fingerprint: String,
}

impl IdempotencyKey {
    /// The code of the answer to a key that was used for another request.
    pub(crate) const REUSED: &str = "idempotency_key_reused";

    /// The request's `Idempotency-Key`, if it has one. `operation` (such as `POST /orders`) and
    /// `request`, as it was understood, tell whether a later request is the same.
    ///
    /// # Errors
    /// 400 `invalid_idempotency_key` unless it is 1 to 255 visible ASCII characters, given once.
    pub fn of(
        headers: &HeaderMap,
        operation: &str,
        request: &impl Serialize,
    ) -> std::result::Result<Option<Self>, Problem> {
        let mut values = headers.get_all("idempotency-key").iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        let visible = |key: &&str| key.bytes().all(|byte| byte.is_ascii_graphic());
        let key = value.to_str().ok().filter(|key| (1..=255).contains(&key.len())).filter(visible);
        let (Some(key), None) = (key, values.next()) else {
            let detail = "Idempotency-Key must be 1 to 255 visible ASCII characters, given once";
            return Err(Problem::unreadable("invalid_idempotency_key", detail));
        };
        let mut hash = Sha256::new();
        hash.update(operation.as_bytes());
        hash.update(serde_json::to_vec(request).unwrap_or_default());
        let fingerprint = hash.finalize().iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        Ok(Some(Self { key: key.to_owned(), fingerprint }))
    }

    /// The answer to a request with this key that comes after one with the key `first`.
    pub(crate) fn replay(&self, first: &Self, answer: &Answer) -> Answer {
        if self.fingerprint == first.fingerprint {
            return answer.clone();
        }
        let detail = "this Idempotency-Key was already used for another request";
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Answer::Refused(Problem::new(status, Self::REUSED, detail))
    }

    /// What it is known by: the user and the key.
    pub(crate) fn name(&self, user: UserId) -> (UserId, String) {
        (user, self.key.clone())
    }
}

/// Which of these keys were used before, with what, and the answers given then.
pub(crate) async fn find(
    tx: &mut Tx,
    keys: &[(UserId, IdempotencyKey)],
) -> Result<HashMap<(UserId, String), (IdempotencyKey, Answer)>> {
    let wanted = Rows::of(keys)
        .uuid("user_id", |(user, _)| user.uuid())
        .text("key", |(_, key)| key.key.clone())
        .done();
    let found: Vec<(Uuid, String, String, String)> = tx
        .query(
            "select user_id, key, fingerprint, answer from idempotency_keys
             where (user_id, key) in (select user_id, key from {rows})",
        )
        .rows(wanted)
        .fetch_all()
        .await?;
    let read = |(user, key, fingerprint, answer): (Uuid, String, String, String)| {
        let answer =
            serde_json::from_str(&answer).map_err(|error| sqlx::Error::Decode(error.into()))?;
        let key = IdempotencyKey { key, fingerprint };
        Ok((key.name(user.into()), (key, answer)))
    };
    found.into_iter().map(read).collect()
}

/// Keeps the answers given to these keys. A key taken in the meantime is a conflict.
pub(crate) fn keep(
    mut answers: Vec<(UserId, IdempotencyKey, Answer)>,
    now: Timestamp,
) -> Statement {
    // One order for all instances, or two with the same keys could deadlock.
    answers.sort_by(|a, b| (a.0, &a.1.key).cmp(&(b.0, &b.1.key)));
    let rows = Rows::of(&answers)
        .uuid("user_id", |(user, ..)| user.uuid())
        .text("key", |(_, key, _)| key.key.clone())
        .text("fingerprint", |(_, key, _)| key.fingerprint.clone())
        .text("answer", |(.., answer)| serde_json::to_string(answer).unwrap_or_default())
        .done();
    Statement::new(
        "insert into idempotency_keys (user_id, key, fingerprint, answer, created_at)
         select user_id, key, fingerprint, answer, $1 from {rows}",
    )
    .bind(now.micros())
    .rows(rows)
}
