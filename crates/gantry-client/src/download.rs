//! Drives one [`Receiver`] on the bus and hands out the bytes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::OptionFuture;
use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt};
use tokio::io::AsyncRead;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::io::StreamReader;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::field::Empty;
use tracing::{Instrument as _, debug, info, info_span};

use super::Error;
use super::client::{Get, Share, Shared, denial};
use super::parts::Parts;
use super::verify::{Proof, Verifier};
use super::{stated, written};
use gantry_bus::trace;
use gantry_bus::{self as bus, Event, Message, NO_RESPONDERS, Status, Subscription};
use gantry_proto::chunk::Chunk;
use gantry_proto::message::json;
use gantry_proto::receiver::{Cause, Failure, Output, Receiver, Stats, Wanted};
use gantry_proto::subject::Operation;
use gantry_proto::{Accepted, Headers, ObjectInfo, TransferId};

/// How many chunks may lie between the driver and the reader. The window bounds their bytes.
const QUEUE_CHUNKS: usize = 16;

/// How long the end of a download may wait until the connection took what there is to say of it.
const PARTING_LIMIT: Duration = Duration::from_secs(1);

/// How far a download has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The absolute offset at which the range starts.
    pub start: u64,
    /// The absolute offset up to which bytes are written; those of the last moments may be missing until more are.
    pub written: u64,
    /// The absolute exclusive end of the range.
    pub end: u64,
    /// How often a transfer was given up and begun anew.
    pub recoveries: u64,
    /// The newest transfer, as the relay's log names it; `None` before one was accepted.
    pub transfer: Option<TransferId>,
}

/// The bytes of one download, in order: a [`Stream`] that ends after they have been proved, or with an error.
///
/// Dropping it cancels the transfer at the relay; [`Self::stop`] also waits until that is said.
#[derive(Debug)]
pub struct Download {
    accepted: Accepted,
    chunks: mpsc::Receiver<Chunk>,
    written: written::Sender,
    progress: watch::Receiver<Progress>,
    driver: JoinHandle<Result<Stats, Error>>,
    restated: stated::Later,
    verifier: Option<Verifier>,
    proof: Option<Proof>,
    /// The absolute offset up to which bytes were handed out.
    taken: u64,
    over: bool,
    cancel: DropGuard,
}

/// Asks for a transfer and returns when it is accepted.
pub(super) async fn start(shared: &Arc<Shared>, get: Get) -> Result<Download, Error> {
    let share = Share::take(shared);
    let cancel = CancellationToken::new();
    let (chunks, received) = mpsc::channel(QUEUE_CHUNKS);
    let (written, written_below) = written::channel(get.span.start);
    let (told, progress) = watch::channel(Progress::default());
    let (accept, accepted) = oneshot::channel();
    let (stated, restated) = stated::channel();
    let store = get.store.clone();
    let wanted = Wanted { key: get.key, span: get.span, pin: get.pin, context: get.context };
    let clock = shared.clock;
    let now = clock.elapsed();
    let driver = Driver {
        subject: shared.options.prefix.request(Operation::Get, &get.store),
        receiver: Receiver::new(shared.settings(), wanted, now),
        clock,
        status: shared.bus.status(),
        events: shared.bus.events(),
        connection: Status::default(),
        inbox: None,
        inbox_subject: String::new(),
        chunks,
        written: written_below,
        progress: told,
        accept: Some(accept),
        stated,
        cancel: cancel.clone(),
        heard_at: now,
        received_bytes: 0,
        _share: share,
        paced_until: Instant::now(),
        shared: Arc::clone(shared),
    };
    let cancel = cancel.drop_guard();
    let span = info_span!("download", otel.kind = "client", otel.status_code = Empty, outcome = Empty, %store);
    let run = async {
        let ended = driver.run().await;
        let outcome = match &ended {
            Ok(_) => "completed",
            Err(Error::Cancelled) => "cancelled",
            Err(_) => "failed",
        };
        trace::record_outcome(outcome, outcome == "failed");
        ended
    };
    let driver = tokio::spawn(run.instrument(span));
    let Ok(accepted) = accepted.await else {
        return Err(match join(driver).await {
            Err(Error::NoRelay) => shared.nobody(&store).await,
            Err(error) => error,
            Ok(_) => Error::Cancelled,
        });
    };
    let whole = accepted.start == 0 && accepted.end == accepted.object.size;
    let checksum = accepted.object.checksum.as_ref().filter(|_| whole);
    let verifier = Verifier::new(checksum, accepted.end - accepted.start);
    Ok(Download {
        taken: accepted.start,
        accepted,
        chunks: received,
        written,
        progress,
        driver,
        restated,
        verifier: Some(verifier),
        proof: None,
        over: false,
        cancel,
    })
}

impl Download {
    /// Returns the version that is being downloaded.
    #[must_use]
    pub const fn object(&self) -> &ObjectInfo {
        &self.accepted.object
    }

    /// Returns the absolute byte range, end exclusive.
    #[must_use]
    pub const fn range(&self) -> std::ops::Range<u64> {
        self.accepted.start..self.accepted.end
    }

    /// Watches how far it has come.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Returns what the bytes were proved against, once the stream has ended well.
    #[must_use]
    pub const fn proof(&self) -> Option<Proof> {
        self.proof
    }

    /// Reads the bytes; the last read fails when they can't be proved.
    pub fn into_async_read(self) -> impl AsyncRead + Send + Unpin {
        StreamReader::new(self.map_err(std::io::Error::other))
    }

    /// Ends it before its time, and returns when the relay was told, or can't be told soon.
    pub async fn stop(self) {
        let Self { driver, cancel, over, .. } = self;
        drop(cancel);
        if !over {
            // It ends by the cancellation, whatever else it would have said.
            drop(join(driver).await);
        }
    }

    /// Takes it apart for a sink that acknowledges what it has written itself.
    pub(super) fn into_parts(self) -> Parts {
        Parts {
            accepted: self.accepted,
            chunks: self.chunks,
            written: self.written,
            progress: self.progress,
            driver: self.driver,
            restated: self.restated,
            cancel: self.cancel,
        }
    }

    fn finish(&mut self, driven: Result<Stats, Error>) -> Option<Result<Bytes, Error>> {
        self.over = true;
        let proved = driven.and_then(|_| match self.verifier.take() {
            Some(verifier) => Ok(verifier.finish()?),
            None => Ok(Proof::Transport),
        });
        match proved {
            Ok(proof) => {
                self.proof = Some(proof);
                None
            }
            Err(error) => Some(Err(error)),
        }
    }
}

impl Stream for Download {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        // Whoever asks for more has dealt with what it was given.
        let taken = self.taken;
        self.written.advance(taken);
        if let Some(chunk) = ready!(self.chunks.poll_recv(cx)) {
            self.taken += chunk.payload.len() as u64;
            if let Some(verifier) = &mut self.verifier {
                verifier.update_chunk(&chunk);
            }
            return Poll::Ready(Some(Ok(chunk.payload)));
        }
        let driven = ready!(self.driver.poll_unpin(cx)).unwrap_or(Err(Error::Cancelled));
        Poll::Ready(self.finish(driven))
    }
}

/// Waits for a driver; a panic in it has been reported by the runtime and counts as a stop.
pub(super) async fn join(driver: JoinHandle<Result<Stats, Error>>) -> Result<Stats, Error> {
    driver.await.unwrap_or(Err(Error::Cancelled))
}

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
    shared: Arc<Shared>,
    /// Where requests go.
    subject: String,
    receiver: Receiver,
    clock: Instant,
    status: watch::Receiver<Status>,
    events: broadcast::Receiver<Event>,
    connection: Status,
    inbox: Option<Subscription>,
    inbox_subject: String,
    chunks: mpsc::Sender<Chunk>,
    written: written::Receiver,
    progress: watch::Sender<Progress>,
    accept: Option<oneshot::Sender<Accepted>>,
    stated: stated::Sender,
    cancel: CancellationToken,
    /// How many bytes the connection had read when it was last looked at.
    received_bytes: u64,
    /// When anything last arrived at the connection, or a new connection was made for want of it.
    heard_at: Duration,
    _share: Share,
    /// Before this the reader gets nothing, so that the download keeps to its limit.
    paced_until: Instant,
}

impl Driver {
    async fn run(mut self) -> Result<Stats, Error> {
        self.connection = *self.status.borrow_and_update();
        if !self.connection.connected {
            self.receiver.handle_disconnected();
        }
        loop {
            self.receiver.handle_share(self.shared.share());
            self.deliver();
            self.act().await?;
            if let Some(outcome) = self.receiver.outcome() {
                let outcome = outcome.map(|()| self.receiver.stats()).map_err(|failure| failure.clone().into());
                if outcome.is_err() && self.connection.connected {
                    self.depart().await;
                }
                return outcome;
            }
            self.step().await?;
        }
    }

    /// Lets the relay hear that it was cancelled before the process may end.
    async fn depart(&mut self) {
        let flush = self.shared.bus.flush();
        if !matches!(tokio::time::timeout(PARTING_LIMIT, flush).await, Ok(Ok(()))) {
            debug!("the relay may not have heard of the end");
        }
    }

    /// Does what the receiver wants done.
    async fn act(&mut self) -> Result<(), Error> {
        while let Some(output) = self.receiver.poll_output() {
            match output {
                Output::Request(request) => {
                    self.inbox_subject = self.shared.bus.new_inbox();
                    let (bus, inbox) = (Arc::clone(&self.shared.bus), self.inbox_subject.clone());
                    self.inbox = self.unless_stuck(bus.subscribe(&inbox, None)).await?;
                    if self.inbox.is_none() {
                        continue;
                    }
                    let mut headers = Headers::default();
                    trace::inject(&mut headers);
                    self.publish(self.subject.clone(), headers, json(&request)).await?;
                }
                Output::Control { subject, control } => {
                    self.publish(subject, Headers::default(), json(&control)).await?
                }
                Output::Accepted(accepted) => {
                    info!(transfer = %accepted.transfer, relay = %accepted.instance, start = accepted.start, "accepted");
                    self.tell(|progress| {
                        if progress.end == 0 {
                            progress.start = accepted.start;
                            progress.written = accepted.start;
                        }
                        progress.end = accepted.end;
                        progress.transfer = Some(accepted.transfer);
                    });
                    self.stated.note(&accepted)?;
                    if let Some(accept) = self.accept.take()
                        && accept.send(*accepted).is_err()
                    {
                        debug!("the caller left before the transfer was accepted");
                    }
                }
                Output::Recovering(cause) => {
                    self.suspect(&cause).await?;
                    let recoveries = self.receiver.stats().recoveries;
                    info!(cause = cause.name(), %cause, offset = self.receiver.next_offset(), "asking again");
                    self.tell(|progress| progress.recoveries = recoveries);
                }
            }
        }
        Ok(())
    }

    /// Makes a new connection when relay after relay stays silent: then it is likelier the link that is dead, which the
    /// bus itself would notice only much later.
    async fn suspect(&mut self, cause: &Cause) -> Result<(), Error> {
        let now = self.clock.elapsed();
        let silence = now.saturating_sub(self.heard_at);
        if *self.status.borrow() != self.connection {
            // The one on which it was silent is no more.
            return Ok(());
        }
        if *cause == Cause::Stall && silence >= 2 * self.shared.options.stall_timeout {
            self.heard_at = now;
            info!(silence_ms = silence.as_millis(), "no relay answers: connecting anew");
            let bus = Arc::clone(&self.shared.bus);
            self.unless_stuck(bus.reconnect()).await?;
        }
        Ok(())
    }

    /// Waits for the next thing to happen, and takes note of it. No branch loses anything when another one wins.
    async fn step(&mut self) -> Result<(), Error> {
        let timeout = self.receiver.poll_timeout().map(|at| self.shared.instant(at));
        let written_due = self.receiver.written_due();
        let paced = self.is_paced();
        let next_message: OptionFuture<_> = self.inbox.as_mut().map(StreamExt::next).into();
        let happened = tokio::select! {
            biased;
            () = self.cancel.cancelled() => Happened::Cancelled,
            // A reader that failed takes no more: what it was given already would be waited for without an end.
            () = self.chunks.closed() => Happened::Cancelled,
            Ok(()) = self.status.changed() => Happened::Status,
            () = sleep_until(self.paced_until), if paced => Happened::Pause,
            _ = self.chunks.reserve(), if !paced && self.receiver.has_deliverable() => Happened::Room,
            () = self.written.reached(written_due) => Happened::Written,
            Some(message) = next_message => Happened::Message(message),
            event = self.events.recv() => Happened::Event(event),
            () = sleep_until(timeout.unwrap_or(self.clock)), if timeout.is_some() => Happened::Timeout,
        };
        let now = self.clock.elapsed();
        let link = self.shared.link();
        if link.received_bytes != self.received_bytes || matches!(happened, Happened::Message(_) | Happened::Status) {
            self.heard_at = now;
        }
        self.received_bytes = link.received_bytes;
        self.receiver.handle_link(link);
        self.note_written(now);
        match happened {
            Happened::Cancelled => self.receiver.handle_failure(Failure::Cancelled),
            Happened::Status => self.handle_status(now),
            Happened::Room | Happened::Pause | Happened::Written => {}
            Happened::Message(None) => return Err(bus::Error::Closed.into()),
            Happened::Message(Some(message)) if message.status == Some(NO_RESPONDERS) => {
                self.receiver.handle_no_responders(now);
            }
            Happened::Message(Some(message)) => {
                self.receiver.handle_message(&message.headers, message.payload, now);
                self.shared.caught_up(self.receiver.caught_up_to());
            }
            Happened::Event(event) => {
                if let Some(error) = denial(event, &self.subject, &self.inbox_subject) {
                    return Err(error);
                }
            }
            Happened::Timeout => self.receiver.handle_timeout(now),
        }
        Ok(())
    }

    fn note_written(&mut self, now: Duration) {
        let (before, written) = (self.receiver.written_offset(), self.written.limit());
        // Also when it has not moved: a larger share may allow more by now.
        self.receiver.handle_written(written, now);
        if written > before {
            self.tell(|progress| progress.written = written);
        }
    }

    /// Hands chunks to the reader while it has room.
    fn deliver(&mut self) {
        while self.receiver.has_deliverable() && !self.is_paced() {
            match self.chunks.try_reserve() {
                Ok(room) => {
                    if let Some(chunk) = self.receiver.poll_deliver() {
                        if let Some(limit) = &self.shared.options.rate_limit {
                            self.paced_until = limit.take(chunk.payload.len());
                        }
                        room.send(chunk);
                    }
                }
                Err(TrySendError::Full(())) => return,
                Err(TrySendError::Closed(())) => return self.receiver.handle_failure(Failure::Cancelled),
            }
        }
    }

    fn is_paced(&self) -> bool {
        self.shared.options.rate_limit.is_some() && Instant::now() < self.paced_until
    }

    fn handle_status(&mut self, now: Duration) {
        let before = self.connection;
        self.connection = *self.status.borrow_and_update();
        if !self.connection.connected || self.connection.epoch != before.epoch {
            self.receiver.handle_disconnected();
        }
        if self.connection.connected {
            self.receiver.handle_connected(now);
        }
    }

    /// Publishes with the inbox as reply, if the connection takes it in time.
    async fn publish(&mut self, subject: String, headers: Headers, payload: Bytes) -> Result<(), Error> {
        let reply = Some(self.inbox_subject.clone());
        let message = Message { subject, reply, headers, payload, status: None };
        let bus = Arc::clone(&self.shared.bus);
        self.unless_stuck(bus.publish(message)).await.map(|_| ())
    }

    /// Does something on the bus, unless something else is due first: `None` then. A bus without a connection takes
    /// nothing once its queue is full.
    ///
    /// What is not sent is made good: by the timer of a request, by the next control message, or by a new connection.
    async fn unless_stuck<T>(
        &mut self,
        call: impl Future<Output = Result<T, bus::Error>> + Send,
    ) -> Result<Option<T>, Error> {
        let mut status = self.status.clone();
        let over = self.receiver.outcome().is_some();
        let due = self.receiver.poll_timeout().map(|at| self.shared.instant(at));
        let limit = due.filter(|_| !over).unwrap_or_else(|| Instant::now() + PARTING_LIMIT);
        tokio::select! {
            biased;
            done = call => Ok(Some(done?)),
            () = self.cancel.cancelled(), if !over => Ok(None),
            () = self.chunks.closed(), if !over => Ok(None),
            Ok(()) = status.changed(), if !over => Ok(None),
            () = sleep_until(limit) => Ok(None),
        }
    }

    fn tell(&self, update: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(update);
    }
}
