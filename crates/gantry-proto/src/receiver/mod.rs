//! The consumer's side of one download, as a state machine that outlives transfers.
//!
//! | module | concern |
//! |---|---|
//! | `transfer` | an accepted transfer: its messages, and control messages |
//! | `admit` | whether an `accepted` is valid |
//! | `credit` | how far the relay may send, and how large the window is |
//! | `recovery` | the next request after a failure, or the end of the download |
//! | `timers` | one table of all timers |
//! | `failure` | the reasons for a recovery and for the end of a download |

mod admit;
mod credit;
mod failure;
mod recovery;
#[cfg(test)]
mod tests;
mod timers;
mod transfer;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use self::credit::{Credit, Nearness};
pub use self::failure::{Cause, Failure};
use self::recovery::Recovery;
use self::transfer::Transfer;
use super::OFFSET_MAX;
use super::answer::Accepted;
use super::chunk::Chunk;
use super::error::{Code, WireError};
use super::get::Get;
use super::limits::{CONTROLS_BURST, CONTROLS_EVERY, REPEATS_BURST, REPEATS_EVERY};
use super::message::{self, Body, Headers};
use super::names::TransferId;
use super::object::ObjectInfo;
use super::quota::Quota;
use super::request::{Control, GetRequest, Location};
use super::subject::Prefix;

/// The limits of a [`Receiver`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// The first tokens of every subject. A relay's control subject must begin with them.
    pub prefix: Prefix,
    /// The first window, in bytes.
    pub window_initial: u64,
    /// Where the consumer is connected, and the first window of a transfer from a relay near it, in bytes, if it
    /// is larger.
    pub near: Option<(Arc<Location>, u64)>,
    /// The largest window, in bytes.
    pub window_max: u64,
    /// The largest chunk payload to request, in bytes.
    pub chunk_max: u64,
    /// Silence after which a relay counts as lost, but at least three of its beats. On a slow link, it is longer and follows
    /// the measured delay. Until a relay's first message, it is shorter and follows the time of earlier answers.
    pub stall_timeout: Duration,
    /// How long to retry while nobody listens and no relay has ever accepted.
    pub no_relay_patience: Duration,
    /// How long to continue without new bytes, unless the consumer's own writing causes the delay.
    pub patience: Duration,
    /// The first pause between fruitless requests. It doubles, with jitter.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// Makes the jitter repeatable.
    pub jitter_seed: u64,
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Drop the inbox, subscribe to a fresh one, and publish this to the store's `get` subject with the inbox as reply.
    Request(GetRequest),
    /// Publish this to `subject`, with the inbox as reply.
    Control {
        /// The transfer's control subject.
        subject: String,
        /// The consumer's state.
        control: Control,
    },
    /// A relay accepted. For reports. The first one contains the object's description.
    Accepted(Box<Accepted>),
    /// The transfer was abandoned. For logs and metrics.
    Recovering(Cause),
}

/// Counts of a download's events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Requests sent.
    pub requests: u64,
    /// Transfers abandoned and continued by another one.
    pub recoveries: u64,
    /// Messages that arrived twice.
    pub repeats: u64,
    /// Messages of another transfer, or after the end.
    pub strays: u64,
    /// Bytes that arrived and were discarded.
    pub discarded_bytes: u64,
}

#[derive(Debug)]
enum State {
    /// Nothing is in flight. A request is due at `until`.
    Waiting { until: Duration },
    /// There is no connection.
    Offline,
    /// A request was sent.
    Requested {
        asked: Duration,
        /// Whether a relay has responded, even if only with a beat.
        heard: bool,
        /// The time of the request, or of the relay's last message.
        heard_at: Duration,
        /// The credit in the request.
        credit: u64,
        /// The request's credit for a near relay. If it states none, `credit`.
        near_credit: u64,
    },
    /// A relay is sending.
    Streaming(Box<Transfer>),
    /// Every byte and the end message have arrived. Some bytes may not be written.
    Ended,
    /// The download has failed.
    Failed(Failure),
}

/// Turns the messages of any number of transfers into one contiguous sequence of bytes.
///
/// Invariants:
/// - [`Self::poll_deliver`] returns a prefix of the requested range of one version of the object, each byte once.
/// - Credit never decreases, and never exceeds the written bytes by more than the largest window.
/// - Credit never exceeds the arrived bytes by more than the window, unless the window has shrunk since it was given.
/// - The download ends only when every byte and the end message have arrived.
#[derive(Debug)]
pub struct Receiver {
    settings: Settings,
    get: Get,
    /// The version that is being downloaded, once it is known.
    object: Option<ObjectInfo>,
    /// The exclusive end of the range, once the object's size is known.
    limit: Option<u64>,
    /// The offset of the next byte to arrive.
    next: u64,
    credit: Credit,
    state: State,
    recovery: Recovery,
    /// Limits control messages.
    controls: Quota,
    /// Limits control messages that repeat the previous credit in answer to beats.
    repeats: Quota,
    deliver: VecDeque<Chunk>,
    outputs: VecDeque<Output>,
    stats: Stats,
}

impl Receiver {
    /// Starts a download. The first request is ready at once. A range that starts where no object has bytes has failed
    /// already, because its request would be malformed.
    #[must_use]
    pub fn new(settings: Settings, get: Get, now: Duration) -> Self {
        Self::starting(settings, get, None, now)
    }

    /// As [`Self::new`], for a range of the version `object`, which a relay has described before. Its pin replaces the one
    /// of `get`, and a missing relay or store is retried as in a recovery.
    ///
    /// The window starts small even if the relay is near, since other downloads of the version may use the same link.
    #[must_use]
    pub fn of_version(settings: Settings, get: Get, object: ObjectInfo, now: Duration) -> Self {
        // The smallest larger credit, only to learn whether a relay is near.
        let near = settings.near.map(|(location, _)| (location, settings.window_initial.saturating_add(1)));
        Self::starting(Settings { near, ..settings }, get, Some(object), now)
    }

    fn starting(settings: Settings, get: Get, object: Option<ObjectInfo>, now: Duration) -> Self {
        let start = get.span.start;
        let range = object.as_ref().and_then(|object| get.span.resolve(object.size));
        let mut receiver = Self {
            credit: Credit::new(start, settings.window_initial, settings.window_max),
            recovery: Recovery::new(&settings, now),
            settings,
            get,
            object,
            limit: range.map(|range| range.end),
            next: start,
            state: State::Waiting { until: now },
            controls: Quota::new(CONTROLS_BURST, CONTROLS_EVERY),
            repeats: Quota::new(REPEATS_BURST, REPEATS_EVERY),
            deliver: VecDeque::new(),
            outputs: VecDeque::new(),
            stats: Stats::default(),
        };

        if start > OFFSET_MAX {
            let refusal = WireError::new(Code::Range, format!("the range starts at {start}, past every object's end"));
            receiver.state = State::Failed(Failure::Refused(refusal));
        }
        receiver.handle_timeout(now);
        receiver
    }

    /// Returns the version that is being downloaded, once it is known.
    #[must_use]
    pub const fn object(&self) -> Option<&ObjectInfo> {
        self.object.as_ref()
    }

    /// Returns the absolute offset of the next byte to arrive.
    #[must_use]
    pub const fn next_offset(&self) -> u64 {
        self.next
    }

    /// Returns the absolute offset up to which bytes are known to be written, exclusive.
    #[must_use]
    pub const fn written_offset(&self) -> u64 {
        self.credit.written()
    }

    /// Returns whether any message of a relay has arrived.
    #[must_use]
    pub const fn was_answered(&self) -> bool {
        self.recovery.answered_in().is_some()
    }

    /// Returns whether a relay is sending and needs more credit to send all bytes.
    #[must_use]
    pub fn needs_credit(&self) -> bool {
        match &self.state {
            State::Streaming(transfer) => self.limit.is_none_or(|limit| transfer.credit < limit),
            State::Waiting { .. } | State::Offline | State::Requested { .. } | State::Ended | State::Failed(_) => false,
        }
    }

    /// Returns the counts so far.
    #[must_use]
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// Returns how the download ended: `Ok` once every byte is written.
    #[must_use]
    pub fn outcome(&self) -> Option<Result<(), &Failure>> {
        match &self.state {
            State::Failed(failure) => Some(Err(failure)),
            State::Ended if self.credit.written() >= self.next => Some(Ok(())),
            State::Ended | State::Waiting { .. } | State::Offline | State::Requested { .. } | State::Streaming(_) => {
                None
            }
        }
    }

    /// Returns what the driver must do next, or `None` if there is nothing.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Returns the next chunk to write, in order and with a valid CRC. Report it to [`Self::handle_written`].
    pub fn poll_deliver(&mut self) -> Option<Chunk> {
        self.deliver.pop_front()
    }

    /// Returns whether [`Self::poll_deliver`] has a chunk.
    #[must_use]
    pub fn has_deliverable(&self) -> bool {
        !self.deliver.is_empty()
    }

    /// Returns the window that this download's link is known to carry, in bytes; `None` until a delay was measured, and
    /// unless the relay is known not to be near. Another download on the same connection may start with it, whatever relay
    /// it gets.
    #[must_use]
    pub fn measured_window(&self) -> Option<u64> {
        let window = self.credit.window();
        window.delay().filter(|_| self.credit.nearness() == Nearness::Far).map(|_| window.size())
    }

    /// Returns the written offset from which on [`Self::handle_written`] has an effect. Until then it need not be called.
    #[must_use]
    pub fn awaited_written(&self) -> u64 {
        let transfer = match &self.state {
            State::Ended => return self.next,
            State::Streaming(transfer) => transfer,
            State::Waiting { .. } | State::Offline | State::Requested { .. } | State::Failed(_) => return u64::MAX,
        };

        let limit = self.limit.unwrap_or(OFFSET_MAX);
        let may_give_credit = transfer.credit < limit && transfer.control_due.is_none();
        if may_give_credit { self.credit.written_at_step(transfer.credit, self.next, limit) } else { u64::MAX }
    }

    /// Records the connection's share of the window budget, in bytes.
    pub fn handle_window_limit(&mut self, share: u64) {
        self.credit.handle_window_limit(share);
    }

    /// Records that the connection was lost, and with it everything in flight.
    pub fn handle_disconnected(&mut self) {
        if !self.is_open() || matches!(self.state, State::Offline) {
            return;
        }

        self.count_recovery();
        // The next server may be another one.
        self.settings.near = None;
        self.recovery.handle_disconnected();
        self.credit.handle_end();
        self.credit.window_mut().handle_lost();

        // Unsent messages belong to a transfer that is gone. A new request follows the reconnect.
        self.outputs.retain(|output| !matches!(output, Output::Request(_) | Output::Control { .. }));
        self.outputs.push_back(Output::Recovering(Cause::Disconnected));
        self.state = State::Offline;
    }

    /// Records that the connection is restored.
    pub fn handle_connected(&mut self, now: Duration) {
        if matches!(self.state, State::Offline) {
            self.request(now);
        }
    }

    /// Records nats-server's report that nobody received the last published message.
    pub fn handle_no_responders(&mut self, now: Duration) {
        match &mut self.state {
            // The relay may be replacing the connection on which it hears control messages, but then it still sends.
            State::Streaming(transfer) if now < transfer.absent_at() => transfer.handle_unheard(now),
            State::Requested { .. } | State::Streaming(_) => self.recover(Cause::NoResponders, None, now),
            State::Waiting { .. } | State::Offline | State::Ended | State::Failed(_) => {}
        }
    }

    /// Ends the download for a reason outside of the protocol.
    pub fn handle_failure(&mut self, failure: Failure) {
        if self.outcome().is_none() {
            self.cancel_transfer();
            self.state = State::Failed(failure);
        }
    }

    /// Handles a message from the inbox of the latest request.
    pub fn handle_message(&mut self, headers: &Headers, payload: Bytes, now: Duration) {
        let (envelope, body) = match message::decode(headers, payload.clone()) {
            Ok(decoded) => decoded,
            Err(_) if self.is_of_another(headers) => {
                self.stats.strays = self.stats.strays.saturating_add(1);
                return;
            }
            Err(malformed) => match message::error_of(headers, &payload) {
                Some(error) => (message::Envelope { transfer: None, context: None }, Body::Error(error)),
                None => return self.recover(Cause::Violation(malformed.to_string()), None, now),
            },
        };

        let is_news = self.is_news(&body);
        self.recovery.handle_heard();
        match &mut self.state {
            State::Requested { asked, heard, heard_at, credit, near_credit } => {
                *heard_at = now;
                if !std::mem::replace(heard, true) {
                    self.recovery.handle_answered(now.saturating_sub(*asked));
                }
                let credits = (*credit, *near_credit);
                self.handle_answer(body, envelope.transfer, credits, now);
            }
            State::Streaming(transfer) if envelope.transfer == Some(transfer.id()) => {
                if is_news {
                    transfer.heard_at = now;
                }
                self.handle_body(body, now);
            }
            State::Waiting { .. } | State::Offline | State::Streaming(_) | State::Ended | State::Failed(_) => {
                self.stats.strays = self.stats.strays.saturating_add(1);
                self.discard(&body);
            }
        }
    }

    /// Handles a message before `accepted`. `credits` are those in the request, for any relay and for a near one.
    fn handle_answer(&mut self, body: Body, transfer: Option<TransferId>, credits: (u64, u64), now: Duration) {
        match body {
            Body::Accepted(accepted) => self.handle_accepted(accepted, transfer, credits, now),
            // The time that the store takes to open shows nothing about the link.
            Body::Beat { .. } => self.credit.window_mut().handle_store_slow(),
            Body::Error(error) => self.handle_error(error, transfer.is_none(), now),
            Body::Goaway => self.recover(Cause::Goaway, None, now),
            Body::Chunk(_) | Body::End(_) => self.recover(Cause::Gap, None, now),
        }
    }

    /// Returns whether an unreadable message names a transfer other than the current one.
    fn is_of_another(&self, headers: &Headers) -> bool {
        let State::Streaming(transfer) = &self.state else { return false };
        let named = headers.get(message::TRANSFER).and_then(|text| text.parse::<TransferId>().ok());
        named.is_some_and(|named| named != transfer.id())
    }

    /// Returns whether a message shows that its relay makes progress. Repeats don't, and neither do beats after the last
    /// byte, since only the end can follow.
    fn is_news(&self, body: &Body) -> bool {
        let State::Streaming(transfer) = &self.state else { return true };
        match body {
            Body::Chunk(chunk) => chunk.seq >= transfer.seq,
            Body::Beat { seq, .. } => *seq >= transfer.seq && Some(self.next) != self.limit,
            Body::Accepted(_) => false,
            Body::End(_) | Body::Error(_) | Body::Goaway => true,
        }
    }

    /// Returns the absolute offset up to which the relay may send, exclusive.
    fn grant(&self) -> u64 {
        self.credit.grant(self.next, self.limit.or(self.get.span.end))
    }

    const fn is_open(&self) -> bool {
        !matches!(self.state, State::Ended | State::Failed(_))
    }
}
