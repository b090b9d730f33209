//! One processor for a simulator's thread and for the threads that answer its statements.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Binds this thread, and those that it starts, to one of the processors that it may use; each call
/// takes the next one.
///
/// The simulator waits for each statement, and sqlx answers it on another thread. Waking a thread of
/// another processor takes longer than most statements.
pub(crate) fn bind_to_one() {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    #[cfg(target_os = "linux")]
    {
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

        let Ok(usable) = sched_getaffinity(None) else { return };
        let numbers: Vec<_> = (0..CpuSet::MAX_CPU).filter(|&cpu| usable.is_set(cpu)).collect();
        if let Some(&cpu) = numbers.get(NEXT.fetch_add(1, Relaxed) % numbers.len().max(1)) {
            let mut one = CpuSet::new();
            one.set(cpu);
            // Without it, runs only take longer.
            let _ = sched_setaffinity(None, &one);
        }
    }
}
