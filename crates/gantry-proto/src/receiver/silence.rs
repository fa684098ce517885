//! How long a relay has been silent, and whether that means that it is lost.

use std::time::Duration;

use super::super::limits::SILENCE_MAX;

/// The minimum rate of a busy link, in bytes per millisecond. Below it, the smallest chunk takes a second, and beats of
/// other transfers must not look like an arriving chunk.
const BUSY_BYTES_PER_MS: u64 = 16;

/// What has arrived on the connection, for all of its downloads together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// How many bytes the connection has read so far, including those of incomplete messages.
    pub received_bytes: u64,
    /// Everything that was sent to the consumer before this time has arrived: the latest
    /// [`Receiver::arrived_until`](super::Receiver::arrived_until) of any download.
    pub arrived_until: Duration,
}

/// The time since a relay was last heard.
///
/// On a slow link a chunk, or other transfers' chunks ahead of it, may take longer to arrive than the silence timeout.
/// nats-server keeps the order. While bytes arrive, the relay's next message may therefore still be queued behind them,
/// unless the answer to a later request has already arrived, or more bytes have arrived than can have been in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    since: Duration,
    /// [`Arrivals::received_bytes`] when the silence began.
    received: u64,
    checked_at: Duration,
    /// [`Arrivals::received_bytes`] at `checked_at`.
    seen: u64,
    /// The end of an extension that was granted because the link was busy.
    extended_until: Duration,
}

impl Silence {
    pub(super) const fn new(now: Duration, arrivals: Arrivals) -> Self {
        let received = arrivals.received_bytes;
        Self { since: now, received, checked_at: now, seen: received, extended_until: now }
    }

    /// Returns when the relay was last heard.
    pub(super) const fn since(&self) -> Duration {
        self.since
    }

    /// Returns when the timeout `limit` expires, including an extension.
    pub(super) fn due(&self, limit: Duration) -> Duration {
        self.since.saturating_add(limit).max(self.extended_until)
    }

    /// Decides, when the timeout `limit` has expired, whether to extend it: the link is still delivering bytes that may be
    /// queued ahead of the relay's next message, at most `ahead_max`. A live relay sends something at least every `beat`.
    pub(super) fn extend(
        &mut self,
        now: Duration,
        arrivals: Arrivals,
        limit: Duration,
        beat: Duration,
        ahead_max: u64,
    ) -> bool {
        let carried = arrivals.received_bytes.saturating_sub(self.seen);
        let took_ms = u64::try_from(now.saturating_sub(self.checked_at).as_millis()).unwrap_or(u64::MAX);
        let is_busy = carried > 0 && carried >= took_ms.saturating_mul(BUSY_BYTES_PER_MS);

        let may_be_behind = arrivals.received_bytes.saturating_sub(self.received) <= ahead_max
            && arrivals.arrived_until < self.since.saturating_add(beat);

        self.checked_at = now;
        self.seen = arrivals.received_bytes;
        let end = self.since.saturating_add(SILENCE_MAX.max(limit));
        if !is_busy || !may_be_behind || now >= end {
            return false;
        }

        self.extended_until = now.saturating_add((limit / 2).max(Duration::from_millis(1))).min(end);
        true
    }
}
