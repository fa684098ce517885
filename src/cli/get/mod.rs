//! `gantry get`: downloads an object and proves that it is the right one.

mod progress;
mod stream;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use futures_util::StreamExt as _;
use serde::Serialize;
use tokio::fs::File;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::Instant;

use self::progress::Meter;
use super::address::{ByteRange, ObjectAddress, Rate};
use super::exit::{Exit, Failure};
use super::output::{self, Form};
use crate::telemetry;
use gantry_bus::rate::RateLimit;
use gantry_client::part::{self, Destination};
use gantry_client::verify::Proof;
use gantry_client::{self as consumer, Client, FileOptions, Progress};
use gantry_proto::{Pin, Span, TransferId};
use gantry_relay::shutdown::Shutdown;

/// Download an object and prove that it is the right one
///
/// The file appears under its name only when it is complete and proved. Until then its bytes are in a hidden file
/// beside it, from which the same command goes on when it was interrupted.
///
/// Devices, FIFOs and paths that name an open file, such as /dev/stdout, take the bytes as they come.
#[derive(Args, Clone, Debug)]
pub(super) struct Get {
    #[arg(value_name = "STORE/KEY", help = "The object; all after the first slash is its key")]
    address: ObjectAddress,
    #[arg(
        short,
        long,
        value_name = "PATH",
        help = "Where to: a file, a folder, or - for stdout [default: the key's last part, in the current folder]"
    )]
    output: Option<PathBuf>,
    #[arg(
        short,
        long,
        value_name = "RANGE",
        allow_hyphen_values = true,
        help = "Bytes to download, as for curl: FIRST-LAST with both included, FIRST-, or -COUNT for the last ones; needs -o with a file's name or -"
    )]
    range: Option<ByteRange>,
    #[arg(long, value_name = "ETAG", help = "Only if the object's ETag is this one, as gantry stat prints it")]
    if_match: Option<String>,
    #[arg(long, value_name = "ID", help = "The version, where the store keeps versions")]
    version_id: Option<String>,
    #[arg(long, help = "Begin anew rather than from where an earlier download of the same stopped")]
    no_resume: bool,
    #[arg(long, value_name = "RATE", help = "At most so many bytes per second, as in 500K, 10M or 1.5MiB")]
    limit_rate: Option<Rate>,
    #[arg(long, value_name = "TEXT", help = "Text that comes back on every message of the transfer, for correlation")]
    correlation: Option<String>,
    #[arg(long, help = "Print one JSON object when done, on stdout, or on stderr when stdout carries the bytes")]
    json: bool,
    #[arg(short, long, help = "Say nothing unless it fails")]
    quiet: bool,
}

/// How a download went.
#[derive(Clone, Debug, Serialize)]
struct Summary {
    store: String,
    key: String,
    /// The file, or `-` for stdout.
    path: PathBuf,
    bytes: u64,
    /// How many of them were fetched now rather than by an earlier download.
    fetched_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    resumed_from: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restarted: Option<String>,
    #[serde(rename = "elapsed_ms", serialize_with = "milliseconds")]
    elapsed: Duration,
    proof: Proof,
    etag: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_id: Option<String>,
    recoveries: u64,
    /// The last transfer, by which a relay's log knows the download.
    #[serde(skip_serializing_if = "Option::is_none")]
    transfer: Option<TransferId>,
}

fn milliseconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(duration.as_millis())
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

    /// Returns where the bytes go if that is no file to be replaced.
    fn stream_target(&self) -> Option<Destination> {
        stream::of(self.output.as_deref()?)
    }

    pub(super) async fn run(self, client: Client, shutdown: &Shutdown) -> Result<(), Failure> {
        let subject = self.address.to_string();
        let got = match self.download(&client, shutdown).await {
            Ok(summary) => self.report(&summary),
            Err(failure) => Err(failure),
        };
        got.map_err(|failure| failure.about(subject))
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

    /// Returns the file that is to be written.
    ///
    /// A part of an object never takes the name of the whole unless it was asked to by that name.
    fn target(&self) -> Result<PathBuf, Failure> {
        // A folder is reached through a link only if a file would be.
        if let Some(Err(error @ part::Error::ForeignLink { .. })) = self.output.as_deref().map(part::destination) {
            return Err(consumer::Error::from(error).into());
        }
        let target = self.address.target(self.output.as_deref()).map_err(Failure::usage)?;
        if self.range.is_some() && self.output.as_ref() != Some(&target) {
            let message =
                "a range is not stored under the object's name: give a file's name with -o, or -o - for stdout";
            return Err(Failure::usage(message));
        }
        Ok(target)
    }

    /// Turns the command line into what to ask for; the last bytes of an object are known once its size is.
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
        Ok(consumer::Get { span, pin, context: self.correlation.clone(), ..consumer::Get::new(store, key) })
    }

    async fn file(
        &self,
        client: &Client,
        get: consumer::Get,
        target: &Path,
        shutdown: &Shutdown,
    ) -> Result<Summary, Failure> {
        let (progress, told) = watch::channel(Progress::default());
        let options = FileOptions { resume: !self.no_resume, progress: Some(progress), cancel: shutdown.drain.clone() };
        let meter = self.meter();
        let download = client.download(get, target, options);
        let report = meter.follow(told.clone(), download).await;
        let transfer = told.borrow().transfer;
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

    /// Writes the bytes to what can't be put in place at once. They are proved only after the last one was written.
    async fn stream(
        &self,
        client: &Client,
        get: consumer::Get,
        path: &Path,
        mut to: impl AsyncWrite + Unpin,
        shutdown: &Shutdown,
    ) -> Result<Summary, Failure> {
        let asked = Instant::now();
        let first = get.span.start;
        let mut download = tokio::select! {
            download = client.get(get) => download?,
            () = shutdown.drain.cancelled() => return Err(Failure::interrupted()),
        };
        if first > 0 && download.range().is_empty() {
            let size = download.object().size;
            download.stop().await;
            return Err(Failure::usage(format!("the range begins at {first}, and the object has {size} bytes")));
        }

        let told = download.progress();
        let progress = told.clone();
        let meter = self.meter();
        let copied = async {
            while let Some(bytes) = download.next().await {
                to.write_all(&bytes?).await.map_err(|error| write_failure(path, &error))?;
            }
            to.flush().await.map_err(|error| write_failure(path, &error))
        };
        let copied = tokio::select! {
            copied = meter.follow(told, copied) => copied,
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
            elapsed: asked.elapsed(),
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

    /// Returns whether only failures are reported: also where a line on stderr would end up among the bytes.
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

impl Summary {
    /// Returns the line that says what was done and what was proved.
    fn line(&self) -> String {
        let path = if self.path == Path::new("-") { "stdout".into() } else { self.path.to_string_lossy() };
        let rate = output::rate(self.fetched_bytes, self.elapsed);
        let mut line = format!("wrote {path}: {} bytes in {} ({rate})", self.bytes, output::seconds(self.elapsed));
        if let Some(offset) = self.resumed_from {
            line.push_str(&format!(", resumed at {offset}"));
        }
        if let Some(reason) = &self.restarted {
            line.push_str(&format!(", begun anew: {reason}"));
        }
        if self.recoveries > 0 {
            line.push_str(&format!(", recovered {} times", self.recoveries));
        }
        line.push_str(&match self.proof {
            Proof::Transport => ", verified in transport only".to_owned(),
            proof @ (Proof::FullObject { .. } | Proof::Composite { .. }) => format!(", verified by {proof}"),
        });
        line
    }
}

fn write_failure(path: &Path, error: &io::Error) -> Failure {
    if path == Path::new("-") {
        return output::stdout_failure(error);
    }
    Failure::new(Exit::Failed, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_proto::ChecksumAlgorithm;

    fn summary() -> Summary {
        Summary {
            store: "files".to_owned(),
            key: "a/model.bin".to_owned(),
            path: "model.bin".into(),
            bytes: 268_435_456,
            fetched_bytes: 268_435_456,
            resumed_from: None,
            restarted: None,
            elapsed: Duration::from_millis(1200),
            proof: Proof::FullObject { algorithm: ChecksumAlgorithm::Crc64Nvme },
            etag: "\"x\"".to_owned(),
            version_id: None,
            recoveries: 0,
            transfer: None,
        }
    }

    #[test]
    fn the_last_line_says_what_was_proved() {
        let line = "wrote model.bin: 268435456 bytes in 1.2 s (213 MiB/s), verified by CRC64NVME (full object)";
        assert_eq!(summary().line(), line);
        let other = Summary { proof: Proof::Transport, resumed_from: Some(7), recoveries: 2, ..summary() }.line();
        assert!(other.ends_with(", resumed at 7, recovered 2 times, verified in transport only"), "{other}");
    }

    #[test]
    fn the_json_holds_what_the_line_says() {
        let json = serde_json::to_value(summary()).unwrap();
        assert_eq!(json["proof"], serde_json::json!({"kind": "full_object", "algorithm": "crc64nvme"}));
        assert_eq!((json["elapsed_ms"].as_u64(), json["bytes"].as_u64()), (Some(1200), Some(268_435_456)));
        assert_eq!(json.get("resumed_from"), None);
    }
}
