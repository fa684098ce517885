//! Answers requests.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};

use crate::listener::Peer;
use crate::observe::Observe;
use crate::options::Options;
use crate::stores::Stores;
use crate::timed::Phase;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Front {
    stores: Arc<dyn Stores>,
    pub(crate) options: Options,
    pub(crate) observe: Arc<dyn Observe>,
}

impl Front {
    pub(crate) fn new(stores: Arc<dyn Stores>, options: Options, observe: Arc<dyn Observe>) -> Self {
        Self { stores, options, observe }
    }

    pub(crate) async fn answer(&self, _: Request<Incoming>, _: Peer, phase: Arc<Phase>) -> Response<Full<Bytes>> {
        let names = self.stores.names().await.unwrap_or_default();
        phase.end_request();
        let mut response = Response::new(Full::new(format!("{names:?}\n").into()));
        *response.status_mut() = StatusCode::NOT_IMPLEMENTED;
        response
    }
}
