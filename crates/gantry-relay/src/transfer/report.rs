//! The log lines and metrics of one transfer.

use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::delivery::Delivery;
use crate::active::Activity;
use crate::metrics::{OutcomeLabel, TransferMetrics};
use crate::requester::keyless;
use crate::throttle::TRANSFERS;
use crate::waits::{Wait, Waits};
use gantry_bus::trace;
use gantry_proto::sender::{Outcome, Sender};
use gantry_proto::{Accepted, ObjectInfo, WireError};

/// The values for the log lines and metrics of one transfer.
pub(super) struct Report {
    metrics: TransferMetrics,
    /// If the transfer is without credit, the time up to which its wait has been counted.
    blocked_since: Option<Instant>,
    /// The object without its key, for the log.
    object: String,
    /// The range of the transfer, until its start is logged.
    started: Option<Range<u64>>,
    opened_ms: u64,
    /// Time from the request to the first chunk.
    first_byte: Option<Duration>,
}

impl Report {
    /// Starts the report of an accepted transfer.
    pub(super) fn new(delivery: &Delivery, accepted: &Accepted) -> Self {
        Self {
            metrics: delivery.context.metrics.transfer(delivery.requester.store().as_str()),
            blocked_since: None,
            object: described(&accepted.object),
            started: Some(accepted.start..accepted.end),
            opened_ms: as_millis(delivery.requester.elapsed()),
            first_byte: None,
        }
    }

    /// Logs the start, once.
    pub(super) fn log_start(&mut self, delivery: &Delivery, activity: &Activity) {
        let Some(Range { start, end }) = self.started.take() else { return };
        if delivery.context.throttle.admits("transfer_started", TRANSFERS) {
            let opened_ms = self.opened_ms;
            let key = activity.shown_key();
            info!(key, start, end, object = self.object, opened_ms, "transfer started");
        }
    }

    /// Counts a published chunk.
    pub(super) fn count_chunk(&mut self, len: usize, is_first: bool, delivery: &Delivery) {
        if is_first {
            let took = delivery.requester.elapsed();
            self.metrics.first_byte.observe(took.as_secs_f64());
            self.first_byte = Some(took);
        }
        self.metrics.sent_chunks.inc();
        self.metrics.sent_bytes.inc_by(len as u64);
    }

    /// Measures how long the transfer waits for credit.
    pub(super) fn note_blocked(&mut self, is_blocked: bool) {
        if let Some(since) = self.blocked_since {
            self.metrics.credit_stalled.inc_by(since.elapsed().as_secs_f64());
        } else if is_blocked {
            self.metrics.credit_stalls.inc();
        }
        self.blocked_since = is_blocked.then(Instant::now);
    }

    /// Records the end. `None` means that the transfer was aborted.
    pub(super) fn end(mut self, delivery: &Delivery, sender: &Sender, waits: &Waits, outcome: Option<&Outcome>) {
        let took = delivery.requester.elapsed();
        self.note_blocked(false);
        self.metrics.duration.observe(took.as_secs_f64());
        self.log_end(delivery, sender, waits, outcome, took);

        let has_failed = matches!(outcome, None | Some(Outcome::Failed(_)));
        count_outcome(delivery, outcome.map_or("aborted", outcome_name), has_failed);
    }

    /// Logs one line with everything that support needs.
    fn log_end(&self, delivery: &Delivery, sender: &Sender, waits: &Waits, outcome: Option<&Outcome>, took: Duration) {
        if !delivery.context.throttle.admits("transfer_ended", TRANSFERS) {
            return;
        }

        let object = self.object.as_str();
        let bytes = sender.sent_bytes();
        let chunks = sender.sent_chunks();
        let ms = as_millis(took);
        let [store_ms, bus_ms, credit_ms, limits_ms] = Wait::ALL.map(|wait| waits.total_ms(wait));
        let first_byte_ms = self.first_byte.map(as_millis);
        let bytes_per_s = bytes.saturating_mul(1000).checked_div(ms).unwrap_or(bytes);
        let outcome_name = outcome.map_or("aborted", outcome_name);
        let trace_id = trace::current_id();
        let trace = trace_id.as_deref();

        if let Some(Outcome::Failed(error)) = outcome {
            debug!(%error, "the complete reason");
            let reason = keyless(&error.message);
            warn!(
                outcome = outcome_name,
                reason,
                object,
                bytes,
                chunks,
                ms,
                first_byte_ms,
                store_ms,
                bus_ms,
                credit_ms,
                limits_ms,
                bytes_per_s,
                trace,
                "transfer ended"
            );
        } else {
            info!(
                outcome = outcome_name,
                object,
                bytes,
                chunks,
                ms,
                first_byte_ms,
                store_ms,
                bus_ms,
                credit_ms,
                limits_ms,
                bytes_per_s,
                trace,
                "transfer ended"
            );
        }
    }
}

/// Records a transfer that ended before it was accepted. `None` means that it was aborted.
pub(super) fn end_before_start(delivery: &Delivery, outcome: Option<&Outcome>) {
    let outcome = outcome.map_or("aborted", outcome_name);
    if delivery.context.throttle.admits("transfer_unstarted", TRANSFERS) {
        info!(
            outcome,
            ms = as_millis(delivery.requester.elapsed()),
            trace = trace::current_id().as_deref(),
            "transfer ended before it started"
        );
    }
    count_outcome(delivery, outcome, false);
}

fn count_outcome(delivery: &Delivery, outcome: &'static str, has_failed: bool) {
    trace::record_outcome(outcome, has_failed);
    let label = OutcomeLabel { store: delivery.requester.store().to_string(), outcome };
    delivery.context.metrics.transfers.get_or_create(&label).inc();
}

/// Describes an object without its key.
fn described(object: &ObjectInfo) -> String {
    let version = object.version_id.as_ref().map(|version| format!(" version={version}")).unwrap_or_default();
    format!("size={} etag={}{version}", object.size, object.etag.trim_matches('"'))
}

const fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Completed => "completed",
        Outcome::Drained => "drained",
        Outcome::Cancelled => "cancelled",
        Outcome::ConsumerGone => "consumer_gone",
        Outcome::Refused(WireError { code, .. }) | Outcome::Failed(WireError { code, .. }) => code.name(),
    }
}

fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
