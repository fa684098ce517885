//! A relay's limits for its transfers.

use std::time::Duration;

use super::super::limits::{self, IDLE_MAX, OFFSET_MAX};
use super::super::request::GetRequest;
use super::to_u64;

/// A relay's limits for its transfers.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The largest chunk payload, in bytes. A request may ask for a smaller one.
    pub chunk_max: usize,
    /// Pieces of the store that are smaller than this, in bytes, are combined. Larger ones are sent without copying.
    pub gather_min: usize,
    /// How far credit may exceed the sent bytes.
    pub window_max: u64,
    /// The longest silence.
    pub beat_interval: Duration,
    /// How long to wait for any control message: while the transfer is blocked on credit, or at all times if the
    /// consumer sends keep-alives.
    pub idle_timeout: Duration,
}

impl Settings {
    /// Returns the settings of one transfer, each within its bounds. Consumers reject values outside of them, and an extreme
    /// value could make the sender spin.
    pub(super) fn of_request(self, request: &GetRequest) -> Self {
        let chunk_max = limits::chunk_max(request.chunk_max, to_u64(self.chunk_max));
        let chunk_max = usize::try_from(chunk_max).unwrap_or(self.chunk_max);

        Self {
            chunk_max,
            gather_min: self.gather_min.clamp(1, chunk_max),
            window_max: self.window_max.clamp(limits::WINDOW_MIN_BYTES, OFFSET_MAX),
            beat_interval: limits::beat(self.beat_interval),
            idle_timeout: self.idle_timeout.min(IDLE_MAX),
        }
    }

    /// Limits credit to the window past `next`, and to `end`.
    pub(super) fn clamp_credit(&self, credit: u64, next: u64, end: u64) -> u64 {
        credit.min(next.saturating_add(self.window_max)).min(end)
    }
}
