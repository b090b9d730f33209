//! What breaks a promise in the model breaks one in the real code too, and only with the trap.
//!
//! The model's counterexample says which faults it takes, and on which side. The simulator gets a short
//! plan with these faults and no others; its seeds choose the moments.

use std::sync::Mutex;

use gozon_model::{Action, End, Service, Shop, Trap};
use gozon_sim::{Fault, Kind, Plan};

use crate::run_all;

/// Number of seeds. Each trap must be found by one of them, and none may fail without a trap.
const SEEDS: u64 = 60;
/// How often a fault of the counterexample happens, so that few seeds meet the moment that matters.
const TIMES: u64 = 3;
/// When the clients have begun their last request, in milliseconds.
const BUSY_UNTIL: u64 = 3_000;

/// The same in the real code, and how the simulator says what it breaks. `None` is not shown here:
/// Kafka's way of acknowledging is not simulated, messages are sent by way of the outbox only, a short
/// run is over before the inbox forgets, and two of the traps need moments that few short runs meet.
fn counterpart(trap: Trap) -> Option<(&'static str, &'static str)> {
    Some(match trap {
        Trap::AcknowledgeBeforeCommit => ("ack before commit", "not settled"),
        Trap::AcknowledgeAfterFailure => ("ack after an error", "not settled"),
        Trap::DebitAndMarkInTwoCommits => {
            ("a commit for the mark, one for the effect", "not settled")
        }
        Trap::NoLockOnAccount => ("balances written without looking", "the audit"),
        Trap::DeleteBeforePublish => ("delete before publishing", "not settled"),
        Trap::ForgetfulBroker => ("publish without confirms", "not settled"),
        Trap::SendAfterCommit => ("a commit for the effect, one for the message", "not settled"),
        Trap::NoIdempotencyKey => ("keys are not kept", "times"),
        Trap::NoAccountIsRetried => ("an order without an account waits for one", "dead letter"),
        Trap::SkipAfterFailure
        | Trap::NoKeyOnPayments
        | Trap::ConflictIgnored
        | Trap::CursorOverSequence
        | Trap::RepeatIsNotAnswered
        | Trap::SendBeforeCommit => return None,
    })
}

/// The faults of a step, with how long they last in milliseconds.
fn faults_of(step: Action) -> Vec<(u64, Kind)> {
    let place = |service: Service| service as usize;
    let instances = |service: Service| [2 + 2 * place(service), 3 + 2 * place(service)];
    match step {
        Action::Crash { service, .. } => {
            let [one, other] = instances(service);
            vec![(800, Kind::CrashAfterStatement(one, 9)), (800, Kind::Crash(other))]
        }
        Action::RestartBroker => vec![(300, Kind::BrokerRestart)],
        Action::Place { answered: false, .. } => {
            vec![(600, Kind::BreakAnswers(0, 700)), (600, Kind::BreakAnswers(1, 700))]
        }
        Action::Publish { confirmed: false, .. } => vec![(800, Kind::ConfirmLost(500))],
        Action::Commit { service, end: End::AnswerLost, .. } => {
            vec![(800, Kind::AnswerLost(place(service), 150))]
        }
        Action::Commit { service, end: End::Failed, .. } => {
            vec![(800, Kind::Refuse(place(service), "57P01", 300))]
        }
        Action::Duplicate { .. } => vec![(2_000, Kind::Duplicate(700))],
        Action::EndLease { service, .. } => {
            instances(service).map(|instance| (5_000, Kind::Pause(instance))).into()
        }
        _ => Vec::new(),
    }
}

/// A plan with the faults of a counterexample and no others.
fn plan(seed: u64, steps: &[Action]) -> Plan {
    let mut plan = Plan::of(seed);
    (plan.users, plan.requests, plan.busy_until) = (2, 6, BUSY_UNTIL);
    (plan.max_unsettled, plan.skew) = (0, [0; 6]);
    plan.resend_after = 0;
    let mut kinds: Vec<_> = steps.iter().flat_map(|step| faults_of(*step)).collect();
    if kinds.is_empty() {
        // What goes wrong without a fault goes wrong between two transactions.
        kinds = vec![(1_000, Kind::Slow(0, 300)), (1_000, Kind::Slow(1, 300))];
        plan.locks_early = false;
    }
    plan.faults = (0..TIMES)
        .flat_map(|time| kinds.iter().map(move |kind| (time, *kind)))
        .enumerate()
        .map(|(place, (time, (lasts, kind)))| {
            let spread = (seed * 7_919 + place as u64 * 104_729) % (BUSY_UNTIL / TIMES);
            Fault { at: 100 + time * BUSY_UNTIL / TIMES + spread, lasts, kind }
        })
        .collect();
    plan.faults.sort_by_key(|fault| fault.at);
    plan
}

#[test]
fn counterexamples_of_the_model_fail_the_real_code_too() {
    let mut plans = Vec::new();
    for trap in Trap::ALL {
        let Some((mutation, breaks)) = counterpart(trap) else { continue };
        let found = Shop::of(trap).search().counterexample.unwrap();
        for seed in 0..SEEDS {
            let sound = plan(seed, &found.steps);
            let trapped = Plan { mutation: mutation.to_owned(), ..sound.clone() };
            plans.extend([(trap, breaks, sound), (trap, breaks, trapped)]);
        }
    }
    let (failed, found) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let all: Vec<_> = plans.iter().map(|(_, _, plan)| plan.clone()).collect();
    run_all(&all, |plan, outcome| {
        let at = all.iter().position(|other| std::ptr::eq(other, plan)).unwrap();
        let (trap, breaks, _) = &plans[at];
        let says = |violation: &String| violation.contains(breaks);
        if plan.mutation.is_empty() {
            if !outcome.violations.is_empty() {
                failed.lock().unwrap().push((*trap, plan.seed, outcome.violations));
            }
        } else if outcome.violations.iter().any(says) {
            found.lock().unwrap().push((*trap, plan.seed));
        }
    });
    let (failed, found) = (failed.into_inner().unwrap(), found.into_inner().unwrap());
    assert!(failed.is_empty(), "without the trap: {failed:#?}");
    let mut missed = Vec::new();
    for trap in Trap::ALL.into_iter().filter(|trap| counterpart(*trap).is_some()) {
        let seeds = found.iter().filter(|(other, _)| *other == trap).count();
        println!("{trap:?}: {seeds} of {SEEDS} seeds");
        if seeds == 0 {
            missed.push(trap);
        }
    }
    assert!(missed.is_empty(), "not found in the simulator: {missed:?}");
}
