//! Gantry relays S3 objects and local files over NATS in verified, flow-controlled chunks.
//!
//! A *relay* ([`relay`]) runs where the objects are reachable and answers requests on NATS; a *consumer*
//! ([`consumer`]) asks, reassembles the bytes and proves that they are right. Both speak the protocol in [`proto`],
//! which is pure: no I/O, no clock, no runtime. `docs/PROTOCOL.md` is its specification.

pub mod cli;
pub mod config;
pub mod http;
pub mod telemetry;

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
