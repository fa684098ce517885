//! The progress bar on stderr: bytes, rate and remaining time.

use std::future::Future;
use std::pin::pin;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::watch;

use gantry_client::Progress;

const TEMPLATE: &str = "{wide_bar} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left {msg}";

/// Shows the progress of a download, or nothing.
#[derive(Debug)]
pub(super) struct Meter(Option<ProgressBar>);

impl Meter {
    pub(super) const fn hidden() -> Self {
        Self(None)
    }

    pub(super) fn shown() -> Self {
        let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_style(style);
        Self(Some(bar))
    }

    /// Runs `work` to its end, and shows its progress meanwhile. Clears the bar at the end.
    pub(super) async fn follow<T>(self, mut progress: watch::Receiver<Progress>, work: impl Future<Output = T>) -> T {
        let Some(bar) = &self.0 else { return work.await };
        let mut work = pin!(work);
        let mut is_started = false;
        let mut open = true;
        loop {
            tokio::select! {
                done = &mut work => return done,
                changed = progress.changed(), if open => open = changed.is_ok(),
            }

            let Progress { start, written, end, recoveries, .. } = *progress.borrow_and_update();
            bar.set_length(end.saturating_sub(start));
            bar.set_position(written.saturating_sub(start));
            if !is_started {
                // The bytes of an earlier download must not count for the rate.
                bar.reset_eta();
                is_started = end > 0;
            }
            if recoveries > 0 {
                bar.set_message(format!("(recovered {recoveries}x)"));
            }
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
