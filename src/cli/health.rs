//! `gantry health`: asks a relay whether it is ready, for containers without a shell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::exit::{Exit, Failure};
use super::output;
use crate::config::Config;

/// The time limit for the answer. It is shorter than what container engines allow a health check.
const DEADLINE: Duration = Duration::from_secs(2);

/// The size limit of an answer. The relay's own answers are far smaller.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// The page to request if an address has no path.
const PAGE: &str = "/readyz";

/// Ask a relay whether it is ready
#[derive(Args, Clone, Debug)]
pub(super) struct Health {
    #[arg(
        long,
        value_name = "URL",
        value_parser = page,
        help = "Page to ask, or HOST:PORT for its /readyz [default: /readyz at `http.listen` of the configuration]"
    )]
    url: Option<Uri>,
}

impl Health {
    pub(super) async fn run(self, config: &Config) -> Result<(), Failure> {
        let url = match (self.url, config.http.listen) {
            (Some(url), _) => url,
            (None, Some(listen)) => local(listen)?,
            (None, None) => return Err(Failure::usage("`http.listen` is off, so there is no page to ask: use --url")),
        };

        let failed = |reason: String| Failure::new(Exit::Failed, reason).about(url.to_string());
        let answer = match timeout(DEADLINE, ask(&url)).await {
            Ok(answer) => answer.map_err(failed)?,
            Err(_) => return Err(failed(format!("no answer within {} s", DEADLINE.as_secs()))),
        };

        output::line(answer.body.trim_end())?;
        if answer.status == StatusCode::OK {
            Ok(())
        } else {
            Err(failed(format!("answers {}", answer.status.as_u16())))
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: StatusCode,
    body: String,
}

/// Parses the value of `--url`: an `http://` address or `HOST:PORT`. Without a path, the page is [`PAGE`].
fn page(text: &str) -> Result<Uri, String> {
    let form = "must be an http:// address or HOST:PORT";
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url: Uri = url.parse().map_err(|error| format!("{error}: {form}"))?;
    if url.scheme_str() != Some("http") || url.host().is_none_or(str::is_empty) {
        return Err(form.to_owned());
    }

    let has_path = url.path() != "/" || url.query().is_some();
    match url.authority() {
        Some(authority) if !has_path => {
            format!("http://{authority}{PAGE}").parse().map_err(|error| format!("{error}: {form}"))
        }
        _ => Ok(url),
    }
}

async fn ask(url: &Uri) -> Result<Answer, String> {
    let host = url.host().ok_or("names no host")?;
    let port = url.port_u16().unwrap_or(80);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((bare, port)).await;
    let stream = stream.map_err(|error| format!("{error}: start the relay, or correct the address"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;

    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header(HOST, format!("{host}:{port}")).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
    };

    // This future drives the connection. It may end before the answer has been read, but the answer does not fail then.
    let driven = async {
        drop(connection.await);
        std::future::pending().await
    };
    tokio::select! {
        answer = exchange => answer,
        never = driven => never,
    }
}

/// Returns the address at which a relay with this configuration answers on this machine.
fn local(listen: SocketAddr) -> Result<Uri, Failure> {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    let address = SocketAddr::new(ip, listen.port());
    format!("http://{address}{PAGE}").parse().map_err(|error| Failure::usage(format!("{address}: {error}")))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn the_default_page_is_on_this_machine() {
        for (listen, url) in [
            ("0.0.0.0:8080", "http://127.0.0.1:8080/readyz"),
            ("[::]:81", "http://[::1]:81/readyz"),
            ("127.0.0.2:82", "http://127.0.0.2:82/readyz"),
        ] {
            assert_eq!(local(listen.parse().unwrap()).unwrap(), url);
        }
    }

    #[test]
    fn an_address_without_a_path_means_readyz() {
        for (text, url) in [
            ("127.0.0.1:8080", "http://127.0.0.1:8080/readyz"),
            ("relay:8080", "http://relay:8080/readyz"),
            ("[::1]:8080", "http://[::1]:8080/readyz"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/readyz"),
            ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/readyz"),
            ("relay:8080/livez", "http://relay:8080/livez"),
            ("http://relay/livez", "http://relay/livez"),
        ] {
            assert_eq!(page(text).unwrap(), url, "{text}");
        }
        for text in ["https://relay/readyz", "", "http://", "a b", "/readyz"] {
            assert!(page(text).is_err(), "{text}");
        }
    }

    /// Answers one request with `text`.
    async fn answer(text: &'static str) -> Result<Answer, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = page(&listener.local_addr().unwrap().to_string()).unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(text.as_bytes()).await.unwrap();
        };
        tokio::join!(server, ask(&url)).1
    }

    /// A proxy may send the body in chunks.
    #[tokio::test]
    async fn status_and_body_are_read() {
        for text in [
            "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\r\nnot ready\n",
            "HTTP/1.1 503 Service Unavailable\r\ntransfer-encoding: chunked\r\n\r\na\r\nnot ready\n\r\n0\r\n\r\n",
        ] {
            let answer = answer(text).await.unwrap();
            assert_eq!((answer.status.as_u16(), answer.body.as_str()), (503, "not ready\n"));
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_not_http_is_an_error() {
        assert!(answer("SSH-2.0-x\r\n\r\n").await.is_err());
    }
}
