//! Limits on time and concurrency.

use std::time::Duration;

/// Limits on time and concurrency when reading an object.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Size of the ranges that are read concurrently, in bytes. They start at multiples of this size. At least 1.
    pub range_bytes: u64,
    /// Maximum number of ranges of one object that are read at once. At least 1.
    pub concurrency_max: usize,
    /// Maximum number of attempts of a request, and of requests for the rest of a body without a byte of progress. At
    /// least 1.
    pub attempts_max: u32,
    /// Maximum time to establish a connection.
    pub connect_timeout: Duration,
    /// Time from a request to the head of its response after which the request is sent again. The first one stays in
    /// flight, and the first answer counts.
    pub answer_timeout: Duration,
    /// Maximum time without a byte of a body while it is being read.
    pub stall_timeout: Duration,
    /// Maximum time for a request with all its retries, until the head of a response.
    pub retry_budget: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // AWS recommends ranges of 8 to 16 MiB (S3 User Guide, "Performance guidelines").
            range_bytes: 8 * 1024 * 1024,
            concurrency_max: 4,
            // With pauses that grow from 0.1 s to 2 s, this number of attempts fits into the budget below.
            attempts_max: 8,
            connect_timeout: Duration::from_secs(3),
            answer_timeout: Duration::from_secs(6),
            stall_timeout: Duration::from_secs(15),
            // An unreachable store must be reported within 15 s.
            retry_budget: Duration::from_secs(12),
        }
    }
}
