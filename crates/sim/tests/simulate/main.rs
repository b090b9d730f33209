//! A bounded simulation: 2,000 seeds hold, the same seed is the same run, and every fault that is put
//! back is found.
#![cfg(feature = "simulate")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod counterexamples;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use gozon_sim::{MUTATIONS, Outcome, Plan, SOMETIMES, Simulator};

/// Number of seeds; `GOZON_SEEDS` for another.
const SEEDS: u64 = 2_000;

/// Runs plans on every processor.
fn run_all(plans: &[Plan], look: impl Fn(&Plan, Outcome) + Sync) {
    let next = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut simulator = Simulator::new().unwrap();
                while let Some(plan) =
                    plans.get(usize::try_from(next.fetch_add(1, Relaxed)).unwrap())
                {
                    look(plan, simulator.run(plan, false).unwrap());
                }
            });
        }
    });
}

#[test]
fn seeds_hold_and_rare_things_happen() {
    let seeds = std::env::var("GOZON_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let plans: Vec<_> = (0..seeds.unwrap_or(SEEDS)).map(Plan::of).collect();
    let (failed, counts) = (Mutex::new(BTreeMap::new()), Mutex::new(BTreeMap::new()));
    run_all(&plans, |plan, outcome| {
        if !outcome.violations.is_empty() {
            failed.lock().unwrap().insert(plan.seed, outcome.violations);
        }
        if plan.seed < 1_000 {
            for (name, count) in outcome.counts {
                *counts.lock().unwrap().entry(name).or_insert(0) += count;
            }
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "see them with `make simulate SEED=…`: {failed:#?}");
    if plans.len() >= 1_000 {
        let counts = counts.into_inner().unwrap();
        let never: Vec<_> = SOMETIMES.iter().filter(|name| !counts.contains_key(*name)).collect();
        assert!(never.is_empty(), "these never happened in 1,000 seeds: {never:?}");
    }
}

#[test]
fn the_same_seed_is_the_same_run_in_two_processes() {
    for seed in [3, 7, 11] {
        let log = || {
            let program = env!("CARGO_BIN_EXE_gozon-sim");
            let output =
                Command::new(program).args(["--seed", &seed.to_string()]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let (first, second) = (log(), log());
        assert!(first.lines().count() > 100, "{first}");
        let differs = first.lines().zip(second.lines()).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}

/// The rows of the table: the name, and the seed that finds it.
fn table() -> BTreeMap<String, u64> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/proof-mutations.md");
    let text = fs::read_to_string(path).unwrap();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        Some((cells.next()?.to_owned(), cells.next()?.parse().ok()?))
    };
    text.lines().filter_map(row).collect()
}

#[test]
fn every_fault_put_back_is_found_as_the_table_says() {
    let table = table();
    let listed: BTreeSet<_> = table.keys().map(String::as_str).collect();
    assert_eq!(listed, MUTATIONS.iter().copied().collect());
    assert!(MUTATIONS.len() >= 25 && table.values().all(|seed| *seed < 2_000));
    let plan = |(name, seed): (&String, &u64)| {
        let mut plan = Plan::of(*seed);
        plan.mutation.clone_from(name);
        plan
    };
    let plans: Vec<_> = table.iter().map(plan).collect();
    let missed = Mutex::new(Vec::new());
    run_all(&plans, |plan, outcome| {
        if outcome.violations.is_empty() {
            missed.lock().unwrap().push((plan.mutation.clone(), plan.seed));
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
fn every_fault_that_can_be_put_back_is_listed() {
    let mut names = BTreeSet::new();
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders: Vec<_> =
        ["api", "gateway", "messaging", "orders", "payments", "service", "store"]
            .map(|name| crates.join(name).join("src"))
            .into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let text = fs::read_to_string(path).unwrap();
                let found = text.split("mutation!(\"").skip(1);
                names.extend(found.filter_map(|rest| Some(rest.split('"').next()?.to_owned())));
            }
        }
    }
    let listed: BTreeSet<_> = MUTATIONS.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(names, listed);
}
