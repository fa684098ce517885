//! How long a relay has been silent, and whether that tells anything.

use std::time::Duration;

use super::super::limits::SILENCE_MAX;

/// What a link that is busy carries at least, in bytes per millisecond: with less the smallest chunk that is asked for
/// takes a second, and other transfers' beats are not to pass for a chunk on its way.
const BUSY_BYTES_PER_MS: u64 = 16;

/// What the connection has carried, for all of its downloads together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// How many bytes it has read so far, those of messages that are not complete included.
    pub received_bytes: u64,
    /// Whatever was sent to us by then has arrived: when the latest credit was given that any download has seen used up
    /// ([`Receiver::caught_up_to`](super::Receiver::caught_up_to)).
    pub caught_up_to: Duration,
}

/// The time since a relay was last heard.
///
/// On a slow link a chunk may take longer than the silence that is borne, its own or those of others before it. nats-server
/// keeps the order, so while bytes come the relay's may be behind them: unless what was asked for later is there already,
/// or more came than can have been under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    since: Duration,
    received: u64,
    looked_at: Duration,
    seen: u64,
    /// Until when it is borne because the link was busy.
    borne_until: Duration,
}

impl Silence {
    pub(super) const fn new(now: Duration, link: Link) -> Self {
        let received = link.received_bytes;
        Self { since: now, received, looked_at: now, seen: received, borne_until: now }
    }

    /// Returns since when nothing was heard.
    pub(super) const fn since(&self) -> Duration {
        self.since
    }

    /// Returns when it counts as the relay's, if it may last for `limit`.
    pub(super) fn due(&self, limit: Duration) -> Duration {
        self.since.saturating_add(limit).max(self.borne_until)
    }

    /// Decides when it is due whether it is borne for longer, since the link is busy with what may be before the relay's
    /// words: at most `ahead_max` bytes. A relay that lives speaks at least every `beat`.
    pub(super) fn is_borne(
        &mut self,
        now: Duration,
        link: Link,
        limit: Duration,
        beat: Duration,
        ahead_max: u64,
    ) -> bool {
        let carried = link.received_bytes.saturating_sub(self.seen);
        let took_ms = u64::try_from(now.saturating_sub(self.looked_at).as_millis()).unwrap_or(u64::MAX);
        let is_busy = carried > 0 && carried >= took_ms.saturating_mul(BUSY_BYTES_PER_MS);
        let may_be_behind = link.received_bytes.saturating_sub(self.received) <= ahead_max
            && link.caught_up_to < self.since.saturating_add(beat);
        let end = self.since.saturating_add(SILENCE_MAX.max(limit));
        self.looked_at = now;
        self.seen = link.received_bytes;
        if !is_busy || !may_be_behind || now >= end {
            return false;
        }
        self.borne_until = now.saturating_add((limit / 2).max(Duration::from_millis(1))).min(end);
        true
    }
}
