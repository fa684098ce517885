//! One accepted transfer: its messages, and the control messages that answer them.

use std::time::Duration;

use super::super::answer::{Accepted, End};
use super::super::chunk::Chunk;
use super::super::limits;
use super::super::message::{Body, Wait};
use super::super::names::TransferId;
use super::super::object::Span;
use super::super::request::Control;
use super::credit::Nearness;
use super::failure::{Cause, Failure};
use super::{Output, Receiver, State, admit};

/// The maximum number of chunks that wait to be written, whatever their size. It bounds the memory that a relay can
/// occupy with tiny chunks, in addition to their bytes.
const WAITING_CHUNKS_MAX: usize = 64 * 1024;

/// The shortest silence after which the consumer sends its state to find out whether the relay is alive.
const PROBE_MIN: Duration = Duration::from_millis(50);

/// How soon a control message that reached nobody is sent again. A relay that reconnects is back within milliseconds.
const CONTROL_AGAIN: Duration = Duration::from_millis(50);

/// The bounds on the time after which a control message that is followed by silence is sent again.
const CONTROL_LOST_MIN: Duration = Duration::from_millis(50);
const CONTROL_LOST_MAX: Duration = Duration::from_secs(1);

/// The maximum number of repeats of a control message that is followed by silence: until about the relay's next beat.
/// Under a flood of malformed messages, a relay receives one of several.
const CONTROL_REPEATS: u32 = 8;

/// The number of repeats after which the pause between them doubles.
const CONTROL_REPEATS_AT_ONE_PAUSE: u32 = 4;

/// The shortest silence after which a relay counts as lost if nobody listens on its control subject.
const ABSENCE_MIN: Duration = Duration::from_millis(250);

/// A transfer that a relay has accepted.
#[derive(Debug)]
pub(super) struct Transfer {
    id: TransferId,
    control: String,
    start: u64,
    /// The sequence number of the next chunk.
    pub(super) seq: u64,
    /// The highest credit that was sent to the relay.
    pub(super) credit: u64,
    pub(super) chunk_max: u64,
    /// The longest silence of a live relay.
    pub(super) beat: Duration,
    /// Silence after which the consumer sends its state. If the relay is gone, nats-server reports that.
    probe_after: Duration,
    /// The longest time without a control message.
    control_interval: Duration,
    /// When the relay was last heard.
    pub(super) heard_at: Duration,
    last_control: Duration,
    /// When a control message is due that the quota delayed.
    pub(super) control_due: Option<Duration>,
    /// When nats-server reported that nobody heard the last control message, until it is sent again.
    unheard_at: Option<Duration>,
    /// Whether the relay waits for credit, and no chunk has arrived since it reported that.
    is_blocked: bool,
    /// How many control messages were sent since the relay was last heard.
    unanswered_controls: u32,
    /// The pause before the first repeat of a control message that is followed by silence.
    repeat_after: Duration,
}

impl Transfer {
    /// `credit` is the relay's first credit. `answered_in` is how long its answer took.
    fn new(accepted: &Accepted, credit: u64, answered_in: Option<Duration>, now: Duration) -> Self {
        let beat = limits::beat(Duration::from_millis(accepted.beat_ms));
        let idle = limits::idle(Duration::from_millis(accepted.idle_ms));
        let repeat_after = answered_in.unwrap_or_default().saturating_mul(2).clamp(CONTROL_LOST_MIN, CONTROL_LOST_MAX);

        Self {
            id: accepted.transfer,
            control: accepted.control.clone(),
            start: accepted.start,
            seq: 0,
            credit,
            chunk_max: accepted.chunk_max,
            beat,
            probe_after: (beat / 2).max(PROBE_MIN),
            control_interval: idle / 4,
            heard_at: now,
            last_control: now,
            control_due: None,
            unheard_at: None,
            is_blocked: false,
            unanswered_controls: 0,
            repeat_after,
        }
    }

    pub(super) const fn id(&self) -> TransferId {
        self.id
    }

    /// Records that nobody heard the last control message. It is sent again soon.
    pub(super) const fn handle_unheard(&mut self, now: Duration) {
        self.unheard_at = Some(now);
    }

    /// Returns when the relay counts as lost if nobody hears control messages. A live relay sends something every beat.
    pub(super) fn absent_at(&self) -> Duration {
        let beat = self.beat.saturating_add(self.beat / 4);
        self.heard_at.saturating_add(beat.max(ABSENCE_MIN))
    }

    /// Returns when the next control message is due: as a keep-alive, once in each silence of the relay, or because the
    /// last one was not heard or may have been lost.
    pub(super) fn control_at(&self) -> Duration {
        if let Some(due) = self.control_due {
            return due;
        }
        if let Some(at) = self.unheard_at {
            return at.saturating_add(CONTROL_AGAIN);
        }

        let is_unanswered = self.is_blocked && self.last_control >= self.heard_at;
        if is_unanswered && (1..=CONTROL_REPEATS).contains(&self.unanswered_controls) {
            // The message may have been lost with the relay's request connection, and the relay waits for nothing else.
            let doublings = (self.unanswered_controls - 1) / CONTROL_REPEATS_AT_ONE_PAUSE;
            return self.last_control.saturating_add(self.repeat_after.saturating_mul(1 << doublings));
        }

        let keep_alive = self.last_control.saturating_add(self.control_interval);
        let probe = self.heard_at.saturating_add(self.probe_after);
        if self.last_control >= probe { keep_alive } else { keep_alive.min(probe) }
    }

    /// Records a control message with at least this credit, and returns it.
    fn control(&mut self, granted: u64, now: Duration) -> Output {
        let is_repeat = self.last_control >= self.heard_at;
        self.unanswered_controls = if is_repeat { self.unanswered_controls.saturating_add(1) } else { 1 };

        // Without new credit, the message only asks whether the relay is alive.
        let probe = granted <= self.credit;
        self.credit = self.credit.max(granted);
        self.last_control = now;
        self.control_due = None;
        self.unheard_at = None;
        self.message(false, probe)
    }

    fn message(&self, cancel: bool, probe: bool) -> Output {
        let control = Control { cancel, probe, ..Control::credit(self.credit) };
        Output::Control { subject: self.control.clone(), control }
    }

    /// Checks a chunk that is not a repeat. `next` is the offset of the next byte to arrive, `limit` the end of the range,
    /// and `waiting` the number of chunks that are not written.
    fn check(&self, chunk: &Chunk, next: u64, limit: Option<u64>, waiting: usize) -> Result<(), Cause> {
        if chunk.seq > self.seq {
            return Err(Cause::Gap);
        }
        if chunk.offset != next {
            return violation(format!("chunk {} is at offset {}, expected {next}", chunk.seq, chunk.offset));
        }

        let Some(chunk_limit) = chunk.limit() else {
            return violation(format!("chunk at offset {} exceeds the largest offset", chunk.offset));
        };
        if chunk_limit > self.credit {
            return violation(format!("chunk at offset {next} ends at {chunk_limit}, past credit {}", self.credit));
        }
        if limit.is_none_or(|limit| chunk_limit > limit) {
            return violation(format!("chunk at offset {next} exceeds the end of the range"));
        }

        let len = u64::try_from(chunk.payload.len()).unwrap_or(u64::MAX);
        if len > self.chunk_max {
            return violation(format!("chunk at offset {next} has {len} bytes, more than {}", self.chunk_max));
        }
        if waiting >= WAITING_CHUNKS_MAX {
            return violation(format!("more than {WAITING_CHUNKS_MAX} chunks wait to be written"));
        }
        if !chunk.is_intact() {
            return Err(Cause::Corrupt);
        }
        Ok(())
    }
}

fn violation(what: String) -> Result<(), Cause> {
    Err(Cause::Violation(what))
}

impl Receiver {
    pub(super) fn handle_accepted(
        &mut self,
        accepted: Box<Accepted>,
        transfer: Option<TransferId>,
        (requested_credit, near_credit): (u64, u64),
        now: Duration,
    ) {
        // Until this check has passed, nothing may be sent to the control subject in the message.
        if let Err(what) = admit::check_identity(&accepted, transfer, &self.settings.prefix, &self.get.key) {
            return self.recover(Cause::Violation(what), None, now);
        }
        if let Some(object) = &self.object
            && (object.etag != accepted.object.etag || object.size != accepted.object.size)
        {
            let failure = Failure::Changed { was: object.etag.clone(), is: accepted.object.etag.clone() };
            return self.fail_with_cancel(failure, &accepted);
        }

        let span = Span { start: self.next, end: self.get.span.end };
        if let Err(what) = admit::check_terms(&accepted, span, self.settings.chunk_max, self.object.as_ref()) {
            return self.recover(Cause::Violation(what), None, now);
        }

        if self.object.is_none() {
            self.object = Some(accepted.object.clone());
            self.limit = Some(accepted.end);
        }
        self.recovery.handle_accepted();

        // The relay ignores credit past its own limit, so the consumer would have to give it again after a round trip.
        let credit = accepted.credit.min(near_credit);
        let near_limit = near_credit.min(accepted.end).min(self.next.saturating_add(accepted.window_max));
        let nearness = match near_credit > requested_credit {
            true if credit >= near_limit => Nearness::Near,
            true => Nearness::Far,
            false => Nearness::Unknown,
        };
        self.credit.handle_accepted(credit, self.next, accepted.end, nearness, now);
        self.credit.handle_relay_max(accepted.window_max);

        let transfer = Transfer::new(&accepted, credit, self.recovery.answered_in(), now);
        self.state = State::Streaming(Box::new(transfer));
        self.outputs.push_back(Output::Accepted(accepted));
        self.give_credit(now);
    }

    pub(super) fn handle_body(&mut self, body: Body, now: Duration) {
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
            return self.discard_bytes(chunk.payload.len());
        }
        if let Err(cause) = transfer.check(&chunk, self.next, self.limit, self.deliver.len()) {
            self.discard_bytes(chunk.payload.len());
            return self.recover(cause, None, now);
        }

        transfer.seq = transfer.seq.saturating_add(1);
        transfer.is_blocked = false;
        self.next = chunk.limit().unwrap_or(self.next);
        self.deliver.push_back(chunk);

        self.credit.handle_arrived(self.next, now);
        self.recovery.handle_progress(&self.settings, now);
        self.give_credit(now);
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
            let what = format!("its beat is at offset {offset}, chunks reached {}", self.next);
            return self.recover(Cause::Violation(what), None, now);
        }

        let is_complete = Some(self.next) == self.limit;
        if !is_complete && self.grant() <= self.next {
            self.recovery.handle_held_up(now);
        }

        match wait {
            Wait::Credit => self.handle_blocked(offset, now),
            Wait::Store => self.credit.window_mut().handle_store_slow(),
        }
    }

    /// Handles a relay that waits for credit. Either the window is too small, the consumer writes slowly, or a control
    /// message was lost.
    fn handle_blocked(&mut self, offset: u64, now: Duration) {
        let State::Streaming(transfer) = &mut self.state else { return };
        transfer.is_blocked = true;
        let credit = transfer.credit;

        self.credit.handle_blocked(offset);

        let is_control_lost = credit > offset;
        if self.grant() > credit || (is_control_lost && self.repeats.try_take(now)) {
            self.send_control(now);
        }
    }

    fn handle_end(&mut self, end: End, now: Duration) {
        let State::Streaming(transfer) = &self.state else { return };

        let is_complete = Some(self.next) == self.limit
            && end.chunks == transfer.seq
            && end.bytes == self.next.saturating_sub(transfer.start);
        if !is_complete {
            return self.recover(Cause::Gap, None, now);
        }
        self.state = State::Ended;
    }

    /// Records that everything below the absolute offset `limit` is written, and sends credit if it has increased
    /// enough.
    pub fn handle_written(&mut self, limit: u64, now: Duration) {
        self.credit.handle_written(limit, self.next);
        self.give_credit(now);
    }

    /// Sends credit if it has increased enough.
    fn give_credit(&mut self, now: Duration) {
        let State::Streaming(transfer) = &self.state else { return };
        let granted = self.grant();
        let is_last = granted > transfer.credit && Some(granted) == self.limit;
        if is_last || granted >= self.credit.step_from(transfer.credit) {
            self.send_control(now);
        }
    }

    /// Sends the consumer's state, at once or as soon as the quota allows.
    pub(super) fn send_control(&mut self, now: Duration) {
        let granted = self.grant();
        let State::Streaming(transfer) = &mut self.state else { return };
        if !self.controls.try_take(now) {
            transfer.control_due = Some(self.controls.allowed_at());
            return;
        }

        if granted > transfer.credit {
            self.credit.handle_granted(granted, self.next, self.limit, now);
        }
        self.outputs.push_back(transfer.control(granted, now));
    }

    /// Cancels the transfer at the relay, if the relay has accepted.
    pub(super) fn cancel_transfer(&mut self) {
        if let State::Streaming(transfer) = &self.state {
            self.outputs.push_back(transfer.message(true, false));
        }
    }

    fn fail_with_cancel(&mut self, failure: Failure, accepted: &Accepted) {
        let control = Control::cancel();
        self.outputs.push_back(Output::Control { subject: accepted.control.clone(), control });
        self.state = State::Failed(failure);
    }
}
