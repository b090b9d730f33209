//! Searching all states, and what is found.

use std::{
    collections::HashMap,
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    num::NonZeroUsize,
};

use stateright::{Checker, HasDiscoveries, Model};

use crate::{Action, Shop, State};

/// What a search came to.
#[derive(Debug)]
pub struct Search {
    /// How many different states there are; with a counterexample, how many were looked at.
    pub states: usize,
    /// How many steps the farthest of them is away.
    pub depth: usize,
    /// A run that breaks a promise.
    pub counterexample: Option<Counterexample>,
}

/// The steps of a run that breaks a promise.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// The promise.
    pub broken: String,
    /// The steps.
    pub steps: Vec<Action>,
    /// From which of the steps on the run repeats itself, if it has no end.
    pub repeats_from: Option<usize>,
}

impl Shop {
    /// Searches all states for one that breaks a [property](crate::properties), the nearest first, and
    /// then for a run without an end.
    pub fn search(&self) -> Search {
        // One thread finds the same counterexample each time.
        let threads = match self.trap {
            Some(_) => 1,
            None => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        };
        let checker = self.clone().checker().threads(threads).finish_when(HasDiscoveries::Any);
        let checker = checker.spawn_bfs().join();
        let mut found: Vec<_> = checker
            .discoveries()
            .into_iter()
            .map(|(broken, path)| Counterexample {
                broken: broken.to_owned(),
                steps: path.into_actions(),
                repeats_from: None,
            })
            .collect();
        found.sort_by_key(|found| found.steps.len());
        let counterexample = found.into_iter().next().or_else(|| self.endless_run());
        Search { states: checker.unique_state_count(), depth: checker.max_depth(), counterexample }
    }

    /// A run that comes back to a state where it was before, looked for in depth. If there is none,
    /// every run ends.
    fn endless_run(&self) -> Option<Counterexample> {
        /// A state on the way, and the steps from it that were not taken yet.
        struct Frame {
            state: State,
            steps: Vec<Action>,
        }
        let frame = |state: State| {
            let mut steps = Vec::new();
            self.actions(&state, &mut steps);
            Frame { state, steps }
        };
        // Whether a state is on the way; otherwise all that follows from it was looked at.
        let mut seen = HashMap::new();
        let mut taken = Vec::new();
        let mut way: Vec<Frame> = self.init_states().into_iter().take(1).map(frame).collect();
        seen.extend(way.iter().map(|frame| (fingerprint(&frame.state), true)));
        while let Some(top) = way.last_mut() {
            let Some(step) = top.steps.pop() else {
                seen.insert(fingerprint(&top.state), false);
                way.pop();
                taken.pop();
                continue;
            };
            let Some(next) = self.next_state(&top.state, step) else { continue };
            let print = fingerprint(&next);
            match seen.get(&print) {
                Some(false) => {}
                Some(true) => {
                    let again = way.iter().position(|frame| fingerprint(&frame.state) == print);
                    taken.push(step);
                    let broken = "every run ends".to_owned();
                    return Some(Counterexample { broken, steps: taken, repeats_from: again });
                }
                None => {
                    seen.insert(print, true);
                    taken.push(step);
                    way.push(frame(next));
                }
            }
        }
        None
    }
}

impl Counterexample {
    /// The steps as JSON, one to a line, for a program to replay.
    ///
    /// # Errors
    /// Never, as far as is known.
    pub fn to_json_lines(&self) -> serde_json::Result<String> {
        let lines: serde_json::Result<Vec<_>> =
            self.steps.iter().map(serde_json::to_string).collect();
        Ok(lines?.join("\n"))
    }
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "not so: {}", self.broken)?;
        for (n, step) in self.steps.iter().enumerate() {
            if self.repeats_from == Some(n) {
                writeln!(f, "      from here again and again:")?;
            }
            writeln!(f, "{:>4}  {step}", n + 1)?;
        }
        Ok(())
    }
}

fn fingerprint(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}
