//! Stores: one set of tests for all of them, and tests of what only some can do.

mod azure;
mod azure_suite;
mod conformance;
mod file;
mod gcs;
mod gcs_suite;
mod memory;
mod reading;
mod s3;
mod s3_faults;
mod s3_odd;
mod s3_setups;
mod s3_tls;
mod shared;
mod written;

pub(crate) use reading::{collect, key, list_all, read};
