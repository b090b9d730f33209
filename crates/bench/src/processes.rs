//! Processor time of the processes that take part in a run, read from `/proc`.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, fs, io,
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::Serialize;

/// Name of the load generator's own group.
const LOAD_GENERATOR: &str = "load generator";
/// Clock ticks per second in `/proc/PID/stat`: the same on every Linux of today.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processes whose time is added up, with all their descendants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    name: String,
    pids: Vec<u32>,
}

impl FromStr for Group {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (name, pids) = text.split_once('=').context("write NAME=PID or NAME=PID,PID")?;
        let pids = pids.split(',').map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { name: name.to_owned(), pids })
    }
}

/// Processor time used since a start.
pub(crate) struct Meter {
    groups: Vec<Group>,
    start: Instant,
    before: BTreeMap<String, f64>,
}

/// Processor time of a run.
#[derive(Debug, Serialize)]
pub(crate) struct ProcessorTime {
    /// Share of all processors of the machine that the groups used together.
    pub busy: f64,
    /// Microseconds per accepted order by group.
    pub us_per_order: BTreeMap<String, f64>,
}

impl Meter {
    /// Starts to count the time of these groups and of this process. `None` without groups.
    ///
    /// # Errors
    /// One of the processes does not exist.
    pub fn start(groups: &[Group]) -> anyhow::Result<Option<Self>> {
        if groups.is_empty() {
            return Ok(None);
        }
        let mut groups = groups.to_vec();
        groups.push(Group { name: LOAD_GENERATOR.to_owned(), pids: vec![std::process::id()] });
        let processes = Processes::read()?;
        for pid in groups.iter().flat_map(|group| &group.pids) {
            anyhow::ensure!(processes.0.contains_key(pid), "there is no process {pid}");
        }
        let before = processes.seconds(&groups);
        Ok(Some(Self { groups, start: Instant::now(), before }))
    }

    /// The time since the start, divided by the number of accepted orders.
    pub fn stop(&self, orders: u64) -> io::Result<ProcessorTime> {
        let elapsed = self.start.elapsed();
        let mut used = Processes::read()?.seconds(&self.groups);
        for (name, seconds) in &mut used {
            *seconds = (*seconds - self.before[name]).max(0.0);
        }
        let processors = thread::available_parallelism()?.get() as f64;
        Ok(ProcessorTime::new(&used, elapsed, processors, orders))
    }
}

impl ProcessorTime {
    fn new(used: &BTreeMap<String, f64>, elapsed: Duration, processors: f64, orders: u64) -> Self {
        let per_order = |seconds: f64| seconds * 1e6 / orders.max(1) as f64;
        Self {
            busy: used.values().sum::<f64>() / elapsed.as_secs_f64() / processors,
            us_per_order: used.iter().map(|(name, &s)| (name.clone(), per_order(s))).collect(),
        }
    }
}

impl fmt::Display for ProcessorTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let busy = self.busy * 100.0;
        writeln!(f, "{:<22}{:>9}   {busy:.0} % of the machine", "processor time", "µs/order")?;
        for (name, us) in &self.us_per_order {
            writeln!(f, "{name:<22}{us:>9.0}")?;
        }
        Ok(())
    }
}

/// All processes of the machine by their ids.
struct Processes(HashMap<u32, Process>);

#[derive(Debug, PartialEq)]
struct Process {
    parent: u32,
    /// Time of the process and of those descendants that have ended.
    seconds: f64,
}

impl Processes {
    fn read() -> io::Result<Self> {
        let mut processes = HashMap::new();
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            // A process that has just ended has no file any more.
            if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok())
                && let Ok(stat) = fs::read_to_string(entry.path().join("stat"))
                && let Some(process) = Process::parse(&stat)
            {
                processes.insert(pid, process);
            }
        }
        Ok(Self(processes))
    }

    /// The time of each group, in seconds.
    fn seconds(&self, groups: &[Group]) -> BTreeMap<String, f64> {
        let mut seconds: BTreeMap<_, _> =
            groups.iter().map(|group| (group.name.clone(), 0.0)).collect();
        for (&pid, process) in &self.0 {
            let owner = groups.iter().find(|group| self.descends(pid, &group.pids));
            if let Some(total) = owner.and_then(|group| seconds.get_mut(&group.name)) {
                *total += process.seconds;
            }
        }
        seconds
    }

    /// Whether a process is one of `roots` or below one of them.
    fn descends(&self, pid: u32, roots: &[u32]) -> bool {
        let parent = |pid: &u32| self.0.get(pid).map(|process| process.parent);
        // Bounded, because a snapshot that is not of one instant may have a circle.
        std::iter::successors(Some(pid), parent).take(64).any(|pid| roots.contains(&pid))
    }
}

impl Process {
    /// Reads `/proc/PID/stat`. The program's name stands in parentheses and may have any
    /// characters; the fields after it are numbered as in proc(5).
    fn parse(stat: &str) -> Option<Self> {
        let (_, after_name) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u32>().ok();
        let ticks = [14, 15, 16, 17].map(field).into_iter().sum::<Option<u32>>()?;
        Some(Self { parent: field(4)?, seconds: f64::from(ticks) / TICKS_PER_SECOND })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(text: &str) -> Group {
        text.parse().unwrap()
    }

    #[test]
    fn a_group_is_a_name_and_its_processes() {
        let expected = Group { name: "database".to_owned(), pids: vec![7, 8] };
        assert_eq!(group("database=7,8"), expected);
        for text in ["database", "database=", "database=x", "database=7;8"] {
            assert!(text.parse::<Group>().is_err(), "{text}");
        }
    }

    #[test]
    fn stat_of_an_odd_program_name_is_read() {
        let stat = "7 (a) S 9 (b) S 3 7 7 0 -1 4194560 1 2 3 4 100 50 25 5 20 0 1 0 99";
        assert_eq!(Process::parse(stat), Some(Process { parent: 3, seconds: 1.8 }));
        assert_eq!(Process::parse("7 (a) S 3"), None);
    }

    #[test]
    fn descendants_count_for_the_group_of_their_root() {
        let tree = [(1, 0), (10, 1), (11, 10), (12, 11), (20, 1), (30, 1)];
        let process = |(pid, parent)| (pid, Process { parent, seconds: f64::from(pid) });
        let processes = Processes(tree.into_iter().map(process).collect());
        let seconds = processes.seconds(&[group("a=10"), group("b=20,30"), group("c=99")]);
        let expected = [("a", 33.0), ("b", 50.0), ("c", 0.0)];
        assert_eq!(seconds, expected.map(|(name, s)| (name.to_owned(), s)).into());
    }

    #[test]
    fn time_is_divided_by_orders_and_by_processors() {
        let used = [("a", 1.0), ("b", 3.0)].map(|(name, s)| (name.to_owned(), s)).into();
        let time = ProcessorTime::new(&used, Duration::from_secs(4), 2.0, 1000);
        let printed = time.to_string();
        for figure in ["50 % of the machine", "a                          1000", "3000"] {
            assert!(printed.contains(figure), "{printed}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_that_does_not_exist_is_refused() {
        assert!(Meter::start(&[]).unwrap().is_none());
        let own = format!("a={}", std::process::id());
        let used = Meter::start(&[group(&own)]).unwrap().unwrap().stop(1).unwrap();
        assert!(used.us_per_order.contains_key("a"));
        assert!(Meter::start(&[group("a=4294967295")]).is_err());
    }
}
