//! `gantry health`: asks a relay whether it can serve, for containers without a shell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use hyper::Uri;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::exit::{Exit, Failure};
use super::output;
use crate::config::Config;

/// How long the relay may take; less than the time that container engines give a health check.
const DEADLINE: Duration = Duration::from_secs(2);

/// More than the answer ever holds.
const ANSWER_MAX_BYTES: u64 = 64 * 1024;

/// Ask a relay whether it can serve
#[derive(Args, Clone, Debug)]
pub(super) struct Health {
    #[arg(long, value_name = "URL", help = "The page to ask [default: /readyz at `http.listen` of the configuration]")]
    url: Option<Uri>,
}

impl Health {
    pub(super) async fn run(self, config: &Config) -> Result<(), Failure> {
        let url = match (self.url, config.http.listen) {
            (Some(url), _) => url,
            (None, Some(listen)) => local(listen)?,
            (None, None) => return Err(Failure::usage("`http.listen` is off: there is no page to ask")),
        };
        let failed = |reason: String| Failure::new(Exit::Failed, reason).about(url.to_string());
        let answer = match timeout(DEADLINE, ask(&url)).await {
            Ok(answer) => answer.map_err(failed)?,
            Err(_) => return Err(failed(format!("no answer within {} s", DEADLINE.as_secs()))),
        };
        output::line(answer.body.trim_end())?;
        if answer.status == 200 { Ok(()) } else { Err(failed(format!("answers {}", answer.status))) }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    body: String,
}

async fn ask(url: &Uri) -> Result<Answer, String> {
    let host = url.host().filter(|_| url.scheme_str() == Some("http")).ok_or("is not an http:// address")?;
    let port = url.port_u16().unwrap_or(80);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let mut stream = TcpStream::connect((bare, port)).await.map_err(|error| error.to_string())?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut text = Vec::new();
    stream.take(ANSWER_MAX_BYTES).read_to_end(&mut text).await.map_err(|error| error.to_string())?;
    read(&String::from_utf8_lossy(&text)).ok_or_else(|| "does not answer as HTTP".to_owned())
}

fn read(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, body: body.to_owned() })
}

/// Returns the address at which a relay of this configuration answers on this machine.
fn local(listen: SocketAddr) -> Result<Uri, Failure> {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    let address = SocketAddr::new(ip, listen.port());
    format!("http://{address}/readyz").parse().map_err(|error| Failure::usage(format!("{address}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_to_ask_is_on_this_machine() {
        for (listen, url) in [
            ("0.0.0.0:8080", "http://127.0.0.1:8080/readyz"),
            ("[::]:81", "http://[::1]:81/readyz"),
            ("127.0.0.2:82", "http://127.0.0.2:82/readyz"),
        ] {
            assert_eq!(local(listen.parse().unwrap()).unwrap(), url);
        }
    }

    #[test]
    fn an_answer_is_read() {
        let answer = read("HTTP/1.1 503 Service Unavailable\r\na: b\r\n\r\nnot ready\n");
        assert_eq!(answer, Some(Answer { status: 503, body: "not ready\n".to_owned() }));
        assert_eq!(read("SSH-2.0-x\r\n\r\n"), None);
    }
}
