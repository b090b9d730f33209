//! A run from its start to its report.

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
    Args, check, frames, http, load,
    processes::Meter,
    report::Report,
    schedule::Schedule,
    svg,
    tracker::Tracker,
    users::{self, Users},
};

/// Time between two samples, and between two updates of the progress line.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Loads the shop, prints the report, and checks that every accepted order was settled.
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
    let tracker = Arc::new(Tracker::default());
    open_accounts(&host, &users, args.clients).await?;
    let watched = args.sockets.min(users.ids().len());
    follow(&host, &users.ids()[..watched], &tracker).await?;

    let seconds = if args.orders.is_none() { args.seconds.or(Some(10.0)) } else { args.seconds };
    let pool = Arc::new(http::Pool::to(&host));
    let meter = Meter::start(&args.processes)?;
    let start = Instant::now();
    let schedule = Arc::new(Schedule::start(args.rate, seconds, args.orders));
    let goal = args.orders.map_or(Goal::Seconds(seconds.unwrap_or_default()), Goal::Orders);
    let sampler = tokio::spawn(sample(start, goal, Arc::clone(&tracker)));
    let mut clients = JoinSet::new();
    for _ in 0..args.clients.max(1) {
        let (users, schedule) = (Arc::clone(&users), Arc::clone(&schedule));
        clients.spawn(load::client(Arc::clone(&pool), users, schedule, Arc::clone(&tracker)));
    }
    clients.join_all().await;
    let loaded = start.elapsed();
    let patience = Duration::from_secs(args.patience);
    check::all_settled(&tracker, &host, users.ids(), patience).await?;
    let accepted = tracker.state().accepted;
    let processor = meter.map(|meter| meter.stop(accepted)).transpose()?;
    sampler.abort();
    tracker.sample(start, SAMPLE_INTERVAL);
    Ok(Report::new(args, watched, start, loaded, schedule.missed(), processor, &tracker))
}

/// The host and port of `http://host:port/`.
fn host_of(url: &str) -> anyhow::Result<Arc<str>> {
    let host = url.strip_prefix("http://").context("--url must start with http://")?;
    let host = host.trim_end_matches('/');
    anyhow::ensure!(!host.contains(['@', '/', '?']), "--url is a scheme, a host and a port alone");
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
async fn follow(host: &Arc<str>, users: &[Uuid], tracker: &Arc<Tracker>) -> anyhow::Result<()> {
    for &user in users {
        let (sender, connected) = oneshot::channel();
        tokio::spawn(frames::follow(Arc::clone(host), user, Arc::clone(tracker), sender));
        connected.await.context("a socket task ended")??;
    }
    Ok(())
}

/// When a run is through, as far as its progress bar is concerned.
#[derive(Clone, Copy)]
enum Goal {
    Orders(u64),
    Seconds(f64),
}

impl Goal {
    /// How much of 100 is done.
    fn percent(self, start: Instant, accepted: u64) -> u64 {
        let done = match self {
            Self::Orders(orders) => accepted as f64 / orders.max(1) as f64,
            Self::Seconds(seconds) => start.elapsed().as_secs_f64() / seconds.max(1e-3),
        };
        // A number from 0 to 100.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let percent = (done * 100.0).clamp(0.0, 100.0) as u64;
        percent
    }
}

/// Takes a sample each second, and shows it behind a progress bar on a terminal.
async fn sample(start: Instant, goal: Goal, tracker: Arc<Tracker>) {
    let bar = ProgressBar::new(100);
    if let Ok(style) = ProgressStyle::with_template("{bar:20} {percent} % {msg}") {
        bar.set_style(style);
    }
    // Drawn once at once, so that it is seen however short the run is.
    bar.tick();
    let mut ticks = interval(SAMPLE_INTERVAL);
    let mut last = ticks.tick().await;
    loop {
        let now = ticks.tick().await;
        tracker.sample(start, now - last);
        last = now;
        let state = tracker.state();
        if let Some(sample) = state.seconds.last() {
            bar.set_position(goal.percent(start, state.accepted));
            bar.set_message(format!(
                "{:.0} s  {:.0} accepted/s  {:.0} settled/s  {} unsettled  201 in {:.1} ms  settled in {:.1} ms",
                sample.at, sample.accepted, sample.settled, state.unsettled, sample.accept_p50, sample.settle_p50,
            ));
            bar.tick();
        }
    }
}
