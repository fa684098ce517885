//! The progress of downloads on stderr: a bar on a terminal, a line now and then elsewhere, or JSON.

mod line;
mod rate;

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use clap::ValueEnum;
use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use self::line::line;
use self::rate::Rate;
use super::output;
use crate::telemetry;
use gantry_client::tree::TreeProgress;
use gantry_client::{Options, Progress};
use gantry_proto::TransferId;

/// How often each form is renewed.
const BAR_INTERVAL: Duration = Duration::from_millis(100);
const LINE_INTERVAL: Duration = Duration::from_secs(10);
const JSON_INTERVAL: Duration = Duration::from_secs(1);

/// The shortest wait that is shown. Shorter ones are part of every start.
const WAIT_MIN: Duration = Duration::from_secs(1);

/// The width of a terminal that does not state its width, in columns.
const COLUMNS: usize = 80;

/// What to show while a download runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// A bar on a terminal, a line every 10 s elsewhere
    #[default]
    Auto,
    /// One JSON object per second on stderr
    Json,
    /// Nothing
    None,
}

/// The state of a download.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct View {
    name: String,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_files: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_per_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eta_s: Option<u64>,
    /// How long no byte has arrived, if the download is waiting for a relay.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_s: Option<u64>,
    /// The time after which the download gives up.
    #[serde(skip_serializing_if = "Option::is_none")]
    gives_up_after_s: Option<u64>,
    /// Transfers that took over from another.
    recoveries: u64,
    /// Requests that no relay accepted.
    retries: u64,
}

/// Turns the client's progress into a view.
pub(super) trait Watched {
    /// The client's progress.
    type Progress: Clone + Send + Sync;

    /// Updates the state.
    fn take(&mut self, progress: &Self::Progress);

    /// Adds the known values to a view, and returns whether the download is waiting for a relay.
    fn show(&self, view: &mut View) -> bool;
}

/// The progress of one object.
#[derive(Debug, Default)]
pub(super) struct OneObject {
    name: String,
    progress: Progress,
    first: Option<TransferId>,
    last: Option<TransferId>,
    /// The transfers that took over.
    recoveries: u64,
    /// The abandoned requests when the last transfer began.
    abandoned: u64,
}

impl OneObject {
    pub(super) fn new(name: String) -> Self {
        Self { name, ..Self::default() }
    }
}

impl Watched for OneObject {
    type Progress = Progress;

    fn take(&mut self, progress: &Progress) {
        self.progress = progress.clone();
        if progress.transfer != self.last {
            self.recoveries += u64::from(self.last.is_some());
            self.last = progress.transfer;
            self.first = self.first.or(self.last);
            self.abandoned = progress.recoveries;
        }
    }

    fn show(&self, view: &mut View) -> bool {
        let Progress { start, written, end, recoveries, .. } = self.progress;
        view.name.clone_from(&self.name);
        view.bytes = written.saturating_sub(start);
        view.total_bytes = (end > 0).then(|| end.saturating_sub(start));
        view.recoveries = self.recoveries;
        view.retries = recoveries.saturating_sub(self.recoveries);
        self.last.is_none() || recoveries > self.abandoned
    }
}

/// The progress of a tree.
#[derive(Debug, Default)]
pub(super) struct Tree {
    name: String,
    progress: TreeProgress,
}

impl Tree {
    pub(super) fn new(name: String) -> Self {
        Self { name, ..Self::default() }
    }
}

impl Watched for Tree {
    type Progress = TreeProgress;

    fn take(&mut self, progress: &TreeProgress) {
        self.progress = *progress;
    }

    fn show(&self, view: &mut View) -> bool {
        let TreeProgress { wanted, wanted_bytes, done, done_bytes, is_listed, recoveries, .. } = self.progress;
        view.name.clone_from(&self.name);
        view.bytes = done_bytes;
        view.total_bytes = is_listed.then_some(wanted_bytes.max(done_bytes));
        view.files = Some(done);
        view.total_files = is_listed.then_some(wanted);
        view.recoveries = recoveries;
        done < wanted || !is_listed
    }
}

/// Shows the progress of a download, or nothing.
#[derive(Clone, Debug)]
pub(super) struct Meter(Display);

#[derive(Clone, Debug)]
enum Display {
    Hidden,
    Bar(ProgressBar),
    Lines,
    Json,
}

impl Meter {
    /// Shows the progress in this form, or nothing if `is_hidden`.
    pub(super) fn new(form: Form, is_hidden: bool) -> Self {
        Self(match form {
            Form::Json => Display::Json,
            Form::None => Display::Hidden,
            Form::Auto if is_hidden => Display::Hidden,
            Form::Auto if output::is_watched() => Display::Bar(bar()),
            Form::Auto => Display::Lines,
        })
    }

    /// Writes a line on stderr, without disturbing the bar.
    pub(super) fn note(&self, text: &str) {
        match &self.0 {
            Display::Bar(bar) => bar.suspend(|| output::note(text)),
            Display::Hidden | Display::Lines | Display::Json => output::note(text),
        }
    }

    /// Runs `print`, which writes to the terminal, without disturbing the bar.
    pub(super) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.0 {
            Display::Bar(bar) => bar.suspend(print),
            Display::Hidden | Display::Lines | Display::Json => print(),
        }
    }

    /// Runs `work` to its end, and shows its progress meanwhile.
    pub(super) async fn follow<T, W: Watched>(
        &self,
        mut watched: W,
        mut progress: watch::Receiver<W::Progress>,
        work: impl Future<Output = T>,
    ) -> T {
        let every = match &self.0 {
            Display::Hidden => return work.await,
            Display::Bar(_) => BAR_INTERVAL,
            Display::Lines => LINE_INTERVAL,
            Display::Json => JSON_INTERVAL,
        };
        let _cleared = Cleared(self);

        let mut work = pin!(work);
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rate = Rate::new(Instant::now());
        let patience = Options::default().patience;
        let mut is_open = true;
        loop {
            tokio::select! {
                done = &mut work => return done,
                changed = progress.changed(), if is_open => {
                    is_open = changed.is_ok();
                    watched.take(&progress.borrow_and_update().clone());
                }
                now = ticks.tick() => self.show(&view(&watched, &mut rate, patience, now)),
            }
        }
    }

    fn show(&self, view: &View) {
        match &self.0 {
            Display::Hidden => {}
            Display::Bar(bar) => {
                let columns = Term::stderr().size_checked().map_or(COLUMNS, |(_, columns)| usize::from(columns));
                // The last column stays empty, since some terminals begin a new line after it.
                bar.set_message(line(view, columns.saturating_sub(1)));
            }
            Display::Lines => output::note(&line(view, COLUMNS)),
            Display::Json => {
                let event = serde_json::json!({ "event": "progress", "progress": view });
                telemetry::print(&output::to_json(&event));
            }
        }
    }
}

/// Removes the bar at the end.
struct Cleared<'a>(&'a Meter);

impl Drop for Cleared<'_> {
    fn drop(&mut self) {
        if let Display::Bar(bar) = &self.0.0 {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style)
}

fn view<W: Watched>(watched: &W, rate: &mut Rate, patience: Duration, now: Instant) -> View {
    let mut view = View::default();
    let may_wait = watched.show(&mut view);
    rate.add(view.bytes + view.files.unwrap_or(0), view.bytes, now);

    let quiet = rate.quiet_for(now);
    if may_wait && quiet >= WAIT_MIN {
        view.waiting_s = Some(quiet.as_secs());
        view.gives_up_after_s = Some(patience.as_secs());
    }
    view.bytes_per_s = rate.bytes_per_s();
    let left = view.total_bytes.map(|total| total.saturating_sub(view.bytes));
    view.eta_s = left.zip(view.bytes_per_s).and_then(|(left, rate)| left.checked_div(rate));
    view
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(transfer: Option<u128>, recoveries: u64, written: u64) -> Progress {
        let mut progress = Progress::default();
        progress.transfer = transfer.map(|id| TransferId(uuid::Uuid::from_u128(id)));
        progress.recoveries = recoveries;
        progress.written = written;
        progress.end = if transfer.is_some() { 100 } else { 0 };
        progress
    }

    /// Every abandoned request was once shown as a recovery, nine of them while no relay existed.
    #[test]
    fn retries_are_not_recoveries() {
        let mut object = OneObject::new("a".to_owned());
        for (progress, recoveries, retries, is_waiting) in [
            (progress(None, 0, 0), 0, 0, true),
            (progress(Some(1), 0, 10), 0, 0, false),
            (progress(Some(1), 1, 10), 0, 1, true),
            (progress(Some(1), 3, 10), 0, 3, true),
            (progress(Some(2), 3, 10), 1, 2, false),
            (progress(Some(2), 3, 50), 1, 2, false),
        ] {
            object.take(&progress);
            let mut view = View::default();
            assert_eq!(object.show(&mut view), is_waiting, "{progress:?}");
            assert_eq!((view.recoveries, view.retries), (recoveries, retries), "{progress:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_counts_from_the_last_byte() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let mut object = OneObject::new("a".to_owned());
        let patience = Duration::from_secs(120);
        object.take(&progress(Some(1), 0, 10));
        assert_eq!(view(&object, &mut rate, patience, start + Duration::from_secs(1)).waiting_s, None);

        object.take(&progress(Some(1), 1, 10));
        let waiting = view(&object, &mut rate, patience, start + Duration::from_secs(13));
        assert_eq!((waiting.waiting_s, waiting.gives_up_after_s), (Some(12), Some(120)));
    }
}
