//! A server that issues tokens: the metadata server of Google and Azure, and Azure's OAuth endpoint.

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
const ANSWER: &str = r#"{"access_token":"token","token_type":"Bearer","expires_in":3600,"expires_on":"4102444800"}"#;

/// The server. It ends when dropped.
pub(crate) struct TokenDouble {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    task: AbortHandle,
}

impl TokenDouble {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::default();
        let task = tokio::spawn(accept(listener, Arc::clone(&asked)));
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

impl Drop for TokenDouble {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, asked: Arc<Mutex<Vec<String>>>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let asked = Arc::clone(&asked);
        let service = service_fn(move |request: Request<Incoming>| {
            let asked = Arc::clone(&asked);
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let text =
                    format!("{} {} {:?} {}", head.method, head.uri, head.headers, String::from_utf8_lossy(&body));
                asked.lock().unwrap().push(text);

                let answer = Response::builder().header("content-type", "application/json");
                Ok::<_, hyper::Error>(answer.body(Full::new(Bytes::from_static(ANSWER.as_bytes()))).unwrap())
            }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move { drop(connection.await) });
    }
}
