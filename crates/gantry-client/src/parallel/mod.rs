//! Downloads of one file in several streams.
//!
//! The first transfer fetches the start of the file, and its relay states the version. The rest is split into pieces.
//! Each stream fetches one piece after the other, with a transfer of its own that is pinned to that version. nats-server
//! chooses the relay of each transfer, so several relays take part if there are several. All streams write into one part
//! file, which is verified as a whole.
//!
//! Each transfer recovers like any other. If one fails nevertheless, its stream ends and leaves its piece to the others.
//! The download fails when the last stream does. If a stream is much slower than others were a moment ago, it requests
//! the rest of its piece again, since another relay may serve it.

mod plan;

use std::convert::Infallible;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use gantry_proto::chunk::Chunk;
use gantry_proto::{Get, ObjectInfo};

use self::plan::{Next, Piece, Plan, Ticket};
use crate::connection::Connection;
use crate::download;
use crate::driver::join_or_stop;
use crate::error::Error;
use crate::part::{self, PartWriter};
use crate::parts::{Fetched, Parts};
use crate::progress::Progress;
use crate::{stated, written};

/// The size of the first piece, and the smallest size of the others, in bytes. A smaller piece would cost more in waiting
/// for its first byte than it gains.
pub(crate) const PIECE_MIN_BYTES: u64 = 16 * 1024 * 1024;

/// The largest piece, in bytes. After an interruption, bytes past a gap are fetched again, and larger pieces would make
/// that more.
const PIECE_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The maximum number of streams. More would only make the windows smaller, since they share the connection's.
pub(crate) const STREAMS_MAX: usize = 16;

/// How often a stream checks whether it is slow.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What to fetch, and how.
pub(crate) struct Job {
    pub(crate) connection: Arc<Connection>,
    pub(crate) get: Get,
    /// The range of the file.
    pub(crate) range: Range<u64>,
    pub(crate) streams: usize,
    pub(crate) piece_min_bytes: u64,
    pub(crate) progress: Option<watch::Sender<Progress>>,
    pub(crate) cancel: CancellationToken,
}

/// Fetches the rest of a file, of which `first` fetches the start.
///
/// # Errors
/// [`Error::Cancelled`] if the writer was lost in a panic. Other errors are in the result, with the writer.
pub(crate) async fn fetch(job: Job, first: Parts, writer: PartWriter) -> Result<Fetched, Error> {
    let stop = job.cancel.child_token();
    let accepted = &first.accepted;
    let (mut stated, restated) = stated::channel();
    stated.note(accepted.object.checksum.as_ref())?;

    let streams = u64::try_from(job.streams).unwrap_or(u64::MAX);
    let piece_bytes = (job.piece_min_bytes, job.piece_min_bytes.max(PIECE_MAX_BYTES));
    let mut plan = Plan::new(accepted.end..job.range.end, streams, piece_bytes);
    let piece = plan.begin(accepted.start..accepted.end, job.connection.clock.now());
    let others = plan.room();

    let fetching = Arc::new(Fetching {
        connection: job.connection,
        get: job.get,
        object: accepted.object.clone(),
        state: Mutex::new(State { plan, stated, recoveries: 0 }),
        sink: Mutex::new(Sink { writer, output: Duration::ZERO }),
        freed: Notify::new(),
        written: AtomicU64::new(accepted.start),
        range: job.range,
        progress: job.progress.unwrap_or_else(|| watch::channel(Progress::default()).0),
        stop,
        stopped: AtomicBool::new(false),
    });
    let outcome = fetching.run((piece, first), others).await;

    let fetching = Arc::into_inner(fetching).ok_or(Error::Cancelled)?;
    let recoveries = fetching.lock().recoveries;
    let Ok(Sink { writer, output }) = fetching.sink.into_inner() else { return Err(Error::Cancelled) };
    Ok(Fetched { writer, outcome: outcome.map(|()| output), recoveries, restated })
}

/// What all streams share.
struct Fetching {
    connection: Arc<Connection>,
    get: Get,
    object: ObjectInfo,
    state: Mutex<State>,
    /// Is locked while bytes are written, so only threads that may block lock it.
    sink: Mutex<Sink>,
    /// Is notified when a stream has ended its piece.
    freed: Notify,
    /// The start of the file's range, plus the number of bytes written.
    written: AtomicU64,
    range: Range<u64>,
    progress: watch::Sender<Progress>,
    stop: CancellationToken,
    /// Stops the reading of written bytes.
    stopped: AtomicBool,
}

/// How a piece ended without an error.
enum Ended {
    Complete,
    /// The stream is slow.
    Late,
}

struct State {
    plan: Plan,
    stated: stated::Sender,
    recoveries: u64,
}

/// Stops the reading of written bytes when the streams end, also if their future is dropped.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Sink {
    writer: PartWriter,
    /// The time that writing took.
    output: Duration,
}

impl Fetching {
    /// Runs the streams until every byte is written, or until the first error that ends the download.
    async fn run(self: &Arc<Self>, first: (Piece, Parts), others: u64) -> Result<(), Error> {
        let _stops = SetOnDrop(&self.stopped);
        let mut streams = FuturesUnordered::new();
        streams.push(self.stream(Some(first)));
        streams.extend((0..others).map(|_| self.stream(None)));

        let running = async {
            let mut outcome = Ok(());
            while let Some(ended) = streams.next().await {
                let Err(error) = ended else { continue };
                // After the first error, the others only report that they were stopped.
                if outcome.is_ok() {
                    outcome = Err(if self.stop.is_cancelled() { Error::Cancelled } else { error });
                    self.stop.cancel();
                }
            }
            outcome
        };
        // The streams end by themselves, but one of them may be reading what is written.
        let stopping = async {
            self.stop.cancelled().await;
            self.stopped.store(true, Ordering::Relaxed);
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            outcome = running => outcome,
            never = stopping => match never {},
        }
    }

    /// Fetches one piece after the other. Returns early without an error if the other streams fetch the rest.
    async fn stream(self: &Arc<Self>, mut first: Option<(Piece, Parts)>) -> Result<(), Error> {
        loop {
            let (piece, accepted) = match first.take() {
                Some((piece, parts)) => (piece, Some(parts)),
                None => match self.next().await {
                    Some(piece) => (piece, None),
                    None => return Ok(()),
                },
            };

            let fetched = self.fetch(&piece, accepted).await;
            let goes_on = self.record(&piece, fetched)?;
            self.freed.notify_waiters();
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Waits until there is a piece to fetch, and returns it. Returns `None` once no piece is left, or on a stop.
    async fn next(&self) -> Option<Piece> {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();

            match self.lock().plan.next(self.connection.clock.now()) {
                Next::Fetch(piece) => return Some(piece),
                Next::Done => return None,
                Next::Wait => {}
            }

            tokio::select! {
                () = freed => {}
                () = self.stop.cancelled() => return None,
            }
        }
    }

    /// Records how a piece ended. Returns whether the stream fetches another one.
    ///
    /// # Errors
    /// The piece's error, if the download has failed with it.
    fn record(&self, piece: &Piece, fetched: Result<Ended, Error>) -> Result<bool, Error> {
        let mut state = self.lock();
        let Range { start, end } = piece.range;
        let error = match fetched {
            Ok(Ended::Complete) => {
                state.plan.complete(piece.ticket, self.connection.clock.now());
                return Ok(true);
            }
            Ok(Ended::Late) => {
                info!(start, end, "a stream is slow: requesting the rest of its piece again");
                state.recoveries = state.recoveries.saturating_add(1);
                state.plan.give_back(piece.ticket);
                return Ok(true);
            }
            Err(error) => error,
        };

        // No other stream can write what this one could not.
        let may_others = error.is_retryable() && !matches!(error, Error::Part(_)) && !self.stop.is_cancelled();
        if may_others && state.plan.fail(piece.ticket) {
            info!(start, end, %error, "a stream failed: the others fetch its piece");
            return Ok(false);
        }
        Err(error)
    }

    /// Fetches a piece, whose transfer a relay may have accepted already, until it is complete or late.
    async fn fetch(self: &Arc<Self>, piece: &Piece, accepted: Option<Parts>) -> Result<Ended, Error> {
        let over = self.stop.child_token();
        let fetching = async {
            let parts = match accepted {
                Some(parts) => parts,
                None => self.request(piece, &over).await?,
            };
            self.receive(piece, parts, &over).await
        };

        let fetched = tokio::select! {
            fetched = fetching => fetched,
            never = self.end_if_late(piece, &over) => match never {},
        };
        match fetched {
            Ok(()) => Ok(Ended::Complete),
            Err(Error::Cancelled) if over.is_cancelled() && !self.stop.is_cancelled() => Ok(Ended::Late),
            Err(error) => Err(error),
        }
    }

    /// Cancels `over` once a piece is late.
    async fn end_if_late(&self, piece: &Piece, over: &CancellationToken) -> Infallible {
        let clock = &self.connection.clock;
        while !self.lock().plan.is_late(piece.ticket, clock.now()) {
            clock.sleep_until(clock.now().saturating_add(LOOK_INTERVAL)).await;
        }
        over.cancel();
        std::future::pending().await
    }

    /// Requests a piece.
    async fn request(&self, piece: &Piece, over: &CancellationToken) -> Result<Parts, Error> {
        let mut get = self.get.clone().range(piece.range.clone());
        // Relays state the checksum if a request has no end.
        get.span.end = get.span.end.filter(|end| *end < self.object.size);
        let download = tokio::select! {
            download = download::start_of_version(&self.connection, get, &self.object) => download?,
            () = over.cancelled() => return Err(Error::Cancelled),
        };
        self.lock().stated.note(download.object().checksum.as_ref())?;
        Ok(download.into_parts())
    }

    /// Receives and writes a piece that a relay has accepted.
    async fn receive(self: &Arc<Self>, piece: &Piece, parts: Parts, over: &CancellationToken) -> Result<(), Error> {
        let Parts { chunks, written, progress, driver, restated, cancel, .. } = parts;

        let fetching = Arc::clone(self);
        let ticket = piece.ticket;
        let sink = spawn_blocking(move || fetching.write(ticket, chunks, written));
        let driving = join_or_stop(driver, cancel, over);
        let (driven, ()) = tokio::join!(driving, self.forward_progress(progress));

        // The driver's error would only state that its reader is gone.
        sink.await.map_err(|_| Error::Cancelled)??;
        driven?;
        self.lock().stated.note(restated.checksum())
    }

    /// Writes the chunks of a piece until there are no more. Blocks.
    fn write(
        &self,
        ticket: Ticket,
        mut chunks: mpsc::Receiver<Chunk>,
        mut written: written::Sender,
    ) -> Result<(), part::Error> {
        while let Some(chunk) = chunks.blocking_recv() {
            let len = chunk.payload.len() as u64;
            let limit = chunk.offset.saturating_add(len);

            let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
            let begun = Instant::now();
            sink.writer.write_chunk_at_its_place(&chunk, &self.stopped)?;
            sink.output += begun.elapsed();
            drop(sink);

            // The memory is free before the relay is allowed to send more.
            drop(chunk);
            self.lock().plan.advance(ticket, limit);
            self.written.fetch_add(len, Ordering::Relaxed);
            written.advance(limit);
        }
        Ok(())
    }

    /// Adds the progress of one transfer to that of the file.
    async fn forward_progress(&self, mut from: watch::Receiver<Progress>) {
        let mut recoveries = 0;
        while from.changed().await.is_ok() {
            let Progress { transfer, relay, recoveries: so_far, .. } = from.borrow_and_update().clone();
            let new = so_far.saturating_sub(recoveries);
            recoveries = so_far;
            let total = {
                let mut state = self.lock();
                state.recoveries = state.recoveries.saturating_add(new);
                state.recoveries
            };

            self.progress.send_modify(|progress| {
                progress.start = self.range.start;
                progress.end = self.range.end;
                progress.written = self.written.load(Ordering::Relaxed);
                progress.recoveries = total;
                progress.transfer = transfer.or(progress.transfer);
                progress.relay = relay.or_else(|| progress.relay.take());
            });
        }
    }

    /// Locks the shared state. It is consistent at all times, even if a thread panics.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
