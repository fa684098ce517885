//! The progress bar: bytes, rate and time left, on stderr.

use std::future::Future;
use std::pin::pin;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::watch;

use gantry_client::Progress;

const TEMPLATE: &str = "{wide_bar} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left {msg}";

/// Shows how far a download has come, or nothing.
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

    /// Runs `work` to its end, showing what `told` says meanwhile; leaves no trace of itself.
    pub(super) async fn follow<T>(self, mut told: watch::Receiver<Progress>, work: impl Future<Output = T>) -> T {
        let Some(bar) = &self.0 else { return work.await };
        let mut work = pin!(work);
        let mut begun = false;
        let mut open = true;
        loop {
            tokio::select! {
                done = &mut work => return done,
                changed = told.changed(), if open => open = changed.is_ok(),
            }
            let Progress { start, written, end, recoveries, .. } = *told.borrow_and_update();
            bar.set_length(end.saturating_sub(start));
            bar.set_position(written.saturating_sub(start));
            if !begun {
                // What an earlier download left says nothing of the rate.
                bar.reset_eta();
                begun = end > 0;
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
