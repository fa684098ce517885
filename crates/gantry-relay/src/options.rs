//! The settings and limits of a relay.

use std::num::NonZeroU64;
use std::time::Duration;

use gantry_bus::rate::RateLimit;
use gantry_proto::HEADERS_MAX_BYTES;
use gantry_proto::subject::{DeliveryAllow, Prefix};
use gantry_store::budget::{Budget, PLACE_BYTES};

/// The settings and limits of a relay.
#[derive(Clone, Debug)]
pub struct Options {
    /// The first tokens of every subject.
    pub prefix: Prefix,
    /// The reply subjects that the relay may publish to.
    pub delivery_allow: DeliveryAllow,
    /// Maximum number of concurrent transfers. Above it, the relay answers `busy`.
    pub transfers_max: usize,
    /// The share of the memory budget that each running transfer reserves, in bytes. It covers the pieces that the
    /// transfer holds, the read buffers behind them, and the overhead of the allocator.
    pub transfer_reserve_bytes: u64,
    /// Memory for object bytes, shared by all transfers and their read-ahead.
    pub budget: Budget,
    /// The largest chunk payload, in bytes. The server's `max_payload` may lower it.
    pub chunk_max_bytes: usize,
    /// Pieces from the store that are smaller than this, in bytes, are combined before they are sent.
    pub gather_min_bytes: usize,
    /// How far credit may exceed what has been sent, in bytes.
    pub window_max_bytes: u64,
    /// The longest time without a message to a consumer.
    pub beat_interval: Duration,
    /// How long to wait for a control message from a consumer that gives no credit or promised keep-alives, and for the
    /// bus to accept or deliver any message.
    pub idle_timeout: Duration,
    /// How long transfers may continue after a shutdown was requested.
    pub drain_grace: Duration,
    /// Rate limit of each transfer, in bytes per second.
    pub transfer_rate_max: Option<NonZeroU64>,
    /// Rate limit of all transfers together.
    pub rate_limit: Option<RateLimit>,
    /// Whether keys and the consumers' contexts are logged at INFO, and shown with the transfers in progress.
    pub shows_keys: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            prefix: Prefix::default(),
            delivery_allow: DeliveryAllow::default(),
            transfers_max: 1000,
            transfer_reserve_bytes: PLACE_BYTES,
            budget: Budget::new(512 * 1024 * 1024),
            // Just below a power of two with its headers. Larger chunks were not faster, and cost memory and fairness.
            chunk_max_bytes: 512 * 1024 - HEADERS_MAX_BYTES,
            gather_min_bytes: 64 * 1024,
            // Half of nats-server's limit on the pending bytes of one connection.
            window_max_bytes: 32 * 1024 * 1024,
            beat_interval: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(15),
            drain_grace: Duration::from_secs(30),
            transfer_rate_max: None,
            rate_limit: None,
            shows_keys: false,
        }
    }
}

impl Options {
    /// Returns how many transfers can run at once, given both their maximum and the memory budget.
    #[must_use]
    pub fn places(&self) -> u64 {
        let by_memory = self.budget.places(self.transfer_reserve_bytes);
        by_memory.unwrap_or(u64::MAX).min(self.transfers_max as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_budget_limits_the_number_of_places() {
        let of = |transfers_max, budget_mib: u64| {
            let budget = Budget::new(budget_mib << 20);
            Options { transfers_max, transfer_reserve_bytes: 1 << 20, budget, ..Options::default() }.places()
        };

        assert_eq!((of(1000, 512), of(256, 512), of(1, 8)), (512, 256, 1));
        assert_eq!(Options { transfer_reserve_bytes: 0, ..Options::default() }.places(), 1000);
        assert_eq!(Options::default().places(), 341);
    }
}
