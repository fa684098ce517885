//! A small HTTP service whose answers a test decides. By default it issues tokens, as the metadata servers of Google and
//! Azure, Azure's OAuth endpoint, and Google's exchange of tokens do.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

/// An answer with the fields that any of the services sends.
const TOKEN: &str = r#"{"access_token":"token","token_type":"Bearer","expires_in":3600,"expires_on":"4102444800",
    "accessToken":"token"}"#;

/// Answers a request: its method, path, headers and body as one text, and the number of earlier requests.
type Script = Arc<dyn Fn(&str, usize) -> Response<Full<Bytes>> + Send + Sync>;

/// The server. It ends when dropped.
pub(crate) struct ServiceDouble {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    task: AbortHandle,
}

impl ServiceDouble {
    /// Starts a service that issues tokens.
    pub(crate) async fn issuing() -> Self {
        Self::refusing(200, TOKEN).await
    }

    /// Starts a service that answers all requests with this status and text.
    pub(crate) async fn refusing(status: u16, text: &'static str) -> Self {
        let answer = move |_: &str, _| {
            let answer = Response::builder().status(status).header("content-type", "application/json");
            answer.body(Full::new(Bytes::from_static(text.as_bytes()))).unwrap()
        };
        Self::scripted(answer).await
    }

    /// Starts a service that answers requests as `script` decides.
    pub(crate) async fn scripted(
        script: impl Fn(&str, usize) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::default();
        let task = tokio::spawn(accept(listener, Arc::clone(&asked), Arc::new(script)));
        Self { address, asked, task: task.abort_handle() }
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the method, path, headers and body of all requests so far, each as one text.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for ServiceDouble {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, asked: Arc<Mutex<Vec<String>>>, script: Script) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (asked, script) = (Arc::clone(&asked), Arc::clone(&script));
        let service = service_fn(move |request: Request<Incoming>| {
            let (asked, script) = (Arc::clone(&asked), Arc::clone(&script));
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let text =
                    format!("{} {} {:?} {}", head.method, head.uri, head.headers, String::from_utf8_lossy(&body));
                let mut asked = asked.lock().unwrap();
                let answer = script(&text, asked.len());
                asked.push(text);
                Ok::<_, hyper::Error>(answer)
            }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move { drop(connection.await) });
    }
}
