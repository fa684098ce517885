//! Passes what the front reports to metrics, the access log and traces.

use gantry_bus::trace;
use gantry_http::{Finished, Observe, Peer, Rejected};
use gantry_proto::Headers;
use tracing::{Span, debug};

use super::access_log::AccessLog;
use super::metrics::FrontMetrics;

#[derive(Debug)]
pub(super) struct Observer {
    pub(super) metrics: FrontMetrics,
    pub(super) log: Option<AccessLog>,
}

impl Observe for Observer {
    fn connected(&self, _: &Peer) {
        self.metrics.connections.inc();
    }

    fn disconnected(&self, _: &Peer) {
        self.metrics.connections.dec();
    }

    fn started(&self, span: &Span, trace: &Headers) {
        trace::adopt(span, trace);
    }

    fn finished(&self, finished: &Finished) {
        self.metrics.finish(finished);
        if let Some(log) = &self.log {
            log.write(finished);
        }
    }

    fn rejected(&self, peer: &Peer, reason: Rejected) {
        self.metrics.reject(reason);
        debug!(%peer, reason = reason.name(), "closed a connection");
    }
}
