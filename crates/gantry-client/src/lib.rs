//! Downloads objects and files over NATS from Gantry relays: verified, resumable, in bounded memory.
//!
//! ```no_run
//! use gantry_client::{Client, FileOptions, Get};
//!
//! # async fn run() -> Result<(), gantry_client::Error> {
//! let client = Client::connect("nats://127.0.0.1:4222").await?;
//! let get = Get::at("files/videos/a.mp4")?;
//! let report = client.download(get, "a.mp4".as_ref(), FileOptions::default()).await?;
//! println!("{} bytes, verified: {}", report.bytes, report.proof);
//! # Ok(())
//! # }
//! ```
//!
//! [`Client::get`] returns the bytes as a stream, [`Client::download`] writes a file, [`Client::list`] lists keys.
//! Downloads survive lost chunks, lost relays and lost connections: the client asks again from the last contiguous
//! byte. [`Error::is_retryable`] reports whether a later call may succeed.

mod client;
mod connect;
mod connection;
mod discovery;
mod download;
mod driver;
mod error;
mod file;
mod get;
mod listing;
mod options;
pub mod part;
mod parts;
mod progress;
mod query;
mod stated;
#[cfg(test)]
mod tests;
pub mod verify;
mod written;

pub use client::Client;
pub use download::Download;
pub use error::Error;
pub use file::{FileOptions, Report};
pub use get::Get;
pub use listing::{Listed, Listing};
pub use options::Options;
pub use progress::Progress;

pub use gantry_bus::nats;
pub use gantry_proto::{Key, ListEntry, ListPage, ListRequest, ObjectInfo, Pin, Span, StoreName};
pub use tokio::sync::watch;
pub use tokio_util::sync::CancellationToken;
