//! Downloads of many objects into a folder, for `get` and `sync`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::address::Correlation;
use super::exit::{Exit, Failure};
use super::output;
use super::progress::{Meter, Tree};
use super::select::{Selection, items};
use super::show::Show;
use gantry_client::part;
use gantry_client::tree::{Compare, Event, Names, TreeOptions, TreeProgress, TreeReport};
use gantry_client::verify::Proof;
use gantry_client::{self as consumer, Client, StoreName};
use gantry_proto::{Key, printable};
use gantry_relay::shutdown::Shutdown;

const HEADING: &str = "Options for several objects";

/// The options of downloads of many objects.
#[derive(Args, Clone, Debug)]
pub(super) struct TreeArgs {
    #[arg(long, help_heading = HEADING, help_heading = HEADING, value_name = "COUNT", help = "Number of objects to download at the same time [default: 32]",
        value_parser = clap::value_parser!(u16).range(1..=1000))]
    jobs: Option<u16>,
    #[arg(long, help_heading = HEADING, help = "Print what would be done, and do nothing")]
    dry_run: bool,
    #[arg(long, help_heading = HEADING, help = "Skip files that match the checksum in the store, instead of those of the same size and time")]
    checksum: bool,
    #[arg(long, help_heading = HEADING, help = "Do not give files the times of their objects; skip newer files of the same size")]
    no_times: bool,
    #[arg(
        long,
        help_heading = HEADING,
        help = "Keep names that only other systems can't hold, such as a:b, instead of spelling them differently"
    )]
    native_names: bool,
}

impl TreeArgs {
    /// Returns the first option that was given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let options = [
            (self.jobs.is_some(), "--jobs"),
            (self.dry_run, "--dry-run"),
            (self.checksum, "--checksum"),
            (self.no_times, "--no-times"),
            (self.native_names, "--native-names"),
        ];
        options.into_iter().find_map(|(is_given, name)| is_given.then_some(name))
    }

    fn options(&self) -> TreeOptions {
        let options = TreeOptions::default()
            .dry_run(self.dry_run)
            .compare(if self.checksum { Compare::Checksums } else { Compare::Times })
            .keep_times(!self.no_times)
            .names(if self.native_names { Names::Native } else { Names::Portable });
        match self.jobs {
            Some(jobs) => options.jobs(usize::from(jobs)),
            None => options,
        }
    }
}

/// A download of many objects.
#[derive(Debug)]
pub(super) struct Download {
    pub(super) selections: Vec<Selection>,
    pub(super) folder: PathBuf,
    /// Whether files without an object are deleted.
    pub(super) delete: bool,
    pub(super) args: TreeArgs,
    /// The correlation of all objects; random by default.
    pub(super) correlation: Option<Correlation>,
    pub(super) show: Show,
}

impl Download {
    pub(super) async fn run(self, client: &Client, shutdown: &Shutdown) -> Result<(), Failure> {
        // A link to the folder must be as trustworthy as a link to a file.
        if let Err(error @ part::Error::ForeignLink { .. }) = part::destination(&self.folder) {
            return Err(consumer::Error::from(error).into());
        }

        let subject = match self.selections.as_slice() {
            [one] => one.name(),
            several => format!("{} addresses", several.len()),
        };
        let started = Instant::now();
        let cancel = shutdown.drain.child_token();
        let meter = self.show.meter(self.show.quiet);
        let correlation = self.correlation.map_or_else(consumer::new_correlation, |Correlation(id)| id);
        let printer = Printer {
            is_json: self.show.json,
            is_quiet: self.show.quiet,
            is_dry: self.args.dry_run,
            correlation: correlation.clone(),
            meter: meter.clone(),
            cancel: cancel.clone(),
            failed: Arc::default(),
        };

        let omitted = Arc::new(AtomicU64::new(0));
        let (progress, seen) = watch::channel(TreeProgress::default());
        let is_listing = matches!(self.selections.as_slice(), [one] if one.is_listing());
        let options = self.args.options().ordered(is_listing).delete(self.delete);
        let options = options.correlation(Some(correlation.clone())).progress(Some(progress)).cancel(cancel);

        let items = items(self.selections, client, &omitted);
        let items = if self.delete { refusing_omitted(items, &omitted).boxed() } else { items };
        let events = {
            let printer = printer.clone();
            move |event| printer.print(&event)
        };
        let download = Box::pin(client.download_tree(items, &self.folder, options, events));
        let done = meter.follow(Tree::new(subject.clone()), seen, download).await;

        if let Some(failure) = printer.failed() {
            return Err(failure);
        }
        let fail = |failure: Failure| failure.about(subject.clone()).of(None, &correlation);
        let report = done.map_err(|error| fail(error.into()))?;
        let omitted = omitted.load(Ordering::Relaxed);
        let (folder, is_dry) = (self.folder.as_path(), self.args.dry_run);
        let end = End { report, omitted, folder, elapsed: started.elapsed(), is_dry, correlation: &correlation };
        end.print(&self.show)?;
        end.check().map_err(fail)
    }
}

/// Ends the stream of objects with an error if the relay could not list some of them, so that nothing is deleted.
fn refusing_omitted(
    items: impl futures_util::Stream<Item = Result<consumer::tree::Item, consumer::Error>> + Send + 'static,
    omitted: &Arc<AtomicU64>,
) -> impl futures_util::Stream<Item = Result<consumer::tree::Item, consumer::Error>> + Send + 'static {
    let omitted = Arc::clone(omitted);
    let check = futures_util::stream::once(async move {
        match omitted.load(Ordering::Relaxed) {
            0 => None,
            count => Some(Err(consumer::Error::Malformed(format!(
                "{count} names can't be listed, so that it is unknown which files have no object: nothing is deleted"
            )))),
        }
    });
    items.chain(check.filter_map(async |error| error))
}

/// Prints events as they happen.
#[derive(Clone, Debug)]
struct Printer {
    is_json: bool,
    is_quiet: bool,
    is_dry: bool,
    correlation: String,
    meter: Meter,
    cancel: CancellationToken,
    /// The first failure to print.
    failed: Arc<Mutex<Option<Failure>>>,
}

impl Printer {
    fn failed(&self) -> Option<Failure> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn print(&self, event: &Event) {
        if let Some(note) = note(event) {
            let is_problem = matches!(event, Event::LeftOut { .. } | Event::Failed { .. });
            if is_problem || !self.is_quiet {
                self.meter.note(&note);
            }
        }

        let printed = if self.is_json {
            let mut object = object(event);
            object["correlation"] = self.correlation.as_str().into();
            self.meter.suspend(|| output::json(&object))
        } else if let Some(line) = line(event).filter(|_| self.is_dry) {
            self.meter.suspend(|| output::line(&line))
        } else {
            return;
        };
        if let Err(failure) = printed {
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
            self.cancel.cancel();
        }
    }
}

fn address(store: &StoreName, key: &Key) -> String {
    printable::name(&format!("{store}/{key}")).into_owned()
}

/// Returns an error with its causes.
pub(super) fn message(error: &consumer::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |message, cause| format!("{message}: {cause}"))
}

/// Returns the line about an event on stderr, if the event is worth reporting.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other events have none")]
pub(super) fn note(event: &Event) -> Option<String> {
    Some(match event {
        Event::LeftOut { store, key, why } => format!("gantry: left out {}: {why}", address(store, key)),
        Event::Failed { store, key, error } => {
            format!("gantry: failed {}: {}", address(store, key), message(error))
        }
        Event::Renamed { store, key, path } => {
            format!("renamed {}: written to {}", address(store, key), printable::name(path))
        }
        Event::Changed { store, key, reason } => format!("changed {}: {reason}", address(store, key)),
        Event::Deleted { path } => format!("deleted {}", printable::name(path)),
        _ => return None,
    })
}

/// Returns the line about an event of a dry run on stdout.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other events have none")]
fn line(event: &Event) -> Option<String> {
    Some(match event {
        Event::WouldFetch { store, key, path, .. } => {
            format!("get     {}  {}", address(store, key), printable::name(path))
        }
        Event::WouldDelete { path } => format!("delete  {}", printable::name(path)),
        _ => return None,
    })
}

/// Returns an event as a JSON object.
pub(super) fn object(event: &Event) -> Value {
    match event {
        Event::Fetched { store, key, path, bytes, proof, replaced } => {
            let proof = proof.as_ref().map(|proof: &Proof| json!(proof));
            json!({"event": "fetched", "store": store, "key": key, "path": path, "bytes": bytes, "proof": proof,
                "replaced": replaced})
        }
        Event::WouldFetch { store, key, path, bytes, replaces } => {
            json!({"event": "would_fetch", "store": store, "key": key, "path": path, "bytes": bytes,
                "replaces": replaces})
        }
        Event::Unchanged { store, key, path } => {
            json!({"event": "unchanged", "store": store, "key": key, "path": path})
        }
        Event::Renamed { store, key, path } => json!({"event": "renamed", "store": store, "key": key, "path": path}),
        Event::Changed { store, key, reason } => {
            json!({"event": "changed", "store": store, "key": key, "message": reason})
        }
        Event::LeftOut { store, key, why } => {
            json!({"event": "left_out", "store": store, "key": key, "message": why.to_string()})
        }
        Event::Failed { store, key, error } => {
            json!({"event": "failed", "store": store, "key": key, "message": message(error)})
        }
        Event::Deleted { path } => json!({"event": "deleted", "path": path}),
        Event::WouldDelete { path } => json!({"event": "would_delete", "path": path}),
        // All present variants are above. The enum is non-exhaustive.
        _ => json!({"event": "other"}),
    }
}

/// The end of a download.
struct End<'a> {
    report: TreeReport,
    omitted: u64,
    folder: &'a std::path::Path,
    elapsed: std::time::Duration,
    is_dry: bool,
    correlation: &'a str,
}

impl End<'_> {
    fn print(&self, show: &Show) -> Result<(), Failure> {
        if show.json {
            let mut object = json!({"event": "done", "elapsed_ms": u64::try_from(self.elapsed.as_millis()).ok()});
            if let (Some(object), Ok(Value::Object(report))) =
                (object.as_object_mut(), serde_json::to_value(&self.report))
            {
                object.extend(report);
                object.insert("omitted".to_owned(), json!(self.omitted));
                object.insert("correlation".to_owned(), json!(self.correlation));
            }
            return output::json(&object);
        }
        if !show.quiet {
            output::note(&self.line());
        }
        Ok(())
    }

    /// Returns the last line: what was written, how it was verified, and what was not done.
    fn line(&self) -> String {
        let TreeReport { fetched, fetched_bytes, proved, kept, unchanged, deleted, failed, left_out, .. } = self.report;
        let folder = self.folder.display();
        let files = count(fetched, "file");
        let mut line = if self.is_dry {
            format!("would write {files} to {folder}: {fetched_bytes} bytes")
        } else {
            let rate = output::rate(fetched_bytes, self.elapsed);
            format!("wrote {files} to {folder}: {fetched_bytes} bytes in {} ({rate})", output::seconds(self.elapsed))
        };

        if !self.is_dry && fetched > 0 {
            let unproved = fetched.saturating_sub(proved + kept);
            let parts = [
                (proved, "by the store's checksum"),
                (unproved, "in transport only"),
                (kept, "before an interruption"),
            ];
            let parts = parts.iter().filter(|(count, _)| *count > 0);
            let parts: Vec<_> = parts.map(|(count, how)| format!("{count} {how}")).collect();
            line += &format!(", verified {}", parts.join(" and "));
        }
        for (number, what) in [
            (unchanged, "unchanged"),
            (deleted, if self.is_dry { "to delete" } else { "deleted" }),
            (failed, "failed"),
            (left_out + self.omitted, "left out"),
        ] {
            if number > 0 {
                line += &format!(", {number} {what}");
            }
        }
        line
    }

    /// Returns a failure if any object is missing.
    fn check(&self) -> Result<(), Failure> {
        let TreeReport { failed, left_out, .. } = self.report;
        let left_out = left_out + self.omitted;
        let message = match (failed, left_out) {
            (0, 0) => return Ok(()),
            (0, left_out) => format!("{} left out", were(left_out)),
            (failed, 0) => format!("{} not downloaded", were(failed)),
            (failed, left_out) => format!("{} not downloaded, and {} left out", were(failed), were(left_out)),
        };
        let hidden = if self.omitted > 0 {
            format!("; the names of {} can't be listed", count(self.omitted, "object"))
        } else {
            String::new()
        };
        Err(Failure::new(Exit::Failed, message + &hidden))
    }
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn were(number: u64) -> String {
    format!("{} {}", count(number, "object"), if number == 1 { "was" } else { "were" })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;

    fn report() -> TreeReport {
        let mut report = TreeReport::default();
        (report.objects, report.fetched, report.fetched_bytes) = (12, 10, 10 << 20);
        (report.proved, report.kept, report.unchanged) = (7, 1, 2);
        report
    }

    fn end(report: TreeReport, omitted: u64, is_dry: bool) -> End<'static> {
        End {
            report,
            omitted,
            folder: Path::new("out"),
            elapsed: Duration::from_secs(2),
            is_dry,
            correlation: "order-7",
        }
    }

    #[test]
    fn the_last_line_states_how_files_were_verified() {
        assert_eq!(
            end(report(), 0, false).line(),
            "wrote 10 files to out: 10485760 bytes in 2.0 s (5.0 MiB/s), verified 7 by the store's checksum and 2 in \
             transport only and 1 before an interruption, 2 unchanged"
        );
        assert_eq!(end(report(), 0, true).line(), "would write 10 files to out: 10485760 bytes, 2 unchanged");
    }

    #[test]
    fn anything_left_out_is_a_failure_with_a_count() {
        assert_eq!(end(report(), 0, false).check(), Ok(()));
        let mut incomplete = report();
        (incomplete.left_out, incomplete.failed) = (1, 2);
        let failure = end(incomplete, 3, false).check().unwrap_err();
        assert_eq!(failure.exit, Exit::Failed);
        assert_eq!(
            failure.message,
            "2 objects were not downloaded, and 4 objects were left out; the names of 3 objects can't be listed"
        );
    }
}
