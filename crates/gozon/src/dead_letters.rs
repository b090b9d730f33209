//! `gozon dead-letters`: lists, shows, retries and discards messages that were given up on.

use std::{
    fmt,
    io::{self, Write},
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use gozon_contract::Timestamp;
use gozon_messaging::{
    DeadLetter, DeadLetters,
    dead_letters::{Cursor, Filter},
};
use serde_json::{Value, json};

use crate::{
    audit::open,
    config::Databases,
    migrate::clock_of,
    terminal::{self, printable, printable_json},
};

/// The most characters of an error in a line of the list.
const ERROR_WIDTH: usize = 60;

/// The arguments of `gozon dead-letters`.
#[derive(Args, Debug)]
pub struct DeadLettersArgs {
    /// What to do.
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// List them, newest first
    List {
        #[command(flatten)]
        which: Which,
        /// The most to list of each database
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// Go on where an earlier list ended; needs --database
        #[arg(long, requires = "database")]
        cursor: Option<Cursor>,
    },
    /// Show one in full, with its body
    Show {
        /// The message's id
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Give them another chance: back to their handler, or to the outbox if they were to be sent
    Retry(Chosen),
    /// Drop them for good
    Discard(Chosen),
}

/// Which dead letters to retry or discard.
#[derive(Args, Debug)]
struct Chosen {
    /// A message's id; without one, all that match the filters
    id: Option<String>,
    /// Every one, without any filter
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    which: Which,
}

/// The filters; a dead letter must match all that are given.
#[derive(Args, Debug)]
struct Which {
    /// Of this topic, such as payment.requested
    #[arg(long)]
    topic: Option<String>,
    /// With this partition key: the user's id
    #[arg(long)]
    key: Option<String>,
    /// With this text in the error
    #[arg(long)]
    error: Option<String>,
    /// Given up on at this time or later, such as 2025-11-28T09:00:00Z
    #[arg(long, value_parser = instant)]
    since: Option<Timestamp>,
    /// Given up on at this time or earlier
    #[arg(long, value_parser = instant)]
    until: Option<Timestamp>,
    #[command(flatten)]
    place: Place,
}

/// Which databases to read, and the format of the answer.
#[derive(Args, Debug)]
struct Place {
    /// Only this one of the two databases
    #[arg(long)]
    database: Option<Service>,
    /// Answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    databases: Databases,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Service {
    Orders,
    Payments,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Orders => "orders",
            Self::Payments => "payments",
        })
    }
}

fn instant(text: &str) -> Result<Timestamp, String> {
    serde_json::from_value(json!(text)).map_err(|_| "not a time like 2025-11-28T09:00:00Z".into())
}

/// Runs the action and prints its result on standard output.
pub async fn run(args: DeadLettersArgs) -> anyhow::Result<()> {
    let out = &mut io::stdout().lock();
    match args.action {
        Action::List { which, limit, cursor } => list(&which, limit, cursor.as_ref(), out).await,
        Action::Show { id, place } => show(id, &place, out).await,
        Action::Retry(chosen) => change(&chosen, true, out).await,
        Action::Discard(chosen) => change(&chosen, false, out).await,
    }
}

impl Place {
    /// The dead letters of each database asked for.
    async fn open(&self) -> anyhow::Result<Vec<(Service, DeadLetters)>> {
        let urls = [
            (Service::Orders, self.databases.orders_url()),
            (Service::Payments, self.databases.payments_url()),
        ];
        let mut opened = Vec::new();
        for (service, url) in urls {
            if self.database.is_none_or(|only| only == service) {
                let db = open(&service.to_string(), &url, 1)?;
                let clock = clock_of(&db).await;
                opened.push((service, DeadLetters::new(db, clock)));
            }
        }
        Ok(opened)
    }
}

impl Which {
    fn filter(&self, id: Option<String>) -> Filter {
        Filter {
            id,
            topic: self.topic.clone(),
            key: self.key.clone(),
            error: self.error.clone(),
            since: self.since,
            until: self.until,
        }
    }

    fn is_empty(&self) -> bool {
        self.topic.is_none()
            && self.key.is_none()
            && self.error.is_none()
            && self.since.is_none()
            && self.until.is_none()
    }
}

fn unreadable(service: Service) -> String {
    format!("the dead letters of the {service} database can't be read")
}

async fn list(
    which: &Which,
    limit: u32,
    after: Option<&Cursor>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let mut items = Vec::new();
    let mut next = Vec::new();
    for (service, letters) in which.place.open().await? {
        let page = letters.list(&which.filter(None), after, limit).await;
        let page = page.with_context(|| unreadable(service))?;
        next.extend(page.next.map(|cursor| (service, cursor)));
        items.extend(page.letters.into_iter().map(|letter| (service, letter)));
    }
    if which.place.json {
        let items: Vec<_> =
            items.iter().map(|(service, letter)| as_json(*service, letter)).collect();
        let next: serde_json::Map<_, _> =
            next.iter().map(|(service, at)| (service.to_string(), json!(at.to_string()))).collect();
        return print_json(&json!({"items": items, "next_cursor": next}), out);
    }
    if items.is_empty() {
        writeln!(out, "no dead letters")?;
        return Ok(());
    }
    let header = ("DATABASE", "ORIGIN", "DIED AT", "TRIES", "ID", "ERROR");
    let ids: Vec<_> = items.iter().map(|(_, letter)| printable(&letter.message.id)).collect();
    let width = ids.iter().map(|id| id.chars().count()).max().unwrap_or(2);
    let (database, origin, died, tries, id, error) = header;
    writeln!(out, "{database:8}  {origin:6}  {died:27}  {tries:>5}  {id:width$}  {error}")?;
    for ((service, letter), id) in items.iter().zip(&ids) {
        let DeadLetter { origin, attempts, .. } = letter;
        let (database, origin) = (service.to_string(), origin.as_str());
        let (died, error) = (letter.died_at.to_string(), one_line(&letter.error));
        writeln!(out, "{database:8}  {origin:6}  {died:27}  {attempts:>5}  {id:width$}  {error}")?;
    }
    for (service, cursor) in next {
        let cursor = cursor.to_string();
        let cursor = printable(&cursor);
        writeln!(out, "more in {service}: --database {service} --cursor {cursor}")?;
    }
    Ok(())
}

async fn show(id: String, place: &Place, out: &mut impl Write) -> anyhow::Result<()> {
    let filter = Filter { id: Some(id.clone()), ..Filter::default() };
    let mut found = Vec::new();
    for (service, letters) in place.open().await? {
        let page = letters.list(&filter, None, 2).await.with_context(|| unreadable(service))?;
        found.extend(page.letters.into_iter().map(|letter| (service, letter)));
    }
    if found.is_empty() {
        bail!("there is no dead letter {}", printable(&id));
    }
    if place.json {
        let items: Vec<_> =
            found.iter().map(|(service, letter)| as_json(*service, letter)).collect();
        return print_json(&json!({"items": items}), out);
    }
    for (service, letter) in found {
        writeln!(out, "id        {}", printable(&letter.message.id))?;
        writeln!(out, "database  {service}, {}", letter.origin.as_str())?;
        writeln!(out, "topic     {}", printable(&letter.message.topic))?;
        writeln!(out, "key       {}", printable(&letter.message.key))?;
        writeln!(out, "received  {}", letter.received_at)?;
        writeln!(out, "died      {}, after {} attempts", letter.died_at, letter.attempts)?;
        writeln!(out, "error     {}", printable(&letter.error))?;
        match body(&letter) {
            Value::String(text) => writeln!(out, "body      {}", printable(&text))?,
            body => writeln!(out, "body      {}", printable_json(&body))?,
        }
    }
    Ok(())
}

async fn change(chosen: &Chosen, retry: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let Chosen { id, all, which } = chosen;
    if id.is_none() && which.is_empty() && !all {
        bail!("say which: an id, a filter, or --all");
    }
    if *all && (id.is_some() || !which.is_empty()) {
        bail!("--all goes without an id and without filters");
    }
    let filter = which.filter(id.clone());
    let mut counts = serde_json::Map::new();
    for (service, letters) in which.place.open().await? {
        let doing = if retry { "putting back" } else { "discarding" };
        let spinner = terminal::spinner(format!("{doing} dead letters of the {service} database"));
        let count =
            if retry { letters.retry(&filter).await } else { letters.discard(&filter).await };
        spinner.finish_and_clear();
        let count = count.with_context(|| unreadable(service))?;
        if !which.place.json {
            let done = if retry { "put back" } else { "discarded" };
            writeln!(out, "{service}: {count} {done}")?;
        }
        counts.insert(service.to_string(), json!(count));
    }
    if which.place.json { print_json(&Value::Object(counts), out) } else { Ok(()) }
}

/// The beginning of an error, on one line.
fn one_line(error: &str) -> String {
    let flat = error.split_whitespace().collect::<Vec<_>>().join(" ");
    let flat = printable(&flat).into_owned();
    if flat.chars().count() <= ERROR_WIDTH {
        return flat;
    }
    flat.chars().take(ERROR_WIDTH - 1).chain(['…']).collect()
}

/// The body as the JSON that it should be, or as the text that it is.
fn body(letter: &DeadLetter) -> Value {
    let body = &letter.message.body;
    serde_json::from_slice(body).unwrap_or_else(|_| json!(String::from_utf8_lossy(body)))
}

fn as_json(service: Service, letter: &DeadLetter) -> Value {
    json!({
        "database": service.to_string(),
        "origin": letter.origin.as_str(),
        "id": letter.message.id,
        "topic": letter.message.topic,
        "key": letter.message.key,
        "received_at": letter.received_at,
        "died_at": letter.died_at,
        "attempts": letter.attempts,
        "error": letter.error,
        "body": body(letter),
    })
}

fn print_json(value: &Value, out: &mut impl Write) -> anyhow::Result<()> {
    Ok(writeln!(out, "{}", printable_json(value))?)
}
