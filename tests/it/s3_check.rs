//! `gantry serve --check` with S3 setups that need a key of their own, or that are not supported.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, StatusCode};

use crate::support::gantry::Output;
use crate::support::s3_double::{Act, Request, S3Double};
use crate::support::service_double::ServiceDouble;
use crate::support::tls::TlsFront;
use crate::support::{Nats, data, gantry};

/// Checks one store `s` with these lines of configuration and variables.
async fn check(lines: &str, variables: &[(&str, &str)]) -> Output {
    let nats = Nats::plain().await;
    let folder = data::folder();
    let file = folder.path().join("gantry.toml");
    std::fs::write(&file, format!("[stores.s]\nurl = \"s3://bucket\"\n{lines}")).unwrap();

    let check = gantry(["serve", "--check", "--http", "off", "--config"]).arg(&file).nats(&nats);
    variables.iter().fold(check, |check, (name, value)| check.env(name, value)).run().await
}

async fn denying() -> S3Double {
    S3Double::start(Bytes::new(), |request: &Request| match request.header("authorization") {
        None => Act::Fail(403, "InvalidAccessKeyId", ""),
        Some(_) => Act::Fail(403, "SignatureDoesNotMatch", ""),
    })
    .await
}

#[tokio::test]
async fn a_profile_that_signs_in_with_sso_is_reported_as_not_supported() {
    let folder = data::folder();
    let profiles = folder.path().join("config");
    let text = "[profile corp]\nsso_session = s\nsso_account_id = 123456789012\nsso_role_name = r\n\
                [sso-session s]\nsso_region = us-east-1\nsso_start_url = https://x.awsapps.com/start\n";
    std::fs::write(&profiles, text).unwrap();
    let profiles = profiles.display().to_string();
    let server = denying().await;
    let lines = format!("profile = \"corp\"\nregion = \"us-east-1\"\nendpoint_url = {:?}\n", server.endpoint());

    let checked = check(&lines, &[("AWS_CONFIG_FILE", &profiles)]).await.expect_code(2);

    let said = &checked.stderr;
    assert!(said.contains("`stores.s.profile` = \"corp\"") && said.contains("credential_process"), "{said}");
}

#[tokio::test]
async fn a_bucket_that_is_not_public_is_blamed_on_anonymous_requests() {
    let server = denying().await;
    let lines = format!("anonymous = true\nendpoint_url = {:?}\n", server.endpoint());

    let checked = check(&lines, &[]).await.expect_code(2);

    assert!(checked.stderr.contains("`stores.s.anonymous` = true"), "{}", checked.stderr);
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_blamed_on_the_authorities() {
    let server = denying().await;
    let front = TlsFront::start(&server.endpoint(), "127.0.0.1").await;
    let endpoint = format!("anonymous = true\nendpoint_url = {:?}\n", front.endpoint());

    let checked = check(&endpoint, &[]).await.expect_code(2);
    assert!(checked.stderr.contains("`stores.s.tls_ca_file` is not set"), "{}", checked.stderr);

    let folder = data::folder();
    let garbage = folder.path().join("ca.pem");
    std::fs::write(&garbage, "text").unwrap();
    let checked = check(&format!("{endpoint}tls_ca_file = {garbage:?}\n"), &[]).await.expect_code(2);
    assert!(checked.stderr.contains("`stores.s.tls_ca_file` = "), "{}", checked.stderr);
    assert!(checked.stderr.contains("has no certificate: must be PEM: correct the file"), "{}", checked.stderr);

    // The server is now reached, and refuses the request.
    let trusted = format!("{endpoint}tls_ca_file = {:?}\n", front.ca());
    let checked = check(&trusted, &[]).await.expect_code(2);
    assert!(checked.stderr.contains("`stores.s.anonymous` = true"), "{}", checked.stderr);
}

#[tokio::test]
async fn a_certificate_outside_its_time_is_blamed_on_the_clock() {
    let server = denying().await;
    for (years, expected) in [
        (
            1990..2020,
            "by the relay's clock, the certificate of S3 is not valid now: it expired at 2020-01-01T00:00:00Z",
        ),
        (
            3000..3001,
            "by the relay's clock, the certificate of S3 is not valid now: it is valid from 3000-01-01T00:00:00Z",
        ),
    ] {
        let front = TlsFront::start_valid(&server.endpoint(), "127.0.0.1", years).await;
        let lines =
            format!("anonymous = true\nendpoint_url = {:?}\ntls_ca_file = {:?}\n", front.endpoint(), front.ca());
        let said = check(&lines, &[]).await.expect_code(2).stderr;
        assert!(said.contains("`stores.s.endpoint_url` = ") && said.contains(expected), "{said}");
        assert!(
            said.contains(": correct this machine's clock, or renew the certificate if the clock is right"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_service_for_credentials_that_is_unavailable_is_not_blamed_on_the_credentials() {
    let server = denying().await;
    let lines = format!("region = \"us-east-1\"\nendpoint_url = {:?}\n", server.endpoint());
    let folder = data::folder();
    let token = folder.path().join("token");
    std::fs::write(&token, "hush").unwrap();
    let token = token.display().to_string();
    let closed = format!("127.0.0.1:{}", data::free_port());
    let failing = ServiceDouble::refusing(503, "").await;

    for (host, problem) in [
        (closed.clone(), format!("{closed} can't be reached: Connection refused")),
        (failing.host(), format!("{} fails at the moment (503)", failing.host())),
    ] {
        let url = format!("http://{host}");
        let uri = format!("{url}/credentials");
        let web = [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", &*token),
            ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/r"),
            ("AWS_ENDPOINT_URL_STS", &*url),
        ];
        let container = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*uri)];
        for (variables, source) in [
            (&web[..], "come from AWS_WEB_IDENTITY_TOKEN_FILE"),
            (&container[..], "come from AWS's default credential chain"),
        ] {
            let said = check(&lines, variables).await.expect_code(2).stderr;
            let expected =
                format!("can't obtain credentials for S3, the service that issues them is unavailable: {problem}");
            assert!(said.contains(source) && said.contains(&expected) && !said.contains("hush"), "{said}");
            assert!(said.contains(": let the relay reach this service, try again later, or use other"), "{said}");
        }
    }
}

/// Checks a store whose credentials come from the metadata service of a machine at AWS. Its bucket is empty, and accepts
/// their key only.
async fn check_with_metadata(url: &str) -> Output {
    let server = S3Double::start(Bytes::new(), |request: &Request| {
        let is_signed = request.header("authorization").is_some_and(|text| text.contains("Credential=ASIATEST/"));
        let page = "<?xml version='1.0'?><ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
        if is_signed {
            Act::Raw(200, "x-amz-request-id: 1", page.to_owned())
        } else {
            Act::Fail(403, "AccessDenied", "")
        }
    })
    .await;
    let lines = format!("region = \"us-east-1\"\nendpoint_url = {:?}\n", server.endpoint());
    let variables = [("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)];
    check(&lines, &variables).await
}

/// Answers as the metadata service of a machine at AWS. Source: Amazon EC2, "Use the Instance Metadata Service".
fn metadata(request: &str) -> Response<Full<Bytes>> {
    let text = if request.contains("/latest/api/token") {
        "token"
    } else if request.contains("/security-credentials/role") {
        r#"{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"ASIATEST","SecretAccessKey":"hush","Token":"hush",
            "LastUpdated":"2026-01-01T00:00:00Z","Expiration":"2099-01-01T00:00:00Z"}"#
    } else {
        "role"
    };
    let answer = Response::builder().header("x-aws-ec2-metadata-token-ttl-seconds", "21600");
    answer.body(Full::new(Bytes::from_static(text.as_bytes()))).unwrap()
}

/// The SDK repeats requests only after an answer.
#[tokio::test]
async fn a_metadata_service_that_fails_for_a_moment_is_asked_again() {
    for failing in 0..3 {
        let service = ServiceDouble::scripted(move |request, number| {
            let mut answer = metadata(request);
            if number == failing {
                *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            answer
        });
        let service = service.await;
        let checked = check_with_metadata(&service.url()).await.expect_code(0);
        let said = checked.stdout_text();
        assert!(said.contains("the relay may list"), "{failing}: {said}");
        assert_eq!(service.asked().len(), 4, "{:?}", service.asked());
    }
}

#[tokio::test]
async fn only_a_metadata_service_that_answers_is_blamed() {
    for status in [500, 503, 429] {
        let failing = ServiceDouble::refusing(status, "").await;
        let said = check_with_metadata(&failing.url()).await.expect_code(2).stderr;
        let outage = format!("the service that issues them is unavailable: {} fails at the moment", failing.host());
        assert!(said.contains(&format!("{outage} ({status})")) && !said.contains("has no credentials"), "{said}");
    }

    // A machine elsewhere has no such service. What has the address may also not answer.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for host in [format!("127.0.0.1:{}", data::free_port()), silent.local_addr().unwrap().to_string()] {
        let said = check_with_metadata(&format!("http://{host}")).await.expect_code(2).stderr;
        assert!(said.contains("the relay has no credentials for S3") && !said.contains("unavailable"), "{said}");
    }
}

#[tokio::test]
async fn the_check_fails_if_reading_is_refused_or_fails() {
    let page = "<?xml version='1.0'?><ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a</Key>\
                <ETag>\"e\"</ETag><Size>5</Size></Contents></ListBucketResult>";
    for (status, code, expected) in [
        (403, "AccessDenied", "may list, but not read: key \"a\": access denied"),
        (429, "SlowDown", "the store answers, but reading fails: key \"a\": S3 asks to slow down"),
        // The answer to a HEAD has no code.
        (503, "SlowDown", "the store answers, but reading fails: key \"a\": S3 fails at the moment (503): try again"),
        (500, "InternalError", "the store answers, but reading fails: key \"a\": S3 fails at the moment"),
    ] {
        let server = S3Double::start(Bytes::new(), move |request: &Request| {
            if request.target.contains("list-type=2") {
                return Act::Raw(200, "x-amz-request-id: 1", page.to_owned());
            }
            Act::Fail(status, code, "")
        });
        let server = server.await;
        let lines = format!("anonymous = true\nregion = \"us-east-1\"\nendpoint_url = {:?}\n", server.endpoint());
        let said = check(&lines, &[]).await.expect_code(2).stderr;
        assert!(said.contains("`stores.s.") && said.contains(expected), "{code}: {said}");
    }
}
