//! `gantry get`: downloads an object and proves that it is the right one.

mod progress;

use std::io;
use std::os::fd::AsFd as _;
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
use gantry_bus::rate::RateLimit;
use gantry_client::part::is_special;
use gantry_client::verify::Proof;
use gantry_client::{self as consumer, Client, FileOptions, Progress};
use gantry_proto::{Pin, Span, TransferId};
use gantry_relay::shutdown::Shutdown;

/// Download an object and prove that it is the right one
///
/// The file appears under its name only when it is complete and proved. Until then its bytes are in a hidden file
/// beside it, from which the same command goes on when it was interrupted.
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
        help = "Bytes to download, as for curl: FIRST-LAST with both included, FIRST-, or -COUNT for the last ones"
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
            true if self.to_stdout() => Form::JsonToStderr,
            true => Form::Json,
            false => Form::Text,
        }
    }

    pub(super) fn rate_limit(&self) -> Option<RateLimit> {
        self.limit_rate.map(|Rate(bytes_per_s)| RateLimit::new(bytes_per_s))
    }

    fn to_stdout(&self) -> bool {
        self.output.as_deref() == Some(Path::new("-"))
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
        let get = tokio::select! {
            get = self.wanted(client) => get?,
            () = shutdown.drain.cancelled() => return Err(Failure::interrupted()),
        };
        if self.to_stdout() {
            let stdout = stdout().map_err(|error| output::stdout_failure(&error))?;
            return self.stream(client, get, Path::new("-"), stdout, shutdown).await;
        }
        let target = self.address.target(self.output.as_deref()).map_err(Failure::usage)?;
        if is_special(&target) {
            // Opening a FIFO waits for its reader.
            let file = tokio::select! {
                file = async { File::options().write(true).open(&target).await } => file,
                () = shutdown.drain.cancelled() => return Err(Failure::interrupted()),
            };
            let file = file.map_err(|error| write_failure(&target, &error))?;
            return self.stream(client, get, &target, file, shutdown).await;
        }
        self.file(client, get, &target, shutdown).await
    }

    /// Turns the command line into what to ask for; the last bytes of an object are known once its size is.
    async fn wanted(&self, client: &Client) -> Result<consumer::Get, Failure> {
        let ObjectAddress { store, key } = self.address.clone();
        let mut pin = Pin { if_match: self.if_match.clone(), version_id: self.version_id.clone() };
        let span = match self.range {
            None => Span::default(),
            Some(ByteRange::Span(span)) => span,
            Some(ByteRange::Last(count)) => {
                let object = client.stat(&store, &key, &pin).await?;
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
        let mut download = tokio::select! {
            download = client.get(get) => download?,
            () = shutdown.drain.cancelled() => return Err(Failure::interrupted()),
        };
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
        if self.quiet || self.json || !output::is_watched() { Meter::hidden() } else { Meter::shown() }
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
            Form::JsonToStderr => output::note(&output::to_json(summary)),
            Form::Text if self.quiet => {}
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

/// Opens stdout without the line buffer that std puts before it.
fn stdout() -> io::Result<File> {
    let stdout = io::stdout().as_fd().try_clone_to_owned()?;
    Ok(File::from_std(stdout.into()))
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
