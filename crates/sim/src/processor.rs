//! One processor for a simulator's thread and for the threads that answer its statements.

/// Binds this thread, and those that it starts, to one of the processors that it may use; each call
/// takes the next one, and each process begins at another.
///
/// The simulator waits for each statement, and sqlx answers it on another thread. Waking a thread of
/// another processor takes longer than most statements.
#[cfg(target_os = "linux")]
pub(crate) fn bind_to_one() {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    static TAKEN: AtomicU32 = AtomicU32::new(0);

    let Ok(usable) = sched_getaffinity(None) else { return };
    let numbers: Vec<_> = (0..CpuSet::MAX_CPU).filter(|&cpu| usable.is_set(cpu)).collect();
    let turn = std::process::id().wrapping_add(TAKEN.fetch_add(1, Relaxed)) as usize;
    if let Some(&cpu) = numbers.get(turn % numbers.len().max(1)) {
        let mut one = CpuSet::new();
        one.set(cpu);
        // Without it, runs only take longer.
        let _ = sched_setaffinity(None, &one);
    }
}

/// Elsewhere threads stay where the system puts them.
#[cfg(not(target_os = "linux"))]
pub(crate) fn bind_to_one() {}
