//! Connections: reuse, limits, slow clients and the server's end.

use gantry_testing::store::Fault;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::*;
use crate::Aborted;

/// Reads one response whose body has `len` bytes.
async fn read_one(connection: &mut (impl tokio::io::AsyncRead + Unpin), len: usize) -> Answer {
    let mut bytes = Vec::new();
    loop {
        let byte = tokio::time::timeout(DEADLINE, connection.read_u8()).await.unwrap().unwrap();
        bytes.push(byte);
        if bytes.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    let mut body = vec![0; len];
    connection.read_exact(&mut body).await.unwrap();
    Answer::parse(&[bytes, body].concat())
}

const KEPT: &[u8] = b"GET /models/a HTTP/1.1\r\nHost: x\r\n\r\n";

#[tokio::test]
async fn a_connection_serves_several_requests_even_after_errors() {
    let site = Site::new();
    let bytes = site.put("a", 300);
    let mut connection = site.connect();

    for _ in 0..3 {
        connection.write_all(KEPT).await.unwrap();
        assert_eq!(read_one(&mut connection, 300).await.body, bytes);
        connection.write_all(b"HEAD /models/missing HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert_eq!(read_one(&mut connection, 0).await.status, 404);
    }

    // Pipelined.
    connection.write_all(&[KEPT, KEPT].concat()).await.unwrap();
    assert_eq!(read_one(&mut connection, 300).await.body, bytes);
    assert_eq!(read_one(&mut connection, 300).await.body, bytes);
}

#[tokio::test]
async fn a_client_that_disconnects_ends_its_transfer_at_once() {
    let mut site = Site::new();
    site.put("a", 1000);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = site.server.clone();
    tokio::spawn(async move { server.serve(listener, CancellationToken::new()).await });

    // The store stalls, so only the disconnection can end the response.
    for fault in [Fault::Stall(500), Fault::Stall(0)] {
        site.store.plan([fault]);
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(KEPT).await.unwrap();
        if fault == Fault::Stall(500) {
            let mut some = [0; 16];
            connection.read_exact(&mut some).await.unwrap();
        } else {
            while site.store.opens() < 2 {
                tokio::task::yield_now().await;
            }
        }
        drop(connection);

        let report = site.report().await;
        assert_eq!(report.aborted, Some(Aborted::Client), "{fault:?}");
        assert_eq!(report.status, if fault == Fault::Stall(0) { 499 } else { 200 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_disconnected_after_the_send_timeout() {
    let mut site = Site::new();
    site.put("a", 4 << 20);
    let mut connection = site.connect();
    connection.write_all(KEPT).await.unwrap();

    let start = tokio::time::Instant::now();
    let report = tokio::time::timeout(Duration::from_secs(1000), site.reports.recv()).await.unwrap().unwrap();
    assert_eq!(report.aborted, Some(Aborted::Client));
    assert!(start.elapsed() >= Options::default().send_timeout);
    // The client's window, and the connection's own buffer.
    assert!(report.bytes < 1 << 20, "{} bytes left the store", report.bytes);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_after_the_idle_timeout() {
    let site = Site::new();
    site.put("a", 300);
    let mut connection = site.connect();
    connection.write_all(KEPT).await.unwrap();
    read_one(&mut connection, 300).await;

    let start = tokio::time::Instant::now();
    let mut rest = Vec::new();
    connection.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    let timeout = Options::default().idle_timeout;
    assert!((timeout..timeout + Duration::from_secs(2)).contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn stopping_finishes_responses_and_closes_idle_connections() {
    let site = Site::new();
    let bytes = site.put("a", 1000);
    let folder = std::env::temp_dir().join(format!("gantry-http-{}", std::process::id()));
    let listener = UnixListener::bind(&folder).unwrap();
    let stop = CancellationToken::new();
    let server = site.server.clone();
    let served = tokio::spawn({
        let stop = stop.clone();
        async move { server.serve(listener, stop).await }
    });

    let mut idle = UnixStream::connect(&folder).await.unwrap();
    idle.write_all(KEPT).await.unwrap();
    read_one(&mut idle, 1000).await;

    site.store.plan([Fault::Slow(Duration::from_secs(1))]);
    let mut busy = UnixStream::connect(&folder).await.unwrap();
    busy.write_all(KEPT).await.unwrap();
    busy.readable().await.unwrap();
    stop.cancel();

    assert!(read_to_end(&mut idle).await.is_empty());
    assert_eq!(Answer::parse(&read_to_end(&mut busy).await).body, bytes);
    tokio::time::timeout(DEADLINE, served).await.unwrap().unwrap();
    std::fs::remove_file(&folder).unwrap();
}

#[tokio::test(start_paused = true)]
async fn stopping_abandons_a_response_after_the_drain_timeout() {
    let mut site = Site::new();
    site.put("a", 1000);
    site.store.plan([Fault::Stall(500)]);
    let (mut ours, theirs) = tokio::io::duplex(1 << 16);
    let stop = CancellationToken::new();
    ours.write_all(KEPT).await.unwrap();

    let start = tokio::time::Instant::now();
    stop.cancel();
    let serve = site.server.serve_connection(Established::http1(theirs), Peer::UNIX, stop);
    tokio::join!(serve, async { drop(read_to_end_slowly(&mut ours).await) });
    assert!(start.elapsed() <= Options::default().drain_timeout);
    drop(site.reports.try_recv());
}

async fn read_to_end_slowly(connection: &mut DuplexStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    drop(connection.read_to_end(&mut bytes).await);
    bytes
}
