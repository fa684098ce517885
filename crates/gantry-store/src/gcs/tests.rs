//! The store in Google Cloud Storage reads documented answers. Source: the reference of the XML API.

use hyper::header::HeaderName;

use super::*;
use crate::ranged::about_key;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

fn gcs() -> Gcs {
    Gcs {
        url: "https://storage.googleapis.com/bucket".to_owned(),
        bucket: "bucket".to_owned(),
        project: None,
        credentials: None,
    }
}

#[test]
fn the_crc_is_preferred_and_the_md5_is_missing_for_a_composite_object() {
    let both = Gcs::checksums(&headers(&[("x-goog-hash", "crc32c=mnG7TA==,md5=XUFAKrxLKna5cZ2REBfFkg==")]), true);
    assert_eq!(both.checksum.unwrap().value, "mnG7TA==");
    assert_eq!(both.other_checksum.unwrap().value, "XUFAKrxLKna5cZ2REBfFkg==");

    let mut repeated = HeaderMap::new();
    repeated.append("x-goog-hash", HeaderValue::from_static("crc32c=mnG7TA=="));
    repeated.append("x-goog-hash", HeaderValue::from_static("md5=XUFAKrxLKna5cZ2REBfFkg=="));
    assert!(Gcs::checksums(&repeated, false).other_checksum.is_some());

    let composite = Gcs::checksums(&headers(&[("x-goog-hash", "crc32c=mnG7TA==")]), false);
    assert!(composite.checksum.is_some() && composite.other_checksum.is_none());
    assert!(Gcs::checksums(&HeaderMap::new(), false).checksum.is_none());
}

#[test]
fn a_decompressed_object_is_not_the_stored_one() {
    let stored = ("x-goog-stored-content-encoding", "gzip");
    assert!(Gcs::check_head(&headers(&[stored, ("content-encoding", "gzip")])).is_ok());
    assert!(Gcs::check_head(&headers(&[("x-goog-stored-content-encoding", "identity")])).is_ok());
    assert!(matches!(Gcs::check_head(&headers(&[stored])), Err(Refusal::OtherEncoding)));
}

#[test]
fn urls_name_generations_and_encode_keys() {
    let url = gcs().object_url("a b/ü", Some("17"));
    assert_eq!(url.as_deref(), Some("https://storage.googleapis.com/bucket/a%20b/%C3%BC?generation=17"));

    let page = PageRequest { prefix: "p/", is_folded: true, token: None, start_after: Some("p/a+b"), limit: 7 };
    assert_eq!(
        gcs().listing_url(page),
        "https://storage.googleapis.com/bucket?list-type=2&encoding-type=url&max-keys=7&prefix=p%2F&delimiter=%2F\
         &start-after=p%2Fa%2Bb"
    );
}

#[test]
fn only_a_number_is_a_generation() {
    assert!(Gcs::is_version("1795901412818230"));
    for text in ["", "+1", "0123456789abcdef", "null", "0", "9223372036854775808"] {
        assert!(!Gcs::is_version(text), "{text}");
    }
}

#[test]
fn a_missing_permission_is_named_without_the_identity() {
    let about = about_key(&"k".parse().unwrap());
    let error = |permission: &str, subject| {
        let said = format!("relay@p.iam.gserviceaccount.com does not have {permission} access to the object.");
        let body = format!("<Error><Code>AccessDenied</Code><Message>No.</Message><Details>{said}</Details></Error>");
        cloud::of_answer(&gcs(), &Answer::of_parts(403, HeaderMap::new(), &body, &about, subject)).error.to_string()
    };

    let object = Subject::Object { is_pinned: false, has_version: false };
    for permission in [PERMISSION_TO_READ, PERMISSION_TO_LIST] {
        let expected = format!("key \"k\": access denied, the permission {permission} is missing (403 AccessDenied)");
        assert_eq!(error(permission, object), expected);
    }
    assert!(!error(PERMISSION_TO_LIST, Subject::Listing).contains("the permission"));
    assert!(!error("storage.buckets.get", object).contains("the permission"));
}

#[test]
fn errors_are_classified() {
    let about = about_key(&"k".parse().unwrap());
    let error = |status, code: &str, is_pinned| {
        let body =
            format!("<?xml version='1.0'?><Error><Code>{code}</Code><Message>At bucket place.</Message></Error>");
        let subject = Subject::Object { is_pinned, has_version: false };
        let answer = Answer::of_parts(status, headers(&[("retry-after", "7")]), &body, &about, subject);
        cloud::of_answer(&gcs(), &answer)
    };

    assert!(matches!(error(404, "NoSuchKey", false).error, Error::NotFound(_)));
    assert!(matches!(error(404, "NoSuchKey", true).error, Error::Changed(_)));
    assert!(matches!(error(404, "NoSuchBucket", false).error, Error::NoBucket(_)));
    assert!(matches!(error(412, "PreconditionFailed", true).error, Error::Changed(_)));
    assert!(matches!(error(400, "UserProjectMissing", false).error, Error::Denied(_)));
    assert!(matches!(error(401, "AuthenticationRequired", false).error, Error::Denied(_)));
    assert_eq!(error(403, "AccessDenied", false).retry, Retry::AfterCure(Cure::OtherKey));
    assert_eq!(error(416, "InvalidRange", false).retry, Retry::AfterCure(Cure::Size));

    for (status, code) in [(429, "SlowDown"), (503, "ServiceUnavailable"), (500, "InternalError"), (408, "")] {
        let failure = error(status, code, false);
        let Error::Unavailable { retry_after, .. } = failure.error else { panic!("{status}: {failure:?}") };
        assert_eq!((retry_after, failure.retry), (Some(std::time::Duration::from_secs(7)), Retry::Later));
    }

    for (status, code, expected) in [
        (400, "UserProjectMissing", UnavailableKind::NoBillingProject),
        (403, "UserProjectAccountProblem", UnavailableKind::NoBillingProject),
        (403, "UserProjectAccessDenied", UnavailableKind::NoBillingProject),
        (403, "AccountProblem", UnavailableKind::AccountDisabled),
        (403, "SecurityPolicyViolated", UnavailableKind::NetworkRules),
        (412, "OrgPolicyConstraintFailed", UnavailableKind::OrganisationPolicy),
    ] {
        let operator = About::Operator("bucket".to_owned());
        let body = format!("<Error><Code>{code}</Code></Error>");
        let answer = Answer::of_parts(status, HeaderMap::new(), &body, &operator, Subject::Listing);
        let unread = cloud::of_answer(&gcs(), &answer).error;
        assert!(matches!(unread, Error::Unavailable { kind, .. } if kind == expected), "{unread:?}");
        assert!(matches!(error(status, code, false).error, Error::Denied(_)), "{code}");
    }

    // A consumer must not learn the bucket's name.
    assert!(!error(403, "AccessDenied", false).error.to_string().contains("place"));
}

#[test]
fn only_an_invalid_generation_is_a_missing_version() {
    let about = about_key(&"k".parse().unwrap());
    let failure = |code: &str, details: &str| {
        let body = format!("<Error><Code>{code}</Code><Message>No.</Message><Details>{details}</Details></Error>");
        let subject = Subject::Object { is_pinned: true, has_version: true };
        cloud::of_answer(&gcs(), &Answer::of_parts(400, HeaderMap::new(), &body, &about, subject))
    };

    assert!(matches!(failure("InvalidArgument", "Invalid Generation").error, Error::Changed(_)));
    for (code, details) in [("InvalidArgument", "Other"), ("InvalidURI", ""), ("", "")] {
        let failure = failure(code, details);
        assert!(matches!(failure.error, Error::Invalid(_)) && failure.retry == Retry::Never, "{failure:?}");
    }
    let slow = failure("RequestTimeout", "");
    assert!(matches!(slow.error, Error::Unavailable { .. }) && slow.retry == Retry::Later, "{slow:?}");
    let unbilled = failure("UserProjectInvalid", "").error;
    assert!(matches!(&unbilled, Error::Denied(text) if text.contains("`billing_project`")), "{unbilled:?}");
}

#[test]
fn a_wrong_clock_is_named() {
    let about = about_key(&"k".parse().unwrap());
    let answer =
        Answer::of_parts(401, headers(&[("date", "Sat, 01 Jan 2000 00:00:00 GMT")]), "", &about, Subject::Listing);
    let error = cloud::expired::<Gcs>(&answer).to_string();
    assert!(error.contains("clock is") && error.ends_with("minutes ahead"), "{error}");
}

#[test]
fn pages_are_read() {
    let body = "<?xml version='1.0' encoding='UTF-8'?><ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'>\
                <Name>b</Name><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
                <NextContinuationToken>t</NextContinuationToken>\
                <Contents><Key>a%20b</Key><Generation>1</Generation><LastModified>2026-11-28T21:30:12.837Z</LastModified>\
                <ETag>\"e\"</ETag><Size>5</Size></Contents>\
                <CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes></ListBucketResult>";
    let answer = Gcs::page(body.as_bytes()).unwrap();

    let line = &answer.lines[0];
    assert_eq!((line.name.as_str(), line.size, line.etag.as_deref()), ("a%20b", Some(5), Some("\"e\"")));
    assert_eq!(answer.prefixes, ["d/"]);
    assert!(answer.is_encoded && answer.is_truncated && answer.token.as_deref() == Some("t"));
    assert!(Gcs::page(b"<html/>").is_err());
}
