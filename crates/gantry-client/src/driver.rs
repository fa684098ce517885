//! Drives one [`Receiver`] on the bus, in one task per download.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::OptionFuture;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::field::Empty;
use tracing::{Instrument as _, debug, info, info_span};

use gantry_bus::{self as bus, Event, Message, NO_RESPONDERS, Status, Subscription, trace};
use gantry_proto::chunk::Chunk;
use gantry_proto::message::json;
use gantry_proto::receiver::{Cause, Failure, Output, Receiver, Stats};
use gantry_proto::subject::Operation;
use gantry_proto::{Accepted, Get, GetRequest, Headers, ObjectInfo, Via};

use crate::connection::{Connection, Share, denial};
use crate::error::Error;
use crate::progress::{Progress, ServedBy};
use crate::query::headers;
use crate::{stated, written};

/// The capacity of the channel from the driver to the reader. The window bounds the chunks' bytes.
const QUEUE_CHUNKS: usize = 16;

/// The time limit for the last messages of a download, which notify the relay of its end.
const PARTING_LIMIT: Duration = Duration::from_secs(1);

/// A running driver, as seen by its reader.
pub(super) struct Running {
    pub(super) accepted: Accepted,
    pub(super) chunks: mpsc::Receiver<Chunk>,
    pub(super) written: written::Sender,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) driver: JoinHandle<Result<Stats, Error>>,
    pub(super) restated: stated::Later,
    pub(super) cancel: DropGuard,
}

/// Requests a transfer, and returns once it is accepted. `known` is the version, if a relay has described it before.
pub(super) async fn start(
    connection: &Arc<Connection>,
    get: Get,
    known: Option<ObjectInfo>,
    via: &Via,
) -> Result<Running, Error> {
    let share = Share::take(connection);
    let store = get.store.clone();
    let correlation = get.context.clone();
    let now = connection.clock.now();

    let cancel = CancellationToken::new();
    let (chunks, received) = mpsc::channel(QUEUE_CHUNKS);
    let (written, written_below) = written::channel(get.span.start);
    let (progress, progress_seen) = watch::channel(Progress::default());
    let (accept, accepted) = oneshot::channel();
    let (stated, restated) = stated::channel();
    let settings = connection.settings();

    let driver = Driver {
        subject: connection.options.prefix.request(Operation::Get, &store),
        receiver: match known {
            Some(object) => Receiver::of_version(settings, get, object, now),
            None => Receiver::new(settings, get, now),
        },
        via: via.clone(),
        status: connection.bus.status(),
        events: connection.bus.events(),
        link_status: Status::default(),
        inbox: None,
        inbox_subject: String::new(),
        control_subject: String::new(),
        chunks,
        written: written_below,
        progress,
        accept: Some(accept),
        stated,
        cancel: cancel.clone(),
        heard_at: now,
        received_bytes: 0,
        _share: share,
        connection: Arc::clone(connection),
    };
    let span = info_span!(
        "download",
        otel.kind = "client",
        otel.status_code = Empty,
        outcome = Empty,
        %store,
        correlation = correlation.as_deref(),
    );
    let driver = tokio::spawn(traced(driver).instrument(span));
    let cancel = cancel.drop_guard();

    let Ok(accepted) = accepted.await else {
        return Err(match join(driver).await {
            Err(Error::GaveUp { cause: Cause::NoResponders, .. }) => connection.nobody(&store).await,
            Err(error) => error,
            Ok(_) => Error::Cancelled,
        });
    };
    Ok(Running { accepted, chunks: received, written, progress: progress_seen, driver, restated, cancel })
}

/// Runs a driver, and records the outcome in the current span.
async fn traced(driver: Driver) -> Result<Stats, Error> {
    let ended = driver.run().await;

    let outcome = match &ended {
        Ok(_) => "completed",
        Err(Error::Cancelled) => "cancelled",
        Err(_) => "failed",
    };
    trace::record_outcome(outcome, outcome == "failed");
    ended
}

/// Waits for a driver. A panic in it, which the runtime has reported, counts as a cancellation.
pub(super) async fn join(driver: JoinHandle<Result<Stats, Error>>) -> Result<Stats, Error> {
    driver.await.unwrap_or(Err(Error::Cancelled))
}

/// Waits for a driver. Once `stop` is cancelled, this cancels the transfer and waits until the relay has been notified.
pub(super) async fn join_or_stop(
    mut driver: JoinHandle<Result<Stats, Error>>,
    transfer: DropGuard,
    stop: &CancellationToken,
) -> Result<Stats, Error> {
    tokio::select! {
        biased;
        driven = &mut driver => driven.unwrap_or(Err(Error::Cancelled)),
        () = stop.cancelled() => {
            drop(transfer);
            join(driver).await
        }
    }
}

/// The events that a driver waits for.
enum Happened {
    Cancelled,
    Status,
    Pause,
    Room,
    Written,
    Message(Option<Message>),
    Event(Result<Event, broadcast::error::RecvError>),
    Timeout,
}

struct Driver {
    connection: Arc<Connection>,
    /// The subject of requests.
    subject: String,
    receiver: Receiver,
    /// The relays that the request has passed.
    via: Via,
    status: watch::Receiver<Status>,
    events: broadcast::Receiver<Event>,
    link_status: Status,
    inbox: Option<Subscription>,
    inbox_subject: String,
    /// The subject of the latest control message.
    control_subject: String,
    chunks: mpsc::Sender<Chunk>,
    written: written::Receiver,
    progress: watch::Sender<Progress>,
    accept: Option<oneshot::Sender<Accepted>>,
    stated: stated::Sender,
    cancel: CancellationToken,
    /// The bytes that the connection had received at the previous event.
    received_bytes: u64,
    /// The time at which anything last arrived on the connection, or at which the driver last reconnected.
    heard_at: Duration,
    _share: Share,
}

impl Driver {
    async fn run(mut self) -> Result<Stats, Error> {
        self.link_status = *self.status.borrow_and_update();
        if !self.link_status.connected {
            self.receiver.handle_disconnected();
        }

        loop {
            self.receiver.handle_window_limit(self.connection.share());
            self.deliver();
            self.act().await?;

            if let Some(outcome) = self.receiver.outcome() {
                let outcome = outcome.map(|()| self.receiver.stats()).map_err(|failure| self.error(failure));
                if let (Ok(_), Some(window)) = (&outcome, self.receiver.measured_window()) {
                    self.connection.record_window(window);
                }
                if outcome.is_err() && self.link_status.connected {
                    self.depart().await;
                }
                return outcome;
            }

            self.step().await?;
        }
    }

    /// Returns the error for a failure.
    fn error(&self, failure: &Failure) -> Error {
        match failure {
            Failure::GaveUp { cause: Cause::Stall, requests, .. }
                if self.inbox.is_some() && !self.receiver.was_answered() =>
            {
                Error::Unanswered { inbox: self.inbox_subject.clone(), requests: *requests }
            }
            failure @ (Failure::Refused(_) | Failure::Changed { .. } | Failure::GaveUp { .. } | Failure::Cancelled) => {
                failure.clone().into()
            }
        }
    }

    /// Sends the cancellation to the relay before the process may exit.
    async fn depart(&mut self) {
        let flush = self.connection.bus.flush();
        if !matches!(tokio::time::timeout(PARTING_LIMIT, flush).await, Ok(Ok(()))) {
            debug!("the relay may not have received the cancellation");
        }
    }

    /// Executes the receiver's outputs.
    async fn act(&mut self) -> Result<(), Error> {
        while let Some(output) = self.receiver.poll_output() {
            match output {
                Output::Request(request) => self.request(&request).await?,
                Output::Control { subject, control } => {
                    self.control_subject.clone_from(&subject);
                    self.publish(subject, Headers::default(), json(&control)).await?;
                }
                Output::Accepted(accepted) => self.accepted(accepted)?,
                Output::Recovering(cause) => {
                    self.suspect(&cause).await?;
                    let recoveries = self.receiver.stats().recoveries;
                    info!(cause = cause.name(), %cause, offset = self.receiver.next_offset(), "requesting the rest");
                    self.progress.send_modify(|progress| progress.recoveries = recoveries);
                }
            }
        }
        Ok(())
    }

    /// Publishes a request, with a fresh inbox as its reply subject.
    async fn request(&mut self, request: &GetRequest) -> Result<(), Error> {
        self.inbox_subject = self.connection.bus.new_inbox();
        let bus = Arc::clone(&self.connection.bus);
        let inbox = self.inbox_subject.clone();
        self.inbox = self.unless_stuck(bus.subscribe(&inbox, None)).await?;
        if self.inbox.is_none() {
            return Ok(());
        }

        self.publish(self.subject.clone(), headers(&self.via), json(request)).await
    }

    /// Reports an accepted transfer to the reader.
    fn accepted(&mut self, accepted: Box<Accepted>) -> Result<(), Error> {
        let relay = ServedBy::of(&accepted);
        info!(transfer = %accepted.transfer, relay = %relay.id, host = relay.host, start = accepted.start, "accepted");

        self.progress.send_modify(|progress| {
            let is_first = progress.end == 0;
            if is_first {
                progress.start = accepted.start;
                progress.written = accepted.start;
            }
            progress.end = accepted.end;
            progress.transfer = Some(accepted.transfer);
            progress.relay = Some(Arc::new(relay));
        });
        self.stated.note(accepted.object.checksum.as_ref())?;

        if let Some(accept) = self.accept.take()
            && accept.send(*accepted).is_err()
        {
            debug!("the caller left before the transfer was accepted");
        }
        Ok(())
    }

    /// Reconnects if one relay after another stays silent. Most likely the connection is dead then, which the bus would
    /// detect only much later.
    async fn suspect(&mut self, cause: &Cause) -> Result<(), Error> {
        let now = self.connection.clock.now();
        let silence = now.saturating_sub(self.heard_at);
        if *self.status.borrow() != self.link_status {
            // The silent connection has been replaced already.
            return Ok(());
        }

        if *cause == Cause::Stall && silence >= 2 * self.connection.options.stall_timeout {
            self.heard_at = now;
            info!(silence_ms = silence.as_millis(), "no relay answers: reconnecting");
            let bus = Arc::clone(&self.connection.bus);
            self.unless_stuck(bus.reconnect()).await?;
        }
        Ok(())
    }

    /// Waits for the next event, and passes it to the receiver. No branch loses anything if another one wins.
    async fn step(&mut self) -> Result<(), Error> {
        let connection = Arc::clone(&self.connection);
        // Without a timer, the driver still keeps the clock running.
        let timeout = self.receiver.poll_timeout().unwrap_or(Duration::MAX);
        let awaited_written = self.receiver.awaited_written();
        let paced_until = self.paced_until();
        let next_message: OptionFuture<_> = self.inbox.as_mut().map(StreamExt::next).into();

        let happened = tokio::select! {
            biased;
            () = self.cancel.cancelled() => Happened::Cancelled,
            // A reader that failed acknowledges nothing any more, so its credit would never return.
            () = self.chunks.closed() => Happened::Cancelled,
            Ok(()) = self.status.changed() => Happened::Status,
            Some(()) = OptionFuture::from(paced_until.map(sleep_until)) => Happened::Pause,
            _ = self.chunks.reserve(), if paced_until.is_none() && self.receiver.has_deliverable() => Happened::Room,
            () = self.written.reached(awaited_written) => Happened::Written,
            Some(message) = next_message => Happened::Message(message),
            event = self.events.recv() => Happened::Event(event),
            () = connection.clock.sleep_until(timeout) => Happened::Timeout,
        };

        let now = self.connection.clock.now();
        self.note_connection(&happened, now);
        self.note_written(now);
        self.handle(happened, now).await
    }

    /// Records when anything last arrived on the connection.
    fn note_connection(&mut self, happened: &Happened, now: Duration) {
        let received_bytes = self.connection.bus.received_bytes();
        if received_bytes != self.received_bytes || matches!(happened, Happened::Message(_) | Happened::Status) {
            self.heard_at = now;
        }
        self.received_bytes = received_bytes;
    }

    /// Passes an event to the receiver.
    async fn handle(&mut self, happened: Happened, now: Duration) -> Result<(), Error> {
        match happened {
            Happened::Cancelled => self.receiver.handle_failure(Failure::Cancelled),
            Happened::Status => self.handle_status(now),
            Happened::Room | Happened::Pause | Happened::Written => {}
            Happened::Message(None) => return Err(self.connection.closed().await),
            Happened::Message(Some(message)) if message.status == Some(NO_RESPONDERS) => {
                self.receiver.handle_no_responders(now);
            }
            Happened::Message(Some(message)) => {
                self.receiver.handle_message(&message.headers, message.payload, now);
            }
            Happened::Event(event) => {
                if let Some(error) = self.denial(event) {
                    return Err(error);
                }
            }
            Happened::Timeout => self.receiver.handle_timeout(now),
        }
        Ok(())
    }

    /// Returns the error if nats-server denies a subject without which the download can't end.
    fn denial(&self, event: Result<Event, broadcast::error::RecvError>) -> Option<Error> {
        match event {
            // A small object, whose first credit covers all of it, needs no control messages.
            Ok(Event::PublishDenied(subject)) if subject == self.control_subject => {
                self.receiver.needs_credit().then_some(Error::NotPermitted { what: "publishing to", subject })
            }
            event => denial(event, &self.subject, &self.inbox_subject),
        }
    }

    /// Passes the reader's progress to the receiver.
    fn note_written(&mut self, now: Duration) {
        let before = self.receiver.written_offset();
        let written = self.written.limit();

        // Even if the offset is unchanged: a larger share may allow more credit now.
        self.receiver.handle_written(written, now);
        if written > before {
            self.progress.send_modify(|progress| progress.written = written);
        }
    }

    /// Passes chunks to the reader while it has room.
    fn deliver(&mut self) {
        while self.receiver.has_deliverable() && self.paced_until().is_none() {
            match self.chunks.try_reserve() {
                Ok(room) => {
                    if let Some(chunk) = self.receiver.poll_deliver() {
                        if let Some(limit) = &self.connection.options.rate_limit {
                            limit.take(chunk.payload.len());
                        }
                        room.send(chunk);
                    }
                }
                Err(TrySendError::Full(())) => return,
                Err(TrySendError::Closed(())) => return self.receiver.handle_failure(Failure::Cancelled),
            }
        }
    }

    /// Returns when the rate limit permits the next chunk, if it does not yet. All downloads of a client share the limit,
    /// so it also applies to the only chunk of a small object.
    fn paced_until(&self) -> Option<Instant> {
        let due = self.connection.options.rate_limit.as_ref()?.due();
        (self.receiver.has_deliverable() && Instant::now() < due).then_some(due)
    }

    fn handle_status(&mut self, now: Duration) {
        let before = self.link_status;
        self.link_status = *self.status.borrow_and_update();

        if !self.link_status.connected || self.link_status.epoch != before.epoch {
            self.receiver.handle_disconnected();
        }
        if self.link_status.connected {
            self.receiver.handle_connected(now);
        }
    }

    /// Publishes a message with the inbox as its reply subject, unless the connection is stuck.
    async fn publish(&mut self, subject: String, headers: Headers, payload: Bytes) -> Result<(), Error> {
        let reply = Some(self.inbox_subject.clone());
        let message = Message { subject, reply, headers, payload, status: None };
        let bus = Arc::clone(&self.connection.bus);
        self.unless_stuck(bus.publish(message)).await.map(|_| ())
    }

    /// Runs a call on the bus, or returns `None` if something else is due first. Without a connection, a bus blocks once
    /// its queue is full.
    ///
    /// A message that is not sent does no harm: a request has a timer, the next control message replaces this one, and a
    /// new connection leads to a new request.
    async fn unless_stuck<T>(
        &mut self,
        call: impl Future<Output = Result<T, bus::Error>> + Send,
    ) -> Result<Option<T>, Error> {
        let connection = Arc::clone(&self.connection);
        let clock = &connection.clock;
        let mut status = self.status.clone();
        let over = self.receiver.outcome().is_some();
        let due = self.receiver.poll_timeout().filter(|_| !over);
        let limit = due.unwrap_or_else(|| clock.now().saturating_add(PARTING_LIMIT));

        tokio::select! {
            biased;
            done = call => Ok(Some(done?)),
            () = self.cancel.cancelled(), if !over => Ok(None),
            () = self.chunks.closed(), if !over => Ok(None),
            Ok(()) = status.changed(), if !over => Ok(None),
            () = clock.sleep_until(limit) => Ok(None),
        }
    }
}
