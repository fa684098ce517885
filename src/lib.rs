//! The `gantry` command, as a library for its own tests.
//!
//! It combines what the crates provide: the relay (`gantry-relay`) with its stores (`gantry-store`), and the consumer
//! (`gantry-client`), both on NATS (`gantry-bus`). Applications use `gantry-client`.

pub mod cli;
pub mod config;
pub mod http;
pub mod telemetry;
pub mod threads;

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
