//! The store in Azure reads documented answers. Source: the reference of the Blob service.

use futures_util::FutureExt as _;
use hyper::header::HeaderName;

use super::*;
use crate::ranged::about_key;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

fn azure() -> Azure {
    Azure {
        url: "https://account.blob.core.windows.net/container".to_owned(),
        container: "container".to_owned(),
        account: "account".to_owned(),
        credentials: None,
    }
}

fn signed() -> Azure {
    let load = || {
        let credential = AzureCredential::BearerToken("hush".to_owned());
        Ok(cloud::Loaded::constant(credential))
    };
    Azure { credentials: Some(cloud::Credentials::new(load).unwrap()), ..azure() }
}

#[test]
fn the_md5_of_a_range_is_not_that_of_the_blob() {
    let found = headers(&[("content-md5", "whole or range"), ("x-ms-blob-content-md5", "whole")]);
    assert_eq!(Azure::checksums(&found, true).other_checksum.unwrap().value, "whole");
    assert_eq!(Azure::checksums(&found, false).other_checksum.unwrap().value, "whole or range");
    assert!(Azure::checksums(&headers(&[("content-md5", "range")]), true).other_checksum.is_none());
}

#[test]
fn a_folder_is_not_an_object() {
    for pair in [("x-ms-resource-type", "directory"), ("x-ms-meta-hdi_isfolder", "true")] {
        assert!(matches!(Azure::check_head(&headers(&[pair])), Err(Refusal::Folder)));
    }
    assert!(Azure::check_head(&headers(&[("x-ms-resource-type", "file")])).is_ok());
}

#[test]
fn urls_name_versions_and_encode_keys() {
    let url = azure().object_url("a b", Some("2026-11-28T21:30:12.7969990Z"));
    let expected = "https://account.blob.core.windows.net/container/a%20b?versionid=2026-11-28T21%3A30%3A12.7969990Z";
    assert_eq!(url.as_deref(), Some(expected));
    assert!(Azure::is_version("2026-11-28T21:30:12.7969990Z") && !Azure::is_version("0123456789abcdef"));

    let page = PageRequest { prefix: "", is_folded: true, token: Some("2!92!x="), start_after: None, limit: 7 };
    assert_eq!(
        azure().listing_url(page),
        "https://account.blob.core.windows.net/container?restype=container&comp=list&include=metadata&maxresults=7\
         &delimiter=%2F&marker=2%2192%21x%3D"
    );
}

#[test]
fn errors_are_classified() {
    let about = about_key(&"k".parse().unwrap());
    let answer_to = |subject, azure: &Azure, status, code: &'static str, detail: &str| {
        let body = format!(
            "\u{feff}<?xml version=\"1.0\"?><Error><Code>x</Code><Message>No.\nRequestId:1</Message>\
             <AuthenticationErrorDetail>{detail}</AuthenticationErrorDetail></Error>"
        );
        let answer = Answer::of_parts(status, headers(&[("x-ms-error-code", code)]), &body, &about, subject);
        cloud::of_answer(azure, &answer)
    };
    let object = Subject::Object { is_pinned: false, has_version: false };
    let error = |azure: &Azure, status, code, detail: &str| answer_to(object, azure, status, code, detail);
    let of = |status, code| error(&signed(), status, code, "").error;
    let pinned = Subject::Object { is_pinned: true, has_version: false };
    let unmet = |subject| answer_to(subject, &signed(), 412, "ConditionNotMet", "").error;

    assert!(matches!(of(404, "BlobNotFound"), Error::NotFound(_)));
    assert!(matches!(of(404, "ContainerNotFound"), Error::NoBucket(_)));
    assert!(matches!(unmet(pinned), Error::Changed(_)));
    for subject in [object, Subject::Listing] {
        assert!(matches!(unmet(subject), Error::Invalid(_)), "nothing is pinned");
    }
    assert!(matches!(of(403, "AuthorizationPermissionMismatch"), Error::Denied(_)));
    assert!(of(409, "BlobArchived").to_string().contains("archived, it must be rehydrated first"));
    assert!(matches!(of(409, "BlobArchived"), Error::Archived(_)));
    assert!(matches!(error(&azure(), 409, "PublicAccessNotPermitted", "").error, Error::Denied(_)));
    for (status, code) in [(503, "ServerBusy"), (500, "OperationTimedOut"), (409, "LeaseIdMissing")] {
        assert!(matches!(of(status, code), Error::Unavailable { kind: UnavailableKind::Busy, .. }), "{code}");
    }

    assert!(matches!(of(409, "BlobUsesCustomerSpecifiedEncryption"), Error::Denied(_)));
    assert_eq!(error(&signed(), 401, "InvalidAuthenticationInfo", "").retry, Retry::AfterCure(Cure::Credentials));

    let failure = error(&signed(), 403, "AuthenticationFailed", "Signature not valid in the specified time frame: ...");
    assert!(failure.error.to_string().contains("the SAS is expired"), "{failure:?}");
    assert_eq!(failure.retry, Retry::AfterCure(Cure::OtherKey));
    let detail = "Request date header too old: 'Sat, 28 Nov 2026 21:30:12 GMT'";
    let failure = error(&signed(), 403, "AuthenticationFailed", detail);
    assert!(matches!(failure.error, Error::Unavailable { kind: UnavailableKind::Clock, .. }), "{failure:?}");
    let failure = error(&signed(), 403, "AuthenticationFailed", "The MAC signature 'hush' is not the same");
    assert!(matches!(failure.error, Error::Unavailable { kind: UnavailableKind::Credentials, .. }));
    assert!(!failure.error.to_string().contains("hush"));
}

#[test]
fn azure_decides_by_its_own_clock_whether_a_signature_is_valid() {
    let load =
        || Ok(cloud::Loaded::constant(AzureCredential::SASToken(sas::parse("sv=1&se=2020-01-02&sig=hush").unwrap())));
    let azure = Azure { credentials: Some(cloud::Credentials::new(load).unwrap()), ..azure() };
    let about = About::Operator("container".to_owned());
    let mut request = cloud_request();
    azure.authorize(&mut request, &about).now_or_never().unwrap().unwrap();
    assert!(request.uri().query().unwrap().contains("sig=hush"), "the request is sent");

    let refused = |date| {
        let headers = headers(&[("x-ms-error-code", "AuthenticationFailed"), ("date", date)]);
        cloud::of_answer(&azure, &Answer::of_parts(403, headers, "", &about, Subject::Listing)).error.to_string()
    };
    let expired = refused("Sat, 01 Feb 2020 00:00:00 GMT");
    assert!(expired.contains("the relay's SAS can't be used now: it expired at 2020-01-02T00:00:00Z"), "{expired}");
    assert!(!expired.contains("clock"), "Azure compares the SAS with its own clock: {expired}");
    let valid = refused("Wed, 01 Jan 2020 00:00:00 GMT");
    assert!(valid.contains("rejects the relay's credentials"), "{valid}");
}

fn cloud_request() -> HttpRequest {
    let empty = object_store::client::HttpRequestBody::empty();
    hyper::Request::get("https://account.blob.core.windows.net/container?comp=list").body(empty).unwrap()
}

#[test]
fn a_listing_reports_an_account_that_can_not_be_read() {
    let about = About::Operator("container".to_owned());
    let failure = |status, code, subject| {
        let answer = Answer::of_parts(status, headers(&[("x-ms-error-code", code)]), "", &about, subject);
        cloud::of_answer(&signed(), &answer)
    };

    for (status, code, expected) in [
        (403, "KeyBasedAuthenticationNotPermitted", UnavailableKind::Credentials),
        (403, "AuthorizationServiceMismatch", UnavailableKind::Credentials),
        (403, "AuthorizationResourceTypeMismatch", UnavailableKind::Credentials),
        (403, "AccountIsDisabled", UnavailableKind::AccountDisabled),
        (409, "AccountIsDisabled", UnavailableKind::AccountDisabled),
        (403, "InsufficientAccountPermissions", UnavailableKind::AccountDisabled),
        (409, "ContainerDisabled", UnavailableKind::AccountDisabled),
        (400, "AccountRequiresHttps", UnavailableKind::TlsRequired),
        (403, "AuthorizationProtocolMismatch", UnavailableKind::TlsRequired),
    ] {
        let listing = failure(status, code, Subject::Listing);
        assert!(matches!(listing.error, Error::Unavailable { kind, .. } if kind == expected), "{listing:?}");
        assert_ne!(listing.retry, Retry::Later, "{code}");

        let object = failure(status, code, Subject::Object { is_pinned: false, has_version: false });
        assert!(matches!(object.error, Error::Denied(_)) && object.retry != Retry::Later, "{object:?}");
    }

    let deleted = failure(409, "ContainerBeingDeleted", Subject::Listing);
    assert!(matches!(deleted.error, Error::NoBucket(_)) && deleted.retry == Retry::Never, "{deleted:?}");
    assert!(deleted.error.to_string().contains("it is being deleted (409"), "{deleted:?}");
    let created = failure(409, "AccountBeingCreated", Subject::Listing);
    assert_eq!(created.retry, Retry::Later);
}

#[test]
fn a_refusal_that_another_sas_may_cure_is_tried_with_the_one_in_the_file() {
    let load = || {
        let pairs = sas::parse("sv=1&sip=192.0.2.1&sig=hush").unwrap();
        Ok(cloud::Loaded::constant(AzureCredential::SASToken(pairs)))
    };
    let with_sas = Azure { credentials: Some(cloud::Credentials::new(load).unwrap()), ..azure() };
    let about = About::Operator("container".to_owned());
    let object = Subject::Object { is_pinned: false, has_version: false };

    for (cloud, code, kind) in [
        (&with_sas, "AuthorizationSourceIPMismatch", UnavailableKind::Credentials),
        (&with_sas, "AuthorizationFailure", UnavailableKind::NetworkRules),
        (&with_sas, "IpAuthorizationError", UnavailableKind::NetworkRules),
        (&signed(), "AuthorizationSourceIPMismatch", UnavailableKind::NetworkRules),
    ] {
        for subject in [object, Subject::Listing] {
            let answer = Answer::of_parts(403, headers(&[("x-ms-error-code", code)]), "", &about, subject);
            let failure = cloud::of_answer(cloud, &answer);
            assert!(matches!(failure.error, Error::Unavailable { kind: found, .. } if found == kind), "{failure:?}");
            assert_eq!(failure.retry, Retry::AfterCure(Cure::OtherKey), "{code}");
        }
    }
}

#[test]
fn refusals_of_anonymous_requests_are_told_apart() {
    let about = About::Operator("container".to_owned());
    let of = |status, code, subject| {
        let body = "<Error><Code>x</Code><Message>Why.</Message></Error>";
        let answer = Answer::of_parts(status, headers(&[("x-ms-error-code", code)]), body, &about, subject);
        cloud::of_answer(&azure(), &answer)
    };
    let object = Subject::Object { is_pinned: false, has_version: false };

    for (status, code, subject, expected) in [
        (409, "PublicAccessNotPermitted", Subject::Listing, "the account permits no anonymous access"),
        (409, "PublicAccessNotPermitted", object, "the account permits no anonymous access"),
        (401, "NoAuthenticationInformation", object, "the container is not public"),
        (401, "NoAuthenticationInformation", Subject::Listing, "the container or its listing is not public"),
        (404, "ResourceNotFound", Subject::Listing, "the container or its listing is not public"),
        (404, "ResourceNotFound", object, "the container is not public, or there is no such container"),
        (
            401,
            "InvalidAuthenticationInfo",
            object,
            "anonymous requests are refused (401 InvalidAuthenticationInfo: Why.)",
        ),
        (401, "", object, "anonymous requests are refused (401"),
        (409, "ContainerDisabled", object, "the container is disabled"),
    ] {
        let failure = of(status, code, subject);
        assert!(failure.error.to_string().contains(expected), "{failure:?}");
        assert_eq!(failure.retry, Retry::Never, "{code}");
    }
    assert_eq!(of(409, "AccountBeingCreated", object).retry, Retry::Later);
}

#[test]
fn pages_are_read() {
    let body = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults ServiceEndpoint=\"https://a/\">\
                <Blobs><Blob><Name>a b+c%20</Name><Properties><Last-Modified>Sat, 28 Nov 2026 21:30:12 GMT</Last-Modified>\
                <Etag>0x8D1</Etag><Content-Length>5</Content-Length></Properties></Blob>\
                <Blob><Name Encoded=\"true\">a%01+</Name><Properties><Content-Length>1</Content-Length></Properties>\
                <Metadata><hdi_isfolder>false</hdi_isfolder></Metadata></Blob>\
                <Blob><Name>folder</Name><Properties><ResourceType>directory</ResourceType></Properties></Blob>\
                <Blob><Name>mark</Name><Properties><Content-Length>0</Content-Length></Properties>\
                <Metadata><owner>me</owner><Hdi_isfolder>True</Hdi_isfolder></Metadata></Blob>\
                <BlobPrefix><Name>d/</Name></BlobPrefix></Blobs><NextMarker>m</NextMarker></EnumerationResults>";
    let answer = Azure::page(body.as_bytes()).unwrap();

    let names: Vec<_> = answer.lines.iter().map(|line| line.name.as_str()).collect();
    assert_eq!(names, ["a%20b%2Bc%2520", "a%01%2B"]);
    let line = &answer.lines[0];
    assert_eq!((line.size, line.etag.as_deref()), (Some(5), Some("\"0x8D1\"")));
    assert_eq!(line.last_modified.as_deref(), Some("2026-11-28T21:30:12Z"));
    assert_eq!(answer.prefixes, ["d%2F"]);
    assert!(answer.is_truncated && answer.token.as_deref() == Some("m"));

    let last = Azure::page(b"<EnumerationResults><Blobs /><NextMarker /></EnumerationResults>").unwrap();
    assert!(!last.is_truncated && last.token.is_none());
}

/// Never issues a token.
#[derive(Debug)]
struct Silent;

#[async_trait::async_trait]
impl object_store::CredentialProvider for Silent {
    type Credential = AzureCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AzureCredential>> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_without_a_token_blames_the_service_that_issues_tokens() {
    for (issuer, expected) in [
        (
            None,
            "the relay can't obtain credentials for Azure Blob Storage, the service that issues tokens is unavailable: \
             the source of the tokens did not answer in time",
        ),
        (
            Some("the command az"),
            "the relay can't obtain credentials for Azure Blob Storage, the service that issues tokens is unavailable: \
             the command az did not answer in time",
        ),
    ] {
        let load = move || {
            let loaded = cloud::Loaded::tokens(Arc::new(Silent));
            Ok(match issuer {
                None => loaded,
                Some(issuer) => loaded.issued_by(issuer),
            })
        };
        let azure = Azure { credentials: Some(cloud::Credentials::new(load).unwrap()), ..azure() };
        let options = Options::new("account", "container");
        let connections = Connections::new(None, &options.observer).unwrap();
        let bucket = Bucket::new(azure, String::new(), options.limits, options.observer, &connections).unwrap();
        let store = CloudStore::new(bucket, Budget::new(1 << 20), String::new());

        let error = store.probe().await.unwrap_err();

        assert!(matches!(error, Error::Unavailable { kind: UnavailableKind::TokenService, .. }), "{error:?}");
        assert!(error.to_string().ends_with(expected), "{error}");
    }
}
