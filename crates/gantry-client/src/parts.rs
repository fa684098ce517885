//! A download taken apart, for a sink that acknowledges itself what it has written.

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::DropGuard;

use super::{Error, Progress, stated, written};
use gantry_proto::Accepted;
use gantry_proto::chunk::Chunk;
use gantry_proto::receiver::Stats;

/// A download without its reader.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) accepted: Accepted,
    pub(super) chunks: mpsc::Receiver<Chunk>,
    pub(super) written: written::Sender,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) driver: JoinHandle<Result<Stats, Error>>,
    pub(super) restated: stated::Later,
    pub(super) cancel: DropGuard,
}
