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

use super::connection::Connection;
use super::download::{self, Download};
use super::driver::join;
use super::part::{self, PartFile, PartWriter, Stale};
use super::verify::Proof;
use super::{Error, Get, Progress, stated, written};
use gantry_proto::chunk::Chunk;
use gantry_proto::{Code, Span, WireError};

/// How to write a file.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// Whether to resume an earlier download to the same target. On by default, as in the command.
    pub resume: bool,
    /// Where to tell how far it has come.
    pub progress: Option<watch::Sender<Progress>>,
    /// Stops the download; what arrived stays, to be resumed.
    pub cancel: CancellationToken,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self { resume: true, progress: None, cancel: CancellationToken::new() }
    }
}

/// How a download to a file went.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The file.
    pub path: PathBuf,
    /// The file's size in bytes.
    pub bytes: u64,
    /// How many of them were fetched now.
    pub fetched_bytes: u64,
    /// The absolute offset from which an earlier download was resumed.
    pub resumed_from: Option<u64>,
    /// Why what an earlier download left was not of use.
    pub restarted: Option<String>,
    /// What the bytes were proved against.
    pub proof: Proof,
    /// The version.
    pub etag: String,
    /// The store's version, where it keeps versions.
    pub version_id: Option<String>,
    /// How often a transfer was given up and begun anew.
    pub recoveries: u64,
    /// How long it took, from the request to the durable file.
    pub elapsed: Duration,
}

/// Runs a whole download; once more from its start when bytes that an earlier one left turn out to be wrong.
pub(super) async fn download(
    connection: &Arc<Connection>,
    get: Get,
    target: &Path,
    options: FileOptions,
) -> Result<Report, Error> {
    let asked = Instant::now();
    let mut resumed = false;
    match attempt(connection, &get, target, options.clone(), &mut resumed).await {
        // What was fetched was checked on its way: most likely it is our own disk's bytes that are wrong.
        Err(Error::Part(error @ part::Error::Mismatch { .. })) if resumed => {
            let error: &dyn std::error::Error = &error;
            warn!(error, "the kept bytes do not match: starting afresh");
            let options = FileOptions { resume: false, ..options };
            let report = attempt(connection, &get, target, options, &mut resumed).await?;
            let restarted =
                Some("the bytes that an earlier download left do not match the store's checksum".to_owned());
            Ok(Report { restarted, elapsed: asked.elapsed(), ..report })
        }
        outcome => outcome,
    }
}

/// Downloads once; `resumed` says whether an earlier download's bytes are part of it.
async fn attempt(
    connection: &Arc<Connection>,
    get: &Get,
    target: &Path,
    options: FileOptions,
    resumed: &mut bool,
) -> Result<Report, Error> {
    let asked = Instant::now();
    let part = open_part(get, target, &options).await?;
    let mut restarted = part.stale().map(|stale: Stale| stale.to_string());
    let cancel = options.cancel.clone();
    let begun = begin(connection, get, &part, &mut restarted);
    let download = tokio::select! {
        begun = begun => begun?,
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
    let (begin_object, begin_range) = (object.clone(), range.clone());
    let opening = stoppable(&cancel, move |stop| part.begin(&begin_object, begin_range, from, stop));
    let writer = opening.await?;
    let sink = spawn_blocking(move || write(writer, parts.chunks, parts.written));
    let stop = cancel.clone();
    let cancelled = async move {
        stop.cancelled().await;
        drop(parts.cancel);
        std::future::pending::<()>().await;
    };
    let finished = async {
        let telling = tell(parts.progress, range.start, options.progress);
        let (stats, ()) = tokio::join!(join(parts.driver), telling);
        finish(stats, sink, &parts.restated, &cancel).await
    };
    let (proof, stats) = tokio::select! {
        finished = finished => finished?,
        () = cancelled => return Err(Error::Cancelled),
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
        recoveries: stats.recoveries,
        elapsed: asked.elapsed(),
    })
}

/// Refuses a range that begins where the object ends: an empty file would look like its bytes.
pub(super) fn has_bytes(get: &Get, range: &Range<u64>) -> Result<(), Error> {
    if range.start == 0 || !range.is_empty() {
        return Ok(());
    }
    let message = format!("the range begins at {}, and the object has {} bytes", get.span.start, range.end);
    Err(Error::Refused(WireError::new(Code::Range, message)))
}

/// Opens the part file, and reads what is there unless the download is cancelled meanwhile.
async fn open_part(get: &Get, target: &Path, options: &FileOptions) -> Result<PartFile, Error> {
    let wanted = part::Wanted { store: get.store.clone(), key: get.key.clone(), span: get.span, pin: get.pin.clone() };
    let (target, resume) = (target.to_owned(), options.resume);
    stoppable(&options.cancel, move |stop| PartFile::open(&target, wanted, resume, stop)).await
}

/// Runs file work that may take long, until `cancel` is.
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

/// Asks for what is missing, and for everything if that version is gone or is not the one that is there.
async fn begin(
    connection: &Arc<Connection>,
    get: &Get,
    part: &PartFile,
    restarted: &mut Option<String>,
) -> Result<Download, Error> {
    if let Some(point) = part.resume_point() {
        let rest = Get { span: Span { start: point.proved, end: get.span.end }, pin: point.pin.clone(), ..get.clone() };
        match download::start(connection, rest).await {
            Ok(download) => {
                let Range { start: from, end } = download.range();
                if part.resumes(download.object(), &(get.span.start..end), from) {
                    return Ok(download);
                }
                info!("the object is described otherwise than the part file: starting afresh");
                *restarted = Some("the object is described otherwise than when the part file was begun".to_owned());
            }
            Err(Error::Changed(message)) => {
                info!(message, "starting afresh");
                *restarted = Some(message);
            }
            Err(error) => return Err(error),
        }
    }
    download::start(connection, get.clone()).await
}

/// Writes chunks until there are no more; on a thread that may block.
fn write(
    mut writer: PartWriter,
    mut chunks: mpsc::Receiver<Chunk>,
    mut written: written::Sender,
) -> (PartWriter, Result<(), part::Error>) {
    while let Some(chunk) = chunks.blocking_recv() {
        if let Err(error) = writer.write_chunk(&chunk) {
            return (writer, Err(error));
        }
        drop(chunk);
        written.advance(writer.written());
    }
    (writer, Ok(()))
}

/// Passes progress on, counted from the start of the whole file.
async fn tell(mut from: watch::Receiver<Progress>, start: u64, to: Option<watch::Sender<Progress>>) {
    let Some(to) = to else { return };
    while from.changed().await.is_ok() {
        let progress = *from.borrow_and_update();
        to.send_replace(Progress { start, ..progress });
    }
}

async fn finish(
    driven: Result<gantry_proto::receiver::Stats, Error>,
    sink: JoinHandle<(PartWriter, Result<(), part::Error>)>,
    restated: &stated::Later,
    cancel: &CancellationToken,
) -> Result<(Proof, gantry_proto::receiver::Stats), Error> {
    let Ok((mut writer, written)) = sink.await else { return Err(Error::Cancelled) };
    let failure = match (written, driven) {
        (Ok(()), Ok(stats)) => {
            let restated = restated.checksum().cloned();
            let proving = stoppable(cancel, move |stop| {
                if let Some(checksum) = restated {
                    writer.check_against(&checksum, stop)?;
                }
                writer.commit()
            });
            return Ok((proving.await?, stats));
        }
        // The driver only noticed that its reader had left.
        (Err(error), _) => error.into(),
        (Ok(()), Err(error)) => error,
    };
    if let Err(error) = blocking(move || writer.suspend()).await {
        warn!(%error, "can't keep what has arrived");
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
