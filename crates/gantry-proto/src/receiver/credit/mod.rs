//! Credit: how far the relay may send. All arithmetic on the window is here.

mod window;

use std::time::Duration;

use self::window::{SIZE_FREE, SIZE_MIN, Window};
use super::super::OFFSET_MAX;

/// A credit is worth a message if it exceeds the previous one by this fraction of the window, or by [`STEP_MIN`].
const STEPS_PER_WINDOW: u64 = 8;

/// The same for a large window. Its chunks are whole, so one message for two chunks is enough.
const STEPS_PER_LARGE_WINDOW: u64 = 4;

/// Less credit, in bytes, is not worth a message, unless the whole window is smaller.
const STEP_MIN: u64 = 8 * 1024;

/// The written bytes, and how far ahead of them the relay may send.
///
/// Bytes in flight and bytes that are not yet written have different limits, so that a slow disk is not mistaken for a
/// slow link.
#[derive(Debug)]
pub(super) struct Credit {
    /// The absolute offset up to which the driver has written, exclusive.
    written: u64,
    window: Window,
    window_initial: u64,
    /// The largest window of this download, in bytes.
    window_max: u64,
    /// The largest window that the relay accepts, in bytes.
    relay_max: u64,
    /// The largest window that the connection's budget allows now, in bytes.
    share: u64,
    nearness: Nearness,
}

/// Whether the last relay that accepted is near, so that its window says nothing about a slow link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nearness {
    Near,
    /// Not near, or no relay has accepted.
    Far,
    /// The request stated no credit for near relays.
    Unknown,
}

impl Credit {
    /// Starts at the absolute offset `start`. The other values are in bytes.
    pub(super) fn new(start: u64, window_initial: u64, window_max: u64) -> Self {
        let window_initial = window_initial.min(window_max).max(1);
        Self {
            written: start,
            window: Window::new(window_initial),
            window_initial,
            window_max,
            relay_max: u64::MAX,
            share: window_max.max(1),
            nearness: Nearness::Far,
        }
    }

    /// Returns the absolute offset up to which the driver has written, exclusive.
    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    /// Returns the window and the measured delays.
    pub(super) const fn window(&self) -> &Window {
        &self.window
    }

    /// Returns the same values, to record an event.
    pub(super) const fn window_mut(&mut self) -> &mut Window {
        &mut self.window
    }

    /// Returns the absolute offset up to which the relay may send, exclusive. `next` is the offset of the next byte to
    /// arrive, and `limit` the end of the range, if it is known.
    pub(super) fn grant(&self, next: u64, limit: Option<u64>) -> u64 {
        let limit = limit.unwrap_or(OFFSET_MAX).max(next);
        let in_flight = next.saturating_add(self.size());
        let unwritten = self.written.saturating_add(self.unwritten_max());
        in_flight.min(unwritten).min(limit).min(OFFSET_MAX)
    }

    /// Returns the credit for a request: a small one after a recovery, since the link or the relay may be another, and
    /// none after a request without an answer, which may still be on its way.
    pub(super) fn grant_request(&self, next: u64, limit: Option<u64>, is_first: bool, is_unanswered: bool) -> u64 {
        let most = match (is_unanswered, is_first) {
            (true, _) => 0,
            (false, true) => u64::MAX,
            (false, false) => SIZE_MIN,
        };
        self.grant(next, limit).min(next.saturating_add(most)).max(next)
    }

    /// Returns the credit for a request whose relay is near, with the window for such relays.
    pub(super) fn grant_near(&self, next: u64, limit: Option<u64>, window: u64) -> u64 {
        let limit = limit.unwrap_or(OFFSET_MAX).max(next);
        let size = window.max(self.window.size()).min(self.growth_limit());
        let unwritten = self.written.saturating_add(self.unwritten_max());
        next.saturating_add(size).min(unwritten).min(limit).min(OFFSET_MAX).max(next)
    }

    /// Records that a relay has accepted credit up to `limit`, in a transfer that ends at `end`. Bytes from `next` on have
    /// not arrived.
    pub(super) fn handle_accepted(&mut self, limit: u64, next: u64, end: u64, nearness: Nearness, now: Duration) {
        if self.nearness == Nearness::Near && nearness != Nearness::Near {
            self.window.handle_left_near(self.window_initial.min(SIZE_MIN));
        }
        self.nearness = nearness;

        let is_full = !self.is_cut_short(limit, next, Some(end));
        self.window.handle_accepted(limit, next, is_full, now);
        if nearness == Nearness::Near {
            self.window.handle_near(limit.saturating_sub(next));
        }
    }

    /// Returns whether the last relay that accepted is near.
    pub(super) const fn nearness(&self) -> Nearness {
        self.nearness
    }

    /// Returns the smallest credit that is worth sending after `credit`.
    pub(super) fn step_from(&self, credit: u64) -> u64 {
        let size = self.size();
        let steps = if size >= SIZE_FREE { STEPS_PER_LARGE_WINDOW } else { STEPS_PER_WINDOW };
        credit.saturating_add((size / steps).max(STEP_MIN.min(size)).max(1))
    }

    /// Returns the written offset at which [`Self::step_from`] is reached, or the `limit` of the range. `next` is the
    /// offset of the next byte to arrive. If bytes must arrive first, returns `u64::MAX`.
    pub(super) fn written_at_step(&self, credit: u64, next: u64, limit: u64) -> u64 {
        let step = self.step_from(credit).min(limit);
        if next.saturating_add(self.size()) < step {
            return u64::MAX;
        }
        step.saturating_sub(self.unwritten_max())
    }

    /// Records the connection's share of the window budget, in bytes.
    pub(super) fn handle_window_limit(&mut self, share: u64) {
        self.share = share.max(1);
    }

    /// Records that everything below the absolute offset `limit` is written. Bytes from `next` on have not arrived.
    pub(super) fn handle_written(&mut self, limit: u64, next: u64) {
        self.written = self.written.max(limit.min(next));
    }

    /// Records credit up to `limit`, in a range that ends at `end`, if that is known. Bytes from `next` on have not arrived.
    pub(super) fn handle_granted(&mut self, limit: u64, next: u64, end: Option<u64>, now: Duration) {
        let is_full = !self.is_cut_short(limit, next, end) && !self.is_writing_slow(next);
        self.window.handle_granted(limit, next, is_full, now);
    }

    /// Records that bytes arrived up to `next`.
    pub(super) fn handle_arrived(&mut self, next: u64, now: Duration) {
        self.window.handle_arrived(next, self.growth_limit(), now);
    }

    /// Records that the relay waits for credit, so a large window may be too small. Bytes from `next` on have not arrived.
    pub(super) fn handle_blocked(&mut self, next: u64) {
        if !self.is_writing_slow(next) {
            self.window.grow(self.growth_limit());
        }
    }

    /// Records a relay's limit, above which it ignores credit.
    pub(super) fn handle_relay_max(&mut self, max: u64) {
        self.relay_max = max.max(1);
        self.window.handle_relay_max(max);
    }

    /// Records the end of a transfer.
    pub(super) fn handle_end(&mut self) {
        self.relay_max = u64::MAX;
        self.window.handle_end();
        if self.nearness == Nearness::Unknown {
            self.window.handle_lost();
        }
        self.window.handle_relay_left(self.window_initial);
    }

    /// Returns whether credit up to `limit` is less than a window because the range ends there.
    fn is_cut_short(&self, limit: u64, next: u64, end: Option<u64>) -> bool {
        Some(limit) == end && limit < next.saturating_add(self.size())
    }

    /// Returns how many bytes may be in flight.
    fn size(&self) -> u64 {
        self.window.size().min(self.share)
    }

    /// Returns how far credit may exceed the written bytes.
    fn unwritten_max(&self) -> u64 {
        self.window.size().max(SIZE_FREE).min(self.growth_limit())
    }

    /// Returns whether so much is unwritten that a larger window would only fill up.
    fn is_writing_slow(&self, next: u64) -> bool {
        next.saturating_sub(self.written) > self.unwritten_max() / 2
    }

    fn growth_limit(&self) -> u64 {
        self.window_max.min(self.relay_max).min(self.share).max(1)
    }
}
