//! A small HTTP listener for the operator: `/livez`, `/readyz` and `/metrics`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::relay::Readiness;

/// How many connections are served at once; the next one waits.
const CONNECTIONS_MAX: usize = 64;

/// How long a client may take for its request's headers.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(5);

/// What Prometheus wants to be told the format is.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the listener tells.
#[derive(Clone, Debug)]
pub struct Pages {
    /// The metrics.
    pub registry: Arc<Registry>,
    /// Whether the relay can serve.
    pub readiness: watch::Receiver<Readiness>,
}

/// Binds the listener.
///
/// # Errors
/// When the address can't be had.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Answers until `stop`.
pub async fn serve(listener: TcpListener, pages: Pages, stop: CancellationToken) {
    let connections = TaskTracker::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (pages, stop) = (pages.clone(), stop.clone());
                connections.spawn(async move {
                    tokio::select! {
                        () = serve_connection(stream, pages) => {}
                        () = stop.cancelled() => {}
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                debug!(%error, "can't accept a connection");
                // Out of file descriptors, most likely: trying at once would only spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

async fn serve_connection(stream: TcpStream, pages: Pages) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = pages.answer(request.method(), request.uri().path());
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "a connection failed");
    }
}

impl Pages {
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            return page(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET and HEAD\n".to_owned());
        }
        match path {
            "/livez" => page(StatusCode::OK, "text/plain", "alive\n".to_owned()),
            "/readyz" => {
                let readiness = self.readiness.borrow().clone();
                let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                page(status, "text/plain", format!("{readiness}\n"))
            }
            "/metrics" => self.metrics(),
            _ => page(StatusCode::NOT_FOUND, "text/plain", "/livez, /readyz or /metrics\n".to_owned()),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => page(StatusCode::OK, OPEN_METRICS, text),
            Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
        }
    }
}

fn page(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}
