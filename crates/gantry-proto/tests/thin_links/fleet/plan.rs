//! A fleet, and what it downloads.

use std::time::Duration;

/// What a fleet consists of. All devices download the same object once.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) sites: usize,
    /// The devices of each site.
    pub(super) devices: usize,
    /// Whether each site has an edge relay.
    pub(super) has_edges: bool,
    /// The size of the object, in bytes.
    pub(super) size: u64,
    /// The rates of the sites' links, in bytes per second. The sites take them in turn.
    pub(super) rates: Vec<u64>,
    /// The round trip of each site's link.
    pub(super) round_trip: Duration,
    /// The round trip and the rate within a site, in bytes per second.
    pub(super) local_round_trip: Duration,
    pub(super) local_rate: u64,
    pub(super) hub_relays: usize,
    /// Whether each relay at the hub reads the object once for all.
    pub(super) shares_reads: bool,
    /// The rate of everything that leaves the hub, in bytes per second.
    pub(super) egress_rate: u64,
    /// How long the store takes to open or describe an object. Its bytes are then there at once.
    pub(super) store_delay: Duration,
    /// All devices start within this time.
    pub(super) starts_within: Duration,
    /// The mean time between two messages of other traffic across a site's link.
    pub(super) probe_every: Duration,
    /// After this time, everything ends.
    pub(super) ends_at: Duration,
}

impl Plan {
    /// Plans a fleet with the assumptions of `docs/BENCHMARKS.md`.
    pub(super) fn new(sites: usize, devices: usize, has_edges: bool, size: u64) -> Self {
        Self {
            sites,
            devices,
            has_edges,
            size,
            // 10 Mbit/s.
            rates: vec![1_250_000],
            round_trip: Duration::from_millis(20),
            local_round_trip: Duration::from_millis(1),
            // 1 Gbit/s.
            local_rate: 125_000_000,
            hub_relays: 4,
            shares_reads: true,
            // 40 Gbit/s.
            egress_rate: 5_000_000_000,
            store_delay: Duration::from_millis(20),
            starts_within: Duration::from_secs(5),
            probe_every: Duration::from_millis(500),
            ends_at: Duration::from_secs(4 * 3600),
        }
    }

    /// Returns the rate of a site's link, in bytes per second.
    pub(super) fn rate(&self, site: usize) -> u64 {
        self.rates[site % self.rates.len()]
    }

    /// Returns the site of a device, or of the download of an edge relay. Devices have the first numbers.
    pub(super) const fn site(&self, consumer: usize) -> usize {
        let all = self.sites * self.devices;
        if consumer < all { consumer / self.devices } else { consumer - all }
    }

    /// Returns the number of an edge relay's own download.
    pub(super) const fn edge_consumer(&self, site: usize) -> usize {
        self.sites * self.devices + site
    }

    /// Returns the site whose edge relay downloads as this consumer.
    pub(super) fn edge_of(&self, consumer: usize) -> Option<usize> {
        consumer.checked_sub(self.sites * self.devices)
    }

    /// Returns whether a consumer is served at its own site.
    pub(super) const fn is_local(&self, consumer: usize) -> bool {
        self.has_edges && consumer < self.sites * self.devices
    }

    /// Returns how long a message travels between a consumer and its relay, without queues.
    pub(super) fn delay(&self, consumer: usize) -> Duration {
        if self.is_local(consumer) { self.local_round_trip / 2 } else { self.round_trip / 2 }
    }
}
