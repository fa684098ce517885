//! The operator's HTTP pages: `/livez`, `/readyz`, `/metrics`, and for a relay `/transfers`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
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
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use gantry_http::{Established, Listener, accept_until};
use gantry_relay::{ActiveTransfers, Readiness};

/// The number of connections served at once. Further ones wait.
const CONNECTIONS_MAX: usize = 256;

/// The time limit for a request's headers. It is shorter than the timeout of a probe, so that silent clients can't make a
/// relay look dead.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(1);

/// The content type of `/metrics`. Source: the `OpenMetrics` specification, "Protocol Negotiation".
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The contents of the pages.
#[derive(Clone, Debug)]
pub struct Pages {
    /// The metrics.
    pub registry: Arc<Registry>,
    /// Whether the process can serve.
    pub readiness: Ready,
    /// The transfers in progress, once the relay has started. A process without a relay has no such page.
    pub transfers: Option<Arc<OnceLock<ActiveTransfers>>>,
}

/// Whether the process can serve.
#[derive(Clone, Debug)]
pub enum Ready {
    /// The readiness of a relay.
    Relay(watch::Receiver<Readiness>),
    /// The connection of a gateway, once there is one.
    Gateway(watch::Receiver<bool>),
}

impl Ready {
    /// Returns whether the process can serve, and the text of the page.
    fn now(&self) -> (bool, String) {
        match self {
            Self::Relay(readiness) => {
                let readiness = readiness.borrow();
                (readiness.is_ready(), format!("{}\n", *readiness))
            }
            Self::Gateway(connected) if *connected.borrow() => (true, "ready\nnats: connected\n".to_owned()),
            Self::Gateway(_) => (false, "not ready\nnats: not connected\n".to_owned()),
        }
    }
}

/// Binds the listener.
///
/// # Errors
/// If the address is in use, or can't be bound.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Answers requests until `stop` is cancelled.
pub async fn serve(mut listener: TcpListener, pages: Pages, stop: CancellationToken) {
    let connections = TaskTracker::new();
    let serve = |handshake: <TcpListener as Listener>::Handshake, _| {
        let (pages, stop) = (pages.clone(), stop.clone());
        async move {
            let Ok(Established { io, .. }) = handshake.await else { return };
            tokio::select! {
                () = serve_connection(io, pages) => {}
                () = stop.cancelled() => {}
            }
        }
    };
    accept_until(&stop, &mut listener, CONNECTIONS_MAX, &connections, serve).await;

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
        // An idle connection would keep other clients waiting.
        .keep_alive(false)
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
            return page(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET and HEAD are supported\n".to_owned());
        }

        match path {
            "/livez" => page(StatusCode::OK, "text/plain", "alive\n".to_owned()),
            "/readyz" => {
                let (is_ready, text) = self.readiness.now();
                let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                page(status, "text/plain", text)
            }
            "/metrics" => self.metrics(),
            _ => match (&self.transfers, path) {
                (Some(transfers), "/transfers") => active(transfers),
                (Some(_), _) => missing("no such page: try /livez, /readyz, /metrics or /transfers\n"),
                (None, _) => missing("no such page: try /livez, /readyz or /metrics\n"),
            },
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

/// Returns one JSON object per line, so that the page suits `jq` and `grep`.
fn active(transfers: &OnceLock<ActiveTransfers>) -> Response<Full<Bytes>> {
    let transfers = transfers.get().map(ActiveTransfers::list).unwrap_or_default();
    let lines = transfers.iter().filter_map(|transfer| serde_json::to_string(transfer).ok());
    let text = lines.fold(String::new(), |text, line| text + &line + "\n");
    page(StatusCode::OK, "application/x-ndjson", text)
}

fn missing(text: &str) -> Response<Full<Bytes>> {
    page(StatusCode::NOT_FOUND, "text/plain", text.to_owned())
}

fn page(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    struct Listening {
        address: SocketAddr,
        readiness: watch::Sender<Readiness>,
        stop: CancellationToken,
        served: tokio::task::JoinHandle<()>,
    }

    async fn listen() -> Listening {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut registry = Registry::default();
        registry.register("things", "Things", Counter::<u64>::default());
        let readiness = watch::Sender::new(Readiness::default());
        let pages = Pages {
            registry: Arc::new(registry),
            readiness: Ready::Relay(readiness.subscribe()),
            transfers: Some(Arc::default()),
        };
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(listener, pages, stop.clone()));
        Listening { address, readiness, stop, served }
    }

    impl Listening {
        async fn ask(&self, request: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }

        async fn status(&self, request: &str) -> String {
            self.ask(request).await.split(' ').nth(1).unwrap().to_owned()
        }
    }

    fn ready() -> Readiness {
        let stores = [("a".parse().unwrap(), None), ("b".parse().unwrap(), Some("is away".to_owned()))];
        Readiness { connected: true, data_connected: true, stores: stores.into(), ..Readiness::default() }
    }

    #[tokio::test]
    async fn pages_have_status_and_content_type() {
        let listening = listen().await;
        assert_eq!(listening.status("GET /livez").await, "200");
        assert_eq!(listening.status("HEAD /livez").await, "200");
        assert_eq!(listening.status("POST /livez").await, "405");
        assert_eq!(listening.status("GET /").await, "404");
        let metrics = listening.ask("GET /metrics").await;
        assert!(metrics.contains("openmetrics-text") && metrics.ends_with("things_total 0\n# EOF\n"), "{metrics}");
    }

    #[tokio::test]
    async fn readyz_reports_current_readiness() {
        let listening = listen().await;
        assert_eq!(listening.status("GET /readyz").await, "503");
        listening.readiness.send_replace(ready());
        let answer = listening.ask("GET /readyz").await;
        assert!(answer.contains(" 200 ") && answer.ends_with("store a: ok\nstore b: is away\n"), "{answer}");
        for unready in [
            Readiness { connected: false, ..ready() },
            Readiness { data_connected: false, ..ready() },
            Readiness { draining: true, ..ready() },
            Readiness { denied: ["x".to_owned()].into(), ..ready() },
            Readiness { stores: [("b".parse().unwrap(), Some("is away".to_owned()))].into(), ..ready() },
        ] {
            listening.readiness.send_replace(unready.clone());
            assert_eq!(listening.status("GET /readyz").await, "503", "{unready:?}");
        }
    }

    #[tokio::test]
    async fn silent_clients_do_not_delay_a_probe() {
        let listening = listen().await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX + 20 {
            silent.push(TcpStream::connect(listening.address).await.unwrap());
        }
        let probe = listening.status("GET /livez");
        // The timeout of `gantry health`.
        assert_eq!(tokio::time::timeout(Duration::from_secs(2), probe).await.unwrap(), "200");
    }

    #[tokio::test]
    async fn stopping_disconnects_silent_clients() {
        let listening = listen().await;
        let mut silent = TcpStream::connect(listening.address).await.unwrap();
        assert_eq!(listening.status("GET /livez").await, "200");
        listening.stop.cancel();
        listening.served.await.unwrap();
        assert_eq!(silent.read(&mut [0]).await.unwrap_or(0), 0);
    }
}
