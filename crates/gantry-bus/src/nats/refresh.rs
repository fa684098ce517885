//! Keeps the list of a cluster's members up to date while a connection lasts.
//!
//! nats-server reports changes to its clients, but async-nats reads the members only once, when it connects. If all
//! nodes were replaced one by one, the list would contain only servers that no longer exist. A new connection always
//! begins with the current list.

use std::sync::Weak;
use std::time::Duration;

use async_nats::{ServerAddr, ServerInfo};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::inner::Inner;

/// How often the members are looked up.
const INTERVAL: Duration = Duration::from_secs(60);

/// The time limit for nats-server's greeting.
const GREETING_LIMIT: Duration = Duration::from_secs(5);

/// The size limit of a greeting, in bytes. It can name several hundred members.
const GREETING_MAX_BYTES: u64 = 64 * 1024;

/// Looks up the members at intervals, while the current connection and the bus exist.
pub(super) async fn at_intervals(inner: &Weak<Inner>) {
    loop {
        sleep(INTERVAL).await;
        let Some((addr, has_greeting)) = inner.upgrade().map(|inner| {
            let addr = inner.link().addr.clone();
            let has_greeting = !inner.options.tls_first && !addr.is_websocket();
            (addr, has_greeting && !inner.options.ignore_discovered_servers)
        }) else {
            // The connection ends soon, and then this future is dropped.
            continue;
        };

        if has_greeting
            && let Some(info) = greeting(&addr).await
            && let Some(inner) = inner.upgrade()
        {
            inner.shared.discover(&addr, &info.connect_urls);
        }
    }
}

/// Reads the server's greeting, which it sends on every new connection.
async fn greeting(addr: &ServerAddr) -> Option<ServerInfo> {
    let read = async {
        let stream = TcpStream::connect((addr.host(), addr.port())).await.ok()?;
        let mut line = String::new();
        BufReader::new(stream.take(GREETING_MAX_BYTES)).read_line(&mut line).await.ok()?;
        serde_json::from_str(line.strip_prefix("INFO ")?.trim_end()).ok()
    };
    timeout(GREETING_LIMIT, read).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn reads_the_members_from_a_greeting() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr: ServerAddr = listener.local_addr().unwrap().to_string().parse().unwrap();
        let serve = async {
            for greeting in ["INFO {\"connect_urls\":[\"10.0.0.1:4222\"]}\r\n", "HTTP/1.1 400\r\n"] {
                let (mut client, _) = listener.accept().await.unwrap();
                client.write_all(greeting.as_bytes()).await.unwrap();
            }
        };

        let (members, other, ()) = tokio::join!(greeting(&addr), async { greeting(&addr).await }, serve);

        let found: Vec<_> = [members, other].into_iter().flatten().map(|info| info.connect_urls).collect();
        assert_eq!(found, [["10.0.0.1:4222"]]);
    }
}
