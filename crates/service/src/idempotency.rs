//! Idempotency keys, stored in the same transaction as what they guard.
//! After <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>.

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use async_trait::async_trait;
use axum::http::{HeaderMap, StatusCode};
use gozon_contract::{Timestamp, UserId};
use gozon_http::{Answer, Answered, Problem};
use gozon_messaging::{Done, Expiring, Guard};
use gozon_seam::mutation;
use gozon_store::{Db, Migration, Reader, Result, Rows, Statement, select};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::store_problem;

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
    /// The request's `Idempotency-Key`, if it has one. `operation` (such as `POST /orders`) and
    /// `request`, as it was understood, tell whether a later request is the same.
    ///
    /// # Panics
    /// If `request` is no JSON value.
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
        hash.update(serde_json::to_vec(request).expect("a request is a JSON value"));
        let fingerprint = hash.finalize().iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        Ok(Some(Self { key: key.to_owned(), fingerprint }))
    }

    /// How a request with this key was done, given the key and the answer that are stored.
    fn replay(&self, first: &Self, answer: &Answer) -> Done<Answer> {
        if self.fingerprint == first.fingerprint || mutation!("a key stands for any request") {
            return Done { replies: vec![answer.clone()], repeated: true };
        }
        let detail = "this Idempotency-Key was already used for another request";
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        let refused = Answer::Refused(Problem::new(status, "idempotency_key_reused", detail));
        Done { replies: vec![refused], repeated: false }
    }
}

/// The guard of a request: the user's key, if there is one.
#[derive(Debug)]
pub(crate) struct Keyed {
    pub user: UserId,
    pub key: Option<IdempotencyKey>,
}

#[async_trait]
impl Guard for Keyed {
    type Reply = Answer;
    type Key = (UserId, String);

    fn key(&self) -> Option<(UserId, String)> {
        Some((self.user, self.key.as_ref()?.key.clone()))
    }

    async fn find(reader: &mut Reader, guards: &[&Self]) -> Result<Vec<Option<Done<Answer>>>> {
        let keys: Vec<_> = guards.iter().filter_map(|guard| guard.key()).collect();
        let stored = if keys.is_empty() { HashMap::new() } else { find(reader, &keys).await? };
        let replay = |guard: &&Self| {
            let (first, answer) = stored.get(&guard.key()?)?;
            Some(guard.key.as_ref()?.replay(first, answer))
        };
        Ok(guards.iter().map(replay).collect())
    }

    fn mark(done: &[(&Self, &[Answer])], now: Timestamp) -> Vec<Statement> {
        let keyed = |(guard, replies): &(&Self, &[Answer])| {
            Some((guard.user, guard.key.clone()?, replies.first()?.clone()))
        };
        let answers: Vec<_> = done.iter().filter_map(keyed).collect();
        if answers.is_empty() || mutation!("keys are not kept") {
            Vec::new()
        } else {
            vec![keep(answers, now)]
        }
    }
}

/// The answer that a user's earlier request with this key was given, if there was one.
///
/// # Errors
/// 503 when the database is away.
pub async fn find_answer(
    db: &Db,
    user: UserId,
    key: &IdempotencyKey,
) -> std::result::Result<Option<Answered>, Problem> {
    let guard = Keyed { user, key: Some(key.clone()) };
    let find = async { Keyed::find(&mut db.read().await?, &[&guard]).await };
    let done = find.await.map_err(store_problem)?.pop().flatten();
    Ok(done.and_then(|mut done| {
        Some(Answered { answer: done.replies.pop()?, replayed: done.repeated })
    }))
}

/// Which of these keys were used before, with what, and the answers given then.
async fn find(
    reader: &mut Reader,
    keys: &[(UserId, String)],
) -> Result<HashMap<(UserId, String), (IdempotencyKey, Answer)>> {
    let wanted =
        Rows::of(keys).uuid("user_id", |(user, _)| user.uuid()).text("key", |(_, key)| key.clone());
    let found: Vec<(Uuid, String, String, String)> = reader
        .query(select!(
            "select user_id, key, fingerprint, answer from idempotency_keys
             where (user_id, key) in (select user_id, key from {rows})"
        ))
        .rows(wanted.done())
        .fetch_all()
        .await?;
    let read = |(user, key, fingerprint, answer): (Uuid, String, String, String)| {
        let answer =
            serde_json::from_str(&answer).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(((user.into(), key.clone()), (IdempotencyKey { key, fingerprint }, answer)))
    };
    found.into_iter().map(read).collect()
}

/// Keeps the answers given to these keys. A key taken in the meantime is a conflict.
fn keep(mut answers: Vec<(UserId, IdempotencyKey, Answer)>, now: Timestamp) -> Statement {
    // One order for all instances, or two with the same keys could deadlock.
    answers.sort_by(|a, b| (a.0, &a.1.key).cmp(&(b.0, &b.1.key)));
    let rows = Rows::of(&answers)
        .uuid("user_id", |(user, ..)| user.uuid())
        .text("key", |(_, key, _)| key.key.clone())
        .text("fingerprint", |(_, key, _)| key.fingerprint.clone())
        .text("answer", |(.., answer)| {
            serde_json::to_string(answer).expect("an answer is a JSON value")
        })
        .done();
    Statement::new(
        "insert into idempotency_keys (user_id, key, fingerprint, answer, created_at)
         select user_id, key, fingerprint, answer, $1 from {rows}",
    )
    .bind(now.micros())
    .rows(rows)
}
