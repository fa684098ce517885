//! How much may be under way: as much as the link carries in about a second.

use std::time::Duration;

use super::super::limits::SILENCE_MAX;

/// The window grows while all of it arrives within this time: then link and round trip could take more.
const GROW_BELOW: Duration = Duration::from_secs(1);

/// The window shrinks when it takes longer to arrive. nats-server closes a connection that takes more than 10 s for what
/// is pending, which may be several windows.
const SHRINK_ABOVE: Duration = Duration::from_secs(3);

/// What a window is to take after it was shrunk.
const SHRINK_TO: Duration = Duration::from_secs(2);

/// The smallest window, in bytes: 3 s of a link of 10 KiB/s.
const WINDOW_MIN: u64 = 32 * 1024;

/// The smallest chunk to ask for, in bytes: 2 s of a link of 8 KiB/s.
const CHUNK_MIN: u64 = 16 * 1024;

/// How many chunks a window holds when the link seems to be too slow for one.
const CHUNKS_PER_WINDOW: u64 = 4;

/// How often the silence that is borne may be doubled.
const DOUBLINGS_MAX: u32 = 5;

/// Credit that was given, by which the link is measured.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// The absolute offset of the credit, exclusive.
    limit: u64,
    /// Up to where bytes had arrived.
    from: u64,
    at: Duration,
}

/// The window, the chunk size and the patience that the link has been found to need.
#[derive(Debug)]
pub(super) struct Pace {
    window: u64,
    window_initial: u64,
    chunk_max: u64,
    chunk_max_initial: u64,
    /// How often the silence that is borne has been doubled.
    doublings: u32,
    mark: Option<Mark>,
    /// Whether the latest credit arrived soon, and the window has not grown since it was given.
    is_prompt: bool,
    caught_up_to: Duration,
}

impl Pace {
    pub(super) fn new(window_initial: u64, chunk_max: u64) -> Self {
        Self {
            window: window_initial,
            window_initial,
            chunk_max,
            chunk_max_initial: chunk_max,
            doublings: 0,
            mark: None,
            is_prompt: false,
            caught_up_to: Duration::ZERO,
        }
    }

    pub(super) const fn window(&self) -> u64 {
        self.window
    }

    /// Returns the largest chunk payload to ask for, in bytes.
    pub(super) const fn chunk_max(&self) -> u64 {
        self.chunk_max
    }

    /// Returns when the latest credit was given that has arrived in full.
    pub(super) const fn caught_up_to(&self) -> Duration {
        self.caught_up_to
    }

    /// Returns the silence that is borne where it would be `timeout` on a good link.
    pub(super) fn patience(&self, timeout: Duration) -> Duration {
        timeout.saturating_mul(1_u32 << self.doublings).min(SILENCE_MAX.max(timeout))
    }

    /// Takes the limit of a relay, which cuts off what is more.
    pub(super) fn handle_window_max(&mut self, max: u64) {
        self.window = self.window.min(max.max(1));
    }

    /// Takes note that a relay's limit no longer holds: one that allowed next to nothing must not slow the next one down.
    pub(super) fn handle_window_free(&mut self) {
        self.window = self.window.max(WINDOW_MIN.min(self.window_initial));
    }

    /// Takes note of credit up to `limit` while bytes have arrived up to `next`.
    pub(super) fn handle_granted(&mut self, limit: u64, next: u64, now: Duration) {
        if self.mark.is_none() && limit > next {
            self.mark = Some(Mark { limit, from: next, at: now });
        }
    }

    /// Takes note of bytes that have arrived up to `next`.
    pub(super) fn handle_arrived(&mut self, next: u64, now: Duration) {
        let Some(mark) = self.mark.take_if(|mark| mark.limit <= next) else { return };
        self.caught_up_to = mark.at;
        let took = now.saturating_sub(mark.at);
        self.is_prompt = took <= GROW_BELOW;
        if self.is_prompt {
            self.doublings = self.doublings.saturating_sub(1);
            self.chunk_max = self.chunk_max.saturating_mul(2).min(self.chunk_max_initial);
        }
        self.shrink(took);
    }

    /// Lets the window grow, once for each credit that arrived soon.
    pub(super) fn grow(&mut self, max: u64) {
        if !self.is_prompt {
            return;
        }
        self.window = self.window.saturating_mul(2).min(max.max(self.window));
        self.is_prompt = false;
        // What was given before says nothing of the larger window.
        self.mark = None;
    }

    /// Takes note that a transfer is over which was last heard at `heard`, when bytes had arrived up to `next`.
    pub(super) fn handle_over(&mut self, next: u64, heard: Duration) {
        self.is_prompt = false;
        let Some(mark) = self.mark.take() else { return };
        let (due, came) = (mark.limit.saturating_sub(mark.from), next.saturating_sub(mark.from));
        let heard_ms = u64::try_from(heard.saturating_sub(mark.at).as_millis()).unwrap_or(u64::MAX);
        if let Some(all_ms) = heard_ms.saturating_mul(due).checked_div(came) {
            self.shrink(Duration::from_millis(all_ms));
        }
    }

    /// Takes note that the way to us was lost: what comes next begins carefully.
    pub(super) fn handle_lost(&mut self) {
        self.window = self.window.min(self.window_initial);
    }

    /// Takes note that a request met silence: on a slow link what it let the relay send may be behind earlier bytes.
    pub(super) fn handle_unanswered(&mut self) {
        self.set_window(self.window / 2);
    }

    /// Takes note that no byte came before the silence was too long. `chunk_max` is what the relay held itself to.
    pub(super) fn handle_nothing_came(&mut self, chunk_max: u64) {
        self.doublings = self.doublings.saturating_add(1).min(DOUBLINGS_MAX);
        let halved = self.chunk_max.min(chunk_max) / 2;
        self.chunk_max = halved.max(CHUNK_MIN).min(self.chunk_max);
        self.set_window(self.window.min(self.chunk_max.saturating_mul(CHUNKS_PER_WINDOW)));
    }

    fn shrink(&mut self, took: Duration) {
        if took <= SHRINK_ABOVE {
            return;
        }
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let to_ms = u64::try_from(SHRINK_TO.as_millis()).unwrap_or(u64::MAX);
        let target = self.window.saturating_mul(to_ms).checked_div(took_ms);
        self.set_window(target.unwrap_or(self.window));
    }

    fn set_window(&mut self, window: u64) {
        self.window = window.max(WINDOW_MIN).min(self.window);
    }
}
