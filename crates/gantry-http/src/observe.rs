//! What a server reports for metrics, the access log and traces.

use std::fmt;
use std::time::Duration;

use tracing::Span;

use gantry_proto::Headers;
use gantry_verify::Proof;

use crate::listener::Peer;

/// Receives reports about requests. The methods must return at once.
pub trait Observe: fmt::Debug + Send + Sync + 'static {
    /// A connection was accepted.
    fn connected(&self, peer: &Peer) {
        let _ = peer;
    }

    /// A connection ended. Called once for each [`connected`](Self::connected).
    fn disconnected(&self, peer: &Peer) {
        let _ = peer;
    }

    /// A request begins, in `span`. `trace` contains its `traceparent` and `tracestate`, if it has them, so that the
    /// span can continue the client's trace.
    fn started(&self, span: &Span, trace: &Headers) {
        let _ = (span, trace);
    }

    /// A response is complete, or will never be. Called once for each [`started`](Self::started).
    fn finished(&self, finished: &Finished) {
        let _ = finished;
    }

    /// A connection was closed because of bytes that are no request, or because a client was too slow.
    fn rejected(&self, peer: &Peer, reason: Rejected) {
        let _ = (peer, reason);
    }
}

/// Ignores all reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observe for Unobserved {}

/// A request and its response.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finished {
    /// The client.
    pub peer: Peer,
    /// The method, as sent.
    pub method: String,
    /// The target, as sent, but without the signature of a presigned URL. It contains the key.
    pub target: String,
    /// The protocol's version, such as `HTTP/1.1`.
    pub version: &'static str,
    /// The name of the store, if the target names a valid one.
    pub store: Option<String>,
    /// The access key of a verified signature.
    pub access_key: Option<String>,
    /// The client's `User-Agent`.
    pub user_agent: Option<String>,
    /// The client's `Referer`.
    pub referer: Option<String>,
    /// The status.
    pub status: u16,
    /// The number of bytes of the response's content that were handed to the connection.
    pub bytes: u64,
    /// The time from the request's head to the first byte of content, or to the response's head if it has no content.
    pub first_byte: Duration,
    /// The time from the request's head to the end of the response.
    pub duration: Duration,
    /// How the content was verified. Set for a complete response that contains the whole object.
    pub proof: Option<Proof>,
    /// Why the response is incomplete. `None` if it is complete.
    pub aborted: Option<Aborted>,
}

/// Why a response is incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Aborted {
    /// The client disconnected, or took no bytes for too long.
    Client,
    /// The bytes do not match the stored checksum, or their number is wrong.
    Mismatch,
    /// The object was replaced.
    Changed,
    /// The store failed.
    Store,
}

impl Aborted {
    /// Returns a name for metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Mismatch => "mismatch",
            Self::Changed => "changed",
            Self::Store => "store",
        }
    }
}

/// Why a connection was closed outside of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rejected {
    /// The bytes are no request, or a forbidden one. The answer was 400.
    Malformed,
    /// The head is too large. The answer was 431 or 414.
    TooLarge,
    /// The head was not complete in time.
    SlowHeader,
}

impl Rejected {
    /// Returns a name for metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::SlowHeader => "slow_header",
        }
    }
}
