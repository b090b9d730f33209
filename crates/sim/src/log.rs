//! What happened in a run: a hash of all of it, how often the rare things happened, and, if it is
//! recorded, a line for each event.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt::{self, Write as _},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use gozon_seam::{Process, current};
use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};
use tokio::time::Instant;
use tracing::{Event, Level, Subscriber, field::Visit, span};

/// What must happen now and then, or a simulation proves nothing.
pub const SOMETIMES: &[&str] = &[
    "a repeat met the inbox",
    "a repeat met its idempotency key",
    "an answer was lost and asked for again",
    "a lease was taken over",
    "a conflict",
    "jobs were run each by itself",
    "a delivery was given back",
    "a delivery was taken into the inbox",
    "a later attempt succeeded",
    "a letter died",
    "a dead letter was retried",
    "a dead letter was discarded",
    "an order was asked for again",
    "a jump of the time was corrected",
    "another process's correction was followed",
    "a broadcast was lost, and sockets caught up",
    "a socket was closed by the server",
    "a socket saw an order settled",
    "an instance was left alone",
    "a statement was done and its answer lost",
    "a connection to a database was lost",
    "a database refused a statement",
    "killed between a statement and its answer",
    "a connection was refused or broke before the answer",
    "a published message was lost",
    "a confirm was lost",
    "a message arrived twice",
    "a message was overtaken",
    "the broker lost what was not confirmed",
    "consumers lost the broker",
    "a queue was lost",
    "the broker rejected a batch",
    "new orders were refused",
    "an order was declined",
    "an instance was paused",
    "an instance was killed",
    "an instance was restarted with other settings",
];

/// Parts of our own log's messages, and what they show.
const MESSAGES: &[(&str, &str)] = &[
    ("took over from the outbox", "a lease was taken over"),
    ("each job by itself", "jobs were run each by itself"),
    ("taking a group one by one", "jobs were run each by itself"),
    ("giving a batch back", "a delivery was given back"),
    ("a delivery can't be done as a whole", "a delivery was taken into the inbox"),
    ("a later attempt succeeded", "a later attempt succeeded"),
    ("a message became a dead letter", "a letter died"),
    ("the database's clock has jumped; corrected", "a jump of the time was corrected"),
    ("another process has set the time", "another process's correction was followed"),
    ("lost the broadcast", "a broadcast was lost, and sockets caught up"),
    ("an instance is left alone", "an instance was left alone"),
    ("orders wait for too long", "new orders were refused"),
    ("lost the broker", "consumers lost the broker"),
    ("a unit of work met a conflict", "a conflict"),
];

/// Counters of our own metrics, and what they show.
const COUNTERS: &[(&str, &str)] = &[
    ("gozon_inbox_repeats_total", "a repeat met the inbox"),
    ("gozon_orders_asked_again_total", "an order was asked for again"),
    ("gozon_stream_closed_total", "a socket was closed by the server"),
];

#[derive(Default)]
struct Log {
    started: Option<Instant>,
    counts: BTreeMap<&'static str, u64>,
    hash: DefaultHasher,
    lines: Option<Vec<String>>,
}

thread_local! {
    static LOG: RefCell<Log> = RefCell::default();
}

/// What a log came to.
pub(crate) struct Recorded {
    pub hash: u64,
    pub counts: BTreeMap<&'static str, u64>,
    pub lines: Vec<String>,
}

/// Begins a log, with lines if they are wanted.
pub(crate) fn start(recording: bool) {
    let lines = recording.then(Vec::new);
    LOG.set(Log { started: Some(Instant::now()), lines, ..Log::default() });
}

/// Ends it.
pub(crate) fn finish() -> Recorded {
    let log = LOG.take();
    let lines = log.lines.unwrap_or_default();
    Recorded { hash: log.hash.finish(), counts: log.counts, lines }
}

/// Whether lines are wanted.
pub(crate) fn is_recording() -> bool {
    LOG.with_borrow(|log| log.lines.is_some())
}

/// Counts something rare.
pub(crate) fn sometimes(what: &'static str) {
    LOG.with_borrow_mut(|log| *log.counts.entry(what).or_default() += 1);
}

/// Adds what happened to the hash.
pub(crate) fn mark(what: &str) {
    LOG.with_borrow_mut(|log| {
        let since = log.started.map_or(Duration::ZERO, |at| at.elapsed());
        (since, current().map(Process::name), what).hash(&mut log.hash);
    });
}

/// Writes a line, if lines are wanted.
pub(crate) fn note(what: fmt::Arguments<'_>) {
    if !is_recording() {
        return;
    }
    let text = what.to_string();
    mark(&text);
    let name = current().map_or("-", Process::name);
    LOG.with_borrow_mut(|log| {
        let since = log.started.map_or(Duration::ZERO, |at| at.elapsed());
        let line = format!("{:>9.3} {name:<10} {text}", since.as_secs_f64());
        log.lines.get_or_insert_default().push(line);
    });
}

/// Our own log, into this one.
pub(crate) struct OwnLog;

impl Subscriber for OwnLog {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_event()
            && *metadata.level() <= Level::DEBUG
            && metadata.target().starts_with("gozon")
    }

    fn max_level_hint(&self) -> Option<tracing::metadata::LevelFilter> {
        Some(tracing::metadata::LevelFilter::DEBUG)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        for (part, name) in MESSAGES {
            if text.message.contains(part) {
                sometimes(name);
            }
        }
        note(format_args!("{} {}{}", event.metadata().level(), text.message, text.fields));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else if is_recording() {
            let _ = write!(self.fields, " {}={value:?}", field.name());
        }
    }
}

/// Our own metrics, into this log.
pub(crate) struct OwnMetrics;

struct Counted(&'static str);

impl CounterFn for Counted {
    fn increment(&self, by: u64) {
        if by > 0 {
            sometimes(self.0);
        }
    }

    fn absolute(&self, _: u64) {}
}

impl metrics::Recorder for OwnMetrics {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let wanted = COUNTERS.iter().find(|(name, _)| *name == key.name());
        wanted.map_or_else(Counter::noop, |(_, name)| Counter::from_arc(Arc::new(Counted(name))))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
