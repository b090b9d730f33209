//! The result of a run.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    Args,
    processes::ProcessorTime,
    tracker::{Latencies, Sample, Tracker, millis},
};

/// The result, as printed and as JSON. Latencies are in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    clients: usize,
    rate: Option<f64>,
    users: usize,
    zipf: Option<f64>,
    sockets: usize,
    /// Time during which orders were placed.
    seconds: f64,
    accepted: u64,
    accepted_per_second: f64,
    finished: u64,
    cancelled: u64,
    /// Accepted, but not settled.
    unsettled: usize,
    /// Settled orders, divided by the time from the start until the last one was settled.
    settled_per_second: f64,
    /// Time from the end of the load until the last order was settled.
    drain_seconds: f64,
    /// Number of requests without a 201, by reason.
    failed: BTreeMap<String, u64>,
    /// Number of orders that were due while no client was free to place them.
    missed: u64,
    sockets_lost: u64,
    /// From an order's due time (in the closed loop: from its sending) to its 201.
    accept_ms: Quantiles,
    /// From the 201 to the settled frame.
    settle_ms: Quantiles,
    /// From the start of the load until the last order was settled; only with `--processes`.
    processor: Option<ProcessorTime>,
    pub over_time: Vec<Sample>,
}

#[derive(Debug, Serialize)]
struct Quantiles {
    count: u64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Quantiles {
    fn of(latencies: &Latencies) -> Self {
        Self {
            count: latencies.len(),
            p50: millis(latencies, 0.5),
            p90: millis(latencies, 0.9),
            p99: millis(latencies, 0.99),
            p999: millis(latencies, 0.999),
            max: millis(latencies, 1.0),
        }
    }
}

impl Report {
    /// The report of a run that began at `start` and placed orders for as long as `loaded`.
    pub fn new(
        args: &Args,
        sockets: usize,
        start: Instant,
        loaded: Duration,
        missed: u64,
        processor: Option<ProcessorTime>,
        tracker: &Tracker,
    ) -> Self {
        let state = tracker.state();
        let seconds = loaded.as_secs_f64();
        let until_settled =
            state.last_settled.map_or(0.0, |last| (last - start).as_secs_f64()).max(0.001);
        Self {
            clients: args.clients,
            rate: args.rate,
            users: if args.hot { 1 } else { args.users },
            zipf: args.zipf,
            sockets,
            seconds,
            accepted: state.accepted,
            accepted_per_second: state.accepted as f64 / seconds,
            finished: state.finished,
            cancelled: state.cancelled,
            unsettled: state.unsettled,
            settled_per_second: state.settled() as f64 / until_settled,
            drain_seconds: (until_settled - seconds).max(0.0),
            failed: state.failed.clone(),
            missed,
            sockets_lost: state.sockets_lost,
            accept_ms: Quantiles::of(&state.to_accept),
            settle_ms: Quantiles::of(&state.to_settle),
            processor,
            over_time: state.seconds.clone(),
        }
    }

    /// Prints it for people, or as JSON.
    pub fn print(&self, json: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if json {
            serde_json::to_writer_pretty(&mut out, self)?;
            return writeln!(out);
        }
        write!(out, "{self}")
    }

    /// Fails unless every accepted order was settled.
    pub fn verdict(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.accepted > 0, "no order was accepted: {:?}", self.failed);
        anyhow::ensure!(
            self.unsettled == 0,
            "{} of {} accepted orders were not settled",
            self.unsettled,
            self.accepted
        );
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "accepted  {:>9} orders in {:.1} s: {:.0}/s",
            self.accepted, self.seconds, self.accepted_per_second
        )?;
        writeln!(
            f,
            "settled   {:>9} ({} finished, {} cancelled): {:.0}/s, the last one {:.1} s after the load",
            self.finished + self.cancelled,
            self.finished,
            self.cancelled,
            self.settled_per_second,
            self.drain_seconds
        )?;
        for (reason, count) in &self.failed {
            writeln!(f, "failed    {count:>9} requests: {reason}")?;
        }
        if self.missed > 0 {
            writeln!(
                f,
                "missed    {:>9} orders: no client was free; give more --clients",
                self.missed
            )?;
        }
        if self.sockets_lost > 0 {
            writeln!(
                f,
                "sockets   {:>9} closed by the shop and connected again",
                self.sockets_lost
            )?;
        }
        writeln!(
            f,
            "\n{:<22}{:>9}{:>9}{:>9}{:>9}{:>9}",
            "latency in ms", "p50", "p90", "p99", "p99.9", "max"
        )?;
        for (name, of) in
            [("order to 201", &self.accept_ms), ("201 to settled frame", &self.settle_ms)]
        {
            let Quantiles { p50, p90, p99, p999, max, .. } = of;
            writeln!(f, "{name:<22}{p50:>9.1}{p90:>9.1}{p99:>9.1}{p999:>9.1}{max:>9.1}")?;
        }
        if let Some(processor) = &self.processor {
            write!(f, "\n{processor}")?;
        }
        match self.unsettled {
            0 => writeln!(f, "\nEvery accepted order is settled."),
            count => writeln!(f, "\n{count} accepted orders are NOT settled."),
        }
    }
}
