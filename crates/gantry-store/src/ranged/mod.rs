//! Reads any store that can read a range: retries, read-ahead, and restraint if there are many readers.
//!
//! A store implements [`Ranged`]: one request for one range, and the cures for its own failures. Everything that takes
//! several requests is in this module, and is independent of the store.

mod excerpt;
mod failure;
mod limits;
mod observed;
mod read_ahead;
mod reader;
mod retry;
mod slow_start;
mod source;

pub(crate) use excerpt::excerpt;
pub(crate) use failure::{About, Failure, Retry, about_key};
pub use limits::Limits;
pub(crate) use observed::{PROBE, observed};
pub(crate) use reader::{Reader, Response};
pub(crate) use retry::{retry, retry_within};
pub(crate) use source::Ranged;
