//! HTTP/2: streams beside each other, their ends, and their limits.

use gantry_proto::ObjectInfo;
use gantry_testing::store::Fault;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::{self, Connection, SendRequest};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::*;
use crate::Aborted;
use crate::sign::tests::presigned;

/// Larger than what a stream's window and its buffer in the server hold.
const LARGE: usize = 1 << 20;

/// The default size of a stream's window of a client, in bytes.
const WINDOW: u32 = 65_535;

type Requests = SendRequest<Empty<Bytes>>;
type Driver = Connection<TokioIo<DuplexStream>, Empty<Bytes>, TokioExecutor>;

impl Site {
    /// Begins to serve HTTP/2 on a connection.
    fn serve_http2(&self, stop: CancellationToken) -> (DuplexStream, JoinHandle<()>) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let server = self.server.clone();
        let established = Established { io: theirs, protocol: Protocol::Http2 };
        let served = tokio::spawn(async move { server.serve_connection(established, Peer::UNIX, stop).await });
        (ours, served)
    }

    /// Opens a connection with this window of each stream. Its own window holds those of all streams.
    async fn connect_http2(&self, window: u32) -> Requests {
        let (ours, _) = self.serve_http2(CancellationToken::new());
        let (requests, driver) = handshake(ours, window).await;
        tokio::spawn(driver);
        requests
    }
}

/// The beginning of a connection: the preface, and empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn raw_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A frame HEADERS that ends its stream: `GET https://x{path}`.
fn raw_request(stream: u32, path: &str) -> Vec<u8> {
    // Two entries of HPACK's static table, and two literals with names from it.
    let mut head = vec![0x82, 0x87, 0x01, 1, b'x', 0x04, u8::try_from(path.len()).unwrap()];
    head.extend_from_slice(path.as_bytes());
    raw_frame(1, 5, stream, &head)
}

async fn handshake(io: DuplexStream, window: u32) -> (Requests, Driver) {
    let mut client = http2::Builder::new(TokioExecutor::new());
    client.initial_stream_window_size(window).initial_connection_window_size(64 << 20);
    client.handshake(TokioIo::new(io)).await.unwrap()
}

fn get(target: &str) -> Request<Empty<Bytes>> {
    request_of(Method::GET, target, &[])
}

fn request_of(method: Method, target: &str, headers: &[(&str, &str)]) -> Request<Empty<Bytes>> {
    let mut request = Request::builder().method(method).uri(format!("https://localhost:9000{target}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Empty::new()).unwrap()
}

async fn send(requests: &mut Requests, request: Request<Empty<Bytes>>) -> Response<Incoming> {
    timeout(DEADLINE, requests.send_request(request)).await.unwrap().unwrap()
}

/// Reads a response's body; `None` if it ends with an error.
async fn read(response: Response<Incoming>) -> Option<Vec<u8>> {
    let body = timeout(DEADLINE, response.into_body().collect()).await.unwrap();
    body.ok().map(|body| body.to_bytes().to_vec())
}

async fn status(requests: &mut Requests, request: Request<Empty<Bytes>>) -> StatusCode {
    send(requests, request).await.status()
}

#[tokio::test]
async fn objects_and_ranges_are_served() {
    let mut site = Site::new();
    let bytes = site.put("a", LARGE);
    let mut requests = site.connect_http2(WINDOW).await;

    let whole = send(&mut requests, get("/models/a")).await;
    assert_eq!((whole.status(), whole.version()), (StatusCode::OK, hyper::Version::HTTP_2));
    assert_eq!(whole.headers()["content-length"], LARGE.to_string().as_str());
    assert_eq!(read(whole).await.unwrap(), bytes);

    let report = site.report().await;
    assert_eq!((report.version, report.bytes, report.aborted), ("HTTP/2.0", LARGE as u64, None));
    assert!(report.proof.is_some());
    assert_eq!(report.target, "/models/a");

    let part = send(&mut requests, request_of(Method::GET, "/models/a", &[("range", "bytes=70000-199999")])).await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(read(part).await.unwrap(), bytes[70_000..200_000]);

    let several = request_of(Method::GET, "/models/a", &[("range", "bytes=0-9,100000-100009")]);
    let several = send(&mut requests, several).await;
    let len: usize = several.headers()["content-length"].to_str().unwrap().parse().unwrap();
    assert_eq!(read(several).await.unwrap().len(), len);

    let head = send(&mut requests, request_of(Method::HEAD, "/models/a", &[])).await;
    assert_eq!(head.headers()["content-length"], LARGE.to_string().as_str());
    assert!(read(head).await.unwrap().is_empty());

    site.put("empty", 0);
    assert!(read(send(&mut requests, get("/models/empty")).await).await.unwrap().is_empty());
    assert_eq!(status(&mut requests, get("/models/missing")).await, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_client_that_accepts_trailers_gets_the_proof_as_one_over_http2() {
    let site = Site::new();
    let bytes = site.put("a", LARGE);
    let mut requests = site.connect_http2(WINDOW).await;

    let answer = send(&mut requests, request_of(Method::GET, "/models/a", &[("te", "trailers")])).await;
    // Unlike HTTP/1.1, it has trailers beside a length.
    assert_eq!(answer.headers()["content-length"], LARGE.to_string());
    assert_eq!(answer.headers()["trailer"], "Gantry-Proof");
    let body = answer.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["gantry-proof"], "full-object;algorithm=CRC64NVME");
    assert_eq!(body.to_bytes(), bytes);

    let head = send(&mut requests, request_of(Method::HEAD, "/models/a", &[("te", "trailers")])).await;
    assert_eq!(head.headers()["content-length"], LARGE.to_string());
}

#[tokio::test]
async fn streams_are_served_at_the_same_time_up_to_32() {
    let mut site = Site::new();
    let bytes = site.put("a", 200_000);
    site.store.plan([Fault::Stall(100_000); 32]);
    let mut requests = site.connect_http2(1 << 20).await;

    // All of them have a response while none is complete.
    let mut stalled = Vec::new();
    for _ in 0..32 {
        stalled.push(send(&mut requests, get("/models/a")).await);
    }
    assert_eq!(site.store.opens(), 32);

    // A further one waits until another ends.
    let mut further = std::pin::pin!(requests.send_request(get("/models/a")));
    let others = async {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! { _ = &mut further => panic!("there are only 32 streams"), () = others => {} }
    assert_eq!(site.store.opens(), 32);
    drop(stalled.pop());
    assert_eq!(site.report().await.aborted, Some(Aborted::Client));
    let further = timeout(DEADLINE, further).await.unwrap().unwrap();
    assert_eq!(read(further).await.unwrap(), bytes);
}

#[tokio::test]
async fn parallel_streams_have_the_right_bytes() {
    let site = Site::new();
    let objects: Vec<_> = (0..32).map(|at| site.put(&format!("a{at}"), 100_000 + at)).collect();
    let requests = site.connect_http2(WINDOW).await;

    let downloads = (0..32).map(|at| {
        let mut requests = requests.clone();
        async move { read(send(&mut requests, get(&format!("/models/a{at}"))).await).await.unwrap() }
    });
    assert_eq!(futures_util::future::join_all(downloads).await, objects);
}

#[tokio::test]
async fn a_slow_reader_does_not_delay_another_stream() {
    let mut site = Site::new();
    let bytes = site.put("a", LARGE);
    let mut requests = site.connect_http2(WINDOW).await;

    let slow = send(&mut requests, get("/models/a")).await;
    for _ in 0..3 {
        assert_eq!(read(send(&mut requests, get("/models/a")).await).await.unwrap(), bytes);
        assert_eq!(site.report().await.aborted, None);
    }
    assert_eq!(read(slow).await.unwrap(), bytes);
}

#[tokio::test]
async fn wrong_bytes_end_a_stream_with_an_error_and_no_other() {
    let mut site = Site::new();
    let bytes = site.put("a", 1000);
    let mut requests = site.connect_http2(WINDOW).await;

    for (fault, reason) in [
        (Fault::Flip(0), Aborted::Mismatch),
        (Fault::Flip(999), Aborted::Mismatch),
        (Fault::Short(1), Aborted::Mismatch),
        (Fault::Long(1), Aborted::Mismatch),
        (Fault::Break(999), Aborted::Store),
        (Fault::Change(500), Aborted::Changed),
    ] {
        for headers in [&[][..], &[("te", "trailers")], &[("range", "bytes=0-")]] {
            site.store.plan([fault]);
            let request = request_of(Method::GET, "/models/a", headers);
            // The reset discards what was not sent yet, even the response's head.
            if let Ok(broken) = timeout(DEADLINE, requests.send_request(request)).await.unwrap() {
                assert_eq!(read(broken).await, None, "{fault:?} {headers:?}");
            }
            assert_eq!(site.report().await.aborted, Some(reason), "{fault:?}");
        }
    }
    assert_eq!(
        read(send(&mut requests, get("/models/a")).await).await.unwrap(),
        bytes,
        "the connection is still usable"
    );
}

#[tokio::test]
async fn the_authority_is_the_host() {
    let options = Options { s3_domain: Some("example.com".to_owned()), ..Options::default() };
    let site = Site::with(options);
    site.put("a", 10);
    let mut requests = site.connect_http2(WINDOW).await;
    let request = |uri: &str, host: Option<&str>| {
        let request = host.into_iter().fold(Request::get(uri), |request, host| request.header("host", host));
        request.body(Empty::new()).unwrap()
    };

    for (uri, host, expected) in [
        ("https://x/models/a", None, 200),
        ("https://models.example.com/a", None, 200),
        ("https://x/models/a", Some("x"), 200),
        ("https://x/models/a", Some("X:443"), 200),
        ("https://x:9000/models/a", Some("x:9000"), 200),
        // Without an authority, as proxies of HTTP/1 requests send them.
        ("/models/a", Some("x"), 200),
        ("/a", Some("models.example.com"), 200),
        ("/models/a", None, 400),
        ("https://x/models/a", Some("y"), 400),
        ("https://x/models/a", Some("x:444"), 400),
        ("https://x/models/a", Some(""), 400),
        ("https://x/models/a", Some("a@x"), 400),
        ("https://a@x/models/a", None, 400),
    ] {
        let got = status(&mut requests, request(uri, host)).await;
        assert_eq!(got, expected, "{uri} {host:?}");
    }

    let mut two = request("https://x/models/a", Some("x"));
    two.headers_mut().append("host", "x".parse().unwrap());
    assert_eq!(status(&mut requests, two).await, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_signature_covers_the_authority() {
    let keys = [("AKIAIOSFODNN7EXAMPLE".to_owned(), crate::Secret::new("secret"))].into();
    let site = Site::with(Options { keys, ..Options::default() });
    site.put("a", 10);
    let mut requests = site.connect_http2(WINDOW).await;

    let signed = presigned("/models/a", "localhost:9000", "AKIAIOSFODNN7EXAMPLE", "secret");
    assert_eq!(status(&mut requests, get(&signed)).await, StatusCode::OK);

    let of_another_host = presigned("/models/a", "other", "AKIAIOSFODNN7EXAMPLE", "secret");
    assert_eq!(status(&mut requests, get(&of_another_host)).await, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn hostile_requests_of_http2_have_their_status_and_reach_no_store() {
    let site = Site::new();
    site.put("a", 10);
    let mut requests = site.connect_http2(WINDOW).await;

    for (method, target, expected) in [
        (Method::PUT, "/models/a", 405),
        (Method::GET, "/models/../a", 400),
        (Method::GET, "/models/%", 400),
        (Method::GET, "/models/a?acl", 501),
        (Method::OPTIONS, "/models/a", 204),
    ] {
        let answer = send(&mut requests, request_of(method, target, &[])).await;
        assert_eq!(answer.status(), expected, "{target}");
        assert!(!answer.headers().contains_key("connection"), "{target}");
        assert!(!answer.headers().contains_key("transfer-encoding"), "{target}");
    }

    let tunnel = Request::connect("example.com:443").body(Empty::new()).unwrap();
    assert_eq!(status(&mut requests, tunnel).await, StatusCode::BAD_REQUEST);

    let mut many = get("/models/a");
    for _ in 0..200 {
        many.headers_mut().append("x-many", "a".parse().unwrap());
    }
    assert_eq!(status(&mut requests, many).await, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let length = request_of(Method::GET, "/models/a", &[("content-length", "5")]);
    assert!(requests.send_request(length).await.map_or(true, |answer| answer.status() == StatusCode::BAD_REQUEST));

    assert_eq!(site.stores.lookups.load(Ordering::Relaxed), 0);
    assert_eq!(site.store.opens(), 0);
    assert_eq!(status(&mut requests, get("/models/a")).await, StatusCode::OK, "the connection still works");
}

#[tokio::test]
async fn a_large_head_is_refused_over_http2() {
    let site = Site::new();
    let mut requests = site.connect_http2(WINDOW).await;

    // The client knows the limit from the server's settings once the first response is there. It is that of HTTP/1.
    let permitted = "a".repeat(20 << 10);
    let permitted = request_of(Method::GET, "/models/missing", &[("x-large", &permitted)]);
    assert_eq!(status(&mut requests, permitted).await, StatusCode::NOT_FOUND);
    let large = "a".repeat(64 << 10);
    let refused = requests.send_request(request_of(Method::GET, "/models/a", &[("x-large", &large)])).await;
    assert!(refused.map_or(true, |answer| answer.status() == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    assert_eq!(site.stores.lookups.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_takes_nothing_is_reset_while_another_goes_on() {
    // The second object is one piece of its store, and leaves it although the client takes only a part.
    for (target, window) in [("/models/stalled", WINDOW), ("/shelf/stalled", 2000)] {
        let mut shelf = shelf::Shelf::default();
        shelf.put(ObjectInfo::new("stalled".parse().unwrap(), 10_000, "\"1\"".to_owned()), &[7; 10_000]);
        let mut site = Site::serving(Options::default(), Arc::new(shelf));
        site.put("stalled", LARGE);
        let bytes = site.put("slow", 1000);
        let mut requests = site.connect_http2(window).await;

        let begin = Instant::now();
        let stalled = send(&mut requests, get(target)).await;
        // Ten pieces of the store take longer than the timeout.
        site.store.plan([Fault::Slow(Duration::from_secs(10))]);
        let slow = send(&mut requests, get("/models/slow")).await;

        let report = timeout(Duration::from_secs(1000), site.reports.recv()).await.unwrap().unwrap();
        assert_eq!((report.target.as_str(), report.aborted), (target, Some(Aborted::Client)));
        assert_eq!(report.proof, None);
        let send_timeout = Options::default().send_timeout;
        let took = begin.elapsed();
        assert!((send_timeout..send_timeout + Duration::from_secs(1)).contains(&took), "{took:?}");
        // The window, the buffer, a piece of the store and one that waits.
        assert!(report.bytes < 200_000, "{} bytes left the store", report.bytes);

        let body = timeout(Duration::from_secs(1000), slow.into_body().collect()).await.unwrap();
        assert_eq!(body.unwrap().to_bytes(), bytes);
        assert!(begin.elapsed() > send_timeout);
        assert_eq!(read(stalled).await, None, "the stream was reset");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_of_http2_that_reads_nothing_is_disconnected_and_costs_bounded_memory() {
    let mut site = Site::new();
    site.put("a", LARGE);
    let (mut ours, served) = site.serve_http2(CancellationToken::new());

    // The windows of the stream (setting 4) and of the connection are larger than the object.
    let window = u32::try_from(2 * LARGE).unwrap().to_be_bytes();
    let settings = raw_frame(4, 0, 0, &[&[0, 4], &window[..]].concat());
    let update = raw_frame(8, 0, 0, &window);
    ours.write_all(&[PREFACE, &settings, &update, &raw_request(1, "/models/a")].concat()).await.unwrap();

    let begin = Instant::now();
    served.await.unwrap();
    let send_timeout = Options::default().send_timeout;
    assert!((send_timeout..send_timeout + Duration::from_secs(1)).contains(&begin.elapsed()));
    let report = site.report().await;
    assert_eq!(report.aborted, Some(Aborted::Client));
    // The pipe and the stream's buffer hold 64 KiB each, and the connection's buffer less.
    assert!(report.bytes < 160_000, "{} bytes left the store", report.bytes);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_takes_some_bytes_in_time_is_not_reset() {
    let site = Site::new();
    let bytes = site.put("a", 300_000);
    let mut requests = site.connect_http2(WINDOW).await;

    let mut body = send(&mut requests, get("/models/a")).await.into_body();
    let mut received = Vec::new();
    while let Some(frame) = body.frame().await {
        received.extend_from_slice(&frame.unwrap().into_data().unwrap());
        // The client announces room when it has taken half of its window.
        if received.len().is_multiple_of(10_000) {
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    }
    assert_eq!(received, bytes);
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_does_not_count_as_a_slow_client_of_http2() {
    let site = Site::new();
    let bytes = site.put("a", 300);
    site.store.plan([Fault::Slow(Duration::from_secs(200))]);
    let mut requests = site.connect_http2(WINDOW).await;

    let answer = timeout(Duration::from_secs(900), requests.send_request(get("/models/a"))).await.unwrap().unwrap();
    let body = timeout(Duration::from_secs(900), answer.into_body().collect()).await.unwrap().unwrap();
    assert_eq!(body.to_bytes(), bytes);
}

#[tokio::test]
async fn a_client_that_resets_a_stream_ends_its_transfer_at_once() {
    let mut site = Site::new();
    site.put("a", 1000);
    let mut requests = site.connect_http2(WINDOW).await;

    for fault in [Fault::Stall(500), Fault::Stall(0)] {
        let before = site.store.opens();
        site.store.plan([fault]);
        let mut pending = Box::pin(requests.send_request(get("/models/a")));
        if fault == Fault::Stall(0) {
            let opened = async {
                while site.store.opens() == before {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! { _ = &mut pending => panic!("there is no response"), () = opened => {} }
        } else {
            drop(timeout(DEADLINE, &mut pending).await.unwrap().unwrap());
        }
        // Dropping a pending request resets it, too.
        drop(pending);
        let report = site.report().await;
        assert_eq!(report.aborted, Some(Aborted::Client), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn stopping_finishes_the_streams_and_accepts_no_more() {
    let site = Site::new();
    let bytes = site.put("a", 1000);
    let stop = CancellationToken::new();
    let (ours, served) = site.serve_http2(stop.clone());
    let (mut requests, driver) = handshake(ours, WINDOW).await;
    let driver = tokio::spawn(driver);

    site.store.plan([Fault::Slow(Duration::from_secs(1))]);
    let busy = send(&mut requests, get("/models/a")).await;
    stop.cancel();
    tokio::time::sleep(Duration::from_millis(100)).await;

    // GOAWAY was received, so the client refuses to send more.
    assert!(requests.send_request(get("/models/a")).await.is_err());
    assert_eq!(read(busy).await.unwrap(), bytes);
    timeout(DEADLINE, served).await.unwrap().unwrap();
    timeout(DEADLINE, driver).await.unwrap().unwrap().unwrap();
    assert_eq!(site.store.opens(), 1);
}

#[tokio::test(start_paused = true)]
async fn stopping_abandons_streams_after_the_drain_timeout() {
    let mut site = Site::new();
    site.put("a", 1000);
    site.store.plan([Fault::Stall(500)]);
    let stop = CancellationToken::new();
    let (ours, served) = site.serve_http2(stop.clone());
    let (mut requests, driver) = handshake(ours, WINDOW).await;
    tokio::spawn(driver);

    let stalled = send(&mut requests, get("/models/a")).await;
    let begin = Instant::now();
    stop.cancel();
    served.await.unwrap();
    let drain_timeout = Options::default().drain_timeout;
    assert!((drain_timeout..drain_timeout + Duration::from_secs(1)).contains(&begin.elapsed()));
    assert_eq!(read(stalled).await, None);
    assert_eq!(site.report().await.aborted, Some(Aborted::Client));
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_of_http2_is_closed_after_the_idle_timeout() {
    let mut site = Site::new();
    site.put("a", 1000);
    let (ours, served) = site.serve_http2(CancellationToken::new());
    let (mut requests, driver) = handshake(ours, WINDOW).await;
    tokio::spawn(driver);

    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        read(send(&mut requests, get("/models/a")).await).await.unwrap();
        site.report().await;
    }
    let begin = Instant::now();
    served.await.unwrap();
    let idle_timeout = Options::default().idle_timeout;
    assert!((idle_timeout..idle_timeout + Duration::from_secs(2)).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    assert!(site.rejections.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_connection_of_http2_without_a_request_is_closed_at_the_deadline_of_a_head() {
    let mut site = Site::new();
    let (ours, served) = site.serve_http2(CancellationToken::new());
    let begin = Instant::now();
    let (_requests, driver) = handshake(ours, WINDOW).await;
    tokio::spawn(driver);

    served.await.unwrap();
    let head_timeout = Options::default().header_read_timeout;
    assert!((head_timeout..head_timeout + Duration::from_secs(2)).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    assert_eq!(site.rejections.recv().await, Some(Rejected::SlowHeader));
}

#[tokio::test(start_paused = true)]
async fn a_dead_client_is_noticed_while_a_store_stalls() {
    let mut site = Site::new();
    site.put("a", 1000);
    site.store.plan([Fault::Stall(500)]);
    let (mut ours, served) = site.serve_http2(CancellationToken::new());

    // The client acknowledges no ping, reads nothing and closes nothing.
    ours.write_all(&[PREFACE, &raw_request(1, "/models/a")].concat()).await.unwrap();
    timeout(Duration::from_secs(3600), served).await.unwrap().unwrap();
    assert_eq!(site.report().await.aborted, Some(Aborted::Client));
}

#[tokio::test]
async fn http2_is_served_only_after_it_was_chosen_and_http1_only_otherwise() {
    let site = Site::new();
    site.put("a", 10);

    // A client that assumes HTTP/2 without a choice by ALPN.
    let connection = site.connect();
    let (mut requests, driver) = handshake(connection, WINDOW).await;
    let driver = tokio::spawn(driver);
    assert!(timeout(DEADLINE, requests.send_request(get("/models/a"))).await.unwrap().is_err());
    assert!(timeout(DEADLINE, driver).await.unwrap().unwrap().is_err());

    // HTTP/1.1 after HTTP/2 was chosen.
    let (mut ours, served) = site.serve_http2(CancellationToken::new());
    ours.write_all(request("GET", "/models/a", &[]).as_bytes()).await.unwrap();
    let answer = read_to_end(&mut ours).await;
    assert!(!answer.starts_with(b"HTTP/1"), "{}", String::from_utf8_lossy(&answer));
    timeout(DEADLINE, served).await.unwrap().unwrap();
    assert_eq!(site.store.opens(), 0);
}

#[tokio::test]
async fn a_client_that_resets_streams_at_once_is_disconnected() {
    let site = Site::new();
    site.put("a", 1000);
    let (mut ours, served) = site.serve_http2(CancellationToken::new());

    let mut bytes = PREFACE.to_vec();
    for stream in (1..1001).step_by(2) {
        bytes.extend(raw_request(stream, "/models/a"));
        // RST_STREAM with the reason CANCEL.
        bytes.extend(raw_frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    ours.write_all(&bytes).await.ok();

    let answer = read_to_end(&mut ours).await;
    timeout(DEADLINE, served).await.unwrap().unwrap();
    // A frame of type GOAWAY with the reason ENHANCE_YOUR_CALM.
    assert!(answer.windows(4).any(|window| window == 0x0b_u32.to_be_bytes()), "{answer:?}");
}
