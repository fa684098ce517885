//! The tests that every store must pass, from the integration tests.

#[path = "../it/stores/conformance.rs"]
pub(crate) mod conformance;
#[path = "../it/stores/reading.rs"]
mod reading;

pub(crate) use reading::{collect, key, list_all, read};
