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
mod tests;
