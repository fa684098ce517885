#![doc = include_str!("../README.md")]
//!
//! # Feature flags
//! - `trace`: puts the current `tracing` span on requests, so that a trace continues in the relay.

mod client;
mod connect;
mod connection;
mod discovery;
mod download;
mod driver;
mod error;
mod file;
mod listing;
mod options;
mod parallel;
pub mod part;
mod parts;
mod progress;
mod query;
mod stated;
#[cfg(test)]
mod tests;
pub mod tree;
mod written;

pub use client::{Client, new_correlation};
pub use download::Download;
pub use error::Error;
pub use file::{FileOptions, Report};
pub use listing::{Listed, Listing};
pub use options::Options;
pub use progress::{Progress, ServedBy};

pub use gantry_bus::rate::RateLimit;
pub use gantry_bus::{self as bus, nats};
pub use gantry_proto::receiver::Cause;
pub use gantry_proto::subject::Prefix;
pub use gantry_proto::{
    Checksum, ChecksumAlgorithm, ChecksumKind, Code, Get, Key, ListEntry, ListPage, ListRequest, Malformed, ObjectInfo,
    Pin, Span, StoreName, TransferId, Via, WireError,
};
pub use gantry_verify as verify;

// The types of other crates in this crate's signatures.
pub use bytes::Bytes;
pub use futures_util::Stream;
pub use tokio::sync::watch;
pub use tokio_util::sync::CancellationToken;
