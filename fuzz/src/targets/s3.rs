//! A store behind an S3 server that answers anything: no panic, no invented bytes, and no memory that stays reserved.

use arbitrary::{Arbitrary, Unstructured};
use futures_util::StreamExt as _;

use crate::gantry::{Budget, Key, ListRequest, Pin, S3Store, Span, Store, pretended_s3, s3};
use crate::machine::Number;
use crate::runtime;

#[derive(Arbitrary, Debug)]
struct Input {
    asked: Asked,
    answers: Vec<Answer>,
}

#[derive(Arbitrary, Debug)]
enum Asked {
    Open { start: u8, end: Option<u16>, pinned: bool },
    Stat,
    List { recursive: bool, token: Option<String> },
    Probe,
}

#[derive(Arbitrary, Debug)]
struct Answer {
    status: Status,
    headers: Vec<(Header, String)>,
    body: Body,
}

#[derive(Arbitrary, Debug)]
enum Status {
    Fine,
    Partial,
    Usual(u8),
    Any(u16),
}

#[derive(Arbitrary, Debug)]
enum Header {
    Usual(u8),
    Range(Number, Number, Number),
    Length,
    Etag,
    Any(String),
}

#[derive(Arbitrary, Debug)]
enum Body {
    Bytes(Vec<u8>),
    Error { code: String, more: String },
    Listing { key: String, size: String, date: String, token: String, more: String },
}

const STATUSES: [u16; 16] = [206, 301, 304, 307, 400, 401, 403, 404, 405, 409, 412, 416, 429, 500, 501, 503];

const HEADERS: [&str; 16] = [
    "etag",
    "content-length",
    "content-range",
    "last-modified",
    "x-amz-version-id",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-sha256",
    "x-amz-checksum-type",
    "x-amz-mp-parts-count",
    "x-amz-bucket-region",
    "retry-after",
    "content-type",
    "x-amz-meta-a",
    "x-amz-delete-marker",
    "content-encoding",
    "date",
];

/// The maximum number of bytes to read of a body.
const READ_MAX: u64 = 1 << 20;

pub(crate) fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let sent: u64 = input.answers.iter().map(|answer| answer.body.text().len() as u64).sum();
    pretended_s3::answer_with(input.answers.iter().map(Answer::canned).collect());
    runtime::run(ask(&input.asked, sent));
}

async fn ask(asked: &Asked, sent: u64) {
    let budget = Budget::new(64 << 20);
    let store = S3Store::connect(options(), budget.clone()).await.expect("the options are valid");
    let key: Key = "a/b".parse().expect("the key is valid");
    match asked {
        Asked::Open { start, end, pinned } => {
            let span = Span { start: (*start).into(), end: end.map(u64::from) };
            let pin = Pin { if_match: pinned.then(|| "\"a\"".to_owned()), version_id: None };
            let opened = store.open(&key, &pin, span).await;
            if let Ok(mut opened) = opened {
                let range = span.resolve(opened.object.size).expect("it was opened");
                let mut read = 0;
                while let Some(Ok(bytes)) = opened.body.next().await {
                    read += bytes.len() as u64;
                    assert!(read <= range.end - range.start, "more bytes than the range has");
                    assert!(read <= sent, "bytes that S3 did not send");
                    if read > READ_MAX {
                        break;
                    }
                }
            }
        }
        Asked::Stat => drop(store.stat(&key, &Pin::default()).await),
        Asked::List { recursive, token } => {
            let request = ListRequest { recursive: *recursive, token: token.clone(), ..ListRequest::default() };
            if let Ok(page) = store.list(&request).await {
                assert!(page.entries.iter().all(|entry| entry.key.parse::<Key>().is_ok()), "{page:?}");
            }
        }
        Asked::Probe => drop(store.probe().await),
    }
    drop(store);
    // The read-ahead is released once its task has noticed that nobody wants it.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(budget.reserved_bytes(), 0, "memory stays reserved");
}

fn options() -> s3::Options {
    let keys =
        s3::StaticCredentials { access_key_id: "a".to_owned(), secret_access_key: "b".to_owned(), session_token: None };
    s3::Options {
        region: Some("us-east-1".to_owned()),
        endpoint_url: Some("http://127.0.0.1:1".to_owned()),
        path_style: Some(true),
        credentials: s3::Credentials::Static(keys),
        ..s3::Options::new("bucket")
    }
}

impl Answer {
    fn canned(&self) -> pretended_s3::Canned {
        let body = self.body.text();
        let status = match self.status {
            Status::Fine => 200,
            Status::Partial => 206,
            Status::Usual(n) => STATUSES[usize::from(n) % STATUSES.len()],
            Status::Any(status) => status,
        };
        let headers = self.headers.iter().map(|(name, value)| match name {
            Header::Usual(n) => (HEADERS[usize::from(*n) % HEADERS.len()].to_owned(), value.clone()),
            Header::Range(first, last, size) => {
                ("content-range".to_owned(), format!("bytes {}-{}/{}", first.0, last.0, size.0))
            }
            Header::Length => ("content-length".to_owned(), body.len().to_string()),
            Header::Etag => ("etag".to_owned(), "\"a\"".to_owned()),
            Header::Any(name) => (name.clone(), value.clone()),
        });
        pretended_s3::Canned { status, headers: headers.collect(), body }
    }
}

impl Body {
    fn text(&self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Error { code, more } => format!("<Error><Code>{code}</Code>{more}</Error>").into_bytes(),
            Self::Listing { key, size, date, token, more } => format!(
                "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>\
                 <Contents><Key>{key}</Key><Size>{size}</Size><LastModified>{date}</LastModified></Contents>\
                 <CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes>{more}</ListBucketResult>"
            )
            .into_bytes(),
        }
    }
}
