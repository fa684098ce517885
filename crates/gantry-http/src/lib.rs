//! Serves stores over HTTP/1.1 and HTTP/2: to plain HTTP clients, and to S3 clients that only read.
//!
//! `/{store}/{key}` is an object, which is also S3's path style with the store as the bucket. A complete `200` response
//! is a proved one: the last bytes are held back until the stored checksum matches, and otherwise the connection,
//! or the stream of HTTP/2, is aborted.
//!
//! A [`Server`] finds stores through [`Stores`] and reports requests to an [`Observe`].

#![forbid(unsafe_code)]

mod attributes;
mod bucket;
mod condition;
mod content;
mod cors;
mod date;
mod describe;
mod etag;
mod fault;
mod front;
mod head;
mod http2;
mod index;
mod list;
mod listener;
mod multipart;
mod object;
mod observe;
mod options;
mod parameters;
mod proof;
mod range;
mod reply;
mod server;
mod sign;
mod stores;
mod target;
#[cfg(test)]
mod tests;
mod timed;
mod tracked;
mod version;
mod xml;

pub use listener::{Established, Listener, Peer, Protocol, accept_until};
pub use observe::{Aborted, Finished, Observe, Rejected, Unobserved};
pub use options::{CorsOrigins, Options, Secret};
pub use server::Server;
pub use stores::{StoreMap, Stores};

// The types of other crates in this crate's signatures.
pub use gantry_verify::Proof;
pub use tokio_util::sync::CancellationToken;
