//! The long part of the field suite: S3 servers that take a while to get and to start (`make test-field-long`).
//!
//! It is not part of `cargo test`.

#[cfg(test)]
mod radosgw;
#[cfg(test)]
#[path = "../field/server.rs"]
mod server;
#[cfg(test)]
#[path = "../field/stores.rs"]
mod stores;
#[cfg(test)]
#[path = "../it/support/mod.rs"]
mod support;
#[cfg(test)]
mod swift;
