//! What all stores of one connection share.

use std::sync::Arc;

use gantry_client::Client;

use crate::absent::Absent;
use crate::counts::Counting;
use crate::descriptions::Descriptions;
use crate::link::Link;
use crate::options::Options;
use crate::trails::Trails;

/// The clients, the kept descriptions, and the places of read-ahead.
pub(crate) struct Shared {
    pub(crate) client: Client,
    /// For transfers that read ahead. It has windows of its own, so that waiting transfers take nothing from the others.
    pub(crate) ahead: Client,
    pub(crate) link: Link,
    pub(crate) options: Options,
    pub(crate) counting: Arc<Counting>,
    pub(crate) descriptions: Arc<Descriptions>,
    pub(crate) absent: Absent,
    pub(crate) trails: Arc<Trails>,
}
