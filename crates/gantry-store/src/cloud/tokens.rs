//! Sends the requests that obtain tokens, over connections of their own.
//!
//! A store's own certificate authorities need not have issued the certificates of these services.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::{BodyExt as _, Limited};
use hyper::http::uri::Scheme;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use tokio::time::timeout;

use crate::connections::{CONNECT_TIMEOUT, Connections, Pool};
use crate::{Error, Unobserved};

/// Maximum time until an answer is complete.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);

/// Maximum length of an answer, in bytes. Tokens have a few kilobytes.
const ANSWER_MAX_BYTES: usize = 256 * 1024;

/// Connections to the services that issue tokens.
#[derive(Clone, Debug)]
pub(crate) struct Tokens {
    services: Pool<HttpRequestBody>,
    /// For metadata servers, which only this machine can reach. Their addresses are the only ones without TLS.
    metadata: Pool<HttpRequestBody>,
}

impl Tokens {
    /// # Errors
    /// [`Error::Invalid`] if there are no settings for TLS.
    pub(crate) fn new() -> Result<Self, Error> {
        let connections = Connections::new(None, &(Arc::new(Unobserved) as _))?;
        let metadata = connections.without_proxies().pool(CONNECT_TIMEOUT);
        Ok(Self { services: connections.pool(CONNECT_TIMEOUT), metadata })
    }
}

impl Tokens {
    async fn answer(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_metadata = request.uri().scheme() == Some(&Scheme::HTTP);
        let pool = if is_metadata { &self.metadata } else { &self.services };
        let answer = pool.send(request).await.map_err(|error| HttpError::new(HttpErrorKind::Connect, error))?;
        let (head, body) = answer.into_parts();

        let cut = |error| HttpError::new_boxed(HttpErrorKind::Interrupted, error);
        let body = Limited::new(body, ANSWER_MAX_BYTES).collect().await.map_err(cut)?.to_bytes();
        Ok(HttpResponse::from_parts(head, HttpResponseBody::from(body)))
    }
}

impl HttpConnector for Tokens {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Tokens {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let late = |error| HttpError::new(HttpErrorKind::Timeout, error);
        timeout(ANSWER_TIMEOUT, self.answer(request)).await.map_err(late)?
    }
}
