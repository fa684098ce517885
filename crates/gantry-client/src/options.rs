//! The limits and timeouts of a client.

use std::time::Duration;

use gantry_bus::rate::RateLimit;
use gantry_proto::subject::Prefix;

/// What a client holds itself to.
#[derive(Clone, Debug)]
pub struct Options {
    /// The first tokens of every subject.
    pub prefix: Prefix,
    /// The first window of a download, in bytes.
    pub window_initial_bytes: u64,
    /// The largest window of a download, in bytes.
    pub window_max_bytes: u64,
    /// What the windows of all downloads on the connection add up to, in bytes. nats-server closes a connection that
    /// has more than 64 MiB pending; a download that begins while another holds all of this adds its share on top.
    pub connection_window_bytes: u64,
    /// The largest chunk payload to ask for, in bytes; the server's `max_payload` may lower it.
    pub chunk_max_bytes: u64,
    /// Silence after which a relay counts as lost.
    pub stall_timeout: Duration,
    /// How long to keep asking while nobody listens and no relay ever answered.
    pub no_relay_patience: Duration,
    /// How long to keep asking while nothing new arrives.
    pub patience: Duration,
    /// How long to wait for the answer to `stat` and `list`; longer than a relay's own retry budget.
    pub query_timeout: Duration,
    /// What all downloads of the client together are held to.
    pub rate_limit: Option<RateLimit>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            prefix: Prefix::default(),
            window_initial_bytes: 2 * 1024 * 1024,
            window_max_bytes: 24 * 1024 * 1024,
            connection_window_bytes: 24 * 1024 * 1024,
            chunk_max_bytes: 8 * 1024 * 1024,
            stall_timeout: Duration::from_secs(3),
            // A missing store is to be reported within 2 s.
            no_relay_patience: Duration::from_millis(1500),
            patience: Duration::from_secs(120),
            query_timeout: Duration::from_secs(16),
            rate_limit: None,
        }
    }
}
