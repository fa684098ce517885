//! The state that all transfers of a relay share.

use std::sync::Arc;

use crate::caution::Caution;
use crate::lifetime::Lifetime;
use crate::metrics::RelayMetrics;
use crate::options::Options;
use crate::outbox::Outbox;
use crate::subjects::Subjects;
use crate::throttle::Throttle;

/// The state that all transfers of a relay share.
#[derive(Debug)]
pub(crate) struct Context {
    /// This host's name, for the consumers.
    pub(crate) host: String,
    pub(crate) options: Arc<Options>,
    pub(crate) subjects: Arc<Subjects>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) lifetime: Arc<Lifetime>,
    pub(crate) metrics: Arc<RelayMetrics>,
    pub(crate) throttle: Arc<Throttle>,
    pub(crate) caution: Caution,
}
