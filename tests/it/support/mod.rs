//! Real servers, the built binary, and test data.
//!
//! Every process is started through `deploy/dev/run.py`, which ends it when the test process ends for any reason.
//! Deadlines are in real time: tests that use this module must not pause tokio's clock.
#![allow(dead_code, unused_imports, reason = "a harness offers what its tests may need")]

pub(crate) mod azure_double;
pub(crate) mod cloud_writers;
pub(crate) mod cluster;
pub(crate) mod data;
pub(crate) mod doc;
pub(crate) mod gantry;
pub(crate) mod gcs;
pub(crate) mod http;
pub(crate) mod nats;
pub(crate) mod process;
pub(crate) mod s3;
pub(crate) mod s3_double;
pub(crate) mod service_double;
pub(crate) mod site;
pub(crate) mod tls;

use std::time::Duration;

pub(crate) use cluster::NatsCluster;
pub(crate) use gantry::{Relay, gantry};
pub(crate) use nats::{Nats, NatsOptions};
pub(crate) use s3::S3;
pub(crate) use site::Site;

/// How long a server may take to become ready, or an event to occur, on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The polling interval for conditions that send no event.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// Repeats `look` until it returns a value. Panics at the deadline, naming `what` it waited for.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let search = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    match tokio::time::timeout(DEADLINE, search).await {
        Ok(found) => found,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}
