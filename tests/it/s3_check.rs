//! `gantry serve --check` with S3 setups that need a key of their own, or that are not supported.

use bytes::Bytes;

use crate::support::gantry::Output;
use crate::support::s3_double::{Act, Request, S3Double};
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
