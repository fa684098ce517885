//! The consumer on links that are slow.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::support::site::FILES;
use crate::support::{Nats, Site, data};

/// A link to nats-server that carries so many bytes per second to the client, however many connections share it.
struct SlowLink {
    port: u16,
    task: JoinHandle<()>,
}

impl SlowLink {
    async fn to(nats: &Nats, bytes_per_s: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, server) = (listener.local_addr().unwrap().port(), nats.port());
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(carry(client, server, bytes_per_s));
            }
        });
        Self { port, task }
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(client: TcpStream, server: u16, bytes_per_s: u32) {
    let socket = TcpSocket::new_v4().unwrap();
    // What the kernel holds is nothing that the link has carried.
    socket.set_recv_buffer_size(32 * 1024).unwrap();
    let server = socket.connect(([127, 0, 0, 1], server).into()).await.unwrap();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut from_client, mut to_client) = client.into_split();
    let up = copy(&mut from_client, &mut to_server);
    let down = async {
        let mut buffer = vec![0; 4096];
        let mut free_at = Instant::now();
        loop {
            let count = from_server.read(&mut buffer).await?;
            if count == 0 {
                return Ok::<_, std::io::Error>(());
            }
            free_at =
                free_at.max(Instant::now()) + Duration::from_secs(1) * u32::try_from(count).unwrap() / bytes_per_s;
            tokio::time::sleep_until(free_at).await;
            to_client.write_all(&buffer[..count]).await?;
        }
    };
    // Either end may close first.
    tokio::select! {
        ended = up => drop(ended),
        ended = down => drop(ended),
    }
}

#[tokio::test]
async fn a_chunk_that_took_longer_than_the_stall_timeout_never_arrived() {
    let site = Site::start().await;
    let body = data::random_bytes(1, 1 << 20);
    std::fs::write(site.files().join("key"), &body).unwrap();
    let link = SlowLink::to(&site.nats, 100 * 1024).await;

    let get = site.get(FILES, "key", "file").arg("--json").env("NATS_URL", link.url());
    let json = get.run().await.expect_code(0).json();

    assert_eq!(json["recoveries"], 0, "{json}");
    assert!(json["elapsed_ms"].as_u64().unwrap() > 9000, "the link was not slow: {json}");
    assert!(site.downloaded("file") == body, "the file differs");
}

#[tokio::test]
async fn a_window_that_grew_whatever_the_rate_made_nats_server_drop_the_consumer() {
    let site = Site::start().await;
    let body = data::random_bytes(1, 24 << 20);
    std::fs::write(site.files().join("key"), &body).unwrap();
    let link = SlowLink::to(&site.nats, 1536 * 1024).await;

    let get = site.get(FILES, "key", "file").arg("--json").env("NATS_URL", link.url());
    let json = get.run().await.expect_code(0).json();

    assert_eq!(json["recoveries"], 0, "{json}\n{}", site.nats.log());
    assert!(json["elapsed_ms"].as_u64().unwrap() > 12_000, "the link was not slow: {json}");
    assert!(site.downloaded("file") == body, "the file differs");
}
