//! `Gantry-Proof`: how the content of a response is verified.
//!
//! It is an item of RFC 8941 with parameters, such as `full-object;algorithm=CRC64NVME`. As a header it states what will
//! be verified before the response is complete, and as a trailer what was verified.

use hyper::header::HeaderValue;

use gantry_verify::Proof;

/// The name of the header and the trailer.
pub(crate) const NAME: &str = "gantry-proof";

/// Nothing is verified but what the transport verifies: the number of bytes, and the CRC of each chunk over NATS.
pub(crate) const TRANSPORT: HeaderValue = HeaderValue::from_static("transport");

/// Returns the header's value.
pub(crate) fn value(proof: Proof) -> HeaderValue {
    let text = match proof {
        Proof::FullObject { algorithm } => format!("full-object;algorithm={}", algorithm.name()),
        Proof::Composite { algorithm, parts } => format!("composite;algorithm={};parts={parts}", algorithm.name()),
        Proof::Etag { algorithm } => format!("etag;algorithm={}", algorithm.name()),
        Proof::Transport | Proof::Unverified { .. } | Proof::InvalidChecksum { .. } => return TRANSPORT,
    };

    HeaderValue::try_from(text).unwrap_or(TRANSPORT)
}
