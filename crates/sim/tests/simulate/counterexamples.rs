//! What breaks a promise in the model breaks one in the real code too, and only with the trap.
//!
//! The model's counterexample says which faults it takes, and on which side. The simulator gets a short
//! plan with these faults and no others; its seeds choose the moments.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use gozon_model::{Action, End, Service, Trap};
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
    match step {
        Action::Crash { service, .. } => {
            let first = 2 + 2 * place(service);
            vec![(800, Kind::CrashAfterStatement(first, 9)), (800, Kind::Crash(first + 1))]
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
        _ => Vec::new(),
    }
}

/// A plan with the faults of a counterexample and no others.
fn plan(seed: u64, steps: &[Action]) -> Plan {
    let mut plan = Plan::of(seed);
    (plan.users, plan.requests, plan.busy_until) = (2, 6, BUSY_UNTIL);
    (plan.max_unsettled, plan.resend_after, plan.skew) = (0, 0, [0; 6]);
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
    let (failed, mut missed) = (Mutex::new(Vec::new()), Vec::new());
    for trap in Trap::ALL {
        let Some((mutation, breaks)) = counterpart(trap) else { continue };
        let counterexample = trap.scene().search().counterexample.unwrap();
        let sound: Vec<_> = (0..SEEDS).map(|seed| plan(seed, &counterexample.steps)).collect();
        run_all(&sound, |plan, outcome| {
            if !outcome.violations.is_empty() {
                failed.lock().unwrap().push((trap, plan.seed, outcome.violations));
            }
        });
        let trapped = sound.into_iter().map(|plan| Plan { mutation: mutation.to_owned(), ..plan });
        let found = AtomicU64::new(0);
        run_all(&trapped.collect::<Vec<_>>(), |_, outcome| {
            if outcome.violations.iter().any(|violation| violation.contains(breaks)) {
                found.fetch_add(1, Relaxed);
            }
        });
        println!("{trap:?}: {found:?} of {SEEDS} seeds");
        if found.into_inner() == 0 {
            missed.push(trap);
        }
    }
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "without the trap: {failed:#?}");
    assert!(missed.is_empty(), "not found in the simulator: {missed:?}");
}
