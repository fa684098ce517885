//! What operators can see of each transfer in progress: the page `/transfers`, and the counts in the service's statistics.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::waits::Wait;
use gantry_proto::{StoreName, TransferId};

/// A size that is not known yet.
const UNKNOWN: u64 = u64::MAX;

/// A transfer that waits for nothing.
const NO_WAIT: usize = usize::MAX;

/// A transfer in progress.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ActiveTransfer {
    /// The transfer, as in the log.
    pub transfer: TransferId,
    /// The store.
    pub store: StoreName,
    /// The object's key, if keys are shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The consumer's correlation, if keys are shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation: Option<String>,
    /// The object's size in bytes, once it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The number of bytes that were sent.
    pub sent_bytes: u64,
    /// Milliseconds since the request.
    pub ms: u64,
    /// What the transfer waits for: `store`, `bus`, `credit` or `limits`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<&'static str>,
}

/// What is known about one transfer.
#[derive(Debug)]
pub(crate) struct Activity {
    pub(crate) store: StoreName,
    key: Option<String>,
    correlation: Option<String>,
    since: Instant,
    size: AtomicU64,
    sent_bytes: AtomicU64,
    wait: AtomicUsize,
}

impl Activity {
    /// Describes a transfer that begins now. `shown` is its key and its correlation, unless they are hidden.
    pub(crate) fn new(store: StoreName, shown: Option<(String, Option<String>)>) -> Self {
        let (key, correlation) = shown.map_or((None, None), |(key, correlation)| (Some(key), correlation));
        Self {
            store,
            key,
            correlation,
            since: Instant::now(),
            size: AtomicU64::new(UNKNOWN),
            sent_bytes: AtomicU64::new(0),
            wait: AtomicUsize::new(NO_WAIT),
        }
    }

    /// Returns the key for the log, unless it is hidden.
    pub(crate) fn shown_key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    pub(crate) fn note_size(&self, size: u64) {
        self.size.store(size, Ordering::Relaxed);
    }

    pub(crate) fn note_sent(&self, sent_bytes: u64) {
        self.sent_bytes.store(sent_bytes, Ordering::Relaxed);
    }

    pub(crate) fn note_wait(&self, wait: Option<Wait>) {
        self.wait.store(wait.map_or(NO_WAIT, |wait| wait as usize), Ordering::Relaxed);
    }

    pub(crate) fn describe(&self, transfer: TransferId) -> ActiveTransfer {
        let size = self.size.load(Ordering::Relaxed);
        ActiveTransfer {
            transfer,
            store: self.store.clone(),
            key: self.key.clone(),
            correlation: self.correlation.clone(),
            size: (size != UNKNOWN).then_some(size),
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            ms: as_millis(self.since.elapsed()),
            waits_for: Wait::ALL.get(self.wait.load(Ordering::Relaxed)).map(|wait| wait.name()),
        }
    }
}

fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
