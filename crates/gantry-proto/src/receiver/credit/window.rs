//! The number of bytes in flight: as many as the link carries in about a second.

use std::time::Duration;

use super::super::super::limits::SILENCE_MAX;

/// The window grows while all of it arrives within this time: the link could carry more per round trip.
const GROW_BELOW: Duration = Duration::from_secs(1);

/// The window shrinks if it takes longer than this to arrive. nats-server closes a connection that takes more than 10 s
/// to read pending data, which may consist of several windows.
const SHRINK_ABOVE: Duration = Duration::from_secs(3);

/// How long a window should take after it was shrunk.
const SHRINK_TO: Duration = Duration::from_secs(2);

/// The smallest window, in bytes: 3 s of a link of 10 KiB/s.
const WINDOW_MIN: u64 = 32 * 1024;

/// The smallest chunk to request, in bytes: 2 s of a link of 8 KiB/s.
const CHUNK_MIN: u64 = 16 * 1024;

/// The number of chunks per window if the link seems to be too slow for one.
const CHUNKS_PER_WINDOW: u64 = 4;

/// How often the timeout for silence may double.
const DOUBLINGS_MAX: u32 = 5;

/// A grant of credit that is used to measure the link.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// The absolute offset of the credit, exclusive.
    limit: u64,
    /// The offset up to which bytes had arrived when the credit was given.
    from: u64,
    at: Duration,
}

/// The window, the chunk size and the silence timeout for the link.
#[derive(Debug)]
pub(in super::super) struct Window {
    size: u64,
    size_initial: u64,
    chunk_max: u64,
    chunk_max_initial: u64,
    /// How often the timeout for silence has doubled.
    doublings: u32,
    mark: Option<Mark>,
    /// Whether the latest measured credit arrived soon, and the window has not grown since it was given.
    is_prompt: bool,
    arrived_until: Duration,
}

impl Window {
    pub(super) fn new(size_initial: u64, chunk_max: u64) -> Self {
        Self {
            size: size_initial,
            size_initial,
            chunk_max,
            chunk_max_initial: chunk_max,
            doublings: 0,
            mark: None,
            is_prompt: false,
            arrived_until: Duration::ZERO,
        }
    }

    /// Returns the window, in bytes.
    pub(in super::super) const fn size(&self) -> u64 {
        self.size
    }

    /// Returns the largest chunk payload to request, in bytes.
    pub(in super::super) const fn chunk_max(&self) -> u64 {
        self.chunk_max
    }

    /// Returns the time of the latest credit whose bytes have all arrived.
    pub(in super::super) const fn arrived_until(&self) -> Duration {
        self.arrived_until
    }

    /// Returns the silence timeout on this link. `timeout` is the one on a fast link.
    pub(in super::super) fn silence_timeout(&self, timeout: Duration) -> Duration {
        timeout.saturating_mul(1_u32 << self.doublings).min(SILENCE_MAX.max(timeout))
    }

    /// Applies a relay's limit, above which it ignores credit.
    pub(in super::super) fn handle_relay_max(&mut self, max: u64) {
        self.size = self.size.min(max.max(1));
    }

    /// Records that a relay's limit no longer applies, so that a very low one does not slow down the next relay.
    pub(in super::super) fn handle_relay_left(&mut self) {
        self.size = self.size.max(WINDOW_MIN.min(self.size_initial));
    }

    /// Records credit up to `limit`, given when bytes had arrived up to `next`.
    pub(in super::super) fn handle_granted(&mut self, limit: u64, next: u64, now: Duration) {
        if self.mark.is_none() && limit > next {
            self.mark = Some(Mark { limit, from: next, at: now });
        }
    }

    /// Records that bytes arrived up to `next`.
    pub(super) fn handle_arrived(&mut self, next: u64, now: Duration) {
        let Some(mark) = self.mark.take_if(|mark| mark.limit <= next) else { return };

        self.arrived_until = mark.at;
        let took = now.saturating_sub(mark.at);
        self.is_prompt = took <= GROW_BELOW;
        if self.is_prompt {
            self.doublings = self.doublings.saturating_sub(1);
            self.chunk_max = self.chunk_max.saturating_mul(2).min(self.chunk_max_initial);
        }

        self.shrink(took);
    }

    /// Doubles the window up to `max`, once for each credit that arrived soon.
    pub(super) fn grow(&mut self, max: u64) {
        if !self.is_prompt {
            return;
        }

        self.size = self.size.saturating_mul(2).min(max.max(self.size));
        self.is_prompt = false;
        // Credit given before shows nothing about the larger window.
        self.mark = None;
    }

    /// Records the end of a transfer. The relay was last heard at `heard`, and bytes had arrived up to `next`.
    pub(in super::super) fn handle_end(&mut self, next: u64, heard: Duration) {
        self.is_prompt = false;
        let Some(mark) = self.mark.take() else { return };

        let given = mark.limit.saturating_sub(mark.from);
        let arrived = next.saturating_sub(mark.from);
        let took_ms = u64::try_from(heard.saturating_sub(mark.at).as_millis()).unwrap_or(u64::MAX);
        if let Some(all_ms) = took_ms.saturating_mul(given).checked_div(arrived) {
            self.shrink(Duration::from_millis(all_ms));
        }
    }

    /// Records that messages in flight to the consumer were lost. The next transfer starts with a small window.
    pub(in super::super) fn handle_lost(&mut self) {
        self.size = self.size.min(self.size_initial);
    }

    /// Records that a request met silence. On a slow link its answer may be queued behind earlier bytes.
    pub(in super::super) fn handle_unanswered(&mut self) {
        self.set_size(self.size / 2);
    }

    /// Records that no byte arrived before the timeout for silence. `chunk_max` is the relay's, in bytes.
    pub(in super::super) fn handle_nothing_arrived(&mut self, chunk_max: u64) {
        self.doublings = self.doublings.saturating_add(1).min(DOUBLINGS_MAX);

        let halved = self.chunk_max.min(chunk_max) / 2;
        self.chunk_max = halved.max(CHUNK_MIN).min(self.chunk_max);
        self.set_size(self.size.min(self.chunk_max.saturating_mul(CHUNKS_PER_WINDOW)));
    }

    fn shrink(&mut self, took: Duration) {
        if took <= SHRINK_ABOVE {
            return;
        }

        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let to_ms = u64::try_from(SHRINK_TO.as_millis()).unwrap_or(u64::MAX);
        let target = self.size.saturating_mul(to_ms).checked_div(took_ms);
        self.set_size(target.unwrap_or(self.size));
    }

    fn set_size(&mut self, size: u64) {
        self.size = size.max(WINDOW_MIN).min(self.size);
    }
}
