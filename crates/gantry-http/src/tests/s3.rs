//! The part of S3 that reads.

use super::*;
use crate::{CorsOrigins, Secret};

/// Signed in some way, which local clients need not be.
const SIGNED: &str = "X-Amz-Signature=s";

fn shelved() -> Site {
    let mut shelf = shelf::Shelf::default();
    shelf.put(shelf::uploaded("dir/digits.txt"), b"0123456789");
    Site::serving(Options::default(), Arc::new(shelf))
}

#[tokio::test]
async fn an_object_has_s3s_headers() {
    let site = shelved();
    let answer = site.get("/shelf/dir/digits.txt", &[("x-amz-checksum-mode", "ENABLED")]).await;
    assert_eq!((answer.status, answer.text()), (200, "0123456789"));
    for (name, value) in [
        ("etag", "\"77f9b0e1b5f2-3\""),
        ("last-modified", "Thu, 02 Jan 2025 03:04:05 GMT"),
        ("content-type", "text/x-digits"),
        ("x-amz-version-id", "v1"),
        ("x-amz-meta-owner", "me"),
        ("x-amz-checksum-type", "COMPOSITE"),
        ("gantry-proof", "composite;algorithm=SHA256;parts=3"),
        ("server", "gantry"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    assert!(answer.header("x-amz-checksum-sha256").unwrap().ends_with("-3"));
    assert_eq!(site.get("/shelf/dir/digits.txt", &[]).await.header("x-amz-checksum-sha256"), None);
}

#[tokio::test]
async fn versions_are_read_by_their_id() {
    let site = shelved();
    assert_eq!(site.get("/shelf/dir/digits.txt?versionId=v1", &[]).await.status, 200);
    let missing = site.get("/shelf/dir/digits.txt?versionId=v2", &[]).await;
    assert_eq!((missing.status, missing.code()), (404, "NoSuchVersion"));
    // What was stored without versions is the version `null`.
    site.put("plain", 10);
    for method in ["GET", "HEAD"] {
        assert_eq!(site.ask(method, "/models/plain?versionId=null", &[]).await.status, 200);
        assert_eq!(site.ask(method, "/shelf/dir/digits.txt?versionId=null", &[]).await.status, 404);
    }
    let missing = site.get("/shelf/other", &[]).await;
    assert_eq!((missing.status, missing.code()), (404, "NoSuchKey"));
    assert_eq!(missing.element("Resource"), "/shelf/other");
    assert_eq!(Some(missing.element("RequestId")), missing.header("x-amz-request-id"));
}

#[tokio::test]
async fn parts_of_an_upload_are_read_by_their_number() {
    let site = shelved();
    for (number, text, range) in [(1, "0123", "bytes 0-3/10"), (2, "4567", "bytes 4-7/10"), (3, "89", "bytes 8-9/10")] {
        let target = format!("/shelf/dir/digits.txt?partNumber={number}");
        let answer = site.get(&target, &[]).await;
        assert_eq!((answer.status, answer.text()), (206, text));
        for answer in [answer, site.ask("HEAD", &target, &[]).await] {
            assert_eq!(answer.header("content-range"), Some(range));
            assert_eq!(answer.header("x-amz-mp-parts-count"), Some("3"));
            assert_eq!(answer.header("content-length"), Some(&*text.len().to_string()));
        }
    }

    for (query, status, code) in [
        ("partNumber=4", 416, "InvalidPartNumber"),
        ("partNumber=0", 400, "InvalidArgument"),
        ("partNumber=x", 400, "InvalidArgument"),
    ] {
        let answer = site.get(&format!("/shelf/dir/digits.txt?{query}"), &[]).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{query}");
    }

    site.put("a", 100);
    assert_eq!(site.get("/models/a?partNumber=1", &[]).await.header("content-range"), Some("bytes 0-99/100"));
    assert_eq!(site.get("/models/a?partNumber=2", &[]).await.code(), "InvalidPartNumber");
}

#[tokio::test]
async fn attributes_are_those_requested() {
    let site = shelved();
    let target = "/shelf/dir/digits.txt?attributes";
    let all = "ETag,Checksum,ObjectParts,StorageClass,ObjectSize";
    let answer = site.get(target, &[("x-amz-object-attributes", all), ("x-amz-max-parts", "2")]).await;
    for (name, value) in [
        ("ETag", "77f9b0e1b5f2-3"),
        ("ChecksumType", "COMPOSITE"),
        ("PartsCount", "3"),
        ("NextPartNumberMarker", "2"),
        ("StorageClass", "STANDARD"),
        ("ObjectSize", "10"),
    ] {
        assert_eq!(answer.element(name), value);
    }
    assert_eq!(answer.elements("Size"), ["4", "4"]);
    assert_eq!(answer.header("x-amz-version-id"), Some("v1"));

    let one = site.get(target, &[("x-amz-object-attributes", "ObjectSize")]).await;
    assert!(one.elements("ETag").is_empty());
    assert_eq!(site.get(target, &[]).await.code(), "InvalidArgument");
    for unknown in ["Owner", "ETag,Colour", "ETag,,ObjectSize"] {
        assert_eq!(site.get(target, &[("x-amz-object-attributes", unknown)]).await.code(), "InvalidArgument");
    }
}

#[tokio::test]
async fn buckets_are_listed_and_described() {
    let site = shelved();
    let list = site.get("/", &[]).await;
    assert_eq!(list.elements("Name"), ["models", "shelf"]);
    assert_eq!(site.ask("HEAD", "/models", &[]).await.header("x-amz-bucket-region"), Some("us-east-1"));
    assert_eq!(site.ask("HEAD", "/none", &[]).await.status, 404);
    assert_eq!(site.ask("HEAD", "/shelf", &[]).await.status, 404, "its place does not exist");
    assert!(site.get("/models?location", &[]).await.text().contains("></LocationConstraint>"));
    for unknown in ["/none?location", "/shelf?location"] {
        assert_eq!(site.get(unknown, &[]).await.code(), "NoSuchBucket");
    }
    assert_eq!(site.get("/?prefix=sh", &[]).await.elements("Name"), ["shelf"]);
    assert_eq!(site.get("/shelf?list-type=2", &[]).await.code(), "AccessDenied");
}

#[tokio::test]
async fn a_store_may_have_a_host_of_its_own() {
    let options = Options { s3_domain: Some("s3.test".to_owned()), ..Options::default() };
    let site = Site::with(options);
    let bytes = site.put("a/b", 100);

    for target in ["/a/b", "/a%2Fb"] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: models.s3.test:9000\r\nConnection: close\r\n\r\n");
        assert_eq!(site.answer(&request).await.body, bytes);
    }
    let listing = "GET /?list-type=2 HTTP/1.1\r\nHost: models.s3.test\r\nConnection: close\r\n\r\n";
    assert_eq!(site.answer(listing).await.elements("Key"), ["a/b"]);
    assert_eq!(site.get("/models/a/b", &[]).await.body, bytes);
}

#[tokio::test]
async fn with_keys_only_signed_requests_are_served() {
    let mut options = Options::default();
    options.keys.insert("key".to_owned(), Secret::new("secret"));
    let site = Site::with(options.clone());
    site.put("a", 10);

    assert_eq!(site.get("/models/a", &[]).await.code(), "AccessDenied");
    let signed = "AWS4-HMAC-SHA256 Credential=key/20200101/r/s3/aws4_request, SignedHeaders=host;x-amz-content-sha256;\
                  x-amz-date, Signature=0";
    let old =
        [("Authorization", signed), ("x-amz-date", "20200101T000000Z"), ("x-amz-content-sha256", "UNSIGNED-PAYLOAD")];
    assert_eq!(site.get("/models/a", &old).await.code(), "RequestTimeTooSkewed");
    assert_eq!(site.get("/models/a?X-Amz-Signature=0", &[]).await.code(), "InvalidRequest");
    assert_eq!(site.ask("OPTIONS", "/models/a", &[]).await.status, 204);
    assert_eq!(site.store.opens(), 0);

    options.anonymous = true;
    let site = Site::with(options);
    site.put("a", 10);
    assert_eq!(site.get("/models/a", &[]).await.status, 200);
    assert_eq!(site.get("/models/a", &old).await.status, 403);
}

#[tokio::test]
async fn without_keys_signatures_are_ignored_for_local_clients_only() {
    let mut site = Site::new();
    site.put("a", 10);
    let signed = request("GET", "/models/a?X-Amz-Signature=s&X-Amz-Date=d", &[]);

    for (peer, status) in [("127.0.0.1:5", 200), ("[::1]:5", 200), ("[::ffff:127.0.0.1]:5", 200), ("192.0.2.1:5", 403)]
    {
        let mut connection = site.connect_from(peer.parse::<std::net::SocketAddr>().unwrap().into());
        connection.write_all(signed.as_bytes()).await.unwrap();
        assert_eq!(Answer::parse(&read_to_end(&mut connection).await).status, status, "{peer}");
        // What would let others repeat the request is not reported.
        assert_eq!(site.report().await.target, "/models/a?X-Amz-Date=d");
    }
}

#[tokio::test]
async fn headers_that_are_stored_with_an_object_are_returned() {
    let stored = [
        ("cache-control", "max-age=60"),
        ("content-disposition", "inline; filename=\"a\""),
        ("content-encoding", "gzip"),
        ("content-language", "de, en"),
        ("expires", "Thu, 02 Jan 2025 03:04:05 GMT"),
    ];
    let mut object = shelf::uploaded("a");
    object.headers.extend(stored.map(|(name, value)| (name.to_owned(), value.to_owned())));
    object.headers.insert("set-cookie".to_owned(), "a=b".to_owned());
    let etag = object.etag.clone();
    let mut shelf = shelf::Shelf::default();
    shelf.put(object, b"0123456789");
    let site = Site::serving(Options::default(), Arc::new(shelf));

    for (method, range) in [("GET", "none"), ("HEAD", "none"), ("GET", "bytes=2-3")] {
        let answer = site.ask(method, "/shelf/a", &[("Range", range)]).await;
        for (name, value) in stored {
            assert_eq!(answer.header(name), Some(value), "{method} {range} {name}");
        }
        assert_eq!(answer.header("set-cookie"), None);
    }

    let known = site.get("/shelf/a", &[("If-None-Match", &etag)]).await;
    assert_eq!((known.status, known.header("cache-control")), (304, Some("max-age=60")));
    assert_eq!((known.header("expires"), known.header("content-encoding")), (Some(stored[4].1), None));

    // The parts are coded, and not what holds them.
    let several = site.get("/shelf/a", &[("Range", "bytes=0-1,8-9")]).await;
    assert_eq!((several.status, several.header("content-encoding")), (206, None));
    assert_eq!(several.text().matches("Content-Encoding: gzip\r\n").count(), 2);

    let signed = format!("/shelf/a?response-cache-control=no-store&{SIGNED}");
    assert_eq!(site.get(&signed, &[]).await.header("cache-control"), Some("no-store"));
    let saved = site.get("/shelf/a?download=b", &[]).await;
    assert_eq!(saved.header("content-disposition"), Some("attachment; filename*=UTF-8''b"));
}

#[tokio::test]
async fn a_query_may_override_headers() {
    let site = shelved();
    let unsigned = "/shelf/dir/digits.txt?response-content-type=text/plain&response-content-disposition=inline&response-\
                    cache-control=no-store";
    let refused = site.get(unsigned, &[]).await;
    assert_eq!((refused.status, refused.code()), (400, "InvalidRequest"), "everybody can make such a link");

    let target = &format!("{unsigned}&{SIGNED}");
    let answer = site.get(target, &[]).await;
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    assert_eq!(answer.header("content-disposition"), Some("inline"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));

    let download = site.get("/shelf/dir/digits.txt?download", &[]).await;
    assert_eq!(download.header("content-disposition"), Some("attachment; filename*=UTF-8''digits.txt"));
    let split =
        site.get("/shelf/dir/digits.txt?response-content-type=a%0d%0aX-Injected:b&X-Amz-Signature=s", &[]).await;
    assert_eq!(split.header("x-injected"), None);
}

#[tokio::test]
async fn requests_that_are_not_implemented_are_never_answered_as_others() {
    let site = shelved();
    site.put("a", 10);
    let sdk = [("x-amz-content-sha256", "UNSIGNED-PAYLOAD")];

    for (query, headers) in [
        ("website", &[][..]),
        ("abac", &[]),
        ("annotation", &[]),
        ("acl=", &[]),
        ("uploadId=1", &[]),
        ("annotation=name", &sdk),
        ("list-type=2&versions&x-id=ListObjectVersions", &[]),
        ("analytics&id=1", &[]),
        ("%61cl", &[]),
    ] {
        for target in ["/models", "/models/a"] {
            let answer = site.get(&format!("{target}?{query}"), headers).await;
            assert_eq!((answer.status, answer.code()), (501, "NotImplemented"), "{target}?{query}");
        }
    }
    for (target, headers) in [
        ("/models/a?v=2", &[][..]),
        ("/models/a?service=git-upload-pack", &[]),
        ("/models/a?x-id=GetObject", &sdk),
        ("/models/a?X-Amz-Signature=s&x-amz-checksum-mode=ENABLED&X-Amz-Expires=5", &[]),
        ("/models/a?AWSAccessKeyId=k&Signature=s&Expires=9", &[]),
        ("/models?list-type=2&fetch-owner=true&start-after=a&encoding-type=url", &sdk),
        ("/?x-id=ListBuckets&max-buckets=10", &sdk),
    ] {
        assert_eq!(site.get(target, headers).await.status, 200, "{target}");
    }
    assert_eq!(site.get("/?events", &[]).await.status, 501);
}

#[tokio::test]
async fn only_configured_origins_may_read() {
    let options =
        Options { cors_origins: CorsOrigins::These(vec!["https://a.example".to_owned()]), ..Options::default() };
    let site = Site::with(options);
    site.put("a", 10);

    let allowed = site.get("/models/a", &[("Origin", "https://a.example")]).await;
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://a.example"));
    assert_eq!(allowed.header("vary"), Some("Origin"));
    let other = site.get("/models/a", &[("Origin", "https://b.example")]).await;
    assert_eq!(other.header("access-control-allow-origin"), None);
    let failed = site.get("/models/none", &[("Origin", "https://a.example")]).await;
    assert_eq!(failed.header("access-control-allow-origin"), Some("https://a.example"));

    let preflight = [
        ("Origin", "https://a.example"),
        ("Access-Control-Request-Method", "GET"),
        ("Access-Control-Request-Headers", "range, x-other"),
    ];
    let answer = site.ask("OPTIONS", "/models/a", &preflight).await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-methods"), Some("GET, HEAD, OPTIONS"));
    assert_eq!(answer.header("access-control-allow-headers"), Some("range, x-other"));
}
