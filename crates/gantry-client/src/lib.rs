//! The consumer: asks a relay for an object, reassembles the bytes and proves that they are right.
//!
//! [`Client::get`] yields the bytes as a stream or a reader, [`Client::download`] writes a file; both survive lost
//! chunks, lost relays and lost connections by asking again from the last contiguous byte.

mod client;
mod connect;
mod connection;
mod discovery;
mod download;
mod driver;
mod error;
mod file;
mod get;
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
pub use options::Options;
pub use progress::Progress;

pub use gantry_bus::nats;
pub use gantry_proto::{Key, StoreName};
