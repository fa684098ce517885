//! Lines about messages that are skipped. Anyone who may publish can cause them, so their rate is limited.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::super::output;

/// At most this many lines are printed within each interval.
const LINES_MAX: u64 = 10;
const INTERVAL: Duration = Duration::from_secs(10);

/// Prints lines, and counts what they are about.
#[derive(Debug, Default)]
pub(super) struct Notes(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    began: Option<Instant>,
    printed: u64,
    /// Left out in this interval.
    hidden: u64,
    skipped: u64,
    dropped: u64,
}

impl Notes {
    /// Reports a message that is skipped.
    pub(super) fn skipped(&self, line: &str) {
        self.print(line, |counts| counts.skipped += 1);
    }

    /// Reports a message that is dropped since too many wait.
    pub(super) fn dropped(&self, line: &str) {
        self.print(line, |counts| counts.dropped += 1);
    }

    /// Returns how many messages were skipped, and how many dropped.
    pub(super) fn counts(&self) -> (u64, u64) {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (counts.skipped, counts.dropped)
    }

    fn print(&self, line: &str, count: impl FnOnce(&mut Counts)) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        count(&mut counts);

        let now = Instant::now();
        if counts.began.is_none_or(|began| now - began >= INTERVAL) {
            if counts.hidden > 0 {
                output::note(&format!("gantry: {} more lines like the ones before were left out", counts.hidden));
            }
            (counts.began, counts.printed, counts.hidden) = (Some(now), 0, 0);
        }
        if counts.printed < LINES_MAX {
            counts.printed += 1;
            output::note(&format!("gantry: {line}"));
        } else {
            counts.hidden += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lines_are_limited_and_counts_are_not() {
        let notes = Notes::default();
        for _ in 0..100 {
            notes.skipped("x");
        }
        notes.dropped("y");
        assert_eq!(notes.counts(), (100, 1));
        assert_eq!(printed_and_hidden(&notes), (LINES_MAX, 101 - LINES_MAX));

        tokio::time::advance(INTERVAL).await;
        notes.skipped("x");
        assert_eq!(printed_and_hidden(&notes), (1, 0));
    }

    fn printed_and_hidden(notes: &Notes) -> (u64, u64) {
        let counts = notes.0.lock().unwrap();
        (counts.printed, counts.hidden)
    }
}
