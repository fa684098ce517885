//! Decides what follows a failed transfer: another request, now or after a pause, or the end of the download.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use super::super::error::{Code, WireError};
use super::super::limits::{RECOVERIES_BURST, RECOVERIES_EVERY};
use super::super::message::Body;
use super::super::object::ObjectInfo;
use super::super::quota::Quota;
use super::super::request::{GetRequest, Near};
use super::failure::{Cause, Failure};
use super::{Output, Receiver, Settings, State};

/// The shortest time that a relay has to answer a request. A live relay answers, or sends a beat, within 50 ms and a
/// round trip.
const ANSWER_TIMEOUT_MIN: Duration = Duration::from_millis(200);

/// The time to answer until an answer has been seen: TCP's first retransmission timeout. Source: RFC 6298, section 2.1.
const ANSWER_TIMEOUT_INITIAL: Duration = Duration::from_secs(1);

/// The number of successive requests with the same answer timeout, which doubles with each further one. One of two relays
/// that is frozen receives three in a row once in eight times.
const ANSWER_TRIES: u32 = 3;

/// The number of successive requests without an answer after which an answer may take longer than the stall timeout.
const ANSWERS_LATE: u32 = 6;

/// The longest pause between requests that reach nobody before any relay has accepted. A relay that keeps reconnecting
/// hears one of several.
const NOBODY_PAUSE_MAX: Duration = Duration::from_millis(150);

/// How long to wait for another relay if the first one can't reach the store. A live relay opens it faster.
const SECOND_OPINION: Duration = Duration::from_secs(1);

/// The state that outlives transfers: progress, patience and the pauses between requests.
#[derive(Debug)]
pub(super) struct Recovery {
    /// When bytes last arrived, or when the consumer's own writing last delayed them.
    progress_at: Duration,
    /// When the first of a series of successive requests reached nobody.
    nobody_since: Option<Duration>,
    /// Whether no bytes have arrived since the last recovery.
    is_fruitless: bool,
    /// How long the last answer took.
    answered_in: Option<Duration>,
    /// The refusal of the first relay before any had accepted, and how long to wait for another relay.
    refusal: Option<(WireError, Duration)>,
    /// The number of successive requests that met silence.
    unanswered: u32,
    /// Limits requests that are sent immediately after progress.
    immediate: Quota,
    backoff: ExponentialBackoff,
}

/// The properties of a failure that determine the time of the next request.
#[derive(Clone, Copy, Debug)]
struct Retry {
    /// The request met silence, so that the wait for an answer already was the pause.
    is_unanswered: bool,
    /// Nobody listens on the subject.
    is_nobody: bool,
    /// Nobody listens, and no relay has accepted yet.
    is_nobody_yet: bool,
    /// The pause that the relay requested.
    relay_pause: Option<Duration>,
}

impl Recovery {
    pub(super) fn new(settings: &Settings, now: Duration) -> Self {
        Self {
            progress_at: now,
            nobody_since: None,
            is_fruitless: false,
            answered_in: None,
            refusal: None,
            unanswered: 0,
            immediate: Quota::new(RECOVERIES_BURST, RECOVERIES_EVERY),
            backoff: backoff(settings),
        }
    }

    /// Returns how long the last answer took.
    pub(super) const fn answered_in(&self) -> Option<Duration> {
        self.answered_in
    }

    /// Returns when the download fails if no bytes arrive.
    pub(super) fn patience_ends(&self, settings: &Settings) -> Duration {
        let ends = self.progress_at.saturating_add(settings.patience);
        self.refusal.as_ref().map_or(ends, |(_, until)| ends.min(*until))
    }

    /// Returns the silence after which a request that no relay has answered is sent again, since another relay may then
    /// receive it. It follows the measured `delay`, and doubles after some requests, whose answers may be queued. `longest`
    /// is the timeout for a relay that has answered.
    pub(super) fn answer_timeout(&self, delay: Option<Duration>, longest: Duration) -> Duration {
        let base = self.answered_in.map_or(ANSWER_TIMEOUT_INITIAL, |took| {
            took.max(delay.unwrap_or_default()).saturating_mul(4).max(ANSWER_TIMEOUT_MIN)
        });
        let doublings = self.unanswered.saturating_sub(ANSWER_TRIES.saturating_sub(1)).min(16);

        // Nobody answers, or nobody can answer within the stall timeout. Only a longer wait helps then.
        let longest = longest.saturating_mul(if self.unanswered >= ANSWERS_LATE { 4 } else { 1 });
        base.saturating_mul(1_u32 << doublings).min(longest)
    }

    /// Returns whether the previous request met silence.
    pub(super) const fn is_unanswered(&self) -> bool {
        self.unanswered > 0
    }

    /// Records that some message arrived, so a relay is listening.
    pub(super) const fn handle_heard(&mut self) {
        self.nobody_since = None;
    }

    /// Records the first answer to a request, which took `took`.
    pub(super) const fn handle_answered(&mut self, took: Duration) {
        self.answered_in = Some(took);
        self.unanswered = 0;
    }

    /// Sets the number of successive requests that met silence.
    #[cfg(test)]
    pub(super) const fn set_unanswered(&mut self, count: u32) {
        self.unanswered = count;
    }

    /// Records that a relay accepted.
    pub(super) fn handle_accepted(&mut self) {
        self.refusal = None;
    }

    /// Records that new bytes arrived.
    pub(super) fn handle_progress(&mut self, settings: &Settings, now: Duration) {
        self.progress_at = now;
        if self.is_fruitless {
            self.is_fruitless = false;
            self.backoff = backoff(settings);
        }
    }

    /// Records that only the consumer's own writing delays the relay.
    pub(super) const fn handle_held_up(&mut self, now: Duration) {
        self.progress_at = now;
    }

    /// Records that the connection was lost.
    pub(super) const fn handle_disconnected(&mut self) {
        self.is_fruitless = true;
        self.nobody_since = None;
    }

    /// Returns when the next request is due, or `None` if the patience ends before that.
    ///
    /// The relay's pause is extended to the consumer's own, so that a relay that requests no pause does not cause a
    /// request loop.
    fn schedule(&mut self, retry: Retry, settings: &Settings, now: Duration) -> Option<Duration> {
        self.unanswered = if retry.is_unanswered { self.unanswered.saturating_add(1) } else { 0 };

        let may_hurry = !self.is_fruitless && !retry.is_nobody && self.immediate.try_take(now);
        self.is_fruitless = true;

        let own_max = if retry.is_nobody_yet { NOBODY_PAUSE_MAX } else { settings.backoff_max };
        let own = if retry.is_unanswered || may_hurry {
            Duration::ZERO
        } else {
            self.backoff.next().unwrap_or(own_max).min(own_max)
        };
        let relays = retry.relay_pause.unwrap_or_default().min(settings.backoff_max);
        let until = now.saturating_add(relays.max(own));

        let mut ends = self.patience_ends(settings);
        if retry.is_nobody_yet {
            let since = *self.nobody_since.get_or_insert(now);
            ends = ends.min(since.saturating_add(settings.no_relay_patience));
        }
        (until < ends).then_some(until)
    }
}

impl Receiver {
    /// Sends a request for the rest.
    pub(super) fn request(&mut self, now: Duration) {
        self.stats.requests = self.stats.requests.saturating_add(1);
        let is_first = self.stats.requests == 1;
        let limit = self.limit.or(self.get.span.end);
        let credit = self.credit.grant_request(self.next, limit, is_first, self.recovery.is_unanswered());
        self.credit.handle_granted(credit, self.next, limit, now);
        let pin = self.object.as_ref().map_or_else(|| self.get.pin.clone(), ObjectInfo::pin);

        let near = self.near(credit, limit);
        let near_credit = near.as_ref().map_or(credit, |near| near.credit);
        self.state = State::Requested { asked: now, heard: false, heard_at: now, credit, near_credit };
        let request = GetRequest {
            v: None,
            key: self.get.key.clone(),
            start: self.next,
            end: self.get.span.end,
            pin,
            credit: Some(credit),
            window: None,
            chunk_max: Some(self.settings.chunk_max),
            context: self.get.context.clone(),
            keeps_alive: true,
            near,
        };
        self.outputs.push_back(Output::Request(request));
    }

    /// Returns the credit for a near relay, if it is more than `credit`.
    fn near(&self, credit: u64, limit: Option<u64>) -> Option<Near> {
        let (location, window) = self.settings.near.as_ref()?;
        let near_credit = self.credit.grant_near(self.next, limit, *window);
        (near_credit > credit && !self.recovery.is_unanswered()).then(|| Near::to(location, near_credit))
    }

    /// Abandons the transfer and requests the rest: immediately if bytes have arrived since the last recovery,
    /// otherwise after a pause. `relay_pause` is the pause that the relay requested.
    pub(super) fn recover(&mut self, cause: Cause, relay_pause: Option<Duration>, now: Duration) {
        if !matches!(self.state, State::Requested { .. } | State::Streaming(_)) {
            return;
        }

        let is_unanswered = cause == Cause::Stall && matches!(self.state, State::Requested { heard: false, .. });
        self.credit.handle_end();
        if cause == Cause::Stall {
            self.learn_from_stall();
        }

        let is_nobody = cause == Cause::NoResponders;
        let is_nobody_yet = is_nobody && self.object.is_none();
        let retry = Retry { is_unanswered, is_nobody, is_nobody_yet, relay_pause };
        let Some(until) = self.recovery.schedule(retry, &self.settings, now) else {
            return self.give_up(cause);
        };

        self.cancel_transfer();
        self.count_recovery();
        self.outputs.push_back(Output::Recovering(cause));
        self.state = State::Waiting { until };
        self.handle_timeout(now);
    }

    /// Ends the download because its patience has ended.
    pub(super) fn give_up(&mut self, cause: Cause) {
        self.cancel_transfer();
        // If the wait for another relay failed, the first relay's refusal is the reason.
        let cause = self.recovery.refusal.take().map_or(cause, |(error, _)| Cause::Refused(error));

        let failure = Failure::GaveUp { cause, requests: self.stats.requests, accepted: self.object.is_some() };
        self.state = State::Failed(failure);
    }

    /// Handles an error. `is_refusal` means that the relay did not accept the request.
    pub(super) fn handle_error(&mut self, error: WireError, is_refusal: bool, now: Duration) {
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

        let may_be_its_own = matches!(error.code, Code::StoreUnavailable | Code::Internal);
        if is_refusal && self.object.is_none() && may_be_its_own {
            return self.ask_another_relay(error, now);
        }

        let pause = error.retry_after();
        self.recover(Cause::Refused(error), pause, now);
    }

    /// Requests the object from another relay once, since possibly only this one can't reach the store. The first relay
    /// has used up its own retries, and a second series of them would only delay the error.
    fn ask_another_relay(&mut self, error: WireError, now: Duration) {
        if self.recovery.refusal.is_some() {
            return self.give_up(Cause::Refused(error));
        }

        self.recovery.refusal = Some((error.clone(), now.saturating_add(SECOND_OPINION)));
        // The pause applies to this relay. The other one is asked at once.
        self.recovery.is_fruitless = false;
        self.recover(Cause::Refused(error), None, now);
    }

    /// Adapts the window and the timeouts to a silent relay.
    fn learn_from_stall(&mut self) {
        let has_answered_only = match &self.state {
            State::Streaming(transfer) => transfer.seq == 0,
            State::Requested { heard, .. } => *heard,
            State::Waiting { .. } | State::Offline | State::Ended | State::Failed(_) => false,
        };

        let window = self.credit.window_mut();
        window.handle_silence();
        if has_answered_only {
            window.handle_nothing_arrived();
        }
    }

    /// Counts an abandoned transfer. A request that no relay accepted does not count, since it is only sent again.
    pub(super) fn count_recovery(&mut self) {
        if matches!(self.state, State::Streaming(_)) {
            self.stats.recoveries = self.stats.recoveries.saturating_add(1);
        }
    }

    /// Counts the bytes of a message that is discarded.
    pub(super) fn discard(&mut self, body: &Body) {
        if let Body::Chunk(chunk) = body {
            self.discard_bytes(chunk.payload.len());
        }
    }

    pub(super) fn discard_bytes(&mut self, len: usize) {
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        self.stats.discarded_bytes = self.stats.discarded_bytes.saturating_add(len);
    }
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
