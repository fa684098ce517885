//! The relay's side of one transfer, as a state machine.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::answer::End;
use super::chunk::Chunk;
use super::error::{Code, WireError};
use super::limits::{self, FRAGMENT_MAX_BYTES, FRAGMENTS_BURST, FRAGMENTS_EVERY, IDLE_MAX, OFFSET_MAX};
use super::message::{Body, Wait};
use super::quota::Quota;
use super::request::Control;

/// The largest first chunk's payload, in bytes: it is read in one go with the acceptance, and on a slow link the first
/// byte need not wait for half a megabyte.
const FIRST_CHUNK_MAX: usize = 32 << 10;

/// What a [`Sender`] holds itself to.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The largest chunk payload, in bytes.
    pub chunk_max: usize,
    /// Store frames smaller than this are put together, in bytes; larger ones go out uncopied.
    pub gather_min: usize,
    /// How far past what was sent credit may reach, in bytes.
    pub window_max: u64,
    /// The longest silence.
    pub beat_interval: Duration,
    /// How long to wait for any control message: always when the consumer keeps alive, else while credit is used up.
    pub idle_timeout: Duration,
    /// Whether the consumer promised to speak also while it has nothing to allow.
    pub keeps_alive: bool,
}

impl Settings {
    /// Returns the settings with each number within its bounds: what a peer is told must be something that it accepts,
    /// and no number may make the sender busy with nothing.
    #[must_use]
    pub fn within_bounds(self) -> Self {
        let chunk_max = self.chunk_max.max(1);
        Self {
            chunk_max,
            gather_min: self.gather_min.clamp(1, chunk_max),
            window_max: self.window_max.clamp(limits::WINDOW_MIN_BYTES, OFFSET_MAX),
            beat_interval: limits::beat(self.beat_interval),
            idle_timeout: self.idle_timeout.min(IDLE_MAX),
            keeps_alive: self.keeps_alive,
        }
    }
}

/// How a transfer ended, as the relay sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every chunk and the end message were handed out.
    Completed,
    /// The consumer was told of an error.
    Failed(WireError),
    /// The consumer was told to ask again elsewhere.
    Drained,
    /// The consumer asked to stop.
    Cancelled,
    /// Nobody listens on the delivery subject any more.
    ConsumerGone,
}

/// Turns store bytes and credit into the messages of one transfer.
///
/// Invariants: no byte goes out past the credit; offsets and sequence numbers have no gap; nothing follows the last
/// message; at most one store frame more than credit allows is held.
#[derive(Debug)]
pub struct Sender {
    settings: Settings,
    range: Range<u64>,
    /// The offset of the next byte to send.
    next: u64,
    seq: u64,
    credit: u64,
    buffered: VecDeque<Bytes>,
    buffered_len: u64,
    /// How many bytes may go out by the transfer's rate limits; `None` when it has none.
    permitted: Option<usize>,
    last_sent: Duration,
    last_heard: Duration,
    /// The credit limit at which the consumer was last told that it holds us up, and when.
    blocked_at: Option<(u64, Duration)>,
    /// Whether a beat is due.
    beat_due: bool,
    /// How often a chunk goes out that credit cuts short.
    fragments: Quota,
    last_message: Option<Body>,
    outcome: Option<Outcome>,
}

impl Sender {
    /// Starts a transfer of `range` (absolute, end exclusive) with an initial `credit`, an absolute offset.
    #[must_use]
    pub fn new(settings: Settings, range: Range<u64>, credit: u64, now: Duration) -> Self {
        let mut sender = Self {
            settings: settings.within_bounds(),
            next: range.start,
            range,
            seq: 0,
            credit: 0,
            buffered: VecDeque::new(),
            buffered_len: 0,
            permitted: None,
            last_sent: now,
            last_heard: now,
            blocked_at: None,
            beat_due: false,
            fragments: Quota::new(FRAGMENTS_BURST, FRAGMENTS_EVERY),
            last_message: None,
            outcome: None,
        };
        sender.credit = sender.clamp(credit);
        sender
    }

    /// Returns the absolute offset up to which chunks may go out.
    #[must_use]
    pub const fn credit(&self) -> u64 {
        self.credit
    }

    /// Returns how many bytes have gone out.
    #[must_use]
    pub const fn sent_bytes(&self) -> u64 {
        self.next.saturating_sub(self.range.start)
    }

    /// Returns how many chunks have gone out.
    #[must_use]
    pub const fn sent_chunks(&self) -> u64 {
        self.seq
    }

    /// Returns whether every byte has gone out.
    #[must_use]
    pub const fn is_all_sent(&self) -> bool {
        self.next >= self.range.end
    }

    /// Returns whether nothing but credit keeps the next chunk back.
    #[must_use]
    pub const fn is_blocked(&self) -> bool {
        self.buffered_len > 0 && self.credit <= self.next && self.last_message.is_none()
    }

    /// Holds chunks back from now on, until [`Self::permit`] lets bytes go.
    pub const fn hold(&mut self) {
        self.permitted = Some(0);
    }

    /// Lets `bytes` go out that were held back.
    pub fn permit(&mut self, bytes: usize) {
        self.permitted = Some(self.permitted.unwrap_or(0).saturating_add(bytes));
    }

    /// Returns how many bytes are held back and could go out by credit, as one chunk; 0 while there is a permit left.
    #[must_use]
    pub fn held_back(&self) -> usize {
        if self.permitted != Some(0) || self.is_over() {
            return 0;
        }
        let sendable = self.credit.saturating_sub(self.next).min(self.buffered_len);
        usize::try_from(sendable).unwrap_or(usize::MAX).min(self.settings.chunk_max)
    }

    /// Returns how the transfer ended, once its last message has been handed out.
    #[must_use]
    pub const fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Returns whether the next frame of the store is wanted now.
    ///
    /// With credit in hand frames are wanted until a chunk's worth is there; without, one frame is kept ready.
    #[must_use]
    pub fn wants_data(&self) -> bool {
        let held = self.next.saturating_add(self.buffered_len);
        if self.is_over() || held >= self.range.end {
            return false;
        }
        self.buffered_len == 0 || (held < self.credit && self.buffered_len < to_u64(self.settings.gather_min))
    }

    /// Takes the next frame of the store.
    pub fn handle_data(&mut self, frame: Bytes) {
        if self.is_over() || frame.is_empty() {
            return;
        }
        let len = to_u64(frame.len());
        let room = self.range.end.saturating_sub(self.next).saturating_sub(self.buffered_len);
        if len > room {
            let message = format!("the store yielded {len} bytes where {room} were left");
            return self.handle_failure(WireError::new(Code::Internal, message));
        }
        self.buffered_len = self.buffered_len.saturating_add(len);
        self.buffered.push_back(frame);
    }

    /// Takes note that the store has no more bytes.
    pub fn handle_data_end(&mut self) {
        let held = self.next.saturating_add(self.buffered_len);
        if !self.is_over() && held < self.range.end {
            let message = format!("the store ended at offset {held} of {}", self.range.end);
            self.handle_failure(WireError::new(Code::StoreUnavailable, message));
        }
    }

    /// Ends the transfer with an error that the consumer is told.
    pub fn handle_failure(&mut self, error: WireError) {
        self.finish(Body::Error(error));
    }

    /// Takes the consumer's state. Older states than one already seen change nothing.
    pub fn handle_control(&mut self, control: Control, now: Duration) {
        self.last_heard = now;
        if control.cancel && !self.is_over() {
            self.drop_buffered();
            self.outcome = Some(Outcome::Cancelled);
            return;
        }
        self.credit = self.credit.max(self.clamp(control.credit));
    }

    /// Takes note that a message of this transfer reached nobody.
    pub fn handle_consumer_gone(&mut self) {
        if self.outcome.is_none() {
            self.drop_buffered();
            self.outcome = Some(Outcome::ConsumerGone);
        }
    }

    /// Ends the transfer so that the consumer asks another relay.
    pub fn handle_drain(&mut self) {
        self.finish(Body::Goaway);
    }

    /// Takes note of the time, when [`Self::poll_timeout`] says so.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.is_over() {
            return;
        }
        if self.idle_at().is_some_and(|at| now >= at) {
            let message = format!("nothing heard from the consumer for {} ms", self.settings.idle_timeout.as_millis());
            return self.handle_failure(WireError::new(Code::Idle, message));
        }
        self.beat_due = now >= self.last_sent.saturating_add(self.settings.beat_interval);
    }

    /// Returns when [`Self::handle_timeout`] is due; `None` when the transfer is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.is_over() {
            return None;
        }
        let beat = self.last_sent.saturating_add(self.settings.beat_interval);
        let fragment = self.has_fragment().then(|| self.fragments.allowed_at());
        Some([self.idle_at(), fragment].into_iter().flatten().fold(beat, Duration::min))
    }

    /// When a consumer that stays silent is given up; `None` while its silence means nothing. One that did not promise
    /// to keep alive need not speak while it has nothing to allow: then the time counts from when it was told that it
    /// holds us up.
    fn idle_at(&self) -> Option<Duration> {
        let since = if self.settings.keeps_alive {
            self.last_heard
        } else if self.is_blocked() {
            self.blocked_at.map_or(self.last_heard, |(_, told)| told.max(self.last_heard))
        } else {
            return None;
        };
        Some(since.saturating_add(self.settings.idle_timeout))
    }

    /// Hands out the next message to publish, until there is none.
    pub fn poll_transmit(&mut self, now: Duration) -> Option<Body> {
        if self.outcome.is_some() {
            return None;
        }
        let body = self.next_message(now)?;
        if self.last_sent < now {
            self.last_sent = now;
        }
        self.beat_due = false;
        Some(body)
    }

    fn next_message(&mut self, now: Duration) -> Option<Body> {
        if let Some(body) = self.last_message.take() {
            self.outcome = Some(match &body {
                Body::Error(error) => Outcome::Failed(error.clone()),
                Body::Goaway => Outcome::Drained,
                Body::Accepted(_) | Body::Chunk(_) | Body::Beat { .. } | Body::End(_) => Outcome::Completed,
            });
            return Some(body);
        }
        if let Some(payload) = self.cut_unless_fragmented(now) {
            let chunk = Chunk::new(self.seq, self.next, payload);
            self.seq = self.seq.saturating_add(1);
            self.next = chunk.limit().unwrap_or(self.range.end);
            return Some(Body::Chunk(chunk));
        }
        if self.is_all_sent() {
            self.outcome = Some(Outcome::Completed);
            return Some(Body::End(End { chunks: self.seq, bytes: self.sent_bytes() }));
        }
        let newly_blocked = self.is_blocked() && self.blocked_at.is_none_or(|(credit, _)| credit != self.credit);
        if newly_blocked {
            self.blocked_at = Some((self.credit, now));
        }
        (newly_blocked || self.beat_due).then(|| Body::Beat {
            seq: self.seq,
            offset: self.next,
            wait: if self.is_blocked() { Wait::Credit } else { Wait::Store },
        })
    }

    /// Takes the next chunk, unless it is one of too many that credit cuts short: credit may grow by then.
    fn cut_unless_fragmented(&mut self, now: Duration) -> Option<Bytes> {
        if self.has_fragment() && !self.fragments.try_take(now) {
            return None;
        }
        self.cut()
    }

    /// Returns whether credit cuts the next chunk to less than is worth a message.
    fn has_fragment(&self) -> bool {
        let allowed = self.credit.saturating_sub(self.next);
        let small = (to_u64(self.settings.chunk_max) / 8).min(FRAGMENT_MAX_BYTES);
        allowed > 0 && allowed < self.buffered_len && allowed < small
    }

    /// Takes the next chunk's bytes off the buffer, as far as credit and the chunk limit allow.
    fn cut(&mut self) -> Option<Bytes> {
        let allowed = usize::try_from(self.credit.saturating_sub(self.next)).unwrap_or(usize::MAX);
        let chunk_max = if self.seq == 0 { FIRST_CHUNK_MAX } else { usize::MAX };
        let permitted = self.permitted.unwrap_or(usize::MAX);
        let max = allowed.min(self.settings.chunk_max).min(chunk_max).min(permitted);
        if max == 0 {
            return None;
        }
        let front = self.buffered.front_mut()?;
        let payload = if front.len() > max {
            front.split_to(max)
        } else if front.len() >= self.settings.gather_min || self.buffered.len() == 1 {
            self.buffered.pop_front()?
        } else {
            self.gather(max.min(self.settings.gather_min))
        };
        self.buffered_len = self.buffered_len.saturating_sub(to_u64(payload.len()));
        self.permitted = self.permitted.map(|bytes| bytes.saturating_sub(payload.len()));
        Some(payload)
    }

    /// Copies small frames together, up to `max` bytes.
    fn gather(&mut self, max: usize) -> Bytes {
        let mut chunk = BytesMut::with_capacity(max);
        while let Some(front) = self.buffered.front_mut() {
            let room = max.saturating_sub(chunk.len());
            if room == 0 {
                break;
            }
            let part = front.split_to(room.min(front.len()));
            chunk.extend_from_slice(&part);
            if front.is_empty() {
                self.buffered.pop_front();
            }
        }
        chunk.freeze()
    }

    fn finish(&mut self, body: Body) {
        if !self.is_over() {
            self.drop_buffered();
            self.last_message = Some(body);
        }
    }

    fn drop_buffered(&mut self) {
        self.buffered.clear();
        self.buffered_len = 0;
    }

    const fn is_over(&self) -> bool {
        self.outcome.is_some() || self.last_message.is_some()
    }

    fn clamp(&self, credit: u64) -> u64 {
        credit.min(self.next.saturating_add(self.settings.window_max)).min(self.range.end)
    }
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_secs(1);
    const IDLE: Duration = Duration::from_secs(15);
    const START: Duration = Duration::ZERO;

    fn sender(range: Range<u64>, credit: u64) -> Sender {
        Sender::new(settings(), range, credit, START)
    }

    fn settings() -> Settings {
        Settings {
            chunk_max: 8,
            gather_min: 4,
            window_max: 64,
            beat_interval: BEAT,
            idle_timeout: IDLE,
            keeps_alive: false,
        }
    }

    fn chunk(seq: u64, offset: u64, payload: &'static [u8]) -> Body {
        Body::Chunk(Chunk::new(seq, offset, Bytes::from_static(payload)))
    }

    fn drain(sender: &mut Sender, now: Duration) -> Vec<Body> {
        std::iter::from_fn(|| sender.poll_transmit(now)).collect()
    }

    #[test]
    fn an_empty_range_has_no_chunk_and_an_end() {
        let mut sender = sender(5..5, 5);
        assert_eq!(drain(&mut sender, START), [Body::End(End { chunks: 0, bytes: 0 })]);
        assert_eq!(sender.outcome(), Some(&Outcome::Completed));
        assert_eq!(sender.poll_timeout(), None);
    }

    #[test]
    fn cuts_large_frames_and_gathers_small_ones() {
        let mut sender = sender(10..23, 64);
        sender.handle_data(Bytes::from_static(b"abcdefghi"));
        assert_eq!(drain(&mut sender, START), [chunk(0, 10, b"abcdefgh"), chunk(1, 18, b"i")]);
        sender.handle_data(Bytes::from_static(b"j"));
        assert!(sender.wants_data());
        sender.handle_data(Bytes::from_static(b"kl"));
        sender.handle_data(Bytes::from_static(b"m"));
        assert!(!sender.wants_data());
        let end = Body::End(End { chunks: 3, bytes: 13 });
        assert_eq!(drain(&mut sender, START), [chunk(2, 19, b"jklm"), end]);
    }

    #[test]
    fn the_first_chunk_is_small_and_the_others_as_they_come() {
        let max = FIRST_CHUNK_MAX;
        let settings = Settings { chunk_max: 4 * max, window_max: u64::MAX, ..settings() };
        let size = to_u64(3 * max);
        let mut sender = Sender::new(settings, 0..size, size, START);
        sender.handle_data(Bytes::from(vec![7; 3 * max]));
        let sent = drain(&mut sender, START);
        let lens: Vec<_> =
            sent.iter().map(|body| if let Body::Chunk(chunk) = body { chunk.payload.len() } else { 0 }).collect();
        assert_eq!(lens, [max, 2 * max, 0]);
        assert!(sender.is_all_sent());
    }

    #[test]
    fn never_sends_past_credit_and_says_once_that_it_is_blocked() {
        let mut sender = sender(0..10, 3);
        sender.handle_data(Bytes::from_static(b"abcdef"));
        let blocked = |seq, offset| Body::Beat { seq, offset, wait: Wait::Credit };
        assert_eq!(drain(&mut sender, START), [chunk(0, 0, b"abc"), blocked(1, 3)]);
        assert!(!sender.wants_data());
        sender.handle_control(Control { credit: 5, cancel: false }, START);
        assert_eq!(drain(&mut sender, START), [chunk(1, 3, b"de"), blocked(2, 5)]);
        sender.handle_control(Control { credit: 4, cancel: false }, START);
        assert_eq!(drain(&mut sender, START), []);
    }

    #[test]
    fn credit_is_clamped_to_the_window_and_the_range() {
        assert_eq!(sender(0..1000, u64::MAX).credit(), 64);
        assert_eq!(sender(0..10, u64::MAX).credit(), 10);
    }

    #[test]
    fn beats_while_the_store_is_silent() {
        let mut sender = sender(0..10, 10);
        assert_eq!(drain(&mut sender, START), []);
        assert_eq!(sender.poll_timeout(), Some(BEAT));
        sender.handle_timeout(BEAT);
        assert_eq!(drain(&mut sender, BEAT), [Body::Beat { seq: 0, offset: 0, wait: Wait::Store }]);
        assert_eq!(sender.poll_timeout(), Some(BEAT * 2));
    }

    #[test]
    fn a_silent_consumer_that_gives_no_credit_ends_the_transfer() {
        let mut sender = sender(0..10, 0);
        sender.handle_data(Bytes::from_static(b"abc"));
        drain(&mut sender, START);
        sender.handle_control(Control::default(), BEAT);
        sender.handle_timeout(IDLE);
        assert!(sender.outcome().is_none());
        drain(&mut sender, IDLE);
        sender.handle_timeout(IDLE + BEAT);
        assert!(matches!(drain(&mut sender, IDLE + BEAT)[..], [Body::Error(ref error)] if error.code == Code::Idle));
        assert!(matches!(sender.outcome(), Some(Outcome::Failed(_))));
    }

    #[test]
    fn a_consumer_that_had_nothing_to_say_is_waited_for_from_when_it_is_told() {
        let mut sender = sender(0..10, 3);
        sender.handle_timeout(IDLE * 2);
        drain(&mut sender, IDLE * 2);
        sender.handle_data(Bytes::from_static(b"abcdef"));
        drain(&mut sender, IDLE * 2);
        assert!(sender.is_blocked());
        sender.handle_timeout(IDLE * 3 - BEAT);
        assert!(matches!(drain(&mut sender, IDLE * 3 - BEAT)[..], [Body::Beat { wait: Wait::Credit, .. }]));
        sender.handle_timeout(IDLE * 3);
        assert!(matches!(drain(&mut sender, IDLE * 3)[..], [Body::Error(ref error)] if error.code == Code::Idle));
    }

    #[test]
    fn a_consumer_that_keeps_alive_and_falls_silent_is_given_up_also_while_it_has_credit() {
        let mut sender = Sender::new(Settings { keeps_alive: true, ..settings() }, 0..64, 64, START);
        sender.handle_control(Control { credit: 64, cancel: false }, BEAT);
        // The store is slow, so that credit never runs out.
        let mut now = START;
        while now < IDLE {
            now += BEAT;
            sender.handle_data(Bytes::from_static(b"ab"));
            sender.handle_timeout(now);
            assert!(matches!(drain(&mut sender, now)[..], [Body::Chunk(_)]));
        }
        assert_eq!(sender.poll_timeout(), Some(BEAT + IDLE));
        sender.handle_timeout(BEAT + IDLE);
        assert!(matches!(drain(&mut sender, BEAT + IDLE)[..], [Body::Error(ref error)] if error.code == Code::Idle));
        assert!(matches!(sender.outcome(), Some(Outcome::Failed(_))));
    }

    #[test]
    fn a_consumer_that_keeps_alive_is_kept_for_as_long_as_it_speaks() {
        let mut sender = Sender::new(Settings { keeps_alive: true, ..settings() }, 0..64, 0, START);
        sender.handle_data(Bytes::from_static(b"ab"));
        for round in 1..100 {
            let now = (IDLE - BEAT / 10) * round;
            sender.handle_timeout(now);
            drain(&mut sender, now);
            assert_eq!(sender.outcome(), None);
            sender.handle_control(Control::default(), now);
        }
    }

    #[test]
    fn a_consumer_that_promised_nothing_may_be_silent_while_it_has_credit() {
        let mut sender = sender(0..10, 10);
        sender.handle_timeout(IDLE * 10);
        assert!(matches!(drain(&mut sender, IDLE * 10)[..], [Body::Beat { wait: Wait::Store, .. }]));
        assert_eq!(sender.poll_timeout(), Some(IDLE * 10 + BEAT));
    }

    #[test]
    fn a_store_that_yields_too_little_or_too_much_is_an_error() {
        let mut short = sender(0..10, 10);
        short.handle_data(Bytes::from_static(b"abc"));
        short.handle_data_end();
        assert!(matches!(drain(&mut short, START)[..], [Body::Error(ref e)] if e.code == Code::StoreUnavailable));
        let mut long = sender(0..2, 10);
        long.handle_data(Bytes::from_static(b"abc"));
        assert!(matches!(drain(&mut long, START)[..], [Body::Error(ref e)] if e.code == Code::Internal));
    }

    #[test]
    fn nothing_follows_the_last_message() {
        let mut sender = sender(0..10, 10);
        sender.handle_data(Bytes::from_static(b"abc"));
        sender.handle_drain();
        sender.handle_failure(WireError::new(Code::Internal, "late"));
        sender.handle_data(Bytes::from_static(b"d"));
        assert_eq!(drain(&mut sender, START), [Body::Goaway]);
        sender.handle_timeout(IDLE);
        assert_eq!(drain(&mut sender, IDLE), []);
        assert_eq!(sender.outcome(), Some(&Outcome::Drained));
    }

    #[test]
    fn a_cancelled_transfer_sends_nothing_more() {
        let mut sender = sender(0..10, 10);
        sender.handle_data(Bytes::from_static(b"abc"));
        sender.handle_control(Control { credit: 0, cancel: true }, START);
        assert_eq!(drain(&mut sender, START), []);
        assert_eq!(sender.outcome(), Some(&Outcome::Cancelled));
    }
}
