//! What a run shows.

use std::fmt;
use std::time::Duration;

use super::fifo::Fifo;
use super::hub::Relay;
use super::plan::Plan;
use super::site::Site;
use crate::consumer::Consumer;

/// What is counted during a run.
#[derive(Default)]
pub(super) struct Tally {
    /// The round trips of other traffic, in microseconds.
    probes: Vec<u32>,
    /// How long each download took, in milliseconds.
    took: Vec<u32>,
    failed: usize,
    requests_max: u64,
    chunks: u64,
    pub(super) controls: u64,
    pub(super) recoveries: u64,
}

impl Tally {
    pub(super) fn probe(&mut self, took: Duration) {
        self.probes.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    /// Records the end of a device's download.
    pub(super) fn end(&mut self, consumer: &Consumer, is_done: bool, now: Duration) {
        self.took.push(u32::try_from((now - consumer.started_at).as_millis()).unwrap_or(u32::MAX));
        self.failed += usize::from(!is_done);
        self.requests_max = self.requests_max.max(consumer.receiver.stats().requests);
        self.chunks += consumer.chunks;
    }
}

/// The result of a run. Bytes are divided by the object's size.
#[derive(Clone, Debug)]
pub(super) struct Report {
    /// How many devices don't have the object.
    pub(super) failed: usize,
    pub(super) store_bytes: f64,
    /// How often the store was asked for bytes, and for descriptions.
    pub(super) store_opens: u64,
    pub(super) store_questions: u64,
    pub(super) egress_bytes: f64,
    pub(super) busiest_link_bytes: f64,
    /// When the last device was done, and when the median site was.
    pub(super) last: Duration,
    pub(super) median_site: Duration,
    /// The longest and the median time of one download.
    pub(super) took_max: Duration,
    pub(super) took_median: Duration,
    /// Round trips of other traffic.
    pub(super) probe_p50: Duration,
    pub(super) probe_p99: Duration,
    pub(super) probe_max: Duration,
    /// The most recoveries of one device, and those of all.
    pub(super) recoveries_max: u64,
    pub(super) recoveries: u64,
    pub(super) chunks: u64,
    pub(super) controls: u64,
    pub(super) events: u64,
}

impl Report {
    pub(super) fn new(
        plan: &Plan,
        mut tally: Tally,
        sites: &[Site],
        relays: &[Relay],
        egress: &Fifo,
        events: u64,
    ) -> Self {
        let of_object = |bytes: u64| bytes as f64 / plan.size as f64;
        let unfinished: usize = sites.iter().map(|site| site.active).sum();
        let mut ends: Vec<_> = sites.iter().map(|site| site.ended_at).collect();
        ends.sort_unstable();
        tally.probes.sort_unstable();
        tally.took.sort_unstable();

        let probe = |percent| Duration::from_micros(percentile(&tally.probes, percent).into());
        let took = |percent| Duration::from_millis(percentile(&tally.took, percent).into());
        let questions = relays.iter().map(|relay| relay.questions.sent).sum();
        Self {
            failed: tally.failed + unfinished,
            store_bytes: of_object(relays.iter().map(|relay| relay.read_bytes).sum()),
            store_opens: relays.iter().map(|relay| relay.opened).sum(),
            store_questions: questions,
            egress_bytes: of_object(egress.carried_bytes),
            busiest_link_bytes: of_object(sites.iter().map(|site| site.link.carried_bytes).max().unwrap_or_default()),
            last: ends.last().copied().unwrap_or_default(),
            median_site: ends[ends.len() / 2],
            took_max: took(100),
            took_median: took(50),
            probe_p50: probe(50),
            probe_p99: probe(99),
            probe_max: probe(100),
            recoveries_max: tally.requests_max.saturating_sub(1),
            recoveries: tally.recoveries,
            chunks: tally.chunks,
            controls: tally.controls,
            events,
        }
    }
}

fn percentile(sorted: &[u32], percent: usize) -> u32 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = |duration: Duration| duration.as_secs_f64();
        write!(
            f,
            "S3 ×{:.3} ({} opens, {} questions)  egress ×{:.2}  busiest link ×{:.4}  last {:.1} s (median site {:.1})  \
             one device {:.1} s, at most {:.1}  p50 {:.2} p99 {:.2} max {:.2} s  recoveries {} (most {})  \
             {} chunks {} controls {} events  failed {}",
            self.store_bytes,
            self.store_opens,
            self.store_questions,
            self.egress_bytes,
            self.busiest_link_bytes,
            s(self.last),
            s(self.median_site),
            s(self.took_median),
            s(self.took_max),
            s(self.probe_p50),
            s(self.probe_p99),
            s(self.probe_max),
            self.recoveries,
            self.recoveries_max,
            self.chunks,
            self.controls,
            self.events,
            self.failed,
        )
    }
}
