//! The upstream store: a [`gantry_store::Store`] whose objects come from relays over NATS.
//!
//! A front that serves an upstream store gives its clients everything that a consumer has: retries, resume, failover and
//! verified chunks. Two things make it fit for clients that read an object range by range:
//! - **Descriptions are kept** for a short time, and identical questions that arrive together are asked once. A client
//!   with several connections costs one description, and not one for each range.
//! - **Sequential ranges are read ahead.** If a range starts where another one ended, the transfer continues past its
//!   end, and the next range takes over the rest. A client that reads 64 KiB at a time is then not limited by round trips.
//!
//! The chunks are verified, but not the object: the front compares the object with its stored checksum, as with every store.
//!
//! | module | contents |
//! |---|---|
//! | `upstream` | the store |
//! | `uplink` | the store with a connection of its own, made in the background |
//! | `shared` | what all stores of one connection share |
//! | `descriptions` | the descriptions of objects |
//! | `absent` | the stores that no relay serves |
//! | `link` | how long to wait for a connection |
//! | `trails` | where ranges ended, and the transfers that continue there |
//! | `flow` | a transfer from which several ranges are read |
//! | `body` | the bytes of one range |
//! | `error` | from the client's errors to those of a store |

mod absent;
mod body;
mod counts;
mod descriptions;
mod error;
mod flow;
mod link;
mod options;
mod shared;
#[cfg(test)]
mod tests;
mod trails;
mod uplink;
mod upstream;

pub use counts::Counts;
pub use options::Options;
pub use uplink::{Connect, Uplink};
pub use upstream::{Relays, Upstream};
