//! Simulates seeds until it is stopped, or one of them fails.

#[cfg(not(feature = "simulate"))]
fn main() {
    #[allow(clippy::print_stderr, reason = "a message for the person at the terminal")]
    {
        eprintln!("this build has no simulator; use `make simulate`");
    }
    std::process::exit(2);
}

#[cfg(feature = "simulate")]
fn main() -> anyhow::Result<()> {
    command::main()
}

#[cfg(feature = "simulate")]
mod command {
    use std::{
        collections::BTreeMap,
        io::{self, Write as _},
        sync::{
            Mutex,
            atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        },
        thread,
        time::Instant,
    };

    use clap::Parser;
    use gozon_sim::{MUTATIONS, Outcome, Plan, SOMETIMES, Simulator, shrink};

    /// Number of seeds between two lines of a long run.
    const REPORT_SEEDS: u64 = 1_000;

    /// Runs the whole shop on simulated time, once for each seed.
    #[derive(Debug, Parser)]
    #[command(name = "gozon-sim")]
    struct Args {
        /// Simulates this seed alone, with a line for each event.
        #[arg(long)]
        seed: Option<u64>,
        /// Number of seeds; without it, until stopped.
        #[arg(long)]
        seeds: Option<u64>,
        /// The first seed.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Number of threads.
        #[arg(long)]
        threads: Option<usize>,
        /// Puts back a fault that was mended; see docs/proof-mutations.md.
        #[arg(long, default_value = "")]
        mutation: String,
        /// Prints a table: for each fault that can be put back, the first seed that finds it.
        #[arg(long)]
        table: bool,
        /// Only these faults of the plan, by place: 0,3. `none` for none.
        #[arg(long)]
        faults: Option<String>,
    }

    pub fn main() -> anyhow::Result<()> {
        let args = Args::parse();
        if args.table {
            return table(&args);
        }
        match args.seed {
            Some(seed) => one(&args, seed),
            None => many(&args),
        }
    }

    fn plan(args: &Args, seed: u64) -> Plan {
        let mut plan = Plan::of(seed);
        plan.mutation.clone_from(&args.mutation);
        if let Some(kept) = &args.faults {
            let kept: Vec<usize> = kept.split(',').filter_map(|at| at.parse().ok()).collect();
            let mut place = 0;
            plan.faults.retain(|_| {
                place += 1;
                kept.contains(&(place - 1))
            });
        }
        plan
    }

    fn one(args: &Args, seed: u64) -> anyhow::Result<()> {
        let plan = plan(args, seed);
        let outcome = Simulator::new()?.run(&plan, true)?;
        let mut out = io::stdout().lock();
        for line in &outcome.lines {
            writeln!(out, "{line}")?;
        }
        writeln!(
            out,
            "seed {seed}: {:?}, {} orders, hash {:016x}",
            outcome.took, outcome.orders, outcome.hash
        )?;
        for violation in &outcome.violations {
            writeln!(out, "VIOLATION: {violation}")?;
        }
        anyhow::ensure!(outcome.violations.is_empty(), "seed {seed} fails");
        Ok(())
    }

    fn many(args: &Args) -> anyhow::Result<()> {
        let threads =
            args.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
        let (next, failed) = (AtomicU64::new(args.from), AtomicBool::new(false));
        let end = args.seeds.map_or(u64::MAX, |seeds| args.from + seeds);
        let totals = Mutex::new((0_u64, 0_u64, BTreeMap::<&str, u64>::new()));
        let started = Instant::now();
        thread::scope(|scope| {
            let work = || -> anyhow::Result<()> {
                let mut simulator = Simulator::new()?;
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= end || failed.load(Relaxed) {
                        return Ok(());
                    }
                    let plan = plan(args, seed);
                    let outcome = simulator.run(&plan, false)?;
                    if !outcome.violations.is_empty() && !failed.swap(true, Relaxed) {
                        explain(args, &mut simulator, &plan, &outcome)?;
                    }
                    if let Ok(mut totals) = totals.lock() {
                        totals.0 += 1;
                        totals.1 += outcome.orders as u64;
                        for (name, count) in outcome.counts {
                            *totals.2.entry(name).or_default() += u64::from(count > 0);
                        }
                        if totals.0 % REPORT_SEEDS == 0 {
                            report(&totals, started)?;
                        }
                    }
                }
            };
            let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().unwrap_or(Ok(())))
        })?;
        if let Ok(totals) = totals.lock() {
            report(&totals, started)?;
            let mut out = io::stdout().lock();
            for name in SOMETIMES {
                writeln!(out, "{:>9}  {name}", totals.2.get(name).copied().unwrap_or(0))?;
            }
        }
        anyhow::ensure!(!failed.load(Relaxed), "a seed fails");
        Ok(())
    }

    /// The rows of docs/proof-mutations.md.
    fn table(args: &Args) -> anyhow::Result<()> {
        let mut simulator = Simulator::new()?;
        let only = |name: &&&str| args.mutation.is_empty() || args.mutation == **name;
        for name in MUTATIONS.iter().filter(only) {
            let mut found = None;
            for seed in args.from..args.from + args.seeds.unwrap_or(2_000) {
                let mut plan = Plan::of(seed);
                (*name).clone_into(&mut plan.mutation);
                let outcome = simulator.run(&plan, false)?;
                if let Some(violation) = outcome.violations.first() {
                    found = Some((seed, violation.clone()));
                    break;
                }
            }
            let mut out = io::stdout().lock();
            match found {
                Some((seed, what)) => writeln!(out, "| {name} | {seed} | {} | {what} |", seed + 1)?,
                None => writeln!(out, "| {name} | none | | |")?,
            }
        }
        Ok(())
    }

    fn report(totals: &(u64, u64, BTreeMap<&str, u64>), started: Instant) -> io::Result<()> {
        let (seeds, orders, _) = totals;
        #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = *seeds as f64 / started.elapsed().as_secs_f64();
        writeln!(io::stdout().lock(), "{seeds} seeds, {orders} orders, {rate:.1} seeds/s")
    }

    /// Says what fails, which faults it needs, and how to see it.
    fn explain(
        args: &Args,
        simulator: &mut Simulator,
        plan: &Plan,
        outcome: &Outcome,
    ) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "seed {} fails:", plan.seed)?;
        for violation in &outcome.violations {
            writeln!(out, "  {violation}")?;
        }
        let smallest = shrink(simulator, plan)?;
        let places: Vec<String> = plan
            .faults
            .iter()
            .enumerate()
            .filter(|(_, fault)| smallest.faults.contains(fault))
            .map(|(place, _)| place.to_string())
            .collect();
        writeln!(out, "it needs {} of {} faults:", smallest.faults.len(), plan.faults.len())?;
        for fault in &smallest.faults {
            writeln!(out, "  {fault}")?;
        }
        let faults = if places.is_empty() { "none".to_owned() } else { places.join(",") };
        let mutation = if args.mutation.is_empty() {
            String::new()
        } else {
            format!(" MUTATION='{}'", args.mutation)
        };
        writeln!(out, "see it: make simulate SEED={} FAULTS={faults}{mutation}", plan.seed)?;
        Ok(())
    }
}
