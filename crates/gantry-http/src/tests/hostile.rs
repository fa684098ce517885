//! Hostile requests: the status, a small body, and nothing that reaches a store.

use std::sync::atomic::Ordering;

use super::*;

/// The status is 0 if the connection is closed without an answer.
const TABLE: &[(&str, &str, u16)] = &[
    ("broken escape", "GET /models/% HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("broken escape in the query", "GET /models/a?prefix=%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("escape that is not UTF-8", "GET /models/%ff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("encoded NUL", "GET /models/a%00b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("encoded line break", "GET /models/a%0d%0aX:b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("raw NUL", "GET /models/a\0b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("raw space", "GET /models/a b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("dot segments", "GET /models/../models/a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("encoded dot segments", "GET /models/%2e%2E/a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("dot segments with encoded slashes", "GET /models/a%2f..%2fb HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("encoded slash in the store's name", "GET /models%2Fa HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("empty store", "GET //a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("invalid store", "GET /no.such/a HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    ("no Host", "GET /models/a HTTP/1.1\r\n\r\n", 400),
    ("two Hosts", "GET /models/a HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
    ("invalid Host", "GET /models/a HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    ("user in Host", "GET /models/a HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
    ("other scheme", "GET ftp://x/models/a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("user in the target", "GET http://a:b@x/models/a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("user in the target of HTTP/1.0", "GET http://a@x/models/a HTTP/1.0\r\n\r\n", 400),
    ("GET with a body", "GET /models/a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 400),
    (
        "GET with a chunked body",
        "GET /models/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("two lengths", "GET /models/a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nhello", 400),
    ("list of lengths", "GET /models/a HTTP/1.1\r\nHost: x\r\nContent-Length: 0, 5\r\n\r\nhello", 400),
    ("negative length", "GET /models/a HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
    ("signed length", "GET /models/a HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello", 400),
    (
        "length, then encoding",
        "GET /models/a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /models/b HTTP/1.1\r\nHost: x\r\n\r\n",
        400,
    ),
    (
        "encoding, then length",
        "GET /models/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\nGET /models/b HTTP/1.1\r\nHost: x\r\n\r\n",
        400,
    ),
    ("unknown encoding", "GET /models/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x\r\n\r\n", 400),
    ("encoding in HTTP/1.0", "GET /models/a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("space before the colon", "GET /models/a HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\n", 400),
    ("folded header", "GET /models/a HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400),
    ("lone carriage return", "GET /models/a HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", 400),
    ("NUL in a header", "GET /models/a HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n", 400),
    ("version of HTTP", "GET /models/a HTTP/3.0\r\nHost: x\r\n\r\n", 400),
    ("no request", "\x16\x03\x01\x02\0\x01\0\x01\u{7f}\r\n\r\n", 400),
    ("upload", "PUT /models/a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 405),
    ("deletion", "DELETE /models/a HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    ("S3's deletion of several", "POST /models?delete HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
    ("TRACE", "TRACE /models/a HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    ("tunnel", "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", 400),
    ("unknown method", "PROPFIND /models/a HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    ("S3's other requests", "GET /models/a?acl HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 501),
    ("HTTP/2 without a warning", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0),
];

#[tokio::test]
async fn hostile_requests_have_their_status_and_reach_no_store() {
    let site = Site::new();
    site.put("a", 10);
    site.put("b", 10);

    for (name, request, status) in TABLE {
        let closing = request.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
        let bytes = site.raw(if *status == 0 { request.as_bytes() } else { closing.as_bytes() }).await;
        if *status == 0 {
            assert!(bytes.is_empty(), "{name}: {}", String::from_utf8_lossy(&bytes));
            continue;
        }

        let answer = Answer::parse(&bytes);
        assert_eq!(answer.status, *status, "{name}: {answer:?}");
        assert!(bytes.len() < 3000, "{name}: {} bytes", bytes.len());
        // Nothing hidden behind the request is answered.
        assert!(answer.is_complete, "{name}: {answer:?}");
    }

    assert_eq!(site.stores.lookups.load(Ordering::Relaxed), 0);
    assert_eq!(site.store.opens(), 0);
    assert_eq!(site.get("/models/a", &[]).await.status, 200, "the server still answers");
}

#[tokio::test]
async fn keys_are_limited_to_1024_bytes() {
    let site = Site::new();
    let (longest, longer) = ("a".repeat(1024), "a".repeat(1025));
    site.put(&longest, 10);

    assert_eq!(site.get(&format!("/models/{longest}"), &[]).await.status, 200);
    let refused = site.get(&format!("/models/{longer}"), &[]).await;
    assert_eq!((refused.status, refused.code()), (400, "KeyTooLongError"));
    assert!(refused.body.len() < 3000);
    assert_eq!(site.stores.lookups.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_query_has_at_most_100_parameters() {
    let site = Site::new();
    site.put("a", 10);
    let query = |count| vec!["x=1"; count].join("&");

    assert_eq!(site.get(&format!("/models/a?{}", query(100)), &[]).await.status, 200);
    assert_eq!(site.get(&format!("/models/a?{}", query(101)), &[]).await.status, 400);
}

#[tokio::test]
async fn large_heads_are_refused() {
    let mut site = Site::new();
    let large = site.get("/models/a", &[("X-Large", &"a".repeat(64 << 10))]).await;
    assert_eq!(large.status, 431);
    assert_eq!(site.rejections.recv().await, Some(Rejected::TooLarge));

    let many: Vec<_> = (0..200).map(|_| ("X-Many", "a")).collect();
    assert_eq!(site.get("/models/a", &many).await.status, 431);

    let long = format!("/models/{}", "a".repeat(40 << 10));
    assert!(matches!(site.get(&long, &[]).await.status, 414 | 431));
    assert_eq!(site.stores.lookups.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn slow_heads_are_cut_off_at_their_deadline() {
    let mut site = Site::new();
    let start = tokio::time::Instant::now();
    let mut connection = site.connect();
    let reading = async {
        for byte in b"GET /models/a HTTP/1.1\r\n".iter().cycle() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if connection.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(100), reading).await.unwrap();

    let timeout = Options::default().header_read_timeout;
    assert!((timeout..timeout + Duration::from_secs(3)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(site.rejections.recv().await, Some(Rejected::SlowHeader));
}

#[tokio::test]
async fn absolute_targets_and_http_1_0_are_served() {
    let site = Site::new();
    let bytes = site.put("a", 250);

    let absolute = site.get("http://localhost:9000/models/a", &[]).await;
    assert_eq!((absolute.status, absolute.body), (200, bytes.clone()));
    // A signature for the host in the header would permit an object at the host in the target.
    for other in ["elsewhere:9000", "localhost:9001", "localhost", "me@localhost:9000"] {
        let absolute = site.get(&format!("http://{other}/models/a"), &[]).await;
        assert_eq!(absolute.status, 400, "{other}");
    }

    let old = site.answer("GET /models/a HTTP/1.0\r\n\r\n").await;
    assert_eq!((old.status, &old.body), (200, &bytes));
    assert_eq!(old.header("content-length"), Some("250"));
    assert_eq!(old.header("transfer-encoding"), None);

    let any = site.answer("OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert_eq!((any.status, any.header("allow")), (204, Some("GET, HEAD, OPTIONS")));
}

#[tokio::test]
async fn only_listed_hosts_are_served() {
    let options = Options { hosts: vec!["gateway".to_owned()], ..Options::default() };
    let site = Site::with(options);
    site.put("a", 10);

    for (host, status) in [
        ("gateway:9000", 200),
        ("GATEWAY", 200),
        ("localhost", 200),
        ("127.0.0.1:9000", 200),
        ("[::1]:9000", 200),
        ("evil.example", 421),
    ] {
        let answer = site.answer(&format!("GET /models/a HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(answer.status, status, "{host}");
    }
}
