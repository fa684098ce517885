//! Servers that a client discovers through others: it sends them credentials over TLS only.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_bus::Bus;
use gantry_bus::nats::{self, Auth, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::bus::Tls;
use crate::support::{DEADLINE, Nats, Relay, data, until};

const PASSWORD: &str = "s3cret-word";

/// The part of nats-server's greeting that a client needs.
const GREETING: &str =
    "INFO {\"server_id\":\"X\",\"version\":\"2.10.0\",\"proto\":1,\"headers\":true,\"max_payload\":1048576}\r\n";

/// A server without TLS that records what it receives.
struct Recorder {
    port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
    connections: watch::Receiver<usize>,
}

impl Recorder {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (count, connections) = watch::channel(0);
        tokio::spawn({
            let heard = Arc::clone(&heard);
            async move {
                while let Ok((mut client, _)) = listener.accept().await {
                    count.send_modify(|count| *count += 1);
                    let heard = Arc::clone(&heard);
                    tokio::spawn(async move {
                        client.write_all(GREETING.as_bytes()).await.ok()?;
                        let mut buffer = [0; 4096];
                        loop {
                            let read = client.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
                            heard.lock().unwrap().extend_from_slice(&buffer[..read]);
                        }
                        #[expect(unreachable_code, reason = "gives the block its type")]
                        Some(())
                    });
                }
            }
        });

        Self { port, heard, connections }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned()
    }

    fn assert_heard_no_credentials(&self) {
        let text = self.text();
        assert!(!text.contains("CONNECT") && !text.contains(PASSWORD), "{text:?}");
    }
}

/// A proxy that adds another server to the greeting, as a cluster or an attacker on the network can.
struct Introducer {
    port: u16,
    is_open: watch::Sender<bool>,
    attempts: watch::Receiver<usize>,
}

impl Introducer {
    async fn between(server: &Nats, introduced: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = server.port();
        let (is_open, opened) = watch::channel(true);
        let (count, attempts) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.send_modify(|count| *count += 1);
                let introduced = introduced.clone();
                let mut opened = opened.clone();
                tokio::spawn(async move {
                    if *opened.borrow() {
                        tokio::select! {
                            _ = introduce(client, server, &introduced) => {}
                            _ = opened.wait_for(|open| !open) => {}
                        }
                    }
                });
            }
        });

        Self { port, is_open, attempts }
    }
}

async fn introduce(mut client: TcpStream, port: u16, introduced: &str) -> Option<()> {
    let mut server = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let mut greeting = Vec::new();
    while !greeting.ends_with(b"\r\n") {
        server.read_buf(&mut greeting).await.ok().filter(|read| *read > 0)?;
    }
    let greeting = String::from_utf8(greeting).unwrap();
    let greeting = greeting.replacen('{', &format!("{{\"connect_urls\":[\"{introduced}\"],"), 1);
    client.write_all(greeting.as_bytes()).await.ok()?;
    copy_bidirectional(&mut client, &mut server).await.ok().map(drop)
}

/// Stops the proxy, and returns once the client has failed to reconnect to it several times.
async fn lose(introducer: &mut Introducer) {
    introducer.is_open.send_replace(false);
    let tried = *introducer.attempts.borrow() + 3;
    timeout(DEADLINE, introducer.attempts.wait_for(|attempts| *attempts >= tried)).await.expect("attempts").unwrap();
}

/// After a failover, the user and password were once sent to a server without TLS.
#[tokio::test]
async fn credentials_are_not_sent_without_tls_to_a_discovered_server() {
    let tls = Tls::new();
    let server = tls.server("").await;
    for scheme in ["", "nats://", "ws://"] {
        let recorder = Recorder::start().await;
        let mut introducer = Introducer::between(&server, format!("{scheme}127.0.0.1:{}", recorder.port)).await;
        let options = Options {
            servers: vec![format!("tls://127.0.0.1:{}", introducer.port)],
            auth: Auth::UserPassword { user: "u".to_owned(), password: PASSWORD.to_owned() },
            tls_ca: Some(tls.ca.clone()),
            ..Options::default()
        };
        let bus = nats::connect(options).await.unwrap();
        let mut status = bus.status();

        lose(&mut introducer).await;
        introducer.is_open.send_replace(true);
        let back = timeout(DEADLINE, status.wait_for(|status| status.connected && status.epoch > 1)).await;
        back.expect("the client comes back").unwrap();

        // The client tries one address and finds that it has no TLS. It does not even try the other.
        assert_eq!(*recorder.connections.borrow() > 0, scheme != "ws://", "{scheme}");
        recorder.assert_heard_no_credentials();
    }
}

/// The address does not require TLS, but the server does. From then on, the client requires it of all servers.
#[tokio::test]
async fn tls_required_by_the_first_server_is_required_of_all() {
    let tls = Tls::new();
    let server = tls.server("").await;
    let recorder = Recorder::start().await;
    let mut introducer = Introducer::between(&server, format!("127.0.0.1:{}", recorder.port)).await;
    let probe = async_nats::ConnectOptions::new().add_root_certificates(tls.ca.clone()).connect(server.url()).await;
    let folder = data::folder();
    let relay = Relay::at(format!("nats://127.0.0.1:{}", introducer.port))
        .probe(probe.unwrap())
        .env("SSL_CERT_FILE", &tls.ca)
        .env("NATS_USER", "u")
        .env("NATS_PASSWORD", PASSWORD)
        .store("files", format!("file://{}", folder.path().display()))
        .start()
        .await;

    lose(&mut introducer).await;
    introducer.is_open.send_replace(true);
    relay.logged("connected to nats-server again").await;

    assert!(*recorder.connections.borrow() > 0, "it is tried");
    recorder.assert_heard_no_credentials();
}

/// One address with `tls://` requires TLS of all servers.
#[tokio::test]
async fn credentials_are_not_sent_without_tls_if_one_address_requires_it() {
    let recorder = Recorder::start().await;
    let tls = Tls::new();
    let server = tls.server("").await;
    let secure = server.url().replace("nats:", "tls:");
    let plain = format!("nats://127.0.0.1:{}", recorder.port);

    for _ in 0..4 {
        let options = Options {
            servers: vec![plain.clone(), secure.clone()],
            auth: Auth::UserPassword { user: "u".to_owned(), password: PASSWORD.to_owned() },
            tls_ca: Some(tls.ca.clone()),
            connect_timeout: Duration::from_secs(2),
            ..Options::default()
        };
        drop(nats::connect(Options { tls_ca: None, ..options.clone() }).await);
        // Either the plain server fails, or the client connects to the other one first.
        drop(nats::connect(options).await);
    }

    until("an attempt at the plain server", async || (*recorder.connections.borrow() > 0).then_some(())).await;
    recorder.assert_heard_no_credentials();
}
