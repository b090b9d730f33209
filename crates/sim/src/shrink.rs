//! Which faults of a plan a failure needs.

use crate::{plan::Plan, run::Simulator};

/// The plan with as few faults as still fail, found by leaving out more and more of them.
///
/// # Errors
/// The databases can't be used.
pub fn shrink(simulator: &mut Simulator, plan: &Plan) -> anyhow::Result<Plan> {
    let mut smallest = plan.clone();
    let mut size = smallest.faults.len();
    while size > 0 {
        let mut at = 0;
        while at < smallest.faults.len() {
            let mut fewer = smallest.clone();
            fewer.faults.drain(at..(at + size).min(smallest.faults.len()));
            if simulator.run(&fewer, false)?.violations.is_empty() {
                at += size;
            } else {
                smallest = fewer;
            }
        }
        size /= 2;
    }
    Ok(smallest)
}
