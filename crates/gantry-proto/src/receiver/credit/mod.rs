//! Credit: how far the relay may send. All arithmetic on the window is here.

mod window;

use std::time::Duration;

use self::window::Window;
use super::super::OFFSET_MAX;

/// How soon arrived bytes must be written so that the window grows in spite of a delay in writing. Half of the first
/// window within this time is 20 MiB/s.
const WRITTEN_SOON: Duration = Duration::from_millis(50);

/// A credit is worth a message if it exceeds the previous one by this fraction of the window.
const STEPS_PER_WINDOW: u64 = 8;

/// The written bytes, and how far ahead of them the relay may send.
#[derive(Debug)]
pub(super) struct Credit {
    /// The absolute offset up to which the driver has written, exclusive.
    written: u64,
    window: Window,
    /// The largest window of this download, in bytes.
    window_max: u64,
    /// The largest window that the connection's budget allows now, in bytes.
    share: u64,
    /// When the relay reported that it waits for credit while the consumer was writing too slowly.
    blocked_at: Option<Duration>,
}

impl Credit {
    /// Starts at the absolute offset `start`. The other values are in bytes.
    pub(super) fn new(start: u64, window_initial: u64, window_max: u64, chunk_max: u64) -> Self {
        Self {
            written: start,
            window: Window::new(window_initial.min(window_max).max(1), chunk_max),
            window_max,
            share: window_max.max(1),
            blocked_at: None,
        }
    }

    /// Returns the absolute offset up to which the driver has written, exclusive.
    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    /// Returns the window, the chunk size and the timeout for the link.
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
        self.written.saturating_add(self.size()).min(limit).min(OFFSET_MAX)
    }

    /// Returns the smallest credit that is worth sending after `credit`.
    pub(super) fn step_from(&self, credit: u64) -> u64 {
        credit.saturating_add((self.size() / STEPS_PER_WINDOW).max(1))
    }

    /// Returns the written offset at which [`Self::step_from`] is reached, or the `limit` of the range.
    pub(super) fn written_at_step(&self, credit: u64, limit: u64) -> u64 {
        self.step_from(credit).min(limit).saturating_sub(self.size())
    }

    /// Returns the written offset at which [`Self::handle_writer_kept_up`] may let the window grow, if the relay waits.
    pub(super) fn written_to_keep_up(&self, next: u64) -> Option<u64> {
        self.blocked_at.map(|_| next.saturating_sub(self.size() / 2))
    }

    /// Records the connection's share of the window budget, in bytes.
    pub(super) fn handle_window_limit(&mut self, share: u64) {
        self.share = share.max(1);
    }

    /// Records that everything below the absolute offset `limit` is written. Bytes from `next` on have not arrived.
    pub(super) fn handle_written(&mut self, limit: u64, next: u64) {
        self.written = self.written.max(limit.min(next));
    }

    /// Records that bytes arrived up to `next`.
    pub(super) fn handle_arrived(&mut self, next: u64, now: Duration) {
        self.window.handle_arrived(next, now);
        self.blocked_at = None;
    }

    /// Records that the relay waits for credit. If writing keeps up, the window is too small and grows. `relay_max` is
    /// the largest window that the relay accepts.
    pub(super) fn handle_blocked(&mut self, next: u64, relay_max: u64, now: Duration) {
        if self.is_writing_behind(next) {
            self.blocked_at = Some(now);
        } else {
            self.window.grow(self.growth_limit(relay_max));
        }
    }

    /// Grows the window if writing was behind only because a whole small window arrived at once.
    pub(super) fn handle_writer_kept_up(&mut self, next: u64, relay_max: u64, now: Duration) {
        if self.is_writing_behind(next) {
            return;
        }

        if self.blocked_at.take().is_some_and(|at| now.saturating_sub(at) <= WRITTEN_SOON) {
            self.window.grow(self.growth_limit(relay_max));
        }
    }

    /// Returns how far credit may exceed the written bytes.
    fn size(&self) -> u64 {
        self.window.size().min(self.share)
    }

    fn growth_limit(&self, relay_max: u64) -> u64 {
        self.window_max.min(relay_max).min(self.share)
    }

    /// Returns whether more than half of the window has arrived but is not yet written.
    fn is_writing_behind(&self, next: u64) -> bool {
        next.saturating_sub(self.written) > self.size() / 2
    }
}
