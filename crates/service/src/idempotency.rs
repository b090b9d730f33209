//! Idempotency keys, stored in the same transaction as what they guard.
//! After <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>.

use std::{collections::HashMap, fmt::Write as _, marker::PhantomData, time::Duration};

use async_trait::async_trait;
use axum::http::StatusCode;
use gozon_contract::{Timestamp, UserId};
use gozon_http::{Answer, Answered, IdempotencyKey, Problem, Reply};
use gozon_messaging::{Done, Expiring, Guard};
use gozon_seam::mutation;
use gozon_store::{Db, Migration, Reader, Result, Rows, Statement, select};
use serde::{Deserialize, Serialize};
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

/// A request with an idempotency key, as far as it concerns whether a later one is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedRequest {
    key: String,
    fingerprint: String,
}

impl KeyedRequest {
    /// A request with this key. `operation` (such as `POST /orders`) and `request`, as it was
    /// understood, tell whether a later request is the same.
    ///
    /// # Panics
    /// If `request` is no JSON value.
    pub fn new(key: IdempotencyKey, operation: &str, request: &impl Serialize) -> Self {
        let mut hash = Sha256::new();
        hash.update(operation.as_bytes());
        hash.update(serde_json::to_vec(request).expect("a request is a JSON value"));
        let fingerprint = hash.finalize().iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        Self { key: key.into(), fingerprint }
    }

    /// How a request with this key was done, given the key and the answer that are stored.
    fn replay<R: Clone>(&self, first: &Self, answer: &Answer<R>) -> Done<Answer<R>> {
        if self.fingerprint == first.fingerprint || mutation!("a key stands for any request") {
            return Done { replies: vec![answer.clone()], repeated: true };
        }
        let detail = "this Idempotency-Key was already used for another request";
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        let refused = Err(Problem::new(status, "idempotency_key_reused", detail));
        Done { replies: vec![refused], repeated: false }
    }
}

/// An answer as it is stored. Earlier releases read it, while an update is rolled out.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stored {
    Done {
        status: u16,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        location: Option<String>,
        /// The reply, as JSON.
        body: String,
    },
    Refused(Problem),
}

impl Stored {
    fn write<R: Reply>(answer: &Answer<R>) -> serde_json::Result<String> {
        let stored = match answer {
            Ok(reply) => Self::Done {
                status: R::STATUS.as_u16(),
                location: reply.location(),
                body: serde_json::to_string(reply)?,
            },
            Err(problem) => Self::Refused(problem.clone()),
        };
        serde_json::to_string(&stored)
    }

    fn read<R: Reply>(text: &str) -> serde_json::Result<Answer<R>> {
        Ok(match serde_json::from_str(text)? {
            Self::Done { body, .. } => Ok(serde_json::from_str(&body)?),
            Self::Refused(problem) => Err(problem),
        })
    }
}

/// The guard of a request: the user's key, if there is one.
#[derive(Debug)]
pub(crate) struct Keyed<R> {
    pub user: UserId,
    pub request: Option<KeyedRequest>,
    pub reply: PhantomData<fn() -> R>,
}

#[async_trait]
impl<R: Reply> Guard for Keyed<R> {
    type Reply = Answer<R>;
    type Key = (UserId, String);

    fn key(&self) -> Option<(UserId, String)> {
        Some((self.user, self.request.as_ref()?.key.clone()))
    }

    async fn find(reader: &mut Reader, guards: &[&Self]) -> Result<Vec<Option<Done<Answer<R>>>>> {
        let keys: Vec<_> = guards.iter().filter_map(|guard| guard.key()).collect();
        let stored = if keys.is_empty() { HashMap::new() } else { find(reader, &keys).await? };
        let replay = |guard: &&Self| {
            let (first, answer) = stored.get(&guard.key()?)?;
            Some(guard.request.as_ref()?.replay(first, answer))
        };
        Ok(guards.iter().map(replay).collect())
    }

    fn mark(done: &[(&Self, &[Answer<R>])], now: Timestamp) -> Vec<Statement> {
        let keyed = |(guard, replies): &(&Self, &[Answer<R>])| {
            let answer = Stored::write(replies.first()?).expect("an answer is a JSON value");
            Some((guard.user, guard.request.clone()?, answer))
        };
        let keyed_only = done.iter().filter(|(guard, _)| guard.request.is_some());
        let answers: Vec<_> = keyed_only.filter_map(keyed).collect();
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
pub async fn find_answer<R: Reply>(
    db: &Db,
    user: UserId,
    request: &KeyedRequest,
) -> std::result::Result<Option<Answered<R>>, Problem> {
    let guard = Keyed { user, request: Some(request.clone()), reply: PhantomData };
    let find = async { Keyed::find(&mut db.read().await?, &[&guard]).await };
    let done = find.await.map_err(store_problem)?.pop().flatten();
    Ok(done.and_then(|mut done| {
        Some(Answered { answer: done.replies.pop()?, replayed: done.repeated })
    }))
}

/// Which of these keys were used before, with what, and the answers given then.
async fn find<R: Reply>(
    reader: &mut Reader,
    keys: &[(UserId, String)],
) -> Result<HashMap<(UserId, String), (KeyedRequest, Answer<R>)>> {
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
        let answer = Stored::read(&answer).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(((user.into(), key.clone()), (KeyedRequest { key, fingerprint }, answer)))
    };
    found.into_iter().map(read).collect()
}

/// Keeps the answers given to these keys. A key taken in the meantime is a conflict.
fn keep(mut answers: Vec<(UserId, KeyedRequest, String)>, now: Timestamp) -> Statement {
    // One order for all instances, or two with the same keys could deadlock.
    answers.sort_by(|a, b| (a.0, &a.1.key).cmp(&(b.0, &b.1.key)));
    let rows = Rows::of(&answers)
        .uuid("user_id", |(user, ..)| user.uuid())
        .text("key", |(_, request, _)| request.key.clone())
        .text("fingerprint", |(_, request, _)| request.fingerprint.clone())
        .text("answer", |(.., answer)| answer.clone())
        .done();
    Statement::new(
        "insert into idempotency_keys (user_id, key, fingerprint, answer, created_at)
         select user_id, key, fingerprint, answer, $1 from {rows}",
    )
    .bind(now.micros())
    .rows(rows)
}
