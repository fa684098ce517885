//! Downloads one object to a file or a stream.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::fs::File;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::address::{ByteRange, ObjectAddress};
use super::super::exit::{Exit, Failure};
use super::super::output::{self, Form};
use super::super::progress::{Meter, OneObject};
use super::summary::Summary;
use super::{Get, stream};
use crate::telemetry;
use gantry_client::part;
use gantry_client::verify::Proof;
use gantry_client::{self as consumer, Client, FileOptions, Progress};
use gantry_proto::{Pin, Span};
use gantry_relay::shutdown::Shutdown;

/// The download of one object.
#[derive(Debug)]
pub(super) struct One<'a> {
    pub(super) get: &'a Get,
    pub(super) address: ObjectAddress,
    /// The id that the logs and traces of both sides contain.
    pub(super) correlation: String,
}

impl One<'_> {
    pub(super) async fn run(&self, client: &Client, shutdown: &Shutdown) -> Result<(), Failure> {
        let subject = self.address.to_string();
        let reported = match self.download(client, shutdown).await {
            Ok(summary) => self.report(&summary),
            Err(failure) => Err(failure),
        };
        reported.map_err(|failure| failure.about(subject))
    }

    async fn download(&self, client: &Client, shutdown: &Shutdown) -> Result<Summary, Failure> {
        let Some(stream) = self.get.stream_target() else {
            let target = self.target()?;
            let get = self.wanted(client, shutdown).await?;
            return self.file(client, get, &target, shutdown).await;
        };

        let path = self.get.output.as_deref().filter(|_| stream != stream::STDOUT).unwrap_or(Path::new("-"));
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
        if let Some(Err(error @ part::Error::ForeignLink { .. })) = self.get.output.as_deref().map(part::destination) {
            return Err(consumer::Error::from(error).into());
        }

        let target = self.address.target(self.get.output.as_deref()).map_err(Failure::usage)?;
        if self.get.range.is_some() && self.get.output.as_ref() != Some(&target) {
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
        let mut pin = Pin { if_match: self.get.if_match.clone(), version_id: self.get.version_id.clone() };

        let span = match self.get.range {
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

        let get = consumer::Get::new(store, key).range(span).pin(pin).context(&self.correlation);
        Ok(get.verify_etag(self.get.verify_etag))
    }

    async fn file(
        &self,
        client: &Client,
        get: consumer::Get,
        target: &Path,
        shutdown: &Shutdown,
    ) -> Result<Summary, Failure> {
        let (progress, seen) = watch::channel(Progress::default());
        let options = FileOptions::default()
            .resume(!self.get.no_resume)
            .progress(progress)
            .cancel(shutdown.drain.clone())
            .streams(self.get.streams.unwrap_or(1).into());

        let download = client.download(get, target, options);
        let report = self.meter().follow(self.watched(), seen.clone(), download).await;
        let Progress { transfer, relay, .. } = seen.borrow().clone();
        let report = report.map_err(|error| Failure::from(error).of(transfer, &self.correlation))?;

        Ok(Summary {
            path: report.path,
            bytes: report.bytes,
            fetched_bytes: report.fetched_bytes,
            resumed_from: report.resumed_from,
            restarted: report.restarted,
            elapsed: report.elapsed,
            output: report.output,
            proof: report.proof,
            etag: report.etag,
            version_id: report.version_id,
            stale_s: report.stale_s,
            recoveries: report.recoveries,
            transfer,
            relay: relay.as_deref().cloned(),
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
            download = client.get(get) => download.map_err(|error| Failure::from(error).of(None, &self.correlation))?,
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
        let meter = self.meter();
        let is_shown = path == Path::new("-") && io::stdout().is_terminal();
        let mut output = Duration::ZERO;
        let copy = async {
            while let Some(bytes) = download.next().await {
                let bytes = bytes?;
                if is_shown && output::is_binary(&bytes) {
                    return Err(output::binary_failure());
                }
                let begun = Instant::now();
                to.write_all(&bytes).await.map_err(|error| write_failure(path, &error))?;
                output += begun.elapsed();
            }
            to.flush().await.map_err(|error| write_failure(path, &error))
        };
        let copied = tokio::select! {
            copied = meter.follow(self.watched(), progress.clone(), copy) => copied,
            () = shutdown.drain.cancelled() => Err(Failure::interrupted()),
        };
        if let Err(failure) = copied {
            download.stop().await;
            return Err(failure.of(progress.borrow().transfer, &self.correlation));
        }

        let bytes = download.range().end - download.range().start;
        let object = download.object();
        Ok(Summary {
            path: path.to_owned(),
            bytes,
            fetched_bytes: bytes,
            elapsed: started.elapsed(),
            output,
            proof: download.proof().unwrap_or(Proof::Transport),
            etag: object.etag.clone(),
            version_id: object.version_id.clone(),
            stale_s: object.stale_s,
            recoveries: progress.borrow().recoveries,
            transfer: progress.borrow().transfer,
            relay: progress.borrow().relay.as_deref().cloned(),
            ..self.summary()
        })
    }

    fn meter(&self) -> Meter {
        self.get.show.meter(self.get.is_quiet())
    }

    fn watched(&self) -> OneObject {
        let name = self.address.file_name().unwrap_or_else(|| self.address.key.as_str());
        OneObject::new(name.to_owned())
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
            output: Duration::ZERO,
            proof: Proof::Transport,
            etag: String::new(),
            version_id: None,
            stale_s: None,
            recoveries: 0,
            transfer: None,
            correlation: self.correlation.clone(),
            relay: None,
        }
    }

    fn report(&self, summary: &Summary) -> Result<(), Failure> {
        let Summary { bytes, elapsed, output, .. } = summary;
        let correlation = &summary.correlation;
        tracing::info!(correlation, bytes, ms = elapsed.as_millis(), output_ms = output.as_millis(), "downloaded");

        match self.get.form() {
            Form::Json => output::json(summary)?,
            Form::JsonToStderr => telemetry::print(&output::to_json(summary)),
            Form::Text if self.get.is_quiet() => {}
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
