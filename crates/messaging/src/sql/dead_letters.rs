//! The dead letters: given up on until a person decides.

use gozon_contract::Timestamp;
use gozon_store::{Arg, Query, Reader, Result, Tx, select};

use crate::{
    Message,
    dead_letters::{Cursor, DeadLetter, Filter, Origin},
};

/// The condition of a [`Filter`], bound as `$1` to `$6`. `replace` finds a text within another on
/// both databases, without characters that mean something else.
macro_rules! matching {
    () => {
        "($1 is null or id = $1) and ($2 is null or topic = $2)
         and ($3 is null or partition_key = $3)
         and ($4 is null or replace(error, $4, '') <> error)
         and died_at >= $5 and died_at <= $6"
    };
}

fn bind<'t>(query: Query<'t>, filter: &Filter) -> Query<'t> {
    let text = |text: &Option<String>| Arg::from(text.as_deref().filter(|text| !text.is_empty()));
    query
        .bind(text(&filter.id))
        .bind(text(&filter.topic))
        .bind(text(&filter.key))
        .bind(text(&filter.error))
        .bind(filter.since.map_or(i64::MIN, Timestamp::micros))
        .bind(filter.until.map_or(i64::MAX, Timestamp::micros))
}

#[derive(sqlx::FromRow)]
struct Raw {
    id: String,
    origin: String,
    topic: String,
    partition_key: String,
    body: Vec<u8>,
    received_at: i64,
    attempts: i64,
    died_at: i64,
    error: String,
}

impl From<Raw> for DeadLetter {
    fn from(raw: Raw) -> Self {
        Self {
            origin: Origin::of(&raw.origin),
            message: Message {
                id: raw.id,
                topic: raw.topic,
                key: raw.partition_key,
                body: raw.body.into(),
            },
            received_at: Timestamp::from_micros(raw.received_at),
            attempts: raw.attempts,
            died_at: Timestamp::from_micros(raw.died_at),
            error: raw.error,
        }
    }
}

/// Sets a message aside, until a person decides.
pub(crate) async fn insert(tx: &mut Tx, letter: &DeadLetter) -> Result<()> {
    tx.query(
        "insert into dead_letters
            (id, origin, topic, partition_key, body, received_at, attempts, died_at, error)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         on conflict (id, origin) do update set
            body = excluded.body, partition_key = excluded.partition_key,
            attempts = excluded.attempts, died_at = excluded.died_at, error = excluded.error",
    )
    .bind(letter.message.id.as_str())
    .bind(letter.origin.as_str())
    .bind(letter.message.topic.as_str())
    .bind(letter.message.key.as_str())
    .bind(&*letter.message.body)
    .bind(letter.received_at.micros())
    .bind(letter.attempts)
    .bind(letter.died_at.micros())
    .bind(letter.error.as_str())
    .execute()
    .await
    .map(drop)
}

/// Those that match, newest first, beginning behind `after`.
pub(crate) async fn list(
    reader: &mut Reader,
    filter: &Filter,
    after: Option<&Cursor>,
    limit: i64,
) -> Result<Vec<DeadLetter>> {
    let query = reader.query(select!(concat!(
        "select id, origin, topic, partition_key, body, received_at, attempts, died_at, error
         from dead_letters where ",
        matching!(),
        " and (died_at, id, origin) < ($7, $8, $9)
         order by died_at desc, id desc, origin desc limit $10"
    )));
    let rows: Vec<Raw> = bind(query, filter)
        .bind(after.map_or(i64::MAX, |after| after.died_at.micros()))
        .bind(after.map_or("", |after| after.id.as_str()))
        .bind(after.map_or("", |after| after.origin.as_str()))
        .bind(limit)
        .fetch_all()
        .await?;
    Ok(rows.into_iter().map(DeadLetter::from).collect())
}

/// Takes out up to `limit` of those that match, oldest first.
pub(crate) async fn take(tx: &mut Tx, filter: &Filter, limit: i64) -> Result<Vec<DeadLetter>> {
    let query = tx.query(concat!(
        "with taken as materialized (
            select id, origin from dead_letters where ",
        matching!(),
        " order by died_at, id, origin limit $7 {skip_locked}
         )
         delete from dead_letters where (id, origin) in (select id, origin from taken)
         returning id, origin, topic, partition_key, body, received_at, attempts, died_at, error"
    ));
    let rows: Vec<Raw> = bind(query, filter).bind(limit).fetch_all().await?;
    Ok(rows.into_iter().map(DeadLetter::from).collect())
}

/// How many there are; `most` stands for that many or more.
pub(crate) async fn count(reader: &mut Reader, most: i64) -> Result<i64> {
    let (count,): (i64,) = reader
        .query(select!(
            "select count(*) from (select 1 as one from dead_letters limit $1) as counted"
        ))
        .bind(most)
        .fetch_one()
        .await?;
    Ok(count)
}
