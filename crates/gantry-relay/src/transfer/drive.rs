//! Drives a [`Sender`] between a store and the bus.

use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Fuse, FusedFuture};
use tokio::time::{Instant, sleep_until};

use super::context::Context;
use super::delivery::Delivery;
use super::report::{self, Report};
use super::source::{Event, Source};
use crate::outbox::Turn;
use crate::pacer::Pacer;
use crate::registry::{Entry, Heard};
use crate::waits::{Wait, Waits};
use gantry_proto::chunk::Chunk;
use gantry_proto::sender::{Identity, Outcome, Sender};
use gantry_proto::{Accepted, Body, Code, GetRequest, WireError};
use gantry_store::Store;

/// How long to wait until the first chunk has been written to the connection alone. If it were written together with
/// the following chunks, it would reach nobody before nats-server has read those as well.
const HEAD_START: Duration = Duration::from_millis(5);

/// A transfer in progress.
pub(super) struct Drive<'a> {
    delivery: &'a Delivery,
    request: &'a GetRequest,
    sender: Sender,
    clock: Clock,
    source: Source<'a>,
    entry: Entry,
    pacer: Pacer,
    waits: Waits,
    /// The report, once the request is accepted.
    report: Option<Report>,
}

impl<'a> Drive<'a> {
    /// Starts to open the requested object.
    pub(super) fn new(delivery: &'a Delivery, store: &'a dyn Store, request: &'a GetRequest, entry: Entry) -> Self {
        let Context { options, subjects, caution, .. } = &*delivery.context;
        let clock = Clock::start();
        let identity = Identity {
            transfer: entry.transfer,
            instance: subjects.instance().to_owned(),
            control: subjects.control(entry.transfer),
            host: Some(delivery.context.host.clone()),
        };
        let mut sender = Sender::new(delivery.settings(), request, identity, clock.now());

        // If it is doubtful whether anybody listens, a beat finds out before the store is read.
        let wait = caution.wait();
        if wait.is_some() {
            sender.request_beat();
        }

        Self {
            delivery,
            request,
            clock,
            source: Source::open(store, request, wait),
            entry,
            pacer: Pacer::new(options, &mut sender),
            waits: Waits::new(delivery.context.metrics.waits(delivery.requester.store().as_str())),
            sender,
            report: None,
        }
    }

    /// Runs to the last message. Returns `None` if the relay must stop at once or the bus is closed.
    pub(super) async fn run(&mut self) -> Option<Outcome> {
        let delivery = self.delivery;
        let lifetime = &delivery.context.lifetime;
        let mut force = pin!(lifetime.shutdown.force.cancelled());
        let mut goaway = pin!(lifetime.goaway.cancelled());
        let mut timer = pin!(sleep_until(self.wakes_at()));
        // The place in the queue for a turn must outlive one round.
        let mut queued = pin!(Fuse::terminated());
        let mut turn = None;

        loop {
            self.take_ready_pieces();
            self.waits.note(Some(Wait::Bus));
            let is_sent = self.transmit(turn.take()).await;
            self.waits.note(None);
            self.log_progress();
            if !is_sent {
                return None;
            }
            if let Some(outcome) = self.sender.outcome() {
                return Some(outcome.clone());
            }

            self.pacer.ask(self.sender.held_back());
            if self.sender.wants_turn() && queued.is_terminated() {
                queued.set(delivery.turn().fuse());
            }
            let wait = self.waits_for(!queued.is_terminated());
            self.waits.note(wait);
            self.entry.activity.note_wait(wait);

            let wakes_at = self.wakes_at();
            if timer.deadline() != wakes_at {
                timer.as_mut().reset(wakes_at);
            }

            tokio::select! {
                biased;
                () = &mut force => return None,
                () = &mut goaway => self.sender.handle_drain(),
                Ok(()) = self.entry.heard.changed() => self.hear(),
                granted = &mut queued, if !queued.is_terminated() => {
                    turn = Some(granted);
                    self.sender.handle_turn();
                }
                event = self.source.next(), if self.wants_source() => self.take(event),
                bytes = self.pacer.turn(), if self.pacer.is_waiting() => self.sender.permit(bytes),
                () = &mut timer => self.sender.handle_timeout(self.clock.now()),
            }
        }
    }

    /// Records the end. `None` means that the transfer was aborted.
    pub(super) fn end(self, outcome: Option<&Outcome>) {
        let took = self.delivery.requester.elapsed();
        let context = &self.delivery.context;
        if self.entry.was_unheard(took, context.options.beat_interval) {
            context.caution.note_unheard(took);
        }

        match (self.report, outcome) {
            (Some(report), _) => report.end(self.delivery, &self.sender, &self.waits, outcome),
            // The refusal is already recorded.
            (None, Some(Outcome::Refused(_))) => {}
            (None, _) => report::end_before_start(self.delivery, outcome),
        }
    }

    /// Publishes the sender's messages. A chunk is published only in its turn. Returns `false` if the relay must stop
    /// at once or the bus is closed.
    async fn transmit(&mut self, mut turn: Option<Turn<'a>>) -> bool {
        loop {
            let Some(message) = self.sender.poll_transmit(self.clock.now()) else {
                if !self.sender.wants_turn() {
                    return true;
                }
                turn = self.delivery.context.outbox.try_turn();
                if turn.is_none() {
                    return true;
                }
                self.sender.handle_turn();
                continue;
            };

            let is_sent = match message {
                Body::Chunk(chunk) if self.delivery.is_too_large(&chunk) => {
                    let error = WireError::new(Code::Internal, "nats-server accepts only smaller messages than these");
                    self.sender.handle_failure(error);
                    true
                }
                Body::Chunk(chunk) => self.publish_chunk(chunk, turn.take()).await,
                Body::Accepted(accepted) => self.accept(accepted).await,
                Body::Error(error) if self.report.is_none() => {
                    self.delivery.refuse(&error).await;
                    true
                }
                message @ (Body::Beat { .. } | Body::End(_) | Body::Error(_) | Body::Goaway) => {
                    self.delivery.publish(message).await
                }
            };
            if !is_sent {
                return false;
            }
        }
    }

    async fn accept(&mut self, accepted: Box<Accepted>) -> bool {
        let Delivery { context, requester, .. } = self.delivery;
        let report = Report::new(self.delivery, &accepted);
        let size = accepted.object.size;
        if !self.delivery.publish(Body::Accepted(accepted)).await {
            return false;
        }

        self.report = Some(report);
        self.entry.activity.note_size(size);
        requester.count(None);
        if self.request.start > 0 && self.request.pin.if_match.is_some() {
            context.metrics.resume(requester.store().as_str());
        }
        true
    }

    /// Publishes a chunk, which ends its turn.
    async fn publish_chunk(&mut self, chunk: Chunk, turn: Option<Turn<'a>>) -> bool {
        let len = chunk.payload.len();
        if !self.delivery.publish(Body::Chunk(chunk)).await {
            return false;
        }
        drop(turn);
        self.entry.activity.note_sent(self.sender.sent_bytes());

        let is_first = self.sender.sent_chunks() == 1;
        if let Some(report) = &mut self.report {
            report.count_chunk(len, is_first, self.delivery);
        }
        if is_first && !self.sender.is_all_sent() {
            self.delivery.context.outbox.flush_within(HEAD_START).await;
        }
        true
    }

    fn log_progress(&mut self) {
        if let Some(report) = &mut self.report {
            report.log_start(self.delivery, &self.entry.activity);
            report.note_blocked(self.sender.is_blocked());
        }
    }

    /// Adds the pieces that the store has ready, so that small ones can be sent together.
    fn take_ready_pieces(&mut self) {
        while self.sender.wants_data() && !self.source.has_ended() {
            let Some(event) = self.source.next().now_or_never() else { return };
            self.take(event);
        }
    }

    /// Returns what the transfer waits for, if it waits.
    fn waits_for(&self, is_queued: bool) -> Option<Wait> {
        if self.sender.is_opening() {
            Some(Wait::Store)
        } else if is_queued {
            Some(Wait::Bus)
        } else if self.pacer.is_waiting() {
            Some(Wait::Limits)
        } else if self.sender.is_blocked() {
            Some(Wait::Credit)
        } else {
            self.wants_source().then_some(Wait::Store)
        }
    }

    fn wants_source(&self) -> bool {
        !self.source.has_ended() && (self.sender.is_opening() || self.sender.wants_data())
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Opened(object) => self.sender.handle_opened(*object, self.clock.now()),
            Event::Piece(piece) => self.sender.handle_data(piece),
            Event::End => self.sender.handle_data_end(),
            Event::Failed(error) => self.sender.handle_failure(error.to_wire()),
        }
    }

    /// Passes the latest state that the consumer has reported to the sender.
    fn hear(&mut self) {
        let Heard { control, gone } = *self.entry.heard.borrow_and_update();
        if gone {
            self.sender.handle_consumer_gone();
        } else {
            self.sender.handle_control(control, self.clock.now());
        }
    }

    /// Returns when the sender wants to be woken.
    fn wakes_at(&self) -> Instant {
        self.clock.at(self.sender.poll_timeout().unwrap_or(FAR))
    }
}

/// Time since the start of a transfer, as the state machine counts it.
struct Clock(Instant);

/// Later than any timeout of a transfer.
const FAR: Duration = Duration::from_secs(30 * 24 * 3600);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn at(&self, since_start: Duration) -> Instant {
        // A time that can't be represented is as good as a month away.
        self.0.checked_add(since_start).unwrap_or_else(|| self.0 + FAR)
    }
}
