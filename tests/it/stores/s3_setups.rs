//! The S3 store in setups where servers, proxies or permissions differ from AWS's defaults.

use bytes::Bytes;
use gantry_proto::{ChecksumAlgorithm, ChecksumKind, ListRequest, Pin, Span};
use gantry_store::s3::{Credentials, Options, S3Store};
use gantry_store::{Budget, Error, Store};

use super::s3_faults::{limits, store};
use super::{key, read};
use crate::support::data::random_bytes;
use crate::support::s3_double::{Act, Request, S3Double};

/// Reads the whole object, its rest and a range of it, and compares them.
async fn assert_readable(store: &dyn Store, object: &Bytes) {
    let pin = Pin::default();
    assert!(read(store, "k", &pin, 0, None).await.unwrap() == *object);
    assert!(read(store, "k", &pin, 5, None).await.unwrap() == object[5..]);
    assert!(read(store, "k", &pin, 5, Some(9)).await.unwrap() == object[5..9]);
}

#[tokio::test]
async fn headers_that_cannot_be_read_are_left_out_of_the_description() {
    let object = random_bytes(1, 100_000);
    for lines in [
        b"x-amz-meta-u: caf\xe9\r\nx-amz-meta-ok: 1\r\n".as_slice(),
        b"last-modified: 01/02/2025\r\nx-amz-meta-ok: 1\r\n",
        b"expires: never\r\nx-amz-meta-ok: 1\r\nx-amz-missing-meta: some\r\nx-amz-tagging-count: x\r\n",
        b"content-type: a/b\r\ncontent-type: c/d\r\nx-amz-meta-ok: 1\r\n",
        b"x-amz-checksum-crc32: \xff\r\nx-amz-checksum-sha256: caf\xe9\r\nx-amz-meta-ok: 1\r\n",
        b"content-disposition: caf\xe9\r\nx-amz-website-redirect-location: \xff\r\nx-amz-meta-ok: 1\r\n",
    ] {
        let server = S3Double::start(object.clone(), move |_: &Request| Act::With(lines)).await;
        let store = store(server.endpoint(), limits(), 1 << 20).await;

        assert_readable(&store, &object).await;

        let described = store.stat(&key("k"), &Pin::default()).await.unwrap();
        assert_eq!(described.metadata.into_iter().collect::<Vec<_>>(), [("ok".to_owned(), "1".to_owned())]);
    }
}

#[tokio::test]
async fn a_get_without_a_length_has_the_size_of_the_description() {
    let object = random_bytes(1, 100_000);
    for size in [0, 1, object.len()] {
        let object = object.slice(..size);
        let script = |request: &Request| if request.header("range").is_none() { Act::Short(0) } else { Act::Serve };
        let server = S3Double::start(object.clone(), script).await;
        let store = store(server.endpoint(), limits(), 1 << 20).await;

        let opened = store.open(&key("k"), &Pin::default(), Span::default()).await.unwrap();

        assert_eq!(opened.object.size, size as u64);
        assert!(super::collect(opened).await.unwrap() == object);
    }
}

const STORED: &str = "the bytes as they are stored";
const CHANGED: &str = "other bytes, which the object decompresses to, or is compressed to";

/// Answers with the stored bytes, or a range of them.
fn as_stored(request: &Request, headers: [&'static str; 2]) -> Act {
    match request.range(STORED.len()) {
        None => Act::Raw(200, headers[0], STORED.to_owned()),
        // The given headers are for this range.
        Some(range) if range == (5..9) => Act::Raw(206, headers[1], STORED[range].to_owned()),
        Some(range) => {
            let line = format!("content-range: bytes {}-{}/{}", range.start, range.end - 1, STORED.len());
            let headers = headers[1].replace("content-range: bytes 5-8/28", &line);
            Act::Raw(206, headers.leak(), STORED[range].to_owned())
        }
    }
}

#[tokio::test]
async fn a_compressed_object_is_delivered_as_it_is_stored() {
    // As Google's servers do, with and without their own headers.
    let gzip = [
        "etag: \"e\"\r\nx-goog-hash: 1\r\ncontent-encoding: gzip",
        "etag: \"e\"\r\nx-goog-hash: 1\r\ncontent-encoding: gzip\r\ncontent-range: bytes 5-8/28",
    ];
    let server = S3Double::start(Bytes::new(), move |request: &Request| {
        if request.header("accept-encoding") != Some("gzip") && request.is_get() {
            return Act::Raw(200, "etag: \"e\"\r\nx-goog-hash: 1", CHANGED.to_owned());
        }
        as_stored(request, gzip)
    })
    .await;
    let store = store(server.endpoint(), limits(), 1 << 20).await;

    assert_readable(&store, &Bytes::from_static(STORED.as_bytes())).await;
}

#[tokio::test]
async fn an_object_that_a_proxy_would_compress_is_delivered_as_it_is_stored() {
    for headers in [
        "etag: \"e\"\r\nx-amz-request-id: 1\r\ncontent-encoding: gzip",
        "etag: W/\"e\"\r\nx-amz-request-id: 1\r\ncontent-encoding: gzip\r\nvary: accept-encoding",
    ] {
        let plain =
            ["etag: \"e\"\r\nx-amz-request-id: 1", "etag: \"e\"\r\nx-amz-request-id: 1\r\ncontent-range: bytes 5-8/28"];
        let server = S3Double::start(Bytes::new(), move |request: &Request| {
            let accepts = request.header("accept-encoding") == Some("gzip");
            if accepts && request.header("range").is_none() {
                return Act::Raw(200, headers, CHANGED.to_owned());
            }
            as_stored(request, plain)
        })
        .await;
        let store = store(server.endpoint(), limits(), 1 << 20).await;

        for _ in 0..2 {
            assert_readable(&store, &Bytes::from_static(STORED.as_bytes())).await;
        }

        // The server was detected with two requests: the first one and a HEAD.
        let compressed = |request: &&Request| request.header("accept-encoding") == Some("gzip");
        assert_eq!(server.requests().iter().filter(compressed).count(), 1, "{:?}", server.requests());
    }
}

#[tokio::test]
async fn without_permission_for_versions_the_current_one_is_read_to_its_end() {
    let object = random_bytes(1, 300_000);
    let server = S3Double::start(object.clone(), |request: &Request| {
        if request.target.contains("versionId") {
            return Act::Fail(403, "AccessDenied", "");
        }
        if request.index == 0 { Act::Cut(1000) } else { Act::With(b"x-amz-version-id: v1\r\n") }
    })
    .await;
    let store = store(server.endpoint(), limits(), 1 << 20).await;

    assert_readable(&store, &object).await;
    let pin = store.stat(&key("k"), &Pin::default()).await.unwrap().pin();
    assert_eq!(pin.version_id.as_deref(), Some("v1"));
    assert!(read(&store, "k", &pin, 0, None).await.unwrap() == object);
    assert_eq!(store.stat(&key("k"), &pin).await.unwrap().version_id.as_deref(), Some("v1"));

    // Another version needs the permission, and is not the current one.
    let other = Pin { if_match: None, version_id: Some("v0".to_owned()) };
    assert!(matches!(read(&store, "k", &other, 0, None).await.unwrap_err(), Error::Denied(_)));
    let replaced = Pin { version_id: Some("v0".to_owned()), ..pin };
    assert!(matches!(read(&store, "k", &replaced, 0, None).await.unwrap_err(), Error::Changed(_)));
}

/// The error once depended on whether HEAD or GET was faster.
#[tokio::test]
async fn one_cause_has_one_error() {
    type Is = fn(&Error) -> bool;
    let version = Pin { if_match: None, version_id: Some("bad".to_owned()) };
    let pinned = Pin { if_match: Some("\"double\"".to_owned()), version_id: None };
    let missing: Is = |error| matches!(error, Error::NotFound(_));
    let invalid: Is = |error| matches!(error, Error::Invalid(_));
    let changed: Is = |error| matches!(error, Error::Changed(_));

    for (status, code, pin, is_expected, text) in [
        (400, "InvalidArgument", version.clone(), missing, "no such version"),
        (404, "NoSuchVersion", version.clone(), missing, "no such version"),
        (400, "InvalidArgument", Pin::default(), invalid, "refuses the request"),
        (400, "InvalidRequest", Pin::default(), invalid, "(400 InvalidRequest: as scripted)"),
        (404, "NoSuchBucket", Pin::default(), missing, "no such bucket"),
        (404, "NoSuchKey", Pin::default(), missing, "no such object"),
        (404, "NoSuchKey", pinned.clone(), changed, "deleted"),
    ] {
        let server = S3Double::start(random_bytes(1, 1000), move |_: &Request| Act::Fail(status, code, "")).await;
        let store = store(server.endpoint(), limits(), 0).await;

        for failure in [
            read(&store, "k", &pin, 0, None).await.map(drop),
            read(&store, "k", &pin, 5, None).await.map(drop),
            read(&store, "k", &pin, 5, Some(9)).await.map(drop),
            read(&store, "k", &pin, 5, Some(5)).await.map(drop),
            store.stat(&key("k"), &pin).await.map(drop),
        ] {
            let error = failure.unwrap_err();
            assert!(is_expected(&error) && error.to_string().contains(text), "{status} {code}: {error:?}");
        }
    }
}

#[tokio::test]
async fn an_object_that_is_deleted_while_it_is_read_has_changed() {
    let script = |request: &Request| if request.index == 0 { Act::Cut(1000) } else { Act::Fail(404, "NoSuchKey", "") };
    let server = S3Double::start(random_bytes(1, 100_000), script).await;
    let store = store(server.endpoint(), limits(), 0).await;

    let error = read(&store, "k", &Pin::default(), 0, None).await.unwrap_err();

    assert!(matches!(error, Error::Changed(_)), "{error:?}");
}

#[tokio::test]
async fn a_listing_with_a_bad_token_is_a_bad_request() {
    let server = S3Double::start(Bytes::new(), |_: &Request| Act::Fail(400, "InvalidArgument", "")).await;
    let store = store(server.endpoint(), limits(), 0).await;

    let request = ListRequest { token: Some("bad".to_owned()), ..ListRequest::default() };
    let error = store.list(&request).await.unwrap_err();

    assert!(matches!(&error, Error::Invalid(text) if text.contains("InvalidArgument")), "{error:?}");
}

#[tokio::test]
async fn requests_to_slow_down_are_temporary_whatever_their_status() {
    let object = random_bytes(1, 1000);
    for act in [
        Act::Fail(400, "ThrottlingException", ""),
        Act::Fail(400, "RequestLimitExceeded", ""),
        Act::Fail(403, "Throttling", ""),
        Act::Fail(501, "", ""),
        Act::Fail(307, "TemporaryRedirect", "x-amz-bucket-region: us-east-1"),
        Act::Fail(307, "TemporaryRedirect", ""),
    ] {
        let script = move |request: &Request| if request.index < 3 { act.clone() } else { Act::Serve };
        let server = S3Double::start(object.clone(), script).await;
        let store = store(server.endpoint(), limits(), 0).await;
        assert!(read(&store, "k", &Pin::default(), 0, None).await.unwrap() == object);
    }
}

#[tokio::test]
async fn a_server_without_head_is_read_without_its_checksum() {
    let object = random_bytes(1, 100_000);
    for status in [405, 501] {
        let script = move |request: &Request| if request.is_get() { Act::Serve } else { Act::Fail(status, "", "") };
        let server = S3Double::start(object.clone(), script).await;
        let store = store(server.endpoint(), limits(), 1 << 20).await;
        assert_readable(&store, &object).await;
    }
}

/// The message of AWS names the user, the bucket and the account.
#[tokio::test]
async fn s3_messages_that_name_a_place_do_not_reach_consumers() {
    for (message, is_shown) in [
        ("Encryption parameters are missing", true),
        ("no identity-based policy allows arn:aws:s3:::x", false),
        ("bucket is closed", false),
        ("see https://h", false),
    ] {
        let body = format!("<Error><Code>InvalidRequest</Code><Message>{message}</Message></Error>");
        let answer = Act::Raw(400, "x-amz-request-id: 1", body);
        let server = S3Double::start(Bytes::new(), move |_: &Request| answer.clone()).await;
        let store = store(server.endpoint(), limits(), 0).await;

        let error = read(&store, "k", &Pin::default(), 0, None).await.unwrap_err().to_string();
        let operator = store.probe().await.unwrap_err().to_string();

        assert_eq!(error.contains(message), is_shown, "{error}");
        assert!(operator.contains(message), "{operator}");
    }
}

#[tokio::test]
async fn requests_are_unsigned_or_paid_for_as_configured() {
    for (is_anonymous, requester_pays) in [(true, false), (false, true), (true, true)] {
        let object = random_bytes(1, 100_000);
        let server = S3Double::start(object.clone(), |_: &Request| Act::Serve).await;
        let credentials = if is_anonymous { Credentials::Anonymous } else { credentials() };
        let options = Options {
            endpoint_url: Some(server.endpoint()),
            region: Some("us-east-1".to_owned()),
            credentials,
            requester_pays,
            limits: limits(),
            ..Options::new("bucket")
        };
        let store = S3Store::connect(options, Budget::new(1 << 20)).await.unwrap();

        assert_readable(&store, &object).await;
        store.stat(&key("k"), &Pin::default()).await.unwrap();
        store.list(&ListRequest::default()).await.unwrap_err();

        for request in server.requests() {
            assert_eq!(request.header("authorization").is_none(), is_anonymous, "{request:?}");
            assert_eq!(request.header("x-amz-request-payer"), requester_pays.then_some("requester"), "{request:?}");
        }
    }
}

fn credentials() -> Credentials {
    Credentials::Static(gantry_store::s3::StaticCredentials {
        access_key_id: "id".to_owned(),
        secret_access_key: "secret".to_owned(),
        session_token: None,
    })
}

/// S3 also stores checksums of algorithms that older consumers don't know. Each is stated where they don't look.
#[tokio::test]
async fn checksums_of_newer_algorithms_are_stated_beside_the_older_ones() {
    use ChecksumAlgorithm::{Md5, Sha512, Xxhash3, Xxhash64, Xxhash128};
    use ChecksumKind::{Composite, Etag, FullObject};

    let cases: [(&'static [u8], _); 8] = [
        (b"x-amz-checksum-sha512: AAAA\r\nx-amz-checksum-type: FULL_OBJECT\r\n", Some((Sha512, FullObject))),
        (b"x-amz-checksum-sha512: AAAA-2\r\nx-amz-checksum-type: COMPOSITE\r\n", Some((Sha512, Composite))),
        (b"x-amz-checksum-md5: AAAA\r\nx-amz-checksum-type: FULL_OBJECT\r\n", Some((Md5, FullObject))),
        (b"x-amz-checksum-xxhash64: AAAA\r\nx-amz-checksum-type: FULL_OBJECT\r\n", Some((Xxhash64, FullObject))),
        (b"x-amz-checksum-xxhash3: AAAA\r\nx-amz-checksum-type: FULL_OBJECT\r\n", Some((Xxhash3, FullObject))),
        (b"x-amz-checksum-xxhash128: AAAA\r\nx-amz-checksum-type: FULL_OBJECT\r\n", Some((Xxhash128, FullObject))),
        (b"x-amz-server-side-encryption: AES256\r\n", Some((Md5, Etag))),
        (b"x-amz-server-side-encryption: aws:kms\r\n", None),
    ];
    for (lines, expected) in cases {
        let etag = "\"900150983cd24fb0d6963f7d28e17f72\"";
        let server = S3Double::start(Bytes::from_static(b"abc"), move |_: &Request| Act::Labelled(etag, lines)).await;
        let store = store(server.endpoint(), limits(), 1 << 20).await;

        let described = store.stat(&key("k"), &Pin::default()).await.unwrap();
        let opened = store.open(&key("k"), &Pin::default(), Span::default()).await.unwrap();

        for object in [described, opened.object] {
            let stated = object.other_checksum.map(|checksum| (checksum.algorithm, checksum.kind));
            assert_eq!((object.checksum, stated), (None, expected), "{}", String::from_utf8_lossy(lines));
        }
    }
}
