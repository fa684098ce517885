//! Conditional requests.

use super::*;

/// The date of the objects in memory.
const AT: &str = "Wed, 01 Jan 2025 00:00:00 GMT";
const BEFORE: &str = "Tue, 31 Dec 2024 23:59:59 GMT";
const AFTER: &str = "Wed, 01 Jan 2025 00:00:01 GMT";

/// Of the first object in memory.
const ETAG: &str = "\"1\"";

#[tokio::test]
async fn conditions_have_their_status_for_get_and_head() {
    let site = Site::new();
    site.put("a", 300);

    for (headers, status) in [
        (&[("If-Match", ETAG)][..], 200),
        (&[("If-Match", "*")], 200),
        (&[("If-Match", "\"2\"")], 412),
        (&[("If-Match", "W/\"1\"")], 412),
        (&[("If-None-Match", ETAG)], 304),
        (&[("If-None-Match", "W/\"1\"")], 304),
        (&[("If-None-Match", "*")], 304),
        (&[("If-None-Match", "\"2\", \"3\"")], 200),
        (&[("If-Modified-Since", AT)], 304),
        (&[("If-Modified-Since", AFTER)], 304),
        (&[("If-Modified-Since", BEFORE)], 200),
        (&[("If-Unmodified-Since", AT)], 200),
        (&[("If-Unmodified-Since", BEFORE)], 412),
        (&[("If-Match", ETAG), ("If-Unmodified-Since", BEFORE)], 200),
        (&[("If-None-Match", "\"2\""), ("If-Modified-Since", AT)], 200),
        (&[("If-Match", "\"2\""), ("If-None-Match", ETAG)], 412),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = site.ask(method, "/models/a", headers).await;
            assert_eq!(answer.status, status, "{method} {headers:?}");

            if status == 304 {
                assert_eq!((answer.header("etag"), answer.header("last-modified")), (Some(ETAG), Some(AT)));
                assert!(answer.body.is_empty() && answer.header("content-length").is_none(), "{answer:?}");
            }
        }
    }
}

#[tokio::test]
async fn conditions_come_before_the_range() {
    let site = Site::new();
    site.put("a", 300);

    for (headers, status) in [
        (&[("Range", "bytes=900-"), ("If-Match", "\"2\"")][..], 412),
        (&[("Range", "bytes=900-"), ("If-None-Match", ETAG)], 304),
        (&[("Range", "bytes=900-"), ("If-Match", ETAG)], 416),
        (&[("Range", "bytes=0-9"), ("If-Match", ETAG)], 206),
    ] {
        assert_eq!(site.get("/models/a", headers).await.status, status, "{headers:?}");
    }
}

#[tokio::test]
async fn if_range_never_joins_two_versions() {
    let site = Site::new();
    let bytes = site.put("a", 300);

    for (value, status) in
        [(ETAG, 206), (AT, 206), ("\"2\"", 200), ("W/\"1\"", 200), ("1", 200), (BEFORE, 200), (AFTER, 200)]
    {
        let answer = site.get("/models/a", &[("Range", "bytes=100-"), ("If-Range", value)]).await;
        assert_eq!(answer.status, status, "{value}");
        let expected = if status == 206 { &bytes[100..] } else { &bytes };
        assert_eq!(answer.body, expected, "{value}");
    }

    // A range that does not apply can't be refused.
    let answer = site.get("/models/a", &[("Range", "bytes=900-"), ("If-Range", "\"2\"")]).await;
    assert_eq!(answer.status, 200);

    site.put("a", 300);
    let replaced = site.get("/models/a", &[("Range", "bytes=100-"), ("If-Range", ETAG)]).await;
    assert_eq!((replaced.status, replaced.body.len()), (200, 300));
}

/// Another version of the same second would have the same date.
#[tokio::test]
async fn if_range_with_a_date_does_not_apply_to_a_recent_version() {
    for (age, status) in [(0, 200), (30, 200), (100, 206)] {
        let modified = time::OffsetDateTime::from_unix_timestamp(crate::date::now() - age).unwrap();
        let mut object = shelf::uploaded("a");
        object.last_modified = Some(modified.format(&time::format_description::well_known::Rfc3339).unwrap());
        let etag = object.etag.clone();
        let mut shelf = shelf::Shelf::default();
        shelf.put(object, b"0123456789");
        let site = Site::serving(Options::default(), Arc::new(shelf));

        let date = site.get("/shelf/a", &[]).await.header("last-modified").unwrap().to_owned();
        let answer = site.get("/shelf/a", &[("Range", "bytes=2-3"), ("If-Range", &date)]).await;
        assert_eq!(answer.status, status, "{age}");
        let answer = site.get("/shelf/a", &[("Range", "bytes=2-3"), ("If-Range", &etag)]).await;
        assert_eq!(answer.status, 206, "{age}");
    }
}

#[tokio::test]
async fn an_object_that_is_replaced_meanwhile_is_described_anew() {
    let mut shelf = shelf::Shelf::default();
    shelf.put(shelf::uploaded("a"), b"0123456789");
    *shelf.replacements.lock().unwrap() = 2;
    let site = Site::serving(Options::default(), Arc::new(shelf));

    let answer = site.get("/shelf/a", &[("Range", "bytes=2-3")]).await;
    assert_eq!((answer.status, answer.text()), (206, "23"));
}

#[tokio::test]
async fn an_object_that_is_always_replaced_is_unavailable() {
    let mut shelf = shelf::Shelf::default();
    shelf.put(shelf::uploaded("a"), b"0123456789");
    *shelf.replacements.lock().unwrap() = 1000;
    let site = Site::serving(Options::default(), Arc::new(shelf));

    let answer = site.get("/shelf/a", &[]).await;
    assert_eq!((answer.status, answer.code()), (503, "ServiceUnavailable"));
    assert_eq!(answer.header("retry-after"), Some("1"));
}
