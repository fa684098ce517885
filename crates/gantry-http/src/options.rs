//! The options of a server.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The options of a [`Server`](crate::Server). Start from [`Options::default`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The largest head of a request, in bytes. A larger one is answered with 431. At least 8 KiB.
    pub header_bytes_max: usize,
    /// The maximum time for a request's head, from its first byte to its last. For the first request of a connection it
    /// starts with the connection.
    pub header_read_timeout: Duration,
    /// The maximum time that a connection may be without a request.
    pub idle_timeout: Duration,
    /// The maximum time that a client may take no bytes of a response.
    pub send_timeout: Duration,
    /// The maximum time that responses may take to finish once the server stops.
    pub drain_timeout: Duration,
    /// The maximum number of connections. Further ones wait in the kernel.
    pub connections_max: usize,
    /// The origins whose scripts may read responses in a browser.
    pub cors_origins: CorsOrigins,
    /// The secrets by their access key. If there are any, each request must be signed, unless `anonymous` is set.
    ///
    /// If there are none, signatures of local clients are ignored, and signed requests of other clients are refused,
    /// since nothing can verify them.
    pub keys: BTreeMap<String, Secret>,
    /// Whether requests without a signature are served although there are `keys`.
    pub anonymous: bool,
    /// The domain below which each store has a host of its own, such as `s3.example.com` for
    /// `models.s3.example.com`: S3's virtual-host style.
    pub s3_domain: Option<String>,
    /// The region that S3 clients see.
    pub s3_region: String,
    /// The names by which clients may call the server, besides `localhost`, IP addresses and those of `s3_domain`. If
    /// empty, any name. Without such a list, a web page whose name resolves to a local address can read what a local
    /// server serves.
    pub hosts: Vec<String>,
    /// The `Server` header; empty for none.
    pub server_name: String,
    /// Whether keys appear in logs above DEBUG.
    pub log_keys: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            header_bytes_max: 32 << 10,
            header_read_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            send_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
            connections_max: 4096,
            cors_origins: CorsOrigins::None,
            keys: BTreeMap::new(),
            anonymous: false,
            s3_domain: None,
            s3_region: "us-east-1".to_owned(),
            hosts: Vec::new(),
            server_name: "gantry".to_owned(),
            log_keys: false,
        }
    }
}

/// The origins whose scripts may read responses in a browser. Source: the Fetch standard, "CORS protocol".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CorsOrigins {
    /// No origin but the server's own.
    #[default]
    None,
    /// Every origin.
    Any,
    /// These origins, such as `https://example.com`.
    These(Vec<String>),
}

/// The secret of an access key. Its text never appears in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
