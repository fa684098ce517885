//! Serves stores over HTTP/1.1: to plain HTTP clients, and to S3 clients that only read.
//!
//! `/{store}/{key}` is an object, which is also S3's path style with the store as the bucket. A complete `200` response
//! is a proved one: the last bytes are held back until the stored checksum matches, and otherwise the connection is
//! aborted.
//!
//! A [`Server`] finds stores through [`Stores`] and reports requests to an [`Observe`].

#![forbid(unsafe_code)]

mod front;
mod listener;
mod observe;
mod options;
mod server;
mod stores;
mod timed;

pub use listener::{Established, Listener, Peer};
pub use observe::{Aborted, Finished, Observe, Rejected, Unobserved};
pub use options::{CorsOrigins, Options, Secret};
pub use server::Server;
pub use stores::{StoreMap, Stores};

// The types of other crates in this crate's signatures.
pub use gantry_verify::Proof;
pub use tokio_util::sync::CancellationToken;
