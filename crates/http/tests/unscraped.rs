//! A process whose metrics nobody scrapes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{fs, time::Duration};

use gozon_http::Metrics;
use metrics::{Histogram, histogram};
use tokio::time::sleep;

/// Samples that are recorded between two rounds of upkeep.
const SAMPLES: usize = 200_000;
/// As many rounds are 64 MB of samples, if they are kept.
const ROUNDS: usize = 40;
const MAX_GROWTH: u64 = 16 << 20;

/// The test is alone in its process, so that nothing else takes memory.
#[tokio::test(start_paused = true)]
async fn samples_take_no_memory_when_nobody_scrapes() {
    let _metrics = Metrics::start().unwrap();
    let samples = histogram!("test_seconds");
    record(&samples).await;
    let before = resident_bytes();
    for _ in 0..ROUNDS {
        record(&samples).await;
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < MAX_GROWTH, "grown by {grown} bytes");
}

async fn record(samples: &Histogram) {
    for _ in 0..SAMPLES {
        samples.record(0.01);
    }
    sleep(Duration::from_secs(6)).await;
}

fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
