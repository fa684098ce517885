//! Downloads to a file.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use gantry_proto::chunk::Chunk;
use gantry_proto::{Code, Get, ObjectInfo, Span, Via, WireError};

use crate::connection::Connection;
use crate::download::{self, Download};
use crate::driver::join_or_stop;
use crate::error::Error;
use crate::parallel::{self, Job};
use crate::part::{self, PartFile, PartWriter};
use crate::parts::{Fetched, Parts};
use crate::progress::Progress;
use crate::verify::Proof;
use crate::written;

/// Why a download was restarted.
const OTHER_DESCRIPTION: &str = "the object's description differs from the one in the part file";

/// How to write a file.
///
/// # Examples
/// ```
/// use gantry_client::{CancellationToken, FileOptions};
///
/// let cancel = CancellationToken::new();
/// let options = FileOptions::default().resume(false).cancel(cancel.clone());
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FileOptions {
    /// Whether to resume an earlier download to the same target. On by default, as in the command.
    pub resume: bool,
    /// Receives the progress.
    pub progress: Option<watch::Sender<Progress>>,
    /// Stops the download. The bytes received so far are kept; with several streams, those before the first gap.
    pub cancel: CancellationToken,
    /// The number of transfers that fetch the file at the same time, from 1 to 16; a number outside counts as the nearest
    /// one inside. 1 by default: several help only if the relays or their stores are slower than the consumer's connection.
    /// Files of up to 16 MiB have one.
    pub streams: usize,
    /// The smallest piece of a file in several streams.
    pub(crate) piece_min_bytes: u64,
}

impl FileOptions {
    /// Sets whether to resume an earlier download to the same target.
    #[must_use]
    pub const fn resume(mut self, resume: bool) -> Self {
        self.resume = resume;
        self
    }

    /// Sends the progress to this channel.
    #[must_use]
    pub fn progress(mut self, progress: watch::Sender<Progress>) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Stops the download once this token is cancelled. The bytes received so far are kept; with several streams, those
    /// before the first gap.
    #[must_use]
    pub fn cancel(mut self, cancel: CancellationToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// Fetches the file with up to this many transfers at the same time, which several relays may serve.
    #[must_use]
    pub const fn streams(mut self, streams: usize) -> Self {
        self.streams = streams;
        self
    }

    /// Returns what to request first: with several streams, only the first piece.
    fn first_of(&self, mut get: Get) -> Get {
        if self.streams > 1 {
            let end = get.span.start.saturating_add(self.piece_min_bytes);
            get.span.end = Some(get.span.end.map_or(end, |whole| whole.min(end)));
        }
        get
    }
}

impl Default for FileOptions {
    fn default() -> Self {
        Self {
            resume: true,
            progress: None,
            cancel: CancellationToken::new(),
            streams: 1,
            piece_min_bytes: parallel::PIECE_MIN_BYTES,
        }
    }
}

/// The result of a download to a file.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The file.
    pub path: PathBuf,
    /// The file's size in bytes.
    pub bytes: u64,
    /// The number of these bytes that this call has fetched.
    pub fetched_bytes: u64,
    /// The absolute offset from which an earlier download was resumed.
    pub resumed_from: Option<u64>,
    /// Why the bytes of an earlier download could not be used.
    pub restarted: Option<String>,
    /// How the bytes were verified.
    pub proof: Proof,
    /// The version's `ETag`.
    pub etag: String,
    /// The version's identifier, in a store that keeps versions.
    pub version_id: Option<String>,
    /// When the version was last modified, in RFC 3339, if the store states it.
    pub last_modified: Option<String>,
    /// How long ago the version was known to be current, in seconds, if a relay served it without its store.
    pub stale_s: Option<u64>,
    /// The number of transfers that were abandoned and replaced by another request.
    pub recoveries: u64,
    /// The duration from the call until the file was durable.
    pub elapsed: Duration,
    /// The part of it that went into writing and syncing. If it is most of it, the disk is slow, not the network.
    pub output: Duration,
}

/// The time in which a relay can state the checksum of a file in several streams. The first transfer waits meanwhile, and
/// may have taken the last place.
const DESCRIBE_WITHIN: Duration = Duration::from_secs(5);

/// Downloads to a file. If the bytes of an earlier download turn out to be wrong, repeats it once from the start.
pub(crate) async fn download(
    connection: &Arc<Connection>,
    get: Get,
    target: &Path,
    options: FileOptions,
) -> Result<Report, Error> {
    let started = Instant::now();
    let mut resumed = false;
    let outcome = attempt(connection, &get, target, options.clone(), &mut resumed).await;

    let (error, reason) = match outcome {
        // The fetched bytes were checked as they arrived, so most likely the bytes on our own disk are wrong.
        Err(Error::Part(error @ part::Error::Mismatch { .. })) if resumed => {
            (error, "the bytes of an earlier download do not match the store's checksum")
        }
        // The checksum became known after the first transfer was accepted.
        Err(Error::Part(error @ part::Error::Unresumable { .. })) if resumed => (error, OTHER_DESCRIPTION),
        outcome => return outcome,
    };
    warn!(error = &error as &dyn std::error::Error, "the kept bytes can't be used: restarting the download");

    let options = FileOptions { resume: false, ..options };
    let report = attempt(connection, &get, target, options, &mut resumed).await?;
    Ok(Report { restarted: Some(reason.to_owned()), elapsed: started.elapsed(), ..report })
}

/// Downloads once. Sets `resumed` if the bytes of an earlier download are used.
async fn attempt(
    connection: &Arc<Connection>,
    get: &Get,
    target: &Path,
    options: FileOptions,
    resumed: &mut bool,
) -> Result<Report, Error> {
    let started = Instant::now();
    let part = open_part(get, target, &options).await?;
    let mut restarted = part.stale().map(|stale| stale.to_string());
    let cancel = options.cancel.clone();

    let download = tokio::select! {
        download = begin(connection, get, &part, &options, &mut restarted) => download?,
        () = cancel.cancelled() => return Err(Error::Cancelled),
    };
    let range = whole_range(get, &download);
    if let Err(error) = has_bytes(get, &range) {
        download.stop().await;
        return Err(error);
    }

    let mut parts = download.into_parts();
    if options.streams > 1 && range == (0..parts.accepted.object.size) {
        let described = describe(connection, get, &parts.accepted.object);
        parts.accepted.object = tokio::select! {
            described = described => described?,
            () = cancel.cancelled() => return Err(Error::Cancelled),
        };
    }
    let from = parts.accepted.start;
    let object = parts.accepted.object.clone();
    let resumed_from = (from > range.start).then_some(from);
    *resumed = resumed_from.is_some();

    let path = part.target().to_owned();
    let part_object = object.clone();
    let part_range = range.clone();
    let writer = stoppable(&cancel, move |stop| part.begin(&part_object, part_range, from, stop)).await?;

    let fetched = if parts.accepted.end == range.end {
        fetch(parts, writer, range.start, options.progress, &cancel).await?
    } else {
        let job = Job {
            connection: Arc::clone(connection),
            get: get.clone(),
            range: range.clone(),
            streams: options.streams.min(parallel::STREAMS_MAX),
            piece_min_bytes: options.piece_min_bytes,
            progress: options.progress,
            cancel: cancel.clone(),
        };
        parallel::fetch(job, parts, writer).await?
    };
    let recoveries = fetched.recoveries;
    let (proof, output) = finish(fetched, &cancel).await?;

    Ok(Report {
        path,
        bytes: range.end - range.start,
        fetched_bytes: range.end - from,
        resumed_from,
        restarted,
        proof,
        etag: object.etag,
        version_id: object.version_id,
        last_modified: object.last_modified,
        stale_s: object.stale_s,
        recoveries,
        elapsed: started.elapsed(),
        output,
    })
}

/// Returns the range of the file, of which the first transfer may fetch only the start.
fn whole_range(get: &Get, download: &Download) -> Range<u64> {
    let whole = get.span.resolve(download.object().size);
    whole.unwrap_or(get.span.start..download.range().end)
}

/// Returns an object's description with its checksum. Relays state the checksum only if a request has no `end`, so this
/// requests the empty range after the last byte.
///
/// If that fails, or takes too long, returns `object`: the request for the file's last bytes has no `end` either.
///
/// # Errors
/// [`Error::Changed`] if the version is no longer available.
async fn describe(connection: &Arc<Connection>, get: &Get, object: &ObjectInfo) -> Result<ObjectInfo, Error> {
    if object.checksum.is_some() {
        return Ok(object.clone());
    }

    let end = get.clone().range(object.size..);
    let describing = async {
        let mut download = download::start_of_version(connection, end, object).await?;
        while download.try_next().await?.is_some() {}
        Ok(download.object().clone())
    };
    let until = connection.clock.now().saturating_add(DESCRIBE_WITHIN);
    let described = tokio::select! {
        described = describing => described,
        () = connection.clock.sleep_until(until) => return Ok(object.clone()),
    };
    match described {
        Err(error @ Error::Changed(_)) => Err(error),
        described => Ok(described.unwrap_or_else(|_| object.clone())),
    }
}

/// Rejects a range that starts at the object's end, since an empty file would look like a download of the range.
fn has_bytes(get: &Get, range: &Range<u64>) -> Result<(), Error> {
    if range.start == 0 || !range.is_empty() {
        return Ok(());
    }
    let message = format!("the range starts at {}, and the object has {} bytes", get.span.start, range.end);
    Err(Error::Refused(WireError::new(Code::Range, message)))
}

/// Opens the part file, and checks the bytes in it.
async fn open_part(get: &Get, target: &Path, options: &FileOptions) -> Result<PartFile, Error> {
    let get = get.clone();
    let target = target.to_owned();
    let resume = options.resume;
    stoppable(&options.cancel, move |stop| PartFile::open(&target, get, resume, stop)).await
}

/// Runs file work that may take long, on a thread that may block, until it is done or cancelled.
async fn stoppable<T: Send + 'static>(
    cancel: &CancellationToken,
    work: impl FnOnce(&AtomicBool) -> Result<T, part::Error> + Send + 'static,
) -> Result<T, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    tokio::select! {
        done = blocking(move || work(&stopped)) => done,
        () = cancel.cancelled() => {
            stop.store(true, Ordering::Relaxed);
            Err(Error::Cancelled)
        }
    }
}

/// Requests the missing bytes, or all bytes if the kept ones belong to another version.
async fn begin(
    connection: &Arc<Connection>,
    get: &Get,
    part: &PartFile,
    options: &FileOptions,
    restarted: &mut Option<String>,
) -> Result<Download, Error> {
    let Some(point) = part.resume_point() else {
        return download::start(connection, options.first_of(get.clone()), &Via::default()).await;
    };

    let span = Span { start: point.proved, end: get.span.end };
    let rest = get.clone().range(span).pin(point.pin.clone());
    let reason = match download::start(connection, options.first_of(rest), &Via::default()).await {
        Ok(download) => {
            let from = download.range().start;
            if part.resumes(download.object(), &whole_range(get, &download), from) {
                return Ok(download);
            }
            OTHER_DESCRIPTION.to_owned()
        }
        Err(Error::Changed(message)) => message,
        Err(error) => return Err(error),
    };

    info!(reason, "the part file can't be resumed: restarting the download");
    *restarted = Some(reason);
    download::start(connection, options.first_of(get.clone()), &Via::default()).await
}

/// Fetches and writes the bytes of one transfer.
///
/// # Errors
/// [`Error::Cancelled`] if the writer was lost in a panic. Other errors are in the result, with the writer.
async fn fetch(
    parts: Parts,
    writer: PartWriter,
    start: u64,
    progress: Option<watch::Sender<Progress>>,
    cancel: &CancellationToken,
) -> Result<Fetched, Error> {
    let sink = spawn_blocking(move || write(writer, parts.chunks, parts.written));
    let driving = join_or_stop(parts.driver, parts.cancel, cancel);
    let (driven, ()) = tokio::join!(driving, forward_progress(parts.progress, start, progress));
    let (writer, written) = sink.await.map_err(|_| Error::Cancelled)?;

    let recoveries = driven.as_ref().map_or(0, |stats| stats.recoveries);
    let outcome = match (written, driven) {
        (Ok(output), Ok(_)) => Ok(output),
        // The driver's error would only state that its reader is gone.
        (Err(error), _) => Err(error.into()),
        (Ok(_), Err(error)) => Err(error),
    };
    Ok(Fetched { writer, outcome, recoveries, restated: parts.restated })
}

/// Writes chunks until there are no more. Blocks. Returns the time that writing took, or an error.
fn write(
    mut writer: PartWriter,
    mut chunks: mpsc::Receiver<Chunk>,
    mut written: written::Sender,
) -> (PartWriter, Result<Duration, part::Error>) {
    let mut output = Duration::ZERO;
    while let Some(chunk) = chunks.blocking_recv() {
        let begun = Instant::now();
        if let Err(error) = writer.write_chunk(&chunk) {
            return (writer, Err(error));
        }
        output += begun.elapsed();

        // The memory is free before the relay is allowed to send more.
        drop(chunk);
        written.advance(writer.written());
    }
    (writer, Ok(output))
}

/// Forwards the progress, with the start of the whole file instead of the transfer's.
async fn forward_progress(mut from: watch::Receiver<Progress>, start: u64, to: Option<watch::Sender<Progress>>) {
    let Some(to) = to else { return };
    while from.changed().await.is_ok() {
        let progress = from.borrow_and_update().clone();
        to.send_replace(Progress { start, ..progress });
    }
}

/// Verifies the file and moves it to its target, or keeps the bytes after a failure.
async fn finish(fetched: Fetched, cancel: &CancellationToken) -> Result<(Proof, Duration), Error> {
    let Fetched { mut writer, outcome, restated, .. } = fetched;

    let failure = match outcome {
        Ok(output) => {
            let begun = Instant::now();
            let restated = restated.checksum().cloned();
            let proof = stoppable(cancel, move |stop| {
                if let Some(checksum) = restated {
                    writer.check_against(&checksum, stop)?;
                }
                writer.commit()
            });
            return Ok((proof.await?, output + begun.elapsed()));
        }
        Err(error) => error,
    };

    if let Err(error) = blocking(move || writer.suspend()).await {
        warn!(%error, "can't keep the bytes received so far");
    }
    Err(failure)
}

/// Runs file work on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, part::Error> + Send + 'static,
) -> Result<T, Error> {
    match spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Error::Cancelled),
    }
}
