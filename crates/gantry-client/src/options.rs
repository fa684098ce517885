//! The limits and timeouts of a client.

use std::time::Duration;

use gantry_bus::rate::RateLimit;
use gantry_proto::subject::Prefix;

/// The limits and timeouts of a client. The defaults suit most applications.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// let options = gantry_client::Options::default()
///     .patience(Duration::from_secs(600))
///     .window_max_bytes(4 * 1024 * 1024);
/// assert_eq!(options.stall_timeout, Duration::from_secs(3));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The first tokens of every subject.
    pub prefix: Prefix,
    /// The first window of a download, in bytes, if the relay is connected to the same nats-server or cluster. Otherwise
    /// a slow link may be between them, and the first window is small, unless a download on the same connection has just
    /// measured a larger one. On a fast link, it becomes large within a few round trips.
    pub window_initial_bytes: u64,
    /// The largest window of a download, in bytes.
    pub window_max_bytes: u64,
    /// The sum of the windows of all downloads on the connection, in bytes. Each download gets an equal share, at least
    /// 32 KiB. A download that starts while others hold the whole sum adds its share on top. nats-server closes a
    /// connection with more than 64 MiB pending.
    pub connection_window_bytes: u64,
    /// The largest chunk payload to request, in bytes. The server's `max_payload` may lower it.
    pub chunk_max_bytes: u64,
    /// The silence after which a relay is considered lost. On a slow link it is longer, and follows the measured delay.
    pub stall_timeout: Duration,
    /// How long to retry while no relay has ever answered.
    pub no_relay_patience: Duration,
    /// How long to retry a download while no new bytes arrive.
    pub patience: Duration,
    /// How long to wait for the answer to `stat` and `list`. Keep it longer than a relay's own retries of its store.
    pub query_timeout: Duration,
    /// The rate limit of all downloads of the client together.
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
            // A missing store must be reported within 2 s.
            no_relay_patience: Duration::from_millis(1500),
            patience: Duration::from_secs(120),
            query_timeout: Duration::from_secs(16),
            rate_limit: None,
        }
    }
}

/// Defines a method for each field that sets it and returns the options.
macro_rules! setters {
    ($($field:ident: $type:ty),+ $(,)?) => {
        impl Options {
            $(
                #[doc = concat!("Sets [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
                #[must_use]
                pub fn $field(mut self, $field: $type) -> Self {
                    self.$field = $field;
                    self
                }
            )+
        }
    };
}

setters! {
    prefix: Prefix,
    window_initial_bytes: u64,
    window_max_bytes: u64,
    connection_window_bytes: u64,
    chunk_max_bytes: u64,
    stall_timeout: Duration,
    no_relay_patience: Duration,
    patience: Duration,
    query_timeout: Duration,
    rate_limit: Option<RateLimit>,
}
