//! The S3 store against an S3 server that fails on demand: the result is the right bytes, or a typed error in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use gantry_proto::{Pin, Span};
use gantry_store::s3::{Credentials, Limits, Options, S3Store, StaticCredentials};
use gantry_store::{Budget, Error, Store};
use tokio::time::{Instant, timeout};

use super::{collect, key, read};
use crate::support::data::random_bytes;
use crate::support::s3_double::{Act, Request, S3Double};
use crate::support::{data, until};

const RANGE_BYTES: usize = 64 * 1024;
const SIZE: usize = 10 * RANGE_BYTES + 7;

/// Short enough for tests, long enough for a busy machine.
pub(super) fn limits() -> Limits {
    Limits {
        range_bytes: RANGE_BYTES as u64,
        answer_timeout: Duration::from_secs(1),
        stall_timeout: Duration::from_secs(1),
        retry_budget: Duration::from_secs(4),
        ..Limits::default()
    }
}

pub(super) async fn store(endpoint: String, limits: Limits, budget_bytes: u64) -> S3Store {
    store_on(endpoint, limits, Budget::new(budget_bytes)).await
}

async fn store_on(endpoint: String, limits: Limits, budget: Budget) -> S3Store {
    let options = Options {
        endpoint_url: Some(endpoint),
        region: Some("us-east-1".to_owned()),
        path_style: Some(true),
        credentials: Credentials::Static(StaticCredentials {
            access_key_id: "id".to_owned(),
            secret_access_key: "very-secret".to_owned(),
            session_token: None,
        }),
        limits,
        ..Options::new("bucket")
    };
    S3Store::connect(options, budget).await.unwrap()
}

fn object() -> Bytes {
    random_bytes(7, SIZE)
}

/// Reads the whole object, sequentially and in parallel, from a server with this script.
async fn read_whole(
    limits: Limits,
    script: impl Fn(&Request) -> Act + Clone + Send + Sync + 'static,
) -> [Result<Bytes, Error>; 2] {
    let read_whole = async |concurrency_max| {
        let server = S3Double::start(object(), script.clone()).await;
        let store = store(server.endpoint(), Limits { concurrency_max, ..limits.clone() }, 1 << 30).await;
        let began = Instant::now();
        let result = read(&store, "key", &Pin::default(), 0, None).await;
        assert!(began.elapsed() < Duration::from_secs(30), "took {:?}", began.elapsed());
        result
    };
    let (sequential, parallel) = tokio::join!(read_whole(1), read_whole(4));
    [sequential, parallel]
}

async fn assert_right(script: impl Fn(&Request) -> Act + Clone + Send + Sync + 'static) {
    for result in read_whole(limits(), script).await {
        assert!(result.unwrap() == object());
    }
}

async fn assert_fails(
    script: impl Fn(&Request) -> Act + Clone + Send + Sync + 'static,
    is_expected: impl Fn(&Error) -> bool,
) {
    assert_fails_within(limits(), script, is_expected).await;
}

async fn assert_fails_within(
    limits: Limits,
    script: impl Fn(&Request) -> Act + Clone + Send + Sync + 'static,
    is_expected: impl Fn(&Error) -> bool,
) {
    for result in read_whole(limits, script).await {
        let error = result.unwrap_err();
        let message = error.to_string();
        assert!(is_expected(&error), "{error:?}");
        // The consumer knows the key, and does not learn where the object is.
        assert!(message.contains("\"key\"") && !message.contains("\"bucket\""), "{message}");
        assert!(!message.contains("secret") && !message.contains('\n') && !message.contains("127.0.0.1"), "{message}");
    }
}

/// Answers the first `count` requests with this act.
fn at_first(count: usize, act: Act) -> impl Fn(&Request) -> Act + Clone {
    move |request| if request.index < count { act.clone() } else { Act::Serve }
}

/// Answers all requests except the first with this act.
fn later(act: Act) -> impl Fn(&Request) -> Act + Clone {
    // The first body is cut, so that there is a second request even without parallel reads.
    move |request| if request.index == 0 { Act::Cut(RANGE_BYTES / 2) } else { act.clone() }
}

#[tokio::test]
async fn a_healthy_server_is_read_with_the_fewest_requests() {
    let server = S3Double::start(object(), |_| Act::Serve).await;
    let store = store(server.endpoint(), limits(), 0).await;

    assert!(read(&store, "key", &Pin::default(), 0, None).await.unwrap() == object());

    // Without memory for read-ahead, there is only one response.
    let requests = server.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert_eq!(requests[0].header("x-amz-checksum-mode"), Some("ENABLED"));
    assert_eq!(requests[0].header("range"), None);
}

#[tokio::test]
async fn every_later_request_is_pinned_and_requests_no_checksum() {
    let server = S3Double::start(object(), |_| Act::Serve).await;
    let store = store(server.endpoint(), limits(), 1 << 30).await;

    assert!(read(&store, "key", &Pin::default(), 0, None).await.unwrap() == object());

    let requests = server.requests();
    assert!(requests.len() > 5, "not read in parallel: {requests:?}");
    for request in &requests[1..] {
        assert_eq!(request.header("if-match"), Some("\"double\""));
        assert_eq!(request.header("x-amz-checksum-mode"), None);
        let range = request.range(SIZE).unwrap();
        assert_eq!(range.start % RANGE_BYTES, 0, "{request:?}");
        assert!(range.len() <= RANGE_BYTES, "{request:?}");
    }
}

#[tokio::test]
async fn temporary_failures_are_retried() {
    for (status, code) in [(500, "InternalError"), (503, "SlowDown"), (503, ""), (429, ""), (400, "RequestTimeout")] {
        assert_right(at_first(2, Act::Fail(status, code, ""))).await;
    }
    assert_right(at_first(1, Act::Hang)).await;
    assert_right(at_first(1, Act::Cut(0))).await;
}

#[tokio::test]
async fn lasting_failures_end_within_the_budget() {
    let tight = || Limits {
        answer_timeout: Duration::from_millis(300),
        stall_timeout: Duration::from_millis(300),
        retry_budget: Duration::from_secs(1),
        ..limits()
    };
    let is_unavailable = |error: &Error| matches!(error, Error::Unavailable { .. });
    let asks_to_wait = |error: &Error| matches!(error, Error::Unavailable { retry_after: Some(after), .. } if *after == Duration::from_secs(60));
    tokio::join!(
        assert_fails_within(tight(), |_| Act::Fail(500, "InternalError", ""), is_unavailable),
        assert_fails_within(tight(), |_| Act::Hang, is_unavailable),
        assert_fails_within(tight(), |_| Act::Fail(503, "SlowDown", "retry-after: 60"), asks_to_wait),
        assert_fails_within(tight(), later(Act::Fail(500, "", "")), is_unavailable),
        assert_fails_within(tight(), later(Act::Stall(0)), is_unavailable),
        assert_fails_within(tight(), later(Act::Short(RANGE_BYTES * 20)), is_unavailable),
    );
}

#[tokio::test]
async fn an_unreachable_server_is_reported_within_the_budget() {
    let store = store(format!("http://127.0.0.1:{}", data::free_port()), limits(), 0).await;
    let began = Instant::now();
    let error = read(&store, "key", &Pin::default(), 0, None).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(error.to_string().contains("can't reach S3"), "{error}");
    assert!(matches!(store.probe().await.unwrap_err(), Error::Unavailable { .. }));
}

#[tokio::test]
async fn final_answers_are_not_retried() {
    let is_missing = |error: &Error| matches!(error, Error::NotFound(_));
    let is_denied = |error: &Error| matches!(error, Error::Denied(_));
    // The answer to a HEAD has no code.
    let is_archived = |error: &Error| matches!(error, Error::Archived(_)) || error.to_string().ends_with("(403)");
    for (act, is_expected) in [
        (Act::Fail(404, "NoSuchKey", ""), &is_missing as &(dyn Fn(&Error) -> bool + Sync)),
        (Act::Fail(404, "NoSuchBucket", ""), &is_missing),
        (Act::Fail(404, "", ""), &is_missing),
        (Act::Fail(405, "MethodNotAllowed", "x-amz-delete-marker: true"), &is_missing),
        (Act::Fail(403, "AccessDenied", ""), &is_denied),
        (Act::Fail(403, "InvalidAccessKeyId", ""), &is_denied),
        (Act::Fail(403, "SignatureDoesNotMatch", ""), &is_denied),
        (Act::Fail(403, "InvalidObjectState", ""), &is_archived),
    ] {
        let server = S3Double::start(object(), move |_| act.clone()).await;
        let store = store(server.endpoint(), limits(), 0).await;
        let error = read(&store, "key", &Pin::default(), 0, None).await.unwrap_err();
        assert!(is_expected(&error), "{error:?}");
        assert_eq!(server.requests().len(), 1);
        let error = read(&store, "key", &Pin::default(), 5, None).await.unwrap_err();
        assert!(is_expected(&error), "{error:?}");
        let error = store.stat(&key("key"), &Pin::default()).await.unwrap_err();
        assert!(is_expected(&error) || error.to_string().contains("405"), "{error:?}");
    }
}

#[tokio::test]
async fn the_rest_of_a_broken_body_is_requested_from_the_next_byte() {
    // Every second response is cut.
    let cut =
        |after| assert_right(move |request| if request.index.is_multiple_of(2) { Act::Cut(after) } else { Act::Serve });
    let short = |by| assert_right(move |request| if request.index % 2 == 1 { Act::Short(by) } else { Act::Serve });
    let lengths = [0, 1, 1000, RANGE_BYTES - 1, RANGE_BYTES, RANGE_BYTES + 1];
    tokio::join!(join_all(lengths.map(cut)), join_all(lengths.map(short)));
    let server = S3Double::start(object(), at_first(1, Act::Cut(1000))).await;
    let store = store(server.endpoint(), limits(), 0).await;
    assert!(read(&store, "key", &Pin::default(), 0, None).await.unwrap() == object());
    assert_eq!(server.requests()[1].range(SIZE), Some(1000..SIZE));
}

#[tokio::test]
async fn every_response_may_break_as_long_as_there_is_progress() {
    assert_right(|_| Act::Cut(RANGE_BYTES / 3)).await;
}

#[tokio::test]
async fn the_rest_of_a_stalled_body_is_requested() {
    assert_right(at_first(1, Act::Stall(1000))).await;
    assert_right(|request| if request.index == 3 { Act::Stall(1000) } else { Act::Serve }).await;
}

#[tokio::test]
async fn surplus_bytes_are_dropped() {
    assert_right(later(Act::Long(100_000))).await;
    let server = S3Double::start(object(), |_| Act::Long(1000)).await;
    let store = store(server.endpoint(), limits(), 0).await;
    let bytes = read(&store, "key", &Pin::default(), 10, Some(20)).await.unwrap();
    assert_eq!(bytes, object().slice(10..20));
}

#[tokio::test]
async fn invalid_answers_are_rejected() {
    let is_protocol = |error: &Error| matches!(error, Error::Protocol(_));
    assert_fails(later(Act::IgnoreRange), is_protocol).await;
    assert_fails(later(Act::Shift(1)), is_protocol).await;
    assert_fails(|_| Act::Anonymous, is_protocol).await;
}

/// SeaweedFS was seen to answer so while faults were injected.
#[tokio::test]
async fn missing_bytes_of_a_described_object_are_requested_again() {
    let empty = || Act::Raw(200, "x-amz-request-id: 1\r\netag: \"double\"", String::new());
    for missing in [empty(), Act::Fail(416, "InvalidRange", "")] {
        let once = missing.clone();
        assert_right(move |request| match request.index {
            0 => Act::Cut(RANGE_BYTES / 2),
            1 => once.clone(),
            _ => Act::Serve,
        })
        .await;

        let unavailable = |error: &Error| matches!(error, Error::Unavailable { .. });
        assert_fails(later(missing.clone()), unavailable).await;
        let server = S3Double::start(object(), move |request| match request.range(object().len()) {
            Some(_) => missing.clone(),
            None => Act::Serve,
        })
        .await;
        let store = store(server.endpoint(), limits(), 0).await;
        let error = read(&store, "key", &Pin::default(), 10, None).await.unwrap_err();
        assert!(unavailable(&error), "{error:?}");
    }
}

#[tokio::test]
async fn a_replaced_object_ends_as_changed() {
    let is_changed = |error: &Error| matches!(error, Error::Changed(_));
    assert_fails(later(Act::Fail(412, "PreconditionFailed", "")), is_changed).await;
    assert_fails(later(Act::Fail(412, "", "")), is_changed).await;
    assert_fails(later(Act::Replace("\"other\"")), is_changed).await;
    assert_fails(later(Act::Grow(5)), is_changed).await;

    // Every answer has another version, so that a range never matches its description.
    let count = Arc::new(AtomicUsize::new(0));
    let script = move |_: &Request| {
        let count = count.fetch_add(1, Ordering::Relaxed);
        Act::Replace(if count.is_multiple_of(2) { "\"even\"" } else { "\"odd\"" })
    };
    let server = S3Double::start(object(), script).await;
    let store = store(server.endpoint(), limits(), 0).await;
    let error = read(&store, "key", &Pin::default(), 1, None).await.unwrap_err();
    assert!(is_changed(&error), "{error:?}");
}

#[tokio::test]
async fn a_bucket_of_another_region_is_followed() {
    for act in [
        Act::Fail(301, "PermanentRedirect", "x-amz-bucket-region: eu-west-3"),
        Act::Fail(307, "", "x-amz-bucket-region: eu-west-3"),
        Act::Fail(400, "AuthorizationHeaderMalformed", "x-amz-bucket-region: eu-west-3"),
        Act::Fail(400, "AuthorizationHeaderMalformed", ""),
    ] {
        let script = move |request: &Request| match request.header("authorization") {
            Some(signed) if signed.contains("/eu-west-3/s3/") => Act::Serve,
            _ => act.clone(),
        };
        assert_right(script).await;
    }
    // A server that keeps redirecting.
    assert_fails(
        |_| Act::Fail(301, "PermanentRedirect", "x-amz-bucket-region: eu-west-3"),
        |error| matches!(error, Error::Invalid(_)),
    )
    .await;
}

#[tokio::test]
async fn expired_credentials_are_loaded_again() {
    for (status, code) in [(403, "ExpiredToken"), (400, "ExpiredToken"), (400, "TokenRefreshRequired")] {
        assert_right(at_first(1, Act::Fail(status, code, ""))).await;
        assert_right(move |request| match request.index {
            0 => Act::Cut(1000),
            1 => Act::Fail(status, code, ""),
            _ => Act::Serve,
        })
        .await;
        assert_fails(later(Act::Fail(status, code, "")), |error| matches!(error, Error::Unavailable { .. })).await;
    }
}

/// The store can't detect wrong bytes. The consumer detects them with the object's checksum.
#[tokio::test]
async fn wrong_bytes_are_not_detected_by_the_store() {
    for result in read_whole(limits(), |_| Act::Flip).await {
        assert!(result.unwrap() != object());
    }
}

#[tokio::test]
async fn an_empty_object_has_every_empty_range() {
    let server = S3Double::start(Bytes::new(), |_| Act::Serve).await;
    let store = store(server.endpoint(), limits(), 0).await;
    for (start, end) in [(0, None), (0, Some(0)), (0, Some(10))] {
        assert!(read(&store, "key", &Pin::default(), start, end).await.unwrap().is_empty());
    }
    let error = read(&store, "key", &Pin::default(), 1, None).await.unwrap_err();
    assert!(matches!(error, Error::Range { start: 1, size: 0 }), "{error:?}");
}

#[tokio::test]
async fn read_ahead_is_bounded_and_returns_its_budget() {
    let budget = Budget::new(1 << 20);
    let server = S3Double::start(random_bytes(1, 100 * RANGE_BYTES), |_| Act::Serve).await;
    let options = Options {
        endpoint_url: Some(server.endpoint()),
        region: Some("us-east-1".to_owned()),
        path_style: Some(true),
        credentials: Credentials::Anonymous,
        limits: limits(),
        ..Options::new("bucket")
    };
    let store = S3Store::connect(options, budget.clone()).await.unwrap();
    let mut opened = store.open(&key("key"), &Pin::default(), Span::default()).await.unwrap();
    let mut taken = 0;
    while budget.available_bytes() == 1 << 20 {
        taken += opened.body.try_next().await.unwrap().unwrap().len();
    }
    assert!(taken < 100 * RANGE_BYTES);
    assert!(budget.available_bytes() >= (1 << 20) - 4 * 3 / 2 * RANGE_BYTES as u64);
    assert!(server.requests().iter().all(|request| request.header("authorization").is_none()));

    drop(opened);

    until("the release of the reserved memory", async || (budget.available_bytes() == 1 << 20).then_some(())).await;
}

#[tokio::test]
async fn a_consumer_that_pauses_loses_nothing() {
    let server = S3Double::start(object(), |_| Act::Serve).await;
    let store = store(server.endpoint(), limits(), 1 << 30).await;
    let mut opened = store.open(&key("key"), &Pin::default(), Span::default()).await.unwrap();
    let first = opened.body.try_next().await.unwrap().unwrap();
    // Longer than the time that a body may stall during a read.
    assert!(timeout(Duration::from_millis(1500), std::future::pending::<()>()).await.is_err());
    let rest = collect(opened).await.unwrap();
    assert!([first, rest].concat() == object());
}

/// A thousand whole objects in flight once filled the kernel's socket memory, and every transfer became slow.
#[tokio::test]
async fn in_a_crowd_no_response_is_longer_than_a_quarter_of_a_range() {
    let server = S3Double::start(object(), |_| Act::Serve).await;
    let empty = S3Double::start(Bytes::new(), |_| Act::Serve).await;
    let budget = Budget::new(1 << 30);
    let store = store_on(server.endpoint(), limits(), budget.clone()).await;
    let _crowd: Vec<_> = (0..100).map(|_| budget.crowd().enter()).collect();

    assert!(read(&store, "key", &Pin::default(), 0, None).await.unwrap() == object());
    let tail = SIZE as u64 - 5;
    assert!(read(&store, "key", &Pin::default(), tail, None).await.unwrap() == object()[SIZE - 5..]);
    let store = store_on(empty.endpoint(), limits(), budget).await;
    assert!(read(&store, "key", &Pin::default(), 0, None).await.unwrap().is_empty());

    let requests = server.requests();
    let ranges: Vec<_> = requests.iter().filter(|request| request.is_get()).map(|get| get.range(SIZE)).collect();
    assert!(ranges.len() > 40, "{ranges:?}");
    assert!(
        ranges.iter().all(|range| range.as_ref().is_some_and(|range| range.len() <= RANGE_BYTES / 4)),
        "{ranges:?}"
    );
}
