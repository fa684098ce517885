//! `gantry get`: downloads an object and verifies it.

mod progress;
mod stream;
mod summary;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use futures_util::StreamExt as _;
use tokio::fs::File;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::Instant;

use self::progress::Meter;
use self::summary::Summary;
use super::address::{ByteRange, ObjectAddress, Rate};
use super::exit::{Exit, Failure};
use super::output::{self, Form};
use crate::telemetry;
use gantry_bus::rate::RateLimit;
use gantry_client::part::{self, Destination};
use gantry_client::verify::Proof;
use gantry_client::{self as consumer, Client, FileOptions, Progress};
use gantry_proto::{Pin, Span};
use gantry_relay::shutdown::Shutdown;

/// Download an object and verify it
///
/// The file appears under its name once it is complete and verified. Until then, its bytes are in a hidden file in the
/// same folder. If the download is interrupted, run the same command again to resume it.
///
/// Devices, FIFOs and open files such as /dev/stdout receive the bytes as they arrive, before they are verified.
#[derive(Args, Clone, Debug)]
pub(super) struct Get {
    #[arg(value_name = "STORE/KEY", help = "Object to download; everything after the first slash is the key")]
    address: ObjectAddress,
    #[arg(
        short,
        long,
        value_name = "PATH",
        help = "File or folder to write to, or - for stdout [default: the last part of the key, in the current folder]"
    )]
    output: Option<PathBuf>,
    #[arg(
        short,
        long,
        value_name = "RANGE",
        allow_hyphen_values = true,
        help = "Bytes to download, as in curl: FIRST-LAST (inclusive), FIRST-, or -COUNT for the last COUNT bytes; requires -o with a file name or -"
    )]
    range: Option<ByteRange>,
    #[arg(long, value_name = "ETAG", help = "Fail unless the object has this ETag, as gantry stat prints it")]
    if_match: Option<String>,
    #[arg(long, value_name = "ID", help = "Version to download, if the store keeps versions")]
    version_id: Option<String>,
    #[arg(long, help = "Start from the beginning instead of resuming an interrupted download")]
    no_resume: bool,
    #[arg(long, value_name = "RATE", help = "Maximum bytes per second, such as 500K, 10M or 1.5MiB")]
    limit_rate: Option<Rate>,
    #[arg(long, value_name = "TEXT", help = "Text to repeat on every message of the transfer, for correlation")]
    correlation: Option<String>,
    #[arg(long, help = "Print the result as JSON on stdout, or on stderr if stdout carries the bytes")]
    json: bool,
    #[arg(short, long, help = "Print nothing unless the download fails")]
    quiet: bool,
}

impl Get {
    pub(super) fn form(&self) -> Form {
        match self.json {
            true if self.stream_target().is_some_and(|stream| stream::is_stdout(&stream)) => Form::JsonToStderr,
            true => Form::Json,
            false => Form::Text,
        }
    }

    pub(super) fn rate_limit(&self) -> Option<RateLimit> {
        self.limit_rate.map(|Rate(bytes_per_s)| RateLimit::new(bytes_per_s))
    }

    /// Returns the destination of the bytes if it is not a file that can be replaced.
    fn stream_target(&self) -> Option<Destination> {
        stream::of(self.output.as_deref()?)
    }

    pub(super) async fn run(self, client: Client, shutdown: &Shutdown) -> Result<(), Failure> {
        let subject = self.address.to_string();
        let reported = match self.download(&client, shutdown).await {
            Ok(summary) => self.report(&summary),
            Err(failure) => Err(failure),
        };
        reported.map_err(|failure| failure.about(subject))
    }

    async fn download(&self, client: &Client, shutdown: &Shutdown) -> Result<Summary, Failure> {
        let Some(stream) = self.stream_target() else {
            let target = self.target()?;
            let get = self.wanted(client, shutdown).await?;
            return self.file(client, get, &target, shutdown).await;
        };

        let path = self.output.as_deref().filter(|_| stream != stream::STDOUT).unwrap_or(Path::new("-"));
        let get = self.wanted(client, shutdown).await?;
        let opening = tokio::task::spawn_blocking(move || stream::open(&stream));
        let opened = tokio::select! {
            opened = opening => opened.map_err(io::Error::other).and_then(|file| file),
            () = shutdown.drain.cancelled() => return Err(Failure::interrupted()),
        };
        let file = opened.map_err(|error| write_failure(path, &error))?;
        self.stream(client, get, path, File::from_std(file), shutdown).await
    }

    /// Returns the file to write. A range gets the object's own name only if the user has named that file.
    fn target(&self) -> Result<PathBuf, Failure> {
        // A link to a folder must be as trustworthy as a link to a file.
        if let Some(Err(error @ part::Error::ForeignLink { .. })) = self.output.as_deref().map(part::destination) {
            return Err(consumer::Error::from(error).into());
        }

        let target = self.address.target(self.output.as_deref()).map_err(Failure::usage)?;
        if self.range.is_some() && self.output.as_ref() != Some(&target) {
            return Err(Failure::usage(
                "--range needs a target, since a part of an object is not stored under the object's name: add -o with \
                 a file name, or -o - for stdout",
            ));
        }
        Ok(target)
    }

    /// Converts the command line to a request. The start of the last bytes depends on the object's size.
    async fn wanted(&self, client: &Client, shutdown: &Shutdown) -> Result<consumer::Get, Failure> {
        let ObjectAddress { store, key } = self.address.clone();
        let mut pin = Pin { if_match: self.if_match.clone(), version_id: self.version_id.clone() };

        let span = match self.range {
            None => Span::default(),
            Some(ByteRange::Span(span)) => span,
            Some(ByteRange::Last(count)) => {
                let object = tokio::select! {
                    object = client.stat(&store, &key, &pin) => object?,
                    () = shutdown.drain.cancelled() => return Err(Failure::interrupted()),
                };
                pin.if_match = Some(object.etag);
                Span { start: object.size.saturating_sub(count), end: None }
            }
        };

        let mut get = consumer::Get::new(store, key).range(span).pin(pin);
        get.context.clone_from(&self.correlation);
        Ok(get)
    }

    async fn file(
        &self,
        client: &Client,
        get: consumer::Get,
        target: &Path,
        shutdown: &Shutdown,
    ) -> Result<Summary, Failure> {
        let (progress, seen) = watch::channel(Progress::default());
        let options = FileOptions::default().resume(!self.no_resume).progress(progress).cancel(shutdown.drain.clone());

        let download = client.download(get, target, options);
        let report = self.meter().follow(seen.clone(), download).await;
        let transfer = seen.borrow().transfer;
        let report = report.map_err(|error| Failure::from(error).of(transfer))?;

        Ok(Summary {
            path: report.path,
            bytes: report.bytes,
            fetched_bytes: report.fetched_bytes,
            resumed_from: report.resumed_from,
            restarted: report.restarted,
            elapsed: report.elapsed,
            proof: report.proof,
            etag: report.etag,
            version_id: report.version_id,
            recoveries: report.recoveries,
            transfer,
            ..self.summary()
        })
    }

    /// Writes the bytes to a target that can't be replaced at once. They are verified after the last one is written.
    async fn stream(
        &self,
        client: &Client,
        get: consumer::Get,
        path: &Path,
        mut to: impl AsyncWrite + Unpin,
        shutdown: &Shutdown,
    ) -> Result<Summary, Failure> {
        let started = Instant::now();
        let first = get.span.start;
        let mut download = tokio::select! {
            download = client.get(get) => download?,
            () = shutdown.drain.cancelled() => return Err(Failure::interrupted()),
        };
        if first > 0 && download.range().is_empty() {
            let size = download.object().size;
            download.stop().await;
            return Err(Failure::usage(format!(
                "the range starts at {first}, and the object has {size} bytes: start before its end"
            )));
        }

        let progress = download.progress();
        let copy = async {
            while let Some(bytes) = download.next().await {
                to.write_all(&bytes?).await.map_err(|error| write_failure(path, &error))?;
            }
            to.flush().await.map_err(|error| write_failure(path, &error))
        };
        let copied = tokio::select! {
            copied = self.meter().follow(progress.clone(), copy) => copied,
            () = shutdown.drain.cancelled() => Err(Failure::interrupted()),
        };
        if let Err(failure) = copied {
            download.stop().await;
            return Err(failure.of(progress.borrow().transfer));
        }

        let bytes = download.range().end - download.range().start;
        let object = download.object();
        Ok(Summary {
            path: path.to_owned(),
            bytes,
            fetched_bytes: bytes,
            elapsed: started.elapsed(),
            proof: download.proof().unwrap_or(Proof::Transport),
            etag: object.etag.clone(),
            version_id: object.version_id.clone(),
            recoveries: progress.borrow().recoveries,
            transfer: progress.borrow().transfer,
            ..self.summary()
        })
    }

    fn meter(&self) -> Meter {
        if self.is_quiet() || self.json || !output::is_watched() { Meter::hidden() } else { Meter::shown() }
    }

    /// Returns whether only failures are printed. That includes downloads to stderr, where a line would get between the
    /// bytes.
    fn is_quiet(&self) -> bool {
        self.quiet || self.stream_target().is_some_and(|stream| stream::is_stderr(&stream))
    }

    fn summary(&self) -> Summary {
        Summary {
            store: self.address.store.to_string(),
            key: self.address.key.to_string(),
            path: PathBuf::new(),
            bytes: 0,
            fetched_bytes: 0,
            resumed_from: None,
            restarted: None,
            elapsed: Duration::ZERO,
            proof: Proof::Transport,
            etag: String::new(),
            version_id: None,
            recoveries: 0,
            transfer: None,
        }
    }

    fn report(&self, summary: &Summary) -> Result<(), Failure> {
        match self.form() {
            Form::Json => output::json(summary)?,
            Form::JsonToStderr => telemetry::print(&output::to_json(summary)),
            Form::Text if self.is_quiet() => {}
            Form::Text => output::note(&summary.line()),
        }
        Ok(())
    }
}

fn write_failure(path: &Path, error: &io::Error) -> Failure {
    if path == Path::new("-") {
        return output::stdout_failure(error);
    }
    Failure::new(Exit::Failed, format!("can't write to {}: {error}", path.display()))
}
