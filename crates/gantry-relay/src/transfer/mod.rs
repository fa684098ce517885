//! Runs one transfer: drives a [`Sender`] between a store's body and the bus.

use std::ops::Range;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::Shared;
use super::pacer::Pacer;
use super::registry::{Entry, Heard};
use super::requests::{Requester, keyless};
use super::throttle::TRANSFERS;
use crate::metrics::{OutcomeLabel, TransferMetrics};
use gantry_bus::Message;
use gantry_bus::trace;
use gantry_proto::chunk::Chunk;
use gantry_proto::message::{Envelope, Wait};
use gantry_proto::sender::{Outcome, Sender, Settings};
use gantry_proto::{Accepted, Body, GetRequest, HEADERS_MAX_BYTES, OFFSET_MAX, ObjectInfo, WireError, check, limits};
use gantry_store::{self as store, Opened};

/// How long opening a store may take before the consumer is told that its request is in hand. Where nobody listens the
/// answer to this is there before S3's is, and its body is not read.
const FIRST_BEAT: Duration = Duration::from_millis(1);

/// How long the first chunk may be on its way to the connection alone. Written together with what follows, it would
/// reach nobody before nats-server has read that, too.
const HEAD_START: Duration = Duration::from_millis(5);

/// Serves one `get` from the opened store to the last message.
pub(super) async fn run(requester: Requester, request: GetRequest, mut entry: Entry) {
    let envelope = Envelope { transfer: Some(entry.transfer), context: request.context.clone() };
    let control = requester.shared.options.prefix.control(&requester.shared.instance, entry.transfer);
    let gone = requester.shared.options.prefix.gone(&requester.shared.secret, entry.transfer);
    let mut link = Link { requester, envelope, control, gone };
    debug!(key = %request.key, start = request.start, context = request.context.as_deref(), "opening");
    let mut opened = match link.open(&request, &mut entry).await {
        Ok(Opening::Done(opened)) => *opened,
        Ok(Opening::Ended(outcome)) => {
            entry.note_unheard(link.requester.elapsed());
            return link.end_before_start(outcome);
        }
        Err(error) => {
            let context = request.context;
            return link.requester.refuse(context, &error.to_wire()).await;
        }
    };
    check::trim(&mut opened.object);
    let Some(range) = request.span().resolve(opened.object.size) else {
        let error = store::Error::Range { start: request.start, size: opened.object.size };
        return link.requester.refuse(request.context, &error.to_wire()).await;
    };
    let settings = link.settings(&request);
    let clock = Clock::start();
    let mut sender = Sender::new(settings, range.clone(), request.credit.unwrap_or(OFFSET_MAX), clock.now());
    let pacer = Pacer::new(&link.requester.shared.options, &mut sender);
    let object = described(&opened.object);
    let accepted = Accepted {
        transfer: entry.transfer,
        instance: link.requester.shared.instance.clone(),
        control: link.control.clone(),
        object: opened.object,
        start: range.start,
        end: range.end,
        credit: sender.credit(),
        window_max: settings.window_max,
        chunk_max: u64::try_from(settings.chunk_max).unwrap_or(u64::MAX),
        beat_ms: as_millis(settings.beat_interval),
        idle_ms: as_millis(settings.idle_timeout),
    };
    let metrics = link.requester.shared.metrics.transfer(link.requester.store_name.as_str());
    let mut drive = Drive {
        sender,
        clock,
        body: opened.body,
        store_ended: false,
        entry,
        metrics,
        stalled: Stalled::default(),
        pacer,
        object,
        started: Some(range),
        opened_ms: as_millis(link.requester.elapsed()),
        first_byte: None,
    };
    // What is there by now goes out right behind the acceptance.
    drive.take_what_is_ready();
    if !link.publish(Body::Accepted(Box::new(accepted))).await {
        return link.end_before_start("aborted");
    }
    link.requester.count(None);
    if request.start > 0 && request.pin.if_match.is_some() {
        link.requester.shared.metrics.resume(link.requester.store_name.as_str());
    }

    let outcome = drive.run(&mut link).await;
    record_end(&link, &mut drive, outcome.as_ref());
}

/// Puts the end of a transfer into the log and the metrics.
fn record_end(link: &Link, drive: &mut Drive, outcome: Option<&Outcome>) {
    let took = link.requester.elapsed();
    drive.entry.note_unheard(took);
    drive.metrics.duration.observe(took.as_secs_f64());
    drive.log_end(&link.requester.shared, outcome, took);

    let has_failed = matches!(outcome, None | Some(Outcome::Failed(_)));
    link.count(outcome.map_or("aborted", outcome_name), has_failed);
}

/// What came of opening a store that did not fail.
enum Opening {
    Done(Box<Opened>),
    /// The transfer ended before it began, with this outcome.
    Ended(&'static str),
}

/// The way from one transfer to its consumer.
struct Link {
    requester: Requester,
    envelope: Envelope,
    /// Where the consumer sends credit and cancel.
    control: String,
    /// Where nats-server reports that nobody receives a message.
    gone: String,
}

impl Link {
    /// Opens the store, beating meanwhile, unless the consumer leaves or the relay must stop.
    async fn open(&self, request: &GetRequest, entry: &mut Entry) -> Result<Opening, store::Error> {
        if self.is_unheard(request, entry).await {
            return Ok(Opening::Ended(outcome_name(&Outcome::ConsumerGone)));
        }
        let store = std::sync::Arc::clone(&self.requester.store);
        let mut opening = store.open(&request.key, &request.pin, request.span());
        let period = limits::beat(self.requester.shared.options.beat_interval);
        // The first one comes early: by it the consumer knows that its request did not meet a frozen relay.
        let mut beats = tokio::time::interval_at(Instant::now() + FIRST_BEAT.min(period), period);
        let shared = &self.requester.shared;
        let ended = loop {
            tokio::select! {
                biased;
                Ok(()) = entry.heard.changed() => match *entry.heard.borrow() {
                    Heard { gone: true, .. } => break outcome_name(&Outcome::ConsumerGone),
                    Heard { control, .. } if control.cancel => break outcome_name(&Outcome::Cancelled),
                    Heard { .. } => {}
                },
                opened = &mut opening => return opened.map(|opened| Opening::Done(Box::new(opened))),
                _ = beats.tick() => {
                    let beat = Body::Beat { seq: 0, offset: request.start, wait: Wait::Store };
                    if !self.publish(beat).await {
                        break "aborted";
                    }
                }
                () = shared.goaway.cancelled() => {
                    let told = self.publish(Body::Goaway).await;
                    break if told { outcome_name(&Outcome::Drained) } else { "aborted" };
                }
                () = shared.shutdown.force.cancelled() => break "aborted",
            }
        };
        Ok(Opening::Ended(ended))
    }

    /// Returns whether nobody hears the answer, as far as that is known in time; asked only when there is reason to.
    async fn is_unheard(&self, request: &GetRequest, entry: &mut Entry) -> bool {
        let Some(wait) = self.requester.shared.caution.wait() else { return false };
        let beat = Body::Beat { seq: 0, offset: request.start, wait: Wait::Store };
        if !self.publish(beat).await {
            return false;
        }
        let gone = entry.heard.wait_for(|heard| heard.gone || heard.control.cancel);
        timeout(wait, gone).await.is_ok_and(|heard| heard.is_ok_and(|heard| heard.gone))
    }

    fn settings(&self, request: &GetRequest) -> Settings {
        let shared = &self.requester.shared;
        let options = &shared.options;
        let payload_max = shared.buses.data.max_payload().saturating_sub(HEADERS_MAX_BYTES);
        let own = options.chunk_max_bytes.min(payload_max);
        let chunk_max = limits::chunk_max(request.chunk_max, u64::try_from(own).unwrap_or(u64::MAX));
        let settings = Settings {
            chunk_max: usize::try_from(chunk_max).unwrap_or(own),
            gather_min: options.gather_min_bytes,
            window_max: options.window_max_bytes,
            beat_interval: options.beat_interval,
            idle_timeout: options.idle_timeout,
            keeps_alive: request.keeps_alive,
        };
        settings.within_bounds()
    }

    /// Sends a message whose reply subject is ours, so that nats-server reports there when nobody receives it.
    async fn publish(&self, body: Body) -> bool {
        tracing::trace!(kind = body.type_name(), "publishing");
        let (headers, payload) = self.envelope.encode(&body);
        let reply = Some(self.gone.clone());
        self.requester.send(Message { reply, headers, payload, ..Message::default() }).await
    }

    /// Publishes a chunk when it is this transfer's turn, and beats until then.
    async fn publish_chunk(&self, chunk: Chunk) -> bool {
        let shared = &self.requester.shared;
        let queued = shared.metrics.queue();
        let mut turn = std::pin::pin!(shared.outbox.turn());
        let permit = loop {
            tokio::select! {
                biased;
                () = shared.shutdown.force.cancelled() => return false,
                permit = &mut turn => break permit,
                () = sleep(limits::beat(shared.options.beat_interval)) => {
                    let beat = Body::Beat { seq: chunk.seq, offset: chunk.offset, wait: Wait::Store };
                    if !self.publish(beat).await {
                        return false;
                    }
                }
            }
        };
        drop(queued);
        let published = self.publish(Body::Chunk(chunk)).await;
        drop(permit);
        published
    }

    fn end_before_start(&self, outcome: &'static str) {
        if self.requester.shared.throttle.admits("transfer_unstarted", TRANSFERS) {
            info!(
                outcome,
                ms = as_millis(self.requester.elapsed()),
                trace = trace::current_id().as_deref(),
                "transfer ended before it started"
            );
        }
        self.count(outcome, false);
    }

    fn count(&self, outcome: &'static str, has_failed: bool) {
        trace::record_outcome(outcome, has_failed);
        let label = OutcomeLabel { store: self.requester.store_name.to_string(), outcome };
        self.requester.shared.metrics.transfers.get_or_create(&label).inc();
    }
}

struct Drive {
    sender: Sender,
    clock: Clock,
    body: store::Body,
    store_ended: bool,
    entry: Entry,
    metrics: TransferMetrics,
    stalled: Stalled,
    pacer: Pacer,
    /// What is sent, for the log.
    object: String,
    /// What is sent of it, until that was logged.
    started: Option<Range<u64>>,
    opened_ms: u64,
    /// How long after the request the first chunk was published.
    first_byte: Option<Duration>,
}

impl Drive {
    /// Runs to the last message; `None` when the relay must stop at once or the bus is closed.
    async fn run(&mut self, link: &mut Link) -> Option<Outcome> {
        let goaway = link.requester.shared.goaway.clone();
        let force = link.requester.shared.shutdown.force.clone();
        // What was said while the store was being opened counts, too.
        let heard = *self.entry.heard.borrow_and_update();
        self.hear(heard);
        loop {
            self.take_what_is_ready();
            let is_sent = self.transmit(link).await;
            if let Some(Range { start, end }) = self.started.take() {
                let opened_ms = self.opened_ms;
                if link.requester.shared.throttle.admits("transfer_started", TRANSFERS) {
                    info!(start, end, object = self.object, opened_ms, "transfer started");
                }
            }
            if !is_sent {
                return None;
            }
            self.stalled.note(self.sender.is_blocked(), &self.metrics);
            if let Some(outcome) = self.sender.outcome() {
                return Some(outcome.clone());
            }
            self.pacer.ask(self.sender.held_back());
            let wakes_at = self.sender.poll_timeout().map(|at| self.clock.at(at));
            tokio::select! {
                biased;
                () = force.cancelled() => return None,
                () = goaway.cancelled() => self.sender.handle_drain(),
                Ok(()) = self.entry.heard.changed() => {
                    let heard = *self.entry.heard.borrow_and_update();
                    self.hear(heard);
                }
                frame = self.body.next(), if self.wants_data() => self.take(frame),
                bytes = self.pacer.turn(), if self.pacer.is_waiting() => self.sender.permit(bytes),
                () = sleep_until(wakes_at.unwrap_or_else(Instant::now)), if wakes_at.is_some() => {
                    self.sender.handle_timeout(self.clock.now());
                }
            }
        }
    }

    /// Publishes what there is to say; `false` when the relay must stop at once or the bus is closed.
    async fn transmit(&mut self, link: &Link) -> bool {
        while let Some(message) = self.sender.poll_transmit(self.clock.now()) {
            let Body::Chunk(chunk) = message else {
                if link.publish(message).await {
                    continue;
                }
                return false;
            };
            let len = chunk.payload.len();
            if !link.publish_chunk(chunk).await {
                return false;
            }
            self.count_chunk(len, link);
            if self.sender.sent_chunks() == 1 && !self.sender.is_all_sent() {
                // However that ends: what has gone wrong is told by the next message.
                drop(timeout(HEAD_START, link.requester.shared.buses.data.flush()).await);
            }
        }
        true
    }

    fn count_chunk(&mut self, len: usize, link: &Link) {
        if self.sender.sent_chunks() == 1 {
            let took = link.requester.elapsed();
            self.metrics.first_byte.observe(took.as_secs_f64());
            self.first_byte = Some(took);
        }
        self.metrics.sent_chunks.inc();
        self.metrics.sent_bytes.inc_by(len as u64);
    }

    /// The one line with all that a support person asks for.
    fn log_end(&mut self, shared: &Shared, outcome: Option<&Outcome>, took: Duration) {
        self.stalled.note(false, &self.metrics);
        if !shared.throttle.admits("transfer_ended", TRANSFERS) {
            return;
        }
        let (bytes, chunks) = (self.sender.sent_bytes(), self.sender.sent_chunks());
        let (ms, stalled_ms) = (as_millis(took), as_millis(self.stalled.total));
        let bytes_per_s = bytes.saturating_mul(1000).checked_div(ms).unwrap_or(bytes);
        let outcome_name = outcome.map_or("aborted", outcome_name);
        let (object, first_byte_ms, trace) =
            (self.object.as_str(), self.first_byte.map(as_millis), trace::current_id());
        let trace = trace.as_deref();
        if let Some(Outcome::Failed(error)) = outcome {
            debug!(%error, "the reason in full");
            let reason = keyless(&error.message);
            warn!(
                outcome = outcome_name,
                reason, object, bytes, chunks, ms, first_byte_ms, stalled_ms, bytes_per_s, trace, "transfer ended"
            );
        } else {
            info!(
                outcome = outcome_name,
                object, bytes, chunks, ms, first_byte_ms, stalled_ms, bytes_per_s, trace, "transfer ended"
            );
        }
    }

    /// Takes the frames that the store has ready, so that small ones can go out together.
    fn take_what_is_ready(&mut self) {
        while self.wants_data() {
            let Some(frame) = self.body.next().now_or_never() else { return };
            self.take(frame);
        }
    }

    fn wants_data(&self) -> bool {
        !self.store_ended && self.sender.wants_data()
    }

    fn take(&mut self, frame: Option<Result<bytes::Bytes, store::Error>>) {
        match frame {
            Some(Ok(bytes)) => self.sender.handle_data(bytes),
            Some(Err(error)) => {
                self.store_ended = true;
                self.sender.handle_failure(error.to_wire());
            }
            None => {
                self.store_ended = true;
                self.sender.handle_data_end();
            }
        }
    }

    fn hear(&mut self, heard: Heard) {
        if heard.gone {
            self.sender.handle_consumer_gone();
        } else {
            self.sender.handle_control(heard.control, self.clock.now());
        }
    }
}

/// How long a transfer waited for credit.
#[derive(Default)]
struct Stalled {
    total: Duration,
    /// When it was last seen to wait; the time before is counted.
    since: Option<Instant>,
}

impl Stalled {
    fn note(&mut self, blocked: bool, metrics: &TransferMetrics) {
        if let Some(since) = self.since {
            let waited = since.elapsed();
            self.total += waited;
            metrics.credit_stalled.inc_by(waited.as_secs_f64());
        } else if blocked {
            metrics.credit_stalls.inc();
        }
        self.since = blocked.then(Instant::now);
    }
}

/// Time since a transfer began, as the state machine counts it.
struct Clock(Instant);

/// Later than any transfer waits for anything.
const FAR: Duration = Duration::from_secs(30 * 24 * 3600);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn at(&self, since_start: Duration) -> Instant {
        // What can't be reached is as good as a month away.
        self.0.checked_add(since_start).unwrap_or_else(|| self.0 + FAR)
    }
}

/// Tells which object it is without its key.
fn described(object: &ObjectInfo) -> String {
    let version = object.version_id.as_ref().map(|version| format!(" version={version}")).unwrap_or_default();
    format!("size={} etag={}{version}", object.size, object.etag.trim_matches('"'))
}

const fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Completed => "completed",
        Outcome::Drained => "drained",
        Outcome::Cancelled => "cancelled",
        Outcome::ConsumerGone => "consumer_gone",
        Outcome::Failed(WireError { code, .. }) => code.name(),
    }
}

fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
