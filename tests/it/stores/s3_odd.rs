//! The S3 store against servers with unusual answers, and against servers that are not S3.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use gantry_proto::{ListRequest, Pin};
use gantry_store::s3::{Credentials, KeyFiles, Limits, Options, S3Store};
use gantry_store::{Budget, Error, Store};

use super::s3_faults::{limits, store};
use super::{key, list_all, read};
use crate::support::data::random_bytes;
use crate::support::s3_double::{Act, Request, S3Double};

const HTML: &str = "<!doctype html><title>Console</title>";

fn page(headers: &'static str) -> Act {
    Act::Raw(200, headers, HTML.to_owned())
}

#[tokio::test]
async fn what_is_not_s3_is_never_delivered_and_fails_the_probe() {
    for answer in [
        page("content-type: text/html"),
        page("content-type: text/html; charset=utf-8\r\netag: \"6563a1b2\""),
        page("content-type: text/html\r\netag: \"1\"\r\nlast-modified: Wed, 01 Jan 2025 00:00:00 GMT"),
        page("content-type: application/xhtml+xml\r\netag: \"1\""),
        page("etag: \"1\""),
        Act::Raw(200, "content-type: application/json\r\netag: \"1\"", "{\"status\":\"ok\"}".to_owned()),
        Act::Raw(302, "location: /login", String::new()),
        Act::Raw(404, "content-type: text/html", HTML.to_owned()),
        Act::Raw(403, "content-type: text/html", HTML.to_owned()),
    ] {
        let server = S3Double::start(Bytes::new(), {
            let answer = answer.clone();
            move |_: &Request| answer.clone()
        })
        .await;
        let store = store(server.endpoint(), limits(), 1 << 20).await;
        let pin = Pin::default();

        let failures = [
            read(&store, "k", &pin, 0, None).await.map(drop),
            read(&store, "k", &pin, 1, None).await.map(drop),
            read(&store, "k", &pin, 1, Some(5)).await.map(drop),
            store.stat(&key("k"), &pin).await.map(drop),
            store.list(&ListRequest::default()).await.map(drop),
            store.probe().await,
        ];

        for failure in failures {
            let error = failure.unwrap_err();
            assert!(matches!(error, Error::Protocol(_)), "{answer:?}: {error:?}");
            assert!(error.to_string().contains("not S3") || error.to_string().contains("range"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_web_page_stored_as_an_object_of_a_minimal_s3_server_is_delivered() {
    for is_denied in [false, true] {
        let server = S3Double::start(Bytes::new(), move |request: &Request| match request.is_list() {
            true if is_denied => Act::Fail(403, "AccessDenied", ""),
            true => listing(&[], "", false),
            false => page("content-type: text/html\r\netag: \"1\"\r\nlast-modified: Wed, 01 Jan 2025 00:00:00 GMT"),
        })
        .await;
        let store = store(server.endpoint(), limits(), 0).await;

        for _ in 0..3 {
            assert_eq!(read(&store, "k", &Pin::default(), 0, None).await.unwrap(), HTML);
        }

        // The store tests only once whether the server is S3.
        assert_eq!(server.requests().iter().filter(|request| request.is_list()).count(), 1);
    }
}

/// Writes a listing that contains the names unescaped.
fn listing(names: &[&str], more: &str, is_encoded: bool) -> Act {
    let mut body = "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>false</IsTruncated>".to_owned();
    if is_encoded {
        body += "<EncodingType>url</EncodingType>";
    }
    for name in names {
        write!(body, "<Contents><Key>{name}</Key><Size>1</Size></Contents>").unwrap();
    }
    Act::Raw(200, "content-type: application/xml", body + more + "</ListBucketResult>")
}

#[tokio::test]
async fn one_key_that_xml_cannot_hold_hides_no_other() {
    let raw = listing(&["a", "b\u{1}", "c&#1;d", "e\u{fffe}", "f&#xFFFF;", "g&#13;", "h i+%41"], "", false);
    let encoded = listing(&["a", "b%01", "e%EF%BF%BE", "g%0D", "h%20i%2B%2541", "j+k", "l%FF"], "", true);
    for (answer, keys, omitted) in
        [(raw, vec!["a", "h i+%41"], 5), (encoded, vec!["a", "b\u{1}", "e\u{fffe}", "h i+%41", "j k"], 2)]
    {
        let server = S3Double::start(Bytes::new(), move |_: &Request| answer.clone()).await;
        let store = store(server.endpoint(), limits(), 0).await;

        let listed = store.list(&ListRequest { recursive: true, ..ListRequest::default() }).await.unwrap();

        let found: Vec<_> = listed.entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!((found, listed.omitted), (keys, omitted));
        assert!(server.requests()[0].target.contains("encoding-type=url"), "{:?}", server.requests());
        store.probe().await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_ignores_max_keys_is_listed_completely() {
    let answer = listing(&["a", "b", "c", "d", "e"], "", true);
    let server = S3Double::start(Bytes::new(), move |_: &Request| answer.clone()).await;
    let store = store(server.endpoint(), limits(), 0).await;

    for limit in [1, 2, 5, 1000] {
        let (keys, _) = list_all(&store, "", true, limit).await;
        assert_eq!(keys, ["a", "b", "c", "d", "e"], "{limit}");
    }

    let requests = server.requests();
    assert!(requests[1].target.contains("start-after=a"), "{requests:?}");
    assert!(requests.iter().all(|request| !request.target.contains("continuation-token")), "{requests:?}");
}

#[tokio::test]
async fn the_server_text_in_an_error_is_bounded_and_printable() {
    let long = format!("Secret\u{1b}[31m{}", "x".repeat(100_000));
    let body = format!("<Error><Code>{long}</Code><Message>{long}</Message></Error>");
    for status in [400, 403, 404, 409, 412, 500] {
        let answer = Act::Raw(status, "content-type: application/xml", body.clone());
        let server = S3Double::start(Bytes::new(), move |_: &Request| answer.clone()).await;
        let limits = Limits { retry_budget: Duration::from_millis(300), ..limits() };
        let store = store(server.endpoint(), limits, 0).await;

        let failures = [
            read(&store, "k", &Pin::default(), 0, None).await.map(drop),
            store.list(&ListRequest::default()).await.map(drop),
            store.probe().await,
        ];

        for failure in failures {
            let message = failure.unwrap_err().to_string();
            assert!(message.len() < 400 && !message.contains(char::is_control), "{status}: {message}");
        }
    }
}

#[tokio::test]
async fn an_endless_error_is_not_read_to_its_end() {
    let body = format!("<Error><Code>AccessDenied</Code><Message>{}</Message></Error>", "x".repeat(1 << 20));
    let answer = Act::Raw(403, "content-type: application/xml", body);
    let server = S3Double::start(Bytes::new(), move |_: &Request| answer.clone()).await;
    let store = store(server.endpoint(), limits(), 0).await;

    let error = read(&store, "k", &Pin::default(), 0, None).await.unwrap_err();

    // The code is not known, because it would have been parsed only after the end.
    assert!(matches!(&error, Error::Denied(message) if message.ends_with("(403)")), "{error:?}");
}

#[tokio::test]
async fn a_description_with_an_overlong_etag_or_version_is_an_invalid_answer() {
    let long: &'static str = "x".repeat(1025).leak();
    for header in ["etag: ", "etag: 1\r\nx-amz-version-id: "] {
        let headers: &'static str = format!("x-amz-request-id: 1\r\n{header}{long}").leak();
        let server = S3Double::start(Bytes::new(), move |_: &Request| Act::Raw(200, headers, "x".to_owned())).await;
        let store = store(server.endpoint(), limits(), 0).await;

        let failures = [
            read(&store, "k", &Pin::default(), 0, None).await.map(drop),
            store.stat(&key("k"), &Pin::default()).await.map(drop),
        ];

        for failure in failures {
            let error = failure.unwrap_err();
            assert!(matches!(error, Error::Protocol(_)) && !error.is_retryable(), "{error:?}");
        }
    }
}

#[tokio::test]
async fn nothing_in_a_listing_fails_the_probe() {
    let long = "k".repeat(5000);
    for answer in [
        listing(&["b\u{1}", &long], "", false),
        listing(&[], "<Contents><Key>a</Key><LastModified>yesterday</LastModified><Size>-1</Size></Contents>", false),
        listing(&[], "<Contents><Key>a</Key><Size>many</Size></Contents>", true),
        Act::Fail(403, "AccessDenied", ""),
    ] {
        let server = S3Double::start(Bytes::new(), move |_: &Request| answer.clone()).await;
        store(server.endpoint(), limits(), 0).await.probe().await.unwrap();
    }
}

#[tokio::test]
async fn a_range_with_an_end_costs_one_request() {
    let object = random_bytes(1, 100_000);
    let server = S3Double::start(object.clone(), |_: &Request| Act::Serve).await;
    let store = store(server.endpoint(), limits(), 1 << 20).await;

    for range in [0_usize..1, 5..6, 99_999..100_000, 0..100_000] {
        let end = Some(range.end as u64);
        let got = read(&store, "k", &Pin::default(), range.start as u64, end).await.unwrap();
        assert!(got == object[range]);
    }

    let requests = server.requests();
    assert_eq!(requests.len(), 4, "{requests:?}");
    assert!(requests.iter().all(|request| request.is_get() && request.header("range").is_some()), "{requests:?}");
}

#[tokio::test]
async fn part_sizes_are_requested_once_and_never_for_a_description_or_a_range_with_an_end() {
    const PARTS: u64 = 60;
    let server = S3Double::start(Bytes::new(), |request: &Request| {
        if request.target.contains("attributes") {
            return Act::Fail(501, "NotImplemented", "");
        }
        if request.target.contains("partNumber") {
            let headers = "etag: \"e-60\"\r\nx-amz-mp-parts-count: 60\r\nlast-modified: Wed, 01 Jan 2025 00:00:00 GMT";
            return Act::Raw(200, headers, "x".to_owned());
        }
        if request.header("range").is_some() {
            let headers = "etag: \"e-60\"\r\ncontent-range: bytes 0-0/60\r\nx-amz-request-id: 1";
            return Act::Raw(206, headers, "x".to_owned());
        }
        let headers = "etag: \"e-60\"\r\nx-amz-request-id: 1\r\nx-amz-checksum-sha256: \
                       47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=-60\r\nx-amz-checksum-type: COMPOSITE";
        Act::Raw(200, headers, "x".repeat(60))
    })
    .await;
    let store = store(server.endpoint(), limits(), 1 << 20).await;

    assert_eq!(read(&store, "k", &Pin::default(), 0, Some(1)).await.unwrap(), "x");
    let object = store.stat(&key("k"), &Pin::default()).await.unwrap();
    assert!(object.checksum.unwrap().parts.is_empty());
    assert_eq!(server.requests().len(), 2, "{:?}", server.requests());

    for _ in 0..3 {
        read(&store, "k", &Pin::default(), 0, None).await.unwrap();
        let object = store.stat(&key("k"), &Pin::default()).await.unwrap();
        let parts: u64 = object.checksum.unwrap().parts.iter().map(|run| run.count).sum();
        assert_eq!(parts, PARTS);
    }

    // In addition to the two requests above, three HEADs and three GETs: one request for all sizes, one for each part.
    assert_eq!(server.requests().len(), 2 + 3 + 3 + 1 + 60, "{:?}", server.requests().len());
}

#[tokio::test]
async fn an_endpoint_with_a_path_needs_no_final_slash() {
    let server = S3Double::start(random_bytes(1, 100), |_: &Request| Act::Serve).await;
    for path in ["/storage/v1/s3", "/storage/v1/s3/"] {
        let store = store(server.endpoint() + path, limits(), 0).await;
        read(&store, "k", &Pin::default(), 0, None).await.unwrap();
    }

    for request in server.requests() {
        assert!(request.target.starts_with("/storage/v1/s3/bucket/k"), "{request:?}");
    }
}

#[tokio::test]
async fn a_denied_head_costs_only_the_checksum_of_a_range() {
    let object = random_bytes(1, 100_000);
    let script = |request: &Request| if request.is_get() { Act::Serve } else { Act::Fail(403, "", "") };
    let server = S3Double::start(object.clone(), script).await;
    let store = store(server.endpoint(), limits(), 1 << 20).await;

    let got = read(&store, "k", &Pin::default(), 10, None).await.unwrap();

    assert!(got == object[10..]);
}

#[tokio::test]
async fn etags_are_compared_without_regard_to_quotes() {
    let object = random_bytes(1, 100_000);
    let script = |request: &Request| if request.is_get() { Act::Serve } else { Act::Replace("double") };
    let server = S3Double::start(object.clone(), script).await;
    let store = store(server.endpoint(), limits(), 1 << 20).await;

    for if_match in [None, Some("double"), Some("\"double\"")] {
        let pin = Pin { if_match: if_match.map(str::to_owned), ..Pin::default() };
        assert!(read(&store, "k", &pin, 0, None).await.unwrap() == object);
        assert!(read(&store, "k", &pin, 10, None).await.unwrap() == object[10..]);
        assert_eq!(store.stat(&key("k"), &pin).await.unwrap().etag, "\"double\"");
    }
    let other = Pin { if_match: Some("other".to_owned()), ..Pin::default() };
    assert!(matches!(read(&store, "k", &other, 0, None).await.unwrap_err(), Error::Changed(_)));
}

#[tokio::test]
async fn rotated_key_files_are_read_again_after_a_plain_refusal() {
    for code in ["AccessDenied", ""] {
        let folder = tempfile::tempdir().unwrap();
        let files = KeyFiles {
            access_key_id: folder.path().join("id"),
            secret_access_key: folder.path().join("secret"),
            session_token: None,
        };
        std::fs::write(&files.access_key_id, "old").unwrap();
        std::fs::write(&files.secret_access_key, "secret").unwrap();
        let server =
            S3Double::start(random_bytes(1, 100), move |request: &Request| match request.header("authorization") {
                Some(signed) if signed.contains("Credential=new/") => Act::Serve,
                _ => Act::Fail(403, code, ""),
            })
            .await;
        let options = Options {
            endpoint_url: Some(server.endpoint()),
            region: Some("us-east-1".to_owned()),
            path_style: Some(true),
            credentials: Credentials::Files(files.clone()),
            limits: limits(),
            ..Options::new("bucket")
        };
        let store = S3Store::connect(options, Budget::new(0)).await.unwrap();
        let pin = Pin::default();

        // Without another key in the files, the refusal is final.
        assert!(matches!(store.stat(&key("k"), &pin).await.unwrap_err(), Error::Denied(_)));
        assert_eq!(server.requests().len(), 1);
        std::fs::write(&files.access_key_id, "new").unwrap();

        store.stat(&key("k"), &pin).await.unwrap();
    }
}
