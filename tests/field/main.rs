//! Gantry with the S3 servers that others run, and that no other test uses (`make servers` downloads them).
//!
//! Each server runs the tests that every store must pass, and the command line.

#[cfg(test)]
mod moto;
#[cfg(test)]
mod rclone;
#[cfg(test)]
mod server;
#[cfg(test)]
mod stores;
#[cfg(test)]
#[path = "../it/support/mod.rs"]
mod support;
