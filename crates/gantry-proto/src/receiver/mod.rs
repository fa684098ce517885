//! The consumer's side of one download, as a state machine that outlives transfers.

mod admit;
mod pace;
mod silence;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use bytes::Bytes;

use self::pace::Pace;
pub use self::silence::Link;
use self::silence::Silence;
use super::OFFSET_MAX;
use super::answer::{Accepted, End};
use super::chunk::Chunk;
use super::error::{Code, WireError};
use super::limits::{
    self, CONTROLS_BURST, CONTROLS_EVERY, RECOVERIES_BURST, RECOVERIES_EVERY, REPEATS_BURST, REPEATS_EVERY,
};
use super::message::{self, Body, Headers, Wait};
use super::names::{Key, TransferId};
use super::object::{ObjectInfo, Pin, Span};
use super::quota::Quota;
use super::request::{Control, GetRequest};
use super::subject::Prefix;

/// The most chunks that may wait for being written, whatever their size: it bounds what a relay that sends tiny chunks
/// can make us hold beside the bytes themselves.
const WAITING_CHUNKS_MAX: usize = 64 * 1024;

/// The least time that a relay is given to answer a request. A live one answers, or beats, within 50 ms and a round
/// trip.
const ANSWER_TIMEOUT_MIN: Duration = Duration::from_millis(200);

/// The time to answer while none has been seen, as TCP's first retransmission timeout. Source: RFC 6298, section 2.1.
const ANSWER_TIMEOUT_INITIAL: Duration = Duration::from_secs(1);

/// How many requests in a row get the same time to be answered; with each further one it doubles. When one of two relays
/// is frozen, a run of this many requests that all meet it has a probability of one in 64.
const ANSWER_TRIES: u32 = 6;

/// How soon what came must be written for the writing not to count as what holds the transfer up: half of the first
/// window within this time is 20 MiB/s.
const WRITTEN_SOON: Duration = Duration::from_millis(50);

/// The least silence after which a relay counts as lost because of its beats, however short the patience is.
const BEATS_TIMEOUT_MIN: Duration = Duration::from_secs(3);

/// How soon a silent relay is asked whether it is there, at the earliest.
const PROBE_MIN: Duration = Duration::from_millis(50);
/// How soon a control message is sent again that met nobody: a relay that makes its connection anew is back within
/// milliseconds.
const CONTROL_AGAIN: Duration = Duration::from_millis(50);

/// How soon a control message that is followed by silence is sent again, at the earliest and at the latest.
const CONTROL_LOST: Duration = Duration::from_millis(50);
const CONTROL_LOST_MAX: Duration = Duration::from_secs(1);

/// How often a control message that is followed by silence is sent again: until about the relay's next beat. A relay under
/// a flood of malformed messages hears one of several.
const CONTROL_REPEATS: u32 = 8;

/// After how many repeats the pause between them doubles.
const CONTROL_REPEATS_AT_ONE_PACE: u32 = 4;

/// The longest pause between requests that meet nobody before any relay has accepted: a relay that somebody makes connect
/// anew again and again hears one of several.
const NOBODY_AGAIN: Duration = Duration::from_millis(150);

/// How long a relay whose control subject has no listener must be silent at least to count as lost.
const ABSENCE_MIN: Duration = Duration::from_millis(250);

/// How long another relay is waited for when the first one can't reach the store: a live one takes less to open it.
const SECOND_OPINION: Duration = Duration::from_secs(1);

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The object.
    pub key: Key,
    /// The byte range, absolute.
    pub span: Span,
    /// Which version.
    pub pin: Pin,
    /// What comes back on every message.
    pub context: Option<String>,
}

/// What a [`Receiver`] holds itself to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The first tokens of every subject: a relay's control subject must begin with them.
    pub prefix: Prefix,
    /// The first window, in bytes.
    pub window_initial: u64,
    /// The largest window, in bytes.
    pub window_max: u64,
    /// The largest chunk payload to ask for, in bytes.
    pub chunk_max: u64,
    /// Silence after which a relay counts as lost. Three of the relay's beats, if that is longer. Before a relay's first
    /// sign of life a request waits less, as long as relays use to answer.
    pub stall_timeout: Duration,
    /// How long to keep asking while nobody listens and no relay ever accepted.
    pub no_relay_patience: Duration,
    /// How long to go on while no bytes arrive, unless our own writing holds them up.
    pub patience: Duration,
    /// The first pause between fruitless tries; it doubles, with jitter.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// Makes the jitter repeatable.
    pub jitter_seed: u64,
}

/// Why a transfer was given up and a new one asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// A chunk, or what belongs before it, did not arrive.
    #[error("a message was lost")]
    Gap,
    /// A chunk's bytes are not what the relay sent.
    #[error("a chunk arrived damaged")]
    Corrupt,
    /// The relay broke the protocol.
    #[error("the relay broke the protocol: {0}")]
    Violation(String),
    /// The relay fell silent.
    #[error("the relay fell silent")]
    Stall,
    /// Nobody listens on the subject.
    #[error("no relay is listening")]
    NoResponders,
    /// The connection to nats-server was lost.
    #[error("the connection to nats-server was lost")]
    Disconnected,
    /// The relay is shutting down.
    #[error("the relay is shutting down")]
    Goaway,
    /// The relay reported a failure that may pass.
    #[error("{0}")]
    Refused(WireError),
}

impl Cause {
    /// Returns a short name for logs and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Corrupt => "corrupt",
            Self::Violation(_) => "violation",
            Self::Stall => "stall",
            Self::NoResponders => "no_responders",
            Self::Disconnected => "disconnected",
            Self::Goaway => "goaway",
            Self::Refused(error) => error.code.name(),
        }
    }
}

/// Why a download failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The relay refuses, and asking again can't help.
    #[error("{0}")]
    Refused(WireError),
    /// The object is no longer the version that the download began with.
    #[error("the object changed while it was downloaded: etag {was} became {is}")]
    Changed {
        /// The version that the download began with.
        was: String,
        /// The version now.
        is: String,
    },
    /// Nothing new arrived for as long as we were willing to wait.
    #[error("{cause}")]
    GaveUp {
        /// What the last transfer failed with.
        cause: Cause,
        /// How many requests were sent.
        requests: u64,
        /// Whether a relay ever accepted.
        accepted: bool,
    },
    /// We were asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Drop the inbox, make a fresh one, and send this to the store's `get` subject with the inbox as reply.
    Request(GetRequest),
    /// Send this to `subject`, with the inbox as reply.
    Control {
        /// The transfer's control subject.
        subject: String,
        /// What to say.
        control: Control,
    },
    /// A relay accepted; for telling the user, and for the first time the object's description.
    Accepted(Box<Accepted>),
    /// The transfer was given up; for logs and metrics.
    Recovering(Cause),
}

/// Counts of what a download met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests sent.
    pub requests: u64,
    /// Transfers given up and begun anew.
    pub recoveries: u64,
    /// Chunks that came twice.
    pub repeats: u64,
    /// Messages that belonged to another transfer or arrived after the end.
    pub strays: u64,
    /// Bytes that arrived and were thrown away.
    pub discarded_bytes: u64,
}

#[derive(Debug)]
enum State {
    /// Nothing is under way; a request is due at the instant.
    Waiting { until: Duration },
    /// There is no connection.
    Offline,
    /// A request is out.
    Requested {
        asked: Duration,
        /// Whether its relay showed that it lives.
        heard: bool,
        /// Since it was sent, or its relay was last heard.
        silence: Silence,
        /// The credit that the request gave.
        credit: u64,
    },
    /// A relay is sending.
    Streaming(Box<Transfer>),
    /// All has arrived; some may not have been written.
    Ended,
    /// It is over.
    Failed(Failure),
}

#[derive(Debug)]
struct Transfer {
    id: TransferId,
    control: String,
    start: u64,
    seq: u64,
    /// The highest credit that the relay may have been told.
    credit: u64,
    window_max: u64,
    chunk_max: u64,
    beat: Duration,
    /// Silence after which the relay is asked whether it is there: if not, nats-server says so.
    probe_after: Duration,
    control_interval: Duration,
    silence: Silence,
    last_control: Duration,
    /// When a control message is due that could not be sent earlier, since there were too many.
    control_due: Option<Duration>,
    /// When nats-server reported that nobody heard our control message, until it is sent again.
    unheard_at: Option<Duration>,
    /// Whether the relay reported that it waits for credit, and no chunk has come since.
    is_blocked: bool,
    /// How many control messages were sent since the relay was last heard.
    unanswered_controls: u32,
    /// How soon a control message that is followed by silence is sent again, for the first time.
    again_after: Duration,
}

/// Turns the messages of any number of transfers into one contiguous run of bytes.
///
/// Invariants: what [`Self::poll_deliver`] hands out is a prefix of the wanted range of one version of the object,
/// each byte once; credit never falls and never runs more than a window ahead of what was written; the download ends
/// when every byte and the end message were seen.
#[derive(Debug)]
pub struct Receiver {
    settings: Settings,
    wanted: Wanted,
    object: Option<ObjectInfo>,
    /// The exclusive end of the range, once a relay told the object's size.
    limit: Option<u64>,
    /// The offset of the next byte to arrive.
    next: u64,
    /// Up to where the driver has written.
    written: u64,
    pace: Pace,
    link: Link,
    /// When the relay said that credit holds it up, while writing was behind.
    held_up_at: Option<Duration>,
    /// The largest window that the connection's budget allows now.
    share: u64,
    state: State,
    /// When bytes last arrived, or were last held up by our own writing.
    progress_at: Duration,
    /// Since when every request met nobody.
    nobody_since: Option<Duration>,
    /// Whether no bytes have arrived since the last recovery.
    fruitless: bool,
    /// How long the last answer took.
    answered_in: Option<Duration>,
    /// What a first relay refused with before any accepted, and until when another is waited for.
    refusal: Option<(WireError, Duration)>,
    /// How many requests in a row met silence.
    unanswered: u32,
    /// How often control messages are sent.
    controls: Quota,
    /// How often a relay's beats are answered with what it was told before.
    repeats: Quota,
    /// How often a request follows at once on bytes.
    recoveries: Quota,
    backoff: ExponentialBackoff,
    deliver: VecDeque<Chunk>,
    outputs: VecDeque<Output>,
    stats: Stats,
}

impl Receiver {
    /// Starts a download; the first request is due at once.
    #[must_use]
    pub fn new(settings: Settings, wanted: Wanted, now: Duration) -> Self {
        let start = wanted.span.start;
        let mut receiver = Self {
            pace: Pace::new(settings.window_initial.min(settings.window_max).max(1), settings.chunk_max),
            link: Link::default(),
            held_up_at: None,
            share: settings.window_max.max(1),
            backoff: backoff(&settings),
            settings,
            wanted,
            object: None,
            limit: None,
            next: start,
            written: start,
            state: State::Waiting { until: now },
            progress_at: now,
            nobody_since: None,
            fruitless: false,
            answered_in: None,
            refusal: None,
            unanswered: 0,
            controls: Quota::new(CONTROLS_BURST, CONTROLS_EVERY),
            repeats: Quota::new(REPEATS_BURST, REPEATS_EVERY),
            recoveries: Quota::new(RECOVERIES_BURST, RECOVERIES_EVERY),
            deliver: VecDeque::new(),
            outputs: VecDeque::new(),
            stats: Stats::default(),
        };
        receiver.handle_timeout(now);
        receiver
    }

    /// Returns the version that is being downloaded, once a relay accepted.
    #[must_use]
    pub const fn object(&self) -> Option<&ObjectInfo> {
        self.object.as_ref()
    }

    /// Returns the offset of the next byte to arrive.
    #[must_use]
    pub const fn next_offset(&self) -> u64 {
        self.next
    }

    /// Returns the offset up to which bytes are known to be written.
    #[must_use]
    pub const fn written_offset(&self) -> u64 {
        self.written
    }

    /// Returns what the download met so far.
    #[must_use]
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// Returns how it ended: `Ok` once every byte has been written.
    #[must_use]
    pub fn outcome(&self) -> Option<Result<(), &Failure>> {
        match &self.state {
            State::Failed(failure) => Some(Err(failure)),
            State::Ended if self.written >= self.next => Some(Ok(())),
            State::Ended | State::Waiting { .. } | State::Offline | State::Requested { .. } | State::Streaming(_) => {
                None
            }
        }
    }

    /// Hands out what the driver must do next, until there is nothing.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Hands out the next chunk to write, in order, its checksum checked. Report them with [`Self::handle_written`].
    pub fn poll_deliver(&mut self) -> Option<Chunk> {
        self.deliver.pop_front()
    }

    /// Returns whether [`Self::poll_deliver`] has bytes.
    #[must_use]
    pub fn has_deliverable(&self) -> bool {
        !self.deliver.is_empty()
    }

    /// Returns when [`Self::handle_timeout`] is due; `None` when nothing is timed.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let own = match &self.state {
            State::Waiting { until } => Some(*until),
            State::Offline => None,
            State::Requested { heard, silence, .. } => Some(silence.due(self.answer_timeout(*heard))),
            State::Streaming(transfer) => {
                let stall = transfer.silence.due(self.stall_timeout(transfer));
                Some(stall.min(transfer.control_at()))
            }
            State::Ended | State::Failed(_) => return None,
        };
        let patience = self.patience_ends();
        Some(own.map_or(patience, |own| own.min(patience)))
    }

    /// Takes note of the time, when [`Self::poll_timeout`] says so.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.is_open() && now >= self.patience_ends() {
            let cause = if matches!(self.state, State::Offline) { Cause::Disconnected } else { Cause::Stall };
            return self.give_up(cause);
        }
        match &self.state {
            State::Waiting { until } if now >= *until => self.request(now),
            State::Requested { heard, silence, .. } if now >= silence.due(self.answer_timeout(*heard)) => {
                self.handle_silence(now);
            }
            State::Streaming(transfer) if now >= transfer.silence.due(self.stall_timeout(transfer)) => {
                self.handle_silence(now);
            }
            State::Streaming(transfer) if now >= transfer.control_at() => self.send_control(now),
            State::Waiting { .. }
            | State::Offline
            | State::Requested { .. }
            | State::Streaming(_)
            | State::Ended
            | State::Failed(_) => {}
        }
    }

    /// Takes what the connection has carried by now.
    pub const fn handle_link(&mut self, link: Link) {
        self.link = link;
    }

    /// Returns when the latest credit was given whose bytes have arrived: whatever was sent to us by then has, too.
    #[must_use]
    pub const fn caught_up_to(&self) -> Duration {
        self.pace.caught_up_to()
    }

    /// Takes the connection's share of the window budget, in bytes.
    pub fn handle_share(&mut self, share: u64) {
        self.share = share.max(1);
    }

    /// Takes note that everything below the absolute offset `limit` has been written.
    pub fn handle_written(&mut self, limit: u64, now: Duration) {
        self.written = self.written.max(limit.min(self.next));
        self.handle_caught_up(now);
        let granted = self.grant();
        let State::Streaming(transfer) = &self.state else { return };
        if granted >= self.granting_step(transfer) || (granted > transfer.credit && Some(granted) == self.limit) {
            self.send_control(now);
        }
    }

    /// Returns from which absolute offset on [`Self::handle_written`] has something to do.
    #[must_use]
    pub fn written_due(&self) -> u64 {
        let transfer = match &self.state {
            State::Ended => return self.next,
            State::Streaming(transfer) => transfer,
            State::Waiting { .. } | State::Offline | State::Requested { .. } | State::Failed(_) => return u64::MAX,
        };
        let limit = self.limit.unwrap_or(OFFSET_MAX);
        let credit_due = if transfer.credit < limit && transfer.control_due.is_none() {
            self.granting_step(transfer).min(limit).saturating_sub(self.window())
        } else {
            u64::MAX
        };
        let caught_up = self.next.saturating_sub(self.window() / 2);
        credit_due.min(if self.held_up_at.is_some() { caught_up } else { u64::MAX })
    }

    /// Returns from which credit on it is worth telling.
    fn granting_step(&self, transfer: &Transfer) -> u64 {
        transfer.credit.saturating_add((self.window() / 8).max(1))
    }

    /// Lets the window grow after all if writing was behind only because all of a small window came at once.
    fn handle_caught_up(&mut self, now: Duration) {
        let State::Streaming(transfer) = &self.state else { return };
        if self.next.saturating_sub(self.written) <= self.window() / 2
            && self.held_up_at.take().is_some_and(|at| now.saturating_sub(at) <= WRITTEN_SOON)
        {
            self.pace.grow(self.settings.window_max.min(transfer.window_max).min(self.share));
        }
    }

    /// Takes note that the connection is gone, and with it all that was under way.
    pub fn handle_disconnected(&mut self) {
        if self.is_open() && !matches!(self.state, State::Offline) {
            self.count_recovery();
            self.fruitless = true;
            self.nobody_since = None;
            self.end_transfer();
            self.pace.handle_lost();
            // What was not sent yet belongs to a transfer that is gone; a fresh request follows the reconnect.
            self.outputs.retain(|output| !matches!(output, Output::Request(_) | Output::Control { .. }));
            self.outputs.push_back(Output::Recovering(Cause::Disconnected));
            self.state = State::Offline;
        }
    }

    /// Takes note that there is a connection again.
    pub fn handle_connected(&mut self, now: Duration) {
        if matches!(self.state, State::Offline) {
            self.request(now);
        }
    }

    /// Takes nats-server's word that nobody listens where we last published.
    ///
    /// A relay may be making anew the connection that hears us, and send on all the while: only one that is silent, too,
    /// is gone.
    pub fn handle_no_responders(&mut self, now: Duration) {
        match &mut self.state {
            State::Streaming(transfer) if now < transfer.absent_at() => transfer.unheard_at = Some(now),
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

    /// Takes a message from the inbox of the latest request.
    pub fn handle_message(&mut self, headers: &Headers, payload: Bytes, now: Duration) {
        let decoded = match message::decode(headers, payload.clone()) {
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
        let (envelope, body) = decoded;
        let is_news = self.is_news(&body);
        self.nobody_since = None;
        match &mut self.state {
            State::Requested { asked, heard, silence, credit } => {
                *silence = Silence::new(now, self.link);
                if !std::mem::replace(heard, true) {
                    self.answered_in = Some(now.saturating_sub(*asked));
                    self.unanswered = 0;
                }
                let credit = *credit;
                self.handle_answer(body, envelope.transfer, credit, now);
            }
            State::Streaming(transfer) if envelope.transfer == Some(transfer.id) => {
                if is_news {
                    transfer.silence = Silence::new(now, self.link);
                }
                self.handle_body(body, now);
            }
            State::Waiting { .. } | State::Offline | State::Streaming(_) | State::Ended | State::Failed(_) => {
                self.stats.strays = self.stats.strays.saturating_add(1);
                self.discard(&body);
            }
        }
    }

    /// Returns whether a message that makes no sense names another transfer than the one under way.
    fn is_of_another(&self, headers: &Headers) -> bool {
        let State::Streaming(transfer) = &self.state else { return false };
        let named = headers.get(message::TRANSFER).and_then(|text| text.parse::<TransferId>().ok());
        named.is_some_and(|named| named != transfer.id)
    }

    /// Returns whether a message shows that its relay gets on. Repeats don't, and neither do beats once every byte is
    /// here: only the end can follow.
    fn is_news(&self, body: &Body) -> bool {
        let State::Streaming(transfer) = &self.state else { return true };
        match body {
            Body::Chunk(chunk) => chunk.seq >= transfer.seq,
            Body::Beat { seq, .. } => *seq >= transfer.seq && Some(self.next) != self.limit,
            Body::Accepted(_) => false,
            Body::End(_) | Body::Error(_) | Body::Goaway => true,
        }
    }

    fn handle_answer(&mut self, body: Body, transfer: Option<TransferId>, credit: u64, now: Duration) {
        match body {
            Body::Accepted(accepted) => self.handle_accepted(accepted, transfer, credit, now),
            Body::Beat { .. } => {}
            Body::Error(error) => self.handle_error(error, transfer.is_none(), now),
            Body::Goaway => self.recover(Cause::Goaway, None, now),
            Body::Chunk(_) | Body::End(_) => self.recover(Cause::Gap, None, now),
        }
    }

    fn handle_accepted(
        &mut self,
        accepted: Box<Accepted>,
        transfer: Option<TransferId>,
        requested_credit: u64,
        now: Duration,
    ) {
        // Before this, nothing may be sent to the subject that it names.
        if let Err(what) = admit::check_identity(&accepted, transfer, &self.settings.prefix, &self.wanted.key) {
            return self.recover(Cause::Violation(what), None, now);
        }
        if let Some(object) = &self.object
            && (object.etag != accepted.object.etag || object.size != accepted.object.size)
        {
            let failure = Failure::Changed { was: object.etag.clone(), is: accepted.object.etag.clone() };
            return self.fail_with_cancel(failure, &accepted);
        }
        let span = Span { start: self.next, end: self.wanted.span.end };
        let terms = admit::check_terms(&accepted, span, self.pace.chunk_max(), self.object.as_ref());
        if let Err(what) = terms {
            return self.recover(Cause::Violation(what), None, now);
        }
        if self.object.is_none() {
            self.object = Some(accepted.object.clone());
            self.limit = Some(accepted.end);
        }
        self.refusal = None;
        // Credit that the relay cuts down would be granted twice, at the price of a round trip each time.
        self.pace.handle_window_max(accepted.window_max);
        let beat = limits::beat(Duration::from_millis(accepted.beat_ms));
        let idle = limits::idle(Duration::from_millis(accepted.idle_ms));
        let credit = accepted.credit.min(requested_credit);
        self.state = State::Streaming(Box::new(Transfer {
            id: accepted.transfer,
            control: accepted.control.clone(),
            start: accepted.start,
            seq: 0,
            credit,
            window_max: accepted.window_max,
            chunk_max: accepted.chunk_max,
            beat,
            probe_after: (beat / 2).max(PROBE_MIN),
            control_interval: idle / 4,
            silence: Silence::new(now, self.link),
            last_control: now,
            control_due: None,
            unheard_at: None,
            is_blocked: false,
            unanswered_controls: 0,
            again_after: self.answered_in.unwrap_or_default().saturating_mul(2).clamp(CONTROL_LOST, CONTROL_LOST_MAX),
        }));
        self.pace.handle_granted(credit, self.next, now);
        self.outputs.push_back(Output::Accepted(accepted));
        self.handle_written(self.written, now);
    }

    fn handle_body(&mut self, body: Body, now: Duration) {
        match body {
            Body::Chunk(chunk) => self.handle_chunk(chunk, now),
            Body::Beat { seq, offset, wait } => self.handle_beat(seq, offset, wait, now),
            Body::End(end) => self.handle_end(end, now),
            Body::Error(error) => self.handle_error(error, false, now),
            Body::Goaway => self.recover(Cause::Goaway, None, now),
            Body::Accepted(_) => self.stats.repeats = self.stats.repeats.saturating_add(1),
        }
    }

    fn handle_chunk(&mut self, chunk: Chunk, now: Duration) {
        let State::Streaming(transfer) = &mut self.state else { return };
        if chunk.seq < transfer.seq {
            self.stats.repeats = self.stats.repeats.saturating_add(1);
            return self.discard(&Body::Chunk(chunk));
        }
        if let Err(cause) = check(&chunk, transfer, self.next, self.limit, self.deliver.len()) {
            self.discard(&Body::Chunk(chunk));
            return self.recover(cause, None, now);
        }
        transfer.seq = transfer.seq.saturating_add(1);
        transfer.is_blocked = false;
        self.next = chunk.limit().unwrap_or(self.next);
        self.deliver.push_back(chunk);
        self.pace.handle_arrived(self.next, now);
        self.held_up_at = None;
        self.progress_at = now;
        if self.fruitless {
            self.fruitless = false;
            self.backoff = backoff(&self.settings);
        }
    }

    fn handle_beat(&mut self, seq: u64, offset: u64, wait: Wait, now: Duration) {
        let State::Streaming(transfer) = &self.state else { return };
        if seq < transfer.seq {
            return;
        }
        if seq > transfer.seq {
            return self.recover(Cause::Gap, None, now);
        }
        if offset != self.next {
            let what = format!("it is at offset {offset}, chunks reached {}", self.next);
            return self.recover(Cause::Violation(what), None, now);
        }
        let complete = Some(self.next) == self.limit;
        if !complete && self.grant() <= self.next {
            self.progress_at = now;
        }
        if wait == Wait::Store {
            return;
        }
        let lost = transfer.credit > offset;
        let waiting = self.next.saturating_sub(self.written);
        if waiting <= self.window() / 2 {
            self.pace.grow(self.settings.window_max.min(transfer.window_max).min(self.share));
        } else {
            self.held_up_at = Some(now);
        }
        let has_more = self.grant() > transfer.credit;
        if let State::Streaming(transfer) = &mut self.state {
            transfer.is_blocked = true;
        }
        if has_more || (lost && self.repeats.try_take(now)) {
            self.send_control(now);
        }
    }

    fn handle_end(&mut self, end: End, now: Duration) {
        let State::Streaming(transfer) = &self.state else { return };
        let complete = Some(self.next) == self.limit
            && end.chunks == transfer.seq
            && end.bytes == self.next.saturating_sub(transfer.start);
        if !complete {
            return self.recover(Cause::Gap, None, now);
        }
        self.state = State::Ended;
    }

    /// Takes an error; `refused` when the relay never accepted the request.
    fn handle_error(&mut self, error: WireError, refused: bool, now: Duration) {
        if error.code == Code::Changed
            && let Some(object) = &self.object
        {
            self.state = State::Failed(Failure::Changed { was: object.etag.clone(), is: "another".to_owned() });
            return;
        }
        if !error.retryable || !error.code.is_retryable() {
            self.state = State::Failed(Failure::Refused(error));
            return;
        }
        if refused && self.object.is_none() && matches!(error.code, Code::StoreUnavailable | Code::Internal) {
            // The relay has spent its own retry budget, and a second one would keep the user waiting for nothing; but
            // it may be only this relay that can't reach the store.
            if self.refusal.is_some() {
                return self.give_up(Cause::Refused(error));
            }
            self.refusal = Some((error.clone(), now.saturating_add(SECOND_OPINION)));
            // The pause is this relay's, and the other one is asked at once.
            self.fruitless = false;
            return self.recover(Cause::Refused(error), None, now);
        }
        let pause = error.retry_after();
        self.recover(Cause::Refused(error), pause, now);
    }

    fn request(&mut self, now: Duration) {
        self.stats.requests = self.stats.requests.saturating_add(1);
        let pin = self.object.as_ref().map_or_else(|| self.wanted.pin.clone(), ObjectInfo::pin);
        let credit = self.grant();
        self.state = State::Requested { asked: now, heard: false, silence: Silence::new(now, self.link), credit };
        let request = GetRequest {
            v: None,
            key: self.wanted.key.clone(),
            start: self.next,
            end: self.wanted.span.end,
            pin,
            credit: Some(credit),
            chunk_max: Some(self.pace.chunk_max()),
            context: self.wanted.context.clone(),
            keeps_alive: true,
        };
        self.outputs.push_back(Output::Request(request));
    }

    /// Takes a silence that has become too long, unless the relay's words may still be on their way.
    fn handle_silence(&mut self, now: Duration) {
        // What nats-server holds for us are the windows of all downloads, together about the largest that one may have.
        let (link, ahead_max) = (self.link, self.settings.window_max);
        let limit = match &self.state {
            State::Streaming(transfer) => self.stall_timeout(transfer),
            State::Requested { heard, .. } => self.answer_timeout(*heard),
            State::Waiting { .. } | State::Offline | State::Ended | State::Failed(_) => return,
        };
        let is_borne = match &mut self.state {
            State::Streaming(transfer) => transfer.silence.is_borne(now, link, limit, transfer.beat, ahead_max),
            State::Requested { silence, .. } => silence.is_borne(now, link, limit, ANSWER_TIMEOUT_MIN, ahead_max),
            State::Waiting { .. } | State::Offline | State::Ended | State::Failed(_) => true,
        };
        if !is_borne {
            self.recover(Cause::Stall, None, now);
        }
    }

    /// Gives the transfer up and asks anew, at once if bytes have arrived since the last time and else after a pause.
    ///
    /// `pause` is what the relay wants; ours may be longer, so that a relay that wants none is not asked in a loop.
    fn recover(&mut self, cause: Cause, pause: Option<Duration>, now: Duration) {
        if !matches!(self.state, State::Requested { .. } | State::Streaming(_)) {
            return;
        }
        let unanswered = cause == Cause::Stall && matches!(self.state, State::Requested { heard: false, .. });
        self.end_transfer();
        if cause == Cause::Stall {
            self.pace.handle_lost();
            if let State::Streaming(transfer) = &self.state
                && transfer.seq == 0
            {
                self.pace.handle_nothing_came(transfer.chunk_max);
            }
        }
        self.unanswered = if unanswered { self.unanswered.saturating_add(1) } else { 0 };
        if unanswered {
            self.pace.handle_unanswered();
        }
        // The wait for an answer was the pause.
        let may_hurry = !self.fruitless && cause != Cause::NoResponders && self.recoveries.try_take(now);
        let at_once = unanswered || may_hurry;
        self.fruitless = true;
        let nobody_yet = cause == Cause::NoResponders && self.object.is_none();
        let own_max = if nobody_yet { NOBODY_AGAIN } else { self.settings.backoff_max };
        let own = if at_once { Duration::ZERO } else { self.backoff.next().unwrap_or(own_max).min(own_max) };
        let until = now.saturating_add(pause.unwrap_or_default().min(self.settings.backoff_max).max(own));
        let mut patience_ends = self.patience_ends();
        if nobody_yet {
            let since = *self.nobody_since.get_or_insert(now);
            patience_ends = patience_ends.min(since.saturating_add(self.settings.no_relay_patience));
        }
        if until >= patience_ends {
            return self.give_up(cause);
        }
        self.cancel_transfer();
        self.count_recovery();
        self.outputs.push_back(Output::Recovering(cause));
        self.state = State::Waiting { until };
        self.handle_timeout(now);
    }

    /// Counts a transfer that is abandoned. A request that no relay accepted is only sent again.
    fn count_recovery(&mut self) {
        if matches!(self.state, State::Streaming(_)) {
            self.stats.recoveries = self.stats.recoveries.saturating_add(1);
        }
    }

    /// Counts a message that is thrown away.
    fn discard(&mut self, body: &Body) {
        if let Body::Chunk(chunk) = body {
            let len = u64::try_from(chunk.payload.len()).unwrap_or(u64::MAX);
            self.stats.discarded_bytes = self.stats.discarded_bytes.saturating_add(len);
        }
    }

    fn give_up(&mut self, cause: Cause) {
        self.cancel_transfer();
        // What the wait for another relay met is not why it was short.
        let cause = self.refusal.take().map_or(cause, |(error, _)| Cause::Refused(error));
        let failure = Failure::GaveUp { cause, requests: self.stats.requests, accepted: self.object.is_some() };
        self.state = State::Failed(failure);
    }

    fn fail_with_cancel(&mut self, failure: Failure, accepted: &Accepted) {
        let control = Control { credit: 0, cancel: true };
        self.outputs.push_back(Output::Control { subject: accepted.control.clone(), control });
        self.state = State::Failed(failure);
    }

    /// Learns from a transfer that is given up what the link can carry.
    fn end_transfer(&mut self) {
        if let State::Streaming(transfer) = &self.state {
            self.pace.handle_over(self.next, transfer.silence.since());
            self.pace.handle_window_free();
        }
    }

    fn cancel_transfer(&mut self) {
        if let State::Streaming(transfer) = &self.state {
            let control = Control { credit: transfer.credit, cancel: true };
            self.outputs.push_back(Output::Control { subject: transfer.control.clone(), control });
        }
    }

    /// Tells the relay our state, at once or as soon as the quota allows.
    fn send_control(&mut self, now: Duration) {
        let granted = self.grant();
        let State::Streaming(transfer) = &mut self.state else { return };
        if !self.controls.try_take(now) {
            transfer.control_due = Some(self.controls.allowed_at());
            return;
        }
        transfer.control_due = None;
        if granted > transfer.credit {
            self.pace.handle_granted(granted, self.next, now);
        }
        let is_repeat = transfer.last_control >= transfer.silence.since();
        transfer.unanswered_controls = if is_repeat { transfer.unanswered_controls.saturating_add(1) } else { 1 };
        transfer.credit = transfer.credit.max(granted);
        transfer.last_control = now;
        transfer.unheard_at = None;
        let control = Control { credit: transfer.credit, cancel: false };
        self.outputs.push_back(Output::Control { subject: transfer.control.clone(), control });
    }

    /// Returns the silence after which a request is sent again, since another relay may get it then.
    fn answer_timeout(&self, heard: bool) -> Duration {
        let longest = self.pace.patience(self.settings.stall_timeout);
        if heard {
            return longest;
        }
        let base =
            self.answered_in.map_or(ANSWER_TIMEOUT_INITIAL, |took| took.saturating_mul(4).max(ANSWER_TIMEOUT_MIN));
        let doublings = self.unanswered.saturating_sub(ANSWER_TRIES.saturating_sub(1)).min(16);
        // Nobody answers, or nobody can within the stall timeout: then a longer wait is the only one that ends.
        base.saturating_mul(1_u32 << doublings).min(longest.saturating_mul(if doublings > 0 { 4 } else { 1 }))
    }

    /// Returns the silence after which a relay that sends counts as lost.
    fn stall_timeout(&self, transfer: &Transfer) -> Duration {
        // However slowly it beats, some patience must be left for another relay.
        let beats = transfer.beat.saturating_mul(3).min((self.settings.patience / 2).max(BEATS_TIMEOUT_MIN));
        self.pace.patience(self.settings.stall_timeout.max(beats))
    }

    /// Returns the absolute offset up to which the relay may send.
    fn grant(&self) -> u64 {
        let limit = self.limit.or(self.wanted.span.end).unwrap_or(OFFSET_MAX);
        self.written.saturating_add(self.window()).min(limit.max(self.next)).min(OFFSET_MAX)
    }

    /// Returns how far credit may run ahead of what was written, in bytes.
    fn window(&self) -> u64 {
        self.pace.window().min(self.share)
    }

    /// When the download is given up unless bytes arrive.
    fn patience_ends(&self) -> Duration {
        let ends = self.progress_at.saturating_add(self.settings.patience);
        self.refusal.as_ref().map_or(ends, |(_, until)| ends.min(*until))
    }

    const fn is_open(&self) -> bool {
        !matches!(self.state, State::Ended | State::Failed(_))
    }
}

impl Transfer {
    /// From when on the relay is gone if nobody hears our control messages: one that lives speaks every beat.
    fn absent_at(&self) -> Duration {
        let beat = self.beat.saturating_add(self.beat / 4);
        self.silence.since().saturating_add(beat.max(ABSENCE_MIN))
    }

    /// When the relay must hear from us again: so that it knows that we live, once in each silence of its own, or because
    /// nobody heard the last one.
    fn control_at(&self) -> Duration {
        if let Some(due) = self.control_due {
            return due;
        }
        if let Some(at) = self.unheard_at {
            return at.saturating_add(CONTROL_AGAIN);
        }
        let is_unanswered = self.is_blocked && self.last_control >= self.silence.since();
        if is_unanswered && (1..=CONTROL_REPEATS).contains(&self.unanswered_controls) {
            // It may have been lost with the connection on which the relay hears us, and it is all that the relay waits for.
            let doublings = (self.unanswered_controls - 1) / CONTROL_REPEATS_AT_ONE_PACE;
            return self.last_control.saturating_add(self.again_after.saturating_mul(1 << doublings));
        }

        let alive = self.last_control.saturating_add(self.control_interval);
        let probe = self.silence.since().saturating_add(self.probe_after);
        if self.last_control >= probe { alive } else { alive.min(probe) }
    }
}

/// Checks a chunk that is not a repeat.
fn check(chunk: &Chunk, transfer: &Transfer, next: u64, limit: Option<u64>, waiting: usize) -> Result<(), Cause> {
    if chunk.seq > transfer.seq {
        return Err(Cause::Gap);
    }
    if chunk.offset != next {
        return Err(Cause::Violation(format!("chunk {} is at offset {}, expected {next}", chunk.seq, chunk.offset)));
    }
    let Some(chunk_limit) = chunk.limit() else {
        return Err(Cause::Violation(format!("chunk at offset {} overruns the offset space", chunk.offset)));
    };
    if chunk_limit > transfer.credit {
        let what = format!("chunk at offset {next} overruns credit {} by {}", transfer.credit, chunk_limit);
        return Err(Cause::Violation(what));
    }
    if limit.is_none_or(|limit| chunk_limit > limit) {
        return Err(Cause::Violation(format!("chunk at offset {next} overruns the end of the range")));
    }
    let len = u64::try_from(chunk.payload.len()).unwrap_or(u64::MAX);
    if len > transfer.chunk_max {
        let what = format!("chunk at offset {next} holds {len} bytes, more than {}", transfer.chunk_max);
        return Err(Cause::Violation(what));
    }
    if waiting >= WAITING_CHUNKS_MAX {
        return Err(Cause::Violation(format!("more than {WAITING_CHUNKS_MAX} chunks wait to be written")));
    }
    if !chunk.is_intact() {
        return Err(Cause::Corrupt);
    }
    Ok(())
}

fn backoff(settings: &Settings) -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(settings.backoff_min)
        .with_max_delay(settings.backoff_max)
        .with_jitter()
        .with_jitter_seed(settings.jitter_seed)
        .without_max_times()
        .build()
}
