//! Downloads to a file.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use gantry_proto::chunk::Chunk;
use gantry_proto::receiver::Stats;
use gantry_proto::{Code, Get, Span, Via, WireError};

use crate::connection::Connection;
use crate::download::{self, Download};
use crate::driver::join;
use crate::error::Error;
use crate::part::{self, PartFile, PartWriter};
use crate::progress::Progress;
use crate::verify::Proof;
use crate::{stated, written};

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
    /// Stops the download. The bytes received so far are kept.
    pub cancel: CancellationToken,
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

    /// Stops the download once this token is cancelled. The bytes received so far are kept.
    #[must_use]
    pub fn cancel(mut self, cancel: CancellationToken) -> Self {
        self.cancel = cancel;
        self
    }
}

impl Default for FileOptions {
    fn default() -> Self {
        Self { resume: true, progress: None, cancel: CancellationToken::new() }
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

    // The fetched bytes were checked as they arrived, so most likely the bytes on our own disk are wrong.
    let mismatch = match outcome {
        Err(Error::Part(error @ part::Error::Mismatch { .. })) if resumed => error,
        outcome => return outcome,
    };
    warn!(
        error = &mismatch as &dyn std::error::Error,
        "the kept bytes do not match the checksum: restarting the download"
    );

    let options = FileOptions { resume: false, ..options };
    let report = attempt(connection, &get, target, options, &mut resumed).await?;
    let reason = "the bytes of an earlier download do not match the store's checksum";
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
        download = begin(connection, get, &part, &mut restarted) => download?,
        () = cancel.cancelled() => return Err(Error::Cancelled),
    };
    let range = get.span.start..download.range().end;
    if let Err(error) = has_bytes(get, &range) {
        download.stop().await;
        return Err(error);
    }

    let parts = download.into_parts();
    let from = parts.accepted.start;
    let object = parts.accepted.object.clone();
    let resumed_from = (from > range.start).then_some(from);
    *resumed = resumed_from.is_some();

    let path = part.target().to_owned();
    let part_object = object.clone();
    let part_range = range.clone();
    let writer = stoppable(&cancel, move |stop| part.begin(&part_object, part_range, from, stop)).await?;

    let sink = spawn_blocking(move || write(writer, parts.chunks, parts.written));
    let completed = async {
        let progress = forward_progress(parts.progress, range.start, options.progress);
        let (driven, ()) = tokio::join!(join(parts.driver), progress);
        finish(driven, sink, &parts.restated, &cancel).await
    };
    // Cancels the transfer. The driver then ends, and with it `completed`, which keeps the bytes.
    let cancelling = async {
        cancel.cancelled().await;
        drop(parts.cancel);
        std::future::pending::<()>().await;
    };
    let (proof, stats, output) = tokio::select! {
        completed = completed => completed?,
        () = cancelling => return Err(Error::Cancelled),
    };

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
        recoveries: stats.recoveries,
        elapsed: started.elapsed(),
        output,
    })
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
    restarted: &mut Option<String>,
) -> Result<Download, Error> {
    let Some(point) = part.resume_point() else {
        return download::start(connection, get.clone(), &Via::default()).await;
    };

    let span = Span { start: point.proved, end: get.span.end };
    let rest = get.clone().range(span).pin(point.pin.clone());
    let reason = match download::start(connection, rest, &Via::default()).await {
        Ok(download) => {
            let Range { start: from, end } = download.range();
            if part.resumes(download.object(), &(get.span.start..end), from) {
                return Ok(download);
            }
            "the object's description differs from the one in the part file".to_owned()
        }
        Err(Error::Changed(message)) => message,
        Err(error) => return Err(error),
    };

    info!(reason, "the part file can't be resumed: restarting the download");
    *restarted = Some(reason);
    download::start(connection, get.clone(), &Via::default()).await
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
async fn finish(
    driven: Result<Stats, Error>,
    sink: JoinHandle<(PartWriter, Result<Duration, part::Error>)>,
    restated: &stated::Later,
    cancel: &CancellationToken,
) -> Result<(Proof, Stats, Duration), Error> {
    let Ok((mut writer, written)) = sink.await else { return Err(Error::Cancelled) };

    let failure = match (written, driven) {
        (Ok(output), Ok(stats)) => {
            let begun = Instant::now();
            let restated = restated.checksum().cloned();
            let proof = stoppable(cancel, move |stop| {
                if let Some(checksum) = restated {
                    writer.check_against(&checksum, stop)?;
                }
                writer.commit()
            });
            return Ok((proof.await?, stats, output + begun.elapsed()));
        }
        // The driver's error would only state that its reader is gone.
        (Err(error), _) => error.into(),
        (Ok(_), Err(error)) => error,
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
