//! The limits of an upstream store.

use std::time::Duration;

/// The limits of all stores of one [`Relays`](crate::Relays) together.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// How long a description is used without asking again. A replaced object may be described as it was for as long; zero means
    /// that each question is asked. A
    /// store that no relay serves counts as absent for as long.
    pub description_age: Duration,
    /// The memory for descriptions, in bytes. The oldest ones are dropped first.
    pub descriptions_bytes: usize,
    /// The number of transfers that read ahead at the same time. More sequential readers are served without read-ahead.
    pub ahead_max: usize,
    /// How far each of them reads ahead, in bytes. With [`Self::ahead_max`], it bounds the memory for read-ahead.
    pub ahead_bytes: u64,
    /// How long a transfer waits for the next range before it is cancelled.
    pub ahead_idle: Duration,
    /// How long to wait for the first byte or an answer while there is no connection to nats-server.
    pub connection_patience: Duration,
    /// Whether to compare the `ETag` of whole objects with their MD5 if the store keeps no checksum.
    pub verify_etag: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            description_age: Duration::from_secs(2),
            descriptions_bytes: 4 << 20,
            // 24 MiB together. nats-server closes a connection with more than 64 MiB pending, and the windows of other
            // transfers take 24 MiB.
            ahead_max: 8,
            ahead_bytes: 3 << 20,
            ahead_idle: Duration::from_secs(1),
            // Longer than a restart of nats-server.
            connection_patience: Duration::from_secs(4),
            verify_etag: false,
        }
    }
}

impl Options {
    /// Returns the limits of a store whose reader keeps what it reads: nothing is described without a question to a relay
    /// after the request, and nothing is read ahead.
    #[must_use]
    pub fn fresh() -> Self {
        Self { description_age: Duration::ZERO, descriptions_bytes: 0, ahead_max: 0, ..Self::default() }
    }

    /// Returns the memory for read-ahead, in bytes.
    #[must_use]
    pub fn ahead_total_bytes(&self) -> u64 {
        self.ahead_bytes.saturating_mul(u64::try_from(self.ahead_max).unwrap_or(u64::MAX))
    }

    /// Divides this many bytes of memory among the transfers that read ahead.
    #[must_use]
    pub fn ahead_total(mut self, bytes: u64) -> Self {
        self.ahead_bytes = bytes / u64::try_from(self.ahead_max.max(1)).unwrap_or(u64::MAX);
        self
    }
}
