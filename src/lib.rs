//! Gantry relays S3 objects and local files over NATS in verified, flow-controlled chunks.
//!
//! A *relay* ([`relay`]) runs where the objects are reachable and answers requests on NATS; a *consumer*
//! ([`consumer`]) asks, reassembles the bytes and proves that they are right. Both speak the protocol in [`proto`],
//! which is pure: no I/O, no clock, no runtime. `docs/PROTOCOL.md` is its specification.

pub mod bus;
pub mod cli;
pub mod config;
pub mod consumer;
pub mod http;
pub mod metrics;
pub mod proto;
pub mod rate;
pub mod relay;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod trace;

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
