//! The consumer: asks a relay for an object, reassembles the bytes and proves that they are right.
//!
//! [`Client::get`] yields the bytes as a stream or a reader, [`Client::download`] writes a file; both survive lost
//! chunks, lost relays and lost connections by asking again from the last contiguous byte.

mod client;
mod connect;
mod discovery;
mod download;
mod error;
mod file;
pub mod part;
mod parts;
mod stated;
#[cfg(test)]
mod tests;
pub mod verify;
mod written;

pub use client::{Client, Get, Options};
pub use download::{Download, Progress};
pub use error::Error;
pub use file::{FileOptions, Report};

pub use gantry_bus::nats;
pub use gantry_proto::{Key, StoreName};
