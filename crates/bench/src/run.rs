//! A run from its start to its verdict.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use gozon_contract::RandomSource;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{sync::oneshot, task::JoinSet, time::interval};
use uuid::Uuid;

use crate::{
    Args,
    book::Book,
    check, frames, http, load,
    pace::Pace,
    report::Report,
    svg,
    users::{self, Users},
};

/// How often the progress line and the samples move on.
const SECOND: Duration = Duration::from_secs(1);

/// Loads the shop as `args` say, prints what came of it, and checks that every accepted order was
/// settled.
///
/// # Errors
/// The shop can't be used, nothing was accepted, or an accepted order was not settled.
pub fn run(args: &Args) -> anyhow::Result<()> {
    // One thread: the servers need the others.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(bench(args))?;
    if let Some(file) = &args.svg {
        std::fs::write(file, svg::plot(&report))
            .with_context(|| format!("can't write {}", file.display()))?;
    }
    report.print(args.json)?;
    report.verdict()
}

async fn bench(args: &Args) -> anyhow::Result<Report> {
    let host = host_of(&args.url)?;
    let users = Arc::new(Users::new(args, &host, RandomSource::system()));
    let book = Arc::new(Book::default());
    open_accounts(&host, &users, args.clients).await?;
    let watched = args.sockets.min(users.ids().len());
    follow(&host, &users.ids()[..watched], &book).await?;

    let seconds = if args.orders.is_none() { args.seconds.or(Some(10.0)) } else { args.seconds };
    let start = Instant::now();
    let pace = Arc::new(Pace::start(args.rate, seconds, args.orders));
    let ticker = tokio::spawn(tick(start, Arc::clone(&book)));
    let mut clients = JoinSet::new();
    for _ in 0..args.clients.max(1) {
        let (users, pace, book) = (Arc::clone(&users), Arc::clone(&pace), Arc::clone(&book));
        clients.spawn(load::client(Arc::clone(&host), users, pace, book));
    }
    clients.join_all().await;
    let loaded = start.elapsed();
    let patience = Duration::from_secs(args.patience);
    check::all_settled(&book, &host, users.ids(), patience).await?;
    ticker.abort();
    book.tick(start, SECOND);
    Ok(Report::new(args, watched, start, loaded, pace.missed(), &book))
}

/// The host and port of `http://host:port/`.
fn host_of(url: &str) -> anyhow::Result<Arc<str>> {
    let host = url.strip_prefix("http://").context("--url must start with http://")?;
    let host = host.trim_end_matches('/');
    Ok(if host.contains(':') { host.into() } else { format!("{host}:80").into() })
}

async fn open_accounts(host: &Arc<str>, users: &Arc<Users>, clients: usize) -> anyhow::Result<()> {
    let clients = clients.clamp(1, 64);
    let mut opening = JoinSet::new();
    for first in 0..clients {
        let (host, users) = (Arc::clone(host), Arc::clone(users));
        opening.spawn(async move {
            let mut connection = http::Connection::to(&host);
            for &user in users.ids().iter().skip(first).step_by(clients) {
                users::open(&mut connection, &host, user).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(opened) = opening.join_next().await {
        opened?.with_context(|| format!("can't open accounts at http://{host}"))?;
    }
    Ok(())
}

/// Opens a socket for each of these users.
async fn follow(host: &Arc<str>, users: &[Uuid], book: &Arc<Book>) -> anyhow::Result<()> {
    for &user in users {
        let (sender, connected) = oneshot::channel();
        tokio::spawn(frames::follow(Arc::clone(host), user, Arc::clone(book), sender));
        connected.await.context("a socket task ended")??;
    }
    Ok(())
}

/// Takes a sample each second, and shows how it goes where somebody may be looking.
async fn tick(start: Instant, book: Arc<Book>) {
    let line = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        line.set_style(style);
    }
    let mut ticks = interval(SECOND);
    let mut last = ticks.tick().await;
    loop {
        let now = ticks.tick().await;
        book.tick(start, now - last);
        last = now;
        let pages = book.pages();
        if let Some(sample) = pages.seconds.last() {
            line.set_message(format!(
                "{:.0} s  {:.0} accepted/s  {:.0} settled/s  {} unsettled  201 in {:.1} ms  settled in {:.1} ms",
                sample.at, sample.accepted, sample.settled, pages.unsettled, sample.accept_p50, sample.settle_p50,
            ));
            line.tick();
        }
    }
}
