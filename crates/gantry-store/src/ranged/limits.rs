//! Bounds on time and concurrency.

use std::time::Duration;

/// Bounds on what one read of an object takes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The size of the ranges that are read side by side, in bytes. They begin at multiples of it.
    pub range_bytes: u64,
    /// How many ranges of one object are read at once.
    pub concurrency_max: usize,
    /// How often a request is tried in all, and how often a body is asked for again without one byte of progress.
    pub attempts_max: u32,
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// How long a request may wait for the head of its response.
    pub answer_timeout: Duration,
    /// How long a body may yield nothing while it is being read.
    pub stall_timeout: Duration,
    /// How long a request may take with all its retries, until the head of a response.
    pub retry_budget: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // AWS recommends ranges of 8 to 16 MiB.
            range_bytes: 8 * 1024 * 1024,
            concurrency_max: 4,
            // With pauses that grow from 0.1 s to 2 s this is about what fits into the budget below.
            attempts_max: 8,
            connect_timeout: Duration::from_secs(3),
            answer_timeout: Duration::from_secs(6),
            stall_timeout: Duration::from_secs(15),
            // An unreachable store is to be reported within 15 s.
            retry_budget: Duration::from_secs(12),
        }
    }
}
