//! What a run shows, as numbers to compare with bars.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::consumer::Consumer;
use crate::world::Scenario;

/// The result of a run.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// How many consumers did not get everything.
    pub(crate) failed: usize,
    /// From the first start to the last end, divided by the time that the link takes for the objects' bytes.
    pub(crate) total_over_ideal: f64,
    pub(crate) total: Duration,
    /// The most recoveries of one consumer. A request that is sent again counts as one.
    pub(crate) recoveries_max: u64,
    pub(crate) slowest_over_fastest: f64,
    /// The 99th percentile, and the maximum, of the other traffic's round trips.
    pub(crate) probe_p99: Duration,
    pub(crate) probe_max: Duration,
    /// What the link carried, divided by the objects' bytes.
    pub(crate) crossed_over_wanted: f64,
    /// The control messages and chunks of all consumers.
    pub(crate) controls: u64,
    pub(crate) chunks: u64,
}

impl Report {
    pub(crate) fn new(
        scenario: &Scenario,
        consumers: &BTreeMap<usize, Consumer>,
        mut probes: Vec<Duration>,
        crossed_bytes: u64,
    ) -> Self {
        let all = || consumers.values();
        let is_done = |consumer: &&Consumer| matches!(consumer.receiver.outcome(), Some(Ok(())));
        let ends: Vec<_> = all().map(|consumer| consumer.ended_at.unwrap_or(Duration::MAX)).collect();
        let first = all().map(|consumer| consumer.started_at).min().unwrap_or_default();
        let total = ends.iter().max().copied().unwrap_or_default().saturating_sub(first);
        let took: Vec<_> = all().zip(&ends).map(|(consumer, end)| (*end - consumer.started_at).as_secs_f64()).collect();

        let wanted = scenario.size * scenario.consumers as u64;
        probes.sort_unstable();
        let percentile = |percent: usize| probes.get(probes.len() * percent / 100).copied().unwrap_or_default();
        Self {
            failed: scenario.consumers - all().filter(is_done).count(),
            total_over_ideal: total.as_secs_f64() / (wanted as f64 / scenario.rate as f64),
            total,
            recoveries_max: all().map(|consumer| consumer.receiver.stats().requests - 1).max().unwrap_or_default(),
            slowest_over_fastest: took.iter().copied().fold(0.0, f64::max)
                / took.iter().copied().fold(f64::INFINITY, f64::min),
            probe_p99: percentile(99),
            probe_max: probes.last().copied().unwrap_or_default(),
            crossed_over_wanted: crossed_bytes as f64 / wanted as f64,
            controls: all().map(|consumer| consumer.controls).sum(),
            chunks: all().map(|consumer| consumer.chunks).sum(),
        }
    }
}

impl Report {
    /// Returns the worse of two results, number by number.
    pub(crate) fn worse_of(&self, other: &Self) -> Self {
        Self {
            failed: self.failed.max(other.failed),
            total_over_ideal: self.total_over_ideal.max(other.total_over_ideal),
            total: self.total.max(other.total),
            recoveries_max: self.recoveries_max.max(other.recoveries_max),
            slowest_over_fastest: self.slowest_over_fastest.max(other.slowest_over_fastest),
            probe_p99: self.probe_p99.max(other.probe_p99),
            probe_max: self.probe_max.max(other.probe_max),
            crossed_over_wanted: self.crossed_over_wanted.max(other.crossed_over_wanted),
            controls: self.controls.max(other.controls),
            chunks: self.chunks.max(other.chunks),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "total {:9.3} s ×{:5.2}  recoveries {:2}  spread {:5.2}  p99 {:6.2} s  max {:6.2} s  \
             crossed ×{:4.2}  {} chunks  {} controls  failed {}",
            self.total.as_secs_f64(),
            self.total_over_ideal,
            self.recoveries_max,
            self.slowest_over_fastest,
            self.probe_p99.as_secs_f64(),
            self.probe_max.as_secs_f64(),
            self.crossed_over_wanted,
            self.chunks,
            self.controls,
            self.failed,
        )
    }
}
