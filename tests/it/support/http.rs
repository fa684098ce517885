//! Single requests over HTTP or HTTPS, each over a connection of its own.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::handshake;
use hyper::header::HOST;
use hyper::rt::{Read, Write};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Sends a request to the absolute URL in it, and returns the answer.
pub(crate) async fn send(mut request: Request<Full<Bytes>>) -> Response<Bytes> {
    let url = request.uri().clone();
    let host = url.host().unwrap().to_owned();
    let is_tls = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    request.headers_mut().insert(HOST, url.authority().unwrap().as_str().parse().unwrap());
    *request.uri_mut() = url.path_and_query().unwrap().as_str().parse().unwrap();

    let stream = TcpStream::connect((host.as_str(), port)).await.unwrap();
    if !is_tls {
        return exchange(TokioIo::new(stream), request).await;
    }
    let name = ServerName::try_from(host).unwrap();
    let stream = TlsConnector::from(Arc::new(of_system())).connect(name, stream).await.unwrap();
    exchange(TokioIo::new(stream), request).await
}

async fn exchange(io: impl Read + Write + Unpin + Send + 'static, request: Request<Full<Bytes>>) -> Response<Bytes> {
    let (mut sender, connection) = handshake(io).await.unwrap();
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

/// Trusts the certificate authorities of the system.
fn of_system() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    builder.with_root_certificates(roots).with_no_client_auth()
}
