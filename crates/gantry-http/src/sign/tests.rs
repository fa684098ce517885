//! The examples of the S3 API reference, "Signature Calculations for the Authorization Header" and "Authenticating
//! Requests: Using Query Parameters".

use hyper::Uri;
use hyper::header::HeaderValue;

use super::*;
use crate::target::Target;

const KEY: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
/// 2013-05-24T00:00:00Z.
const NOW: i64 = 1_369_353_600;

struct Example {
    method: Method,
    target: Target,
    headers: HeaderMap,
}

impl Example {
    fn new(uri: &str, headers: &[(&'static str, &str)]) -> Self {
        let uri: Uri = uri.parse().unwrap();
        let target = Target::parse(&uri, Some("examplebucket.s3.amazonaws.com"), Some("s3.amazonaws.com")).unwrap();
        let mut map = HeaderMap::new();
        map.insert("host", HeaderValue::from_static("examplebucket.s3.amazonaws.com"));
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        Self { method: Method::GET, target, headers: map }
    }

    fn verify_at(&self, now: i64) -> Result<String, Fault> {
        let keys = BTreeMap::from([(KEY.to_owned(), Secret::new(SECRET))]);
        let signed =
            Signed { method: &self.method, path: &self.target.path, query: &self.target.query, headers: &self.headers };
        assert!(signed.is_signed());
        signed.verify(&keys, now)
    }

    fn code_at(&self, now: i64) -> &'static str {
        self.verify_at(now).unwrap_err().code()
    }
}

/// Returns a target that is signed now for a GET from this host.
pub(crate) fn presigned(path: &str, host: &str, key: &str, secret: &str) -> String {
    let date = scope::format_date(date::now()).unwrap();
    let credential = Credential::parse(&format!("{key}/{}/us-east-1/s3/aws4_request", &date[..8]), &date).unwrap();
    let uri = format!(
        "{path}?X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={key}%2F{}&X-Amz-Date={date}&X-Amz-Expires=600&X-Amz-\
         SignedHeaders=host",
        credential.scope().replace('/', "%2F"),
    );

    let mut example = Example::new(&uri, &[]);
    example.headers.insert("host", HeaderValue::from_str(host).unwrap());
    let Example { method, target, headers } = &example;
    let request = Signed { method, path: &target.path, query: &target.query, headers };
    let canonical = Canonical { request: &request, signed_headers: &["host".to_owned()], is_query: true }.hash();

    let text = format!("{ALGORITHM}\n{date}\n{}\n{canonical}", credential.scope());
    let signature = hex(&hmac(&signing_key(&Secret::new(secret), &credential), text.as_bytes()));
    format!("{uri}&X-Amz-Signature={signature}")
}

fn in_header(signed: &str, signature: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential={KEY}/20130524/us-east-1/s3/aws4_request,SignedHeaders={signed},Signature={signature}"
    )
}

fn get_object() -> Example {
    let signature = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
    let authorization = in_header("host;range;x-amz-content-sha256;x-amz-date", signature);
    Example::new(
        "/test.txt",
        &[
            ("range", "bytes=0-9"),
            ("x-amz-content-sha256", EMPTY_SHA256),
            ("x-amz-date", "20130524T000000Z"),
            ("authorization", &authorization),
        ],
    )
}

const PRESIGNED: &str = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2F\
                         us-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&\
                         X-Amz-SignedHeaders=host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157\
                         751f604d404";

#[test]
fn published_examples_are_valid() {
    assert_eq!(get_object().verify_at(NOW).unwrap(), KEY);

    for (uri, signature) in [
        ("/?lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("/?max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ] {
        let authorization = in_header("host;x-amz-content-sha256;x-amz-date", signature);
        let example = Example::new(
            uri,
            &[
                ("x-amz-content-sha256", EMPTY_SHA256),
                ("x-amz-date", "20130524T000000Z"),
                ("authorization", &authorization),
            ],
        );
        assert_eq!(example.verify_at(NOW).unwrap(), KEY, "{uri}");
    }

    assert_eq!(Example::new(PRESIGNED, &[]).verify_at(NOW + 86_400).unwrap(), KEY);
}

#[test]
fn anything_that_was_signed_can_not_be_changed() {
    let mut other = get_object();
    other.headers.insert("range", HeaderValue::from_static("bytes=0-8"));
    assert_eq!(other.code_at(NOW), "SignatureDoesNotMatch");

    let mut other = get_object();
    other.method = Method::HEAD;
    assert_eq!(other.code_at(NOW), "SignatureDoesNotMatch");

    let mut other = get_object();
    other.target = Example::new("/test.txt2", &[]).target;
    assert_eq!(other.code_at(NOW), "SignatureDoesNotMatch");

    for (from, to) in [("test.txt", "test.txu"), ("404", "405"), ("Expires=86400", "Expires=86401")] {
        assert_eq!(Example::new(&PRESIGNED.replace(from, to), &[]).code_at(NOW), "SignatureDoesNotMatch", "{to}");
    }
    let more = format!("{PRESIGNED}&versionId=1");
    assert_eq!(Example::new(&more, &[]).code_at(NOW), "SignatureDoesNotMatch");
}

#[test]
fn signatures_expire() {
    assert_eq!(get_object().code_at(NOW + SKEW_MAX + 1), "RequestTimeTooSkewed");
    assert_eq!(get_object().code_at(NOW - SKEW_MAX - 1), "RequestTimeTooSkewed");
    assert!(get_object().verify_at(NOW + SKEW_MAX).is_ok());

    assert_eq!(Example::new(PRESIGNED, &[]).code_at(NOW + 86_401), "AccessDenied");
    assert_eq!(Example::new(PRESIGNED, &[]).code_at(NOW - SKEW_MAX - 1), "AccessDenied");
}

#[test]
fn invalid_signatures_have_codes() {
    let with = |authorization: &str| {
        let mut example = get_object();
        example.headers.insert("authorization", HeaderValue::from_str(authorization).unwrap());
        example.code_at(NOW)
    };
    assert_eq!(with("AWS AKIAIOSFODNN7EXAMPLE:abc"), "InvalidRequest");
    assert_eq!(with("Basic YTpi"), "InvalidRequest");
    assert_eq!(with("AWS4-HMAC-SHA256"), "AuthorizationHeaderMalformed");
    assert_eq!(with("AWS4-HMAC-SHA256 Credential=a,SignedHeaders=host,Signature=b"), "AuthorizationHeaderMalformed");
    assert_eq!(with(&in_header("range;x-amz-content-sha256;x-amz-date", "0")), "AccessDenied");
    assert_eq!(with(&in_header("host;range;x-amz-date", "0")), "AccessDenied");
    let other = in_header("host;range;x-amz-content-sha256;x-amz-date", "0").replace(KEY, "OTHER");
    assert_eq!(with(&other), "InvalidAccessKeyId");

    for (from, to) in [("X-Amz-Expires=86400", "X-Amz-Expires=0"), ("=86400", "=604801"), ("T000000Z", "")] {
        let code = Example::new(&PRESIGNED.replace(from, to), &[]).code_at(NOW);
        assert_eq!(code, "AuthorizationQueryParametersError", "{to}");
    }
    assert_eq!(Example::new("/a?AWSAccessKeyId=a&Signature=b&Expires=1", &[]).code_at(NOW), "InvalidRequest");
}
