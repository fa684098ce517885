//! The relay's side of one transfer, from the request to the last message, as a state machine.

mod beats;
mod buffer;
mod opening;
mod settings;
mod short;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;

pub use self::opening::Identity;
pub use self::settings::Settings;

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

use self::beats::{Beats, Position};
use self::buffer::Buffer;
use self::opening::Opening;
use self::short::ShortChunks;
use super::answer::{Accepted, End};
use super::chunk::Chunk;
use super::error::{Code, WireError};
use super::limits::WINDOW_DEFAULT_BYTES;
use super::message::Body;
use super::object::ObjectInfo;
use super::request::{Control, GetRequest};

/// The largest first chunk's payload, in bytes. It is read together with the acceptance, and on a slow link the first
/// byte need not wait for half a megabyte.
const FIRST_CHUNK_MAX: usize = 32 << 10;

/// How a transfer ended, as the relay sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every chunk and the end message were handed out.
    Completed,
    /// The request was answered with an error.
    Refused(WireError),
    /// The transfer was accepted, and ended with an error message.
    Failed(WireError),
    /// The consumer was sent to another relay.
    Drained,
    /// The consumer cancelled.
    Cancelled,
    /// Nobody listens on the delivery subject any more.
    ConsumerGone,
}

/// The progress of a transfer.
#[derive(Debug)]
enum Stage {
    /// The store is opening the object.
    Opening(Opening),
    /// The acceptance is the next message.
    Accepting(Box<Accepted>),
    Sending,
}

/// Whether the next chunk may be cut. Transfers take turns in sending chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// There is no chunk to send.
    Unneeded,
    /// A chunk is ready and waits for a turn.
    Wanted,
    Granted,
}

/// Turns a request, an object's bytes and credit into the messages of one transfer.
///
/// Its driver opens the object and reports the result with [`Self::handle_opened`] or [`Self::handle_failure`]. It then
/// supplies pieces of the body whenever [`Self::wants_data`] is true, and a turn whenever [`Self::wants_turn`] is.
///
/// Invariants: no byte is sent past the credit; offsets and sequence numbers have no gap; only beats or a refusal
/// precede the acceptance; nothing follows the last message; the sender holds at most one piece more than credit
/// allows.
#[derive(Debug)]
pub struct Sender {
    settings: Settings,
    /// Whether the consumer promised to send control messages even without new credit.
    keeps_alive: bool,
    stage: Stage,
    /// The range to send, as absolute offsets with an exclusive end. Empty until the object is open.
    range: Range<u64>,
    /// The offset of the next byte to send.
    next: u64,
    seq: u64,
    credit: u64,
    /// How far the relay may send past the written bytes, if it computes the credit itself.
    window: Option<u64>,
    buffer: Buffer,
    turn: Turn,
    /// The number of bytes that rate limits allow; `None` without limits.
    permitted: Option<usize>,
    beats: Beats,
    last_heard: Duration,
    short_chunks: ShortChunks,
    last_message: Option<Body>,
    outcome: Option<Outcome>,
}

impl Sender {
    /// Starts the transfer of a request that arrived at `now`.
    #[must_use]
    pub fn new(settings: Settings, request: &GetRequest, identity: Identity, now: Duration) -> Self {
        let settings = settings.of_request(request);
        let window = request.window.map(|window| window.min(settings.window_max));
        let first_window = window.unwrap_or(WINDOW_DEFAULT_BYTES);
        let opening = Opening {
            identity,
            span: request.span(),
            requested_credit: request.credit.unwrap_or_else(|| request.start.saturating_add(first_window)),
            early_credit: 0,
        };

        Self {
            keeps_alive: request.keeps_alive,
            stage: Stage::Opening(opening),
            range: request.start..request.start,
            next: request.start,
            seq: 0,
            credit: 0,
            window,
            buffer: Buffer::default(),
            turn: Turn::Unneeded,
            permitted: None,
            beats: Beats::new(settings.beat_interval, now),
            last_heard: now,
            short_chunks: ShortChunks::new(to_u64(settings.chunk_max)),
            last_message: None,
            outcome: None,
            settings,
        }
    }

    /// Returns the absolute offset up to which chunks may be sent.
    #[must_use]
    pub const fn credit(&self) -> u64 {
        self.credit
    }

    /// Returns how many bytes have been sent.
    #[must_use]
    pub const fn sent_bytes(&self) -> u64 {
        self.next.saturating_sub(self.range.start)
    }

    /// Returns how many chunks have been sent.
    #[must_use]
    pub const fn sent_chunks(&self) -> u64 {
        self.seq
    }

    /// Returns whether the object is still being opened.
    #[must_use]
    pub const fn is_opening(&self) -> bool {
        matches!(self.stage, Stage::Opening(_)) && !self.is_over()
    }

    /// Returns whether every byte has been sent.
    #[must_use]
    pub const fn is_all_sent(&self) -> bool {
        matches!(self.stage, Stage::Sending) && self.next >= self.range.end
    }

    /// Returns whether only missing credit blocks the next chunk.
    #[must_use]
    pub const fn is_blocked(&self) -> bool {
        self.buffer.len() > 0 && self.credit <= self.next && self.last_message.is_none()
    }

    /// Returns how the transfer ended, once its last message has been handed out.
    #[must_use]
    pub const fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Returns whether the store's next piece is wanted now.
    ///
    /// With credit left, the sender wants pieces until there is enough for a chunk. Without credit, it keeps one piece
    /// ready.
    #[must_use]
    pub fn wants_data(&self) -> bool {
        let held = self.held_limit();
        if self.is_over() || held >= self.range.end {
            return false;
        }
        self.buffer.len() == 0 || (held < self.credit && self.buffer.len() < to_u64(self.settings.gather_min))
    }

    /// Returns whether a chunk waits for [`Self::handle_turn`].
    #[must_use]
    pub const fn wants_turn(&self) -> bool {
        matches!(self.turn, Turn::Wanted) && !self.is_over()
    }

    /// Holds chunks back from now on, until [`Self::permit`] allows bytes to be sent.
    pub const fn hold(&mut self) {
        self.permitted = Some(0);
    }

    /// Allows `bytes` of the held-back bytes to be sent.
    pub fn permit(&mut self, bytes: usize) {
        self.permitted = Some(self.permitted.unwrap_or(0).saturating_add(bytes));
    }

    /// Returns the size of a chunk that only rate limits hold back; 0 while there is a permit left.
    #[must_use]
    pub fn held_back(&self) -> usize {
        if self.permitted != Some(0) || self.is_over() {
            return 0;
        }
        let sendable = self.allowed().min(self.buffer.len());
        usize::try_from(sendable).unwrap_or(usize::MAX).min(self.settings.chunk_max)
    }

    /// Makes a beat due at once, to find out whether anybody listens.
    pub const fn request_beat(&mut self) {
        self.beats.request();
    }

    /// Accepts the request after the store has opened the object, or refuses it if the object can't satisfy it.
    pub fn handle_opened(&mut self, mut object: ObjectInfo, now: Duration) {
        if self.is_over() {
            return;
        }
        let Stage::Opening(opening) = &mut self.stage else { return };

        let range = match opening.resolve(&mut object) {
            Ok(range) => range,
            Err(error) => return self.handle_failure(error),
        };

        let clamp = |credit| self.settings.clamp_credit(credit, range.start, range.end);
        let credit = clamp(opening.requested_credit);
        self.credit = credit.max(clamp(opening.early_credit));

        let accepted = opening.accept(object, &range, credit, &self.settings);
        self.stage = Stage::Accepting(Box::new(accepted));
        self.range = range;
        self.last_heard = now;
    }

    /// Adds the store's next piece.
    pub fn handle_data(&mut self, piece: Bytes) {
        if self.is_opening() || self.is_over() || piece.is_empty() {
            return;
        }

        let len = to_u64(piece.len());
        let room = self.range.end.saturating_sub(self.held_limit());
        if len > room {
            let message = format!("the store yielded {len} bytes where {room} were left");
            return self.handle_failure(WireError::new(Code::Internal, message));
        }
        self.buffer.push(piece);
    }

    /// Records the end of the store's bytes.
    pub fn handle_data_end(&mut self) {
        let held = self.held_limit();
        if !self.is_over() && held < self.range.end {
            let message = format!("the store ended at offset {held} of {}", self.range.end);
            self.handle_failure(WireError::new(Code::StoreUnavailable, message));
        }
    }

    /// Gives the transfer a turn: one chunk may be cut.
    pub fn handle_turn(&mut self) {
        if self.wants_turn() {
            self.turn = Turn::Granted;
        }
    }

    /// Ends the transfer with an error message, or refuses the request if it was not accepted yet.
    pub fn handle_failure(&mut self, error: WireError) {
        self.finish(Body::Error(error));
    }

    /// Applies the consumer's state. An older state changes nothing.
    pub fn handle_control(&mut self, control: Control, now: Duration) {
        self.last_heard = now;

        if control.cancel && !self.is_over() {
            self.abandon(Outcome::Cancelled);
            return;
        }

        let credit = match self.window {
            Some(window) => control.written.min(self.next).saturating_add(window),
            None => control.credit,
        };
        if let Stage::Opening(opening) = &mut self.stage {
            opening.early_credit = opening.early_credit.max(credit);
        } else {
            let credit = self.settings.clamp_credit(credit, self.next, self.range.end);
            self.credit = self.credit.max(credit);
        }
    }

    /// Ends the transfer because nobody received one of its messages.
    pub fn handle_consumer_gone(&mut self) {
        if self.outcome.is_none() {
            self.abandon(Outcome::ConsumerGone);
        }
    }

    /// Ends the transfer so that the consumer requests the rest from another relay.
    pub fn handle_drain(&mut self) {
        self.finish(Body::Goaway);
    }

    /// Handles expired timers. Call it at the time that [`Self::poll_timeout`] returns.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.is_over() {
            return;
        }

        if self.idle_at().is_some_and(|at| now >= at) {
            let message = format!("nothing heard from the consumer for {} ms", self.settings.idle_timeout.as_millis());
            return self.handle_failure(WireError::new(Code::Idle, message));
        }
        self.beats.handle_timeout(now);
    }

    /// Returns when [`Self::handle_timeout`] is due; `None` once the transfer is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.is_over() {
            return None;
        }

        let is_waiting = self.turn == Turn::Unneeded && self.is_cut_short();
        let short_chunk = if is_waiting { self.short_chunks.due_at(self.allowed()) } else { None };
        let timers = [self.idle_at(), short_chunk];
        Some(timers.into_iter().flatten().fold(self.beats.due_at(), Duration::min))
    }

    /// Returns the next message to publish, or `None` if nothing is ready.
    pub fn poll_transmit(&mut self, now: Duration) -> Option<Body> {
        if self.outcome.is_some() {
            return None;
        }

        let body = self.next_message(now)?;
        self.beats.handle_sent(now);
        Some(body)
    }

    fn next_message(&mut self, now: Duration) -> Option<Body> {
        if let Some(accepted) = self.take_acceptance() {
            return Some(Body::Accepted(accepted));
        }
        if let Some(body) = self.last_message.take() {
            self.outcome = Some(self.outcome_of(&body));
            return Some(body);
        }

        if let Some(chunk) = self.next_chunk() {
            return Some(Body::Chunk(chunk));
        }
        if self.is_all_sent() {
            self.outcome = Some(Outcome::Completed);
            return Some(Body::End(End { chunks: self.seq, bytes: self.sent_bytes() }));
        }
        if self.ask_for_turn(now) {
            return None;
        }

        let position = Position { seq: self.seq, offset: self.next };
        let blocked = self.is_blocked().then_some(self.credit);
        self.beats.poll(position, blocked, now)
    }

    fn take_acceptance(&mut self) -> Option<Box<Accepted>> {
        if !matches!(self.stage, Stage::Accepting(_)) {
            return None;
        }
        let Stage::Accepting(accepted) = std::mem::replace(&mut self.stage, Stage::Sending) else { return None };
        Some(accepted)
    }

    fn outcome_of(&self, last: &Body) -> Outcome {
        match last {
            Body::Error(error) if matches!(self.stage, Stage::Opening(_)) => Outcome::Refused(error.clone()),
            Body::Error(error) => Outcome::Failed(error.clone()),
            Body::Goaway => Outcome::Drained,
            Body::Accepted(_) | Body::Chunk(_) | Body::Beat { .. } | Body::End(_) => Outcome::Completed,
        }
    }

    /// Requests a turn once a chunk is ready. A chunk that credit cuts short waits a little, since more credit may be
    /// in flight. Returns whether the chunk has just become ready. If it gets a turn at once, it replaces a beat.
    fn ask_for_turn(&mut self, now: Duration) -> bool {
        let is_ready = self.turn == Turn::Unneeded && self.chunk_max() > 0 && self.buffer.len() > 0;
        if !is_ready || (self.is_cut_short() && !self.short_chunks.may_send(self.allowed(), now)) {
            return false;
        }
        self.turn = Turn::Wanted;
        true
    }

    /// Returns whether credit cuts the next chunk short. The first chunk is small in any case, and must not be delayed;
    /// neither must the next ones, from whose arrival the consumer learns how large its window may be.
    fn is_cut_short(&self) -> bool {
        let allowed = self.allowed();
        let is_prompt = self.short_chunks.is_prompt(self.seq, allowed);
        !is_prompt && 0 < allowed && allowed < self.buffer.len() && allowed < to_u64(self.settings.chunk_max)
    }

    /// Cuts the next chunk if the transfer has a turn.
    fn next_chunk(&mut self) -> Option<Chunk> {
        let max = self.chunk_max();
        if self.turn != Turn::Granted || max == 0 {
            return None;
        }
        self.turn = Turn::Unneeded;
        self.short_chunks.handle_sent();

        let payload = self.buffer.cut(max, self.settings.gather_min)?;
        self.permitted = self.permitted.map(|bytes| bytes.saturating_sub(payload.len()));

        let chunk = Chunk::new(self.seq, self.next, payload);
        self.seq = self.seq.saturating_add(1);
        self.next = chunk.limit().unwrap_or(self.range.end);
        Some(chunk)
    }

    /// Returns the maximum size of the next chunk, in bytes.
    fn chunk_max(&self) -> usize {
        let allowed = usize::try_from(self.allowed()).unwrap_or(usize::MAX);
        let permitted = self.permitted.unwrap_or(usize::MAX);
        let first_max = if self.seq == 0 { FIRST_CHUNK_MAX } else { usize::MAX };
        allowed.min(permitted).min(first_max).min(self.settings.chunk_max)
    }

    /// Returns the number of bytes that credit allows.
    const fn allowed(&self) -> u64 {
        self.credit.saturating_sub(self.next)
    }

    /// Returns the offset up to which bytes have been sent or are held, exclusive.
    const fn held_limit(&self) -> u64 {
        self.next.saturating_add(self.buffer.len())
    }

    /// Returns when a silent consumer is abandoned; `None` while its silence means nothing. A consumer that did not
    /// promise keep-alives need not send anything while it has no credit to give. Its timeout starts when it learns
    /// that the transfer is blocked.
    fn idle_at(&self) -> Option<Duration> {
        if matches!(self.stage, Stage::Opening(_)) {
            return None;
        }

        let since = if self.keeps_alive {
            self.last_heard
        } else if self.is_blocked() {
            self.beats.blocked_at().map_or(self.last_heard, |told| told.max(self.last_heard))
        } else {
            return None;
        };
        Some(since.saturating_add(self.settings.idle_timeout))
    }

    /// Ends the transfer with a last message.
    fn finish(&mut self, body: Body) {
        if !self.is_over() {
            self.drop_buffer();
            self.last_message = Some(body);
        }
    }

    /// Ends the transfer without a further message.
    fn abandon(&mut self, outcome: Outcome) {
        self.drop_buffer();
        self.outcome = Some(outcome);
    }

    fn drop_buffer(&mut self) {
        self.buffer.clear();
        self.turn = Turn::Unneeded;
    }

    const fn is_over(&self) -> bool {
        self.outcome.is_some() || self.last_message.is_some()
    }
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
