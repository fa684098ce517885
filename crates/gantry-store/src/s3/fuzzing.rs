//! Private parts of this module that fuzz targets use: an S3 server with prepared answers.

use std::cell::RefCell;
use std::collections::VecDeque;

use aws_sdk_s3::config::SharedHttpClient;
use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn};
use aws_smithy_runtime_api::client::result::ConnectorError;

/// One prepared answer.
#[derive(Clone, Debug, Default)]
pub struct Canned {
    /// The HTTP status.
    pub status: u16,
    /// Headers. Invalid ones are left out.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

thread_local! {
    static ANSWERS: RefCell<Option<VecDeque<Canned>>> = const { RefCell::new(None) };
}

/// Prepares the answers, in order, for every store that this thread connects from now on. After the last answer,
/// connections fail.
pub fn answer_with(answers: Vec<Canned>) {
    ANSWERS.with_borrow_mut(|all| *all = Some(answers.into()));
}

/// Returns a client with the prepared answers of this thread, if any.
pub(super) fn client() -> Option<SharedHttpClient> {
    ANSWERS.with_borrow(Option::is_some).then(|| http_client_fn(|_, _| SharedHttpConnector::new(Prepared)))
}

#[derive(Debug)]
struct Prepared;

impl HttpConnector for Prepared {
    fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
        let answer = ANSWERS.with_borrow_mut(|all| all.as_mut().and_then(VecDeque::pop_front));
        let Some(Canned { status, headers, body }) = answer else {
            return HttpConnectorFuture::ready(Err(ConnectorError::io("no more answers".into())));
        };
        let status = status.clamp(100, 999).try_into().map_err(|error| ConnectorError::other(Box::new(error), None));
        HttpConnectorFuture::ready(status.map(|status| {
            let mut response = HttpResponse::new(status, SdkBody::from(body));
            for (name, value) in headers {
                drop(response.headers_mut().try_append(name, value));
            }
            response
        }))
    }
}
