//! A download without its stream, for a sink that acknowledges its own writes, and what the sink then has.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::DropGuard;

use gantry_proto::Accepted;
use gantry_proto::chunk::Chunk;
use gantry_proto::receiver::Stats;

use crate::error::Error;
use crate::part::PartWriter;
use crate::progress::Progress;
use crate::{stated, written};

/// The parts of a download.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) accepted: Accepted,
    pub(crate) chunks: mpsc::Receiver<Chunk>,
    pub(crate) written: written::Sender,
    pub(crate) progress: watch::Receiver<Progress>,
    pub(crate) driver: JoinHandle<Result<Stats, Error>>,
    pub(crate) restated: stated::Later,
    pub(crate) cancel: DropGuard,
}

/// What was fetched, before it is verified.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) writer: PartWriter,
    /// The time that writing took.
    pub(crate) outcome: Result<Duration, Error>,
    pub(crate) recoveries: u64,
    pub(crate) restated: stated::Later,
}
