//! Stores in Google Cloud and Azure: what `gantry serve --check` reports of the rights to list and to read, and what the
//! logs contain.

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;

use crate::clouds::{azure_lines, check, secret, service_account};
use crate::support::azure_double::{ACCOUNT, Act, Asked, AzureDouble, KEY, SAS};
use crate::support::gcs::Gcs;
use crate::support::s3_double::{Act as S3Act, Request, S3Double};
use crate::support::service_double::ServiceDouble;
use crate::support::{Nats, Relay, data, gantry};

#[tokio::test]
async fn the_check_fails_if_reading_is_refused_or_fails() {
    let folder = data::folder();
    let key = secret(&folder, KEY);
    let of_key = format!("`stores.s.account_key_file` = {key:?} in ");
    let of_url = "`stores.s.url` = \"az://container\" in ".to_owned();
    for (status, code, start, reason, cure) in [
        (
            403,
            "AuthorizationPermissionMismatch",
            &of_key,
            "may list, but not read: key \"a\"",
            "deploy/iam/azure-role.json",
        ),
        (403, "AuthenticationFailed", &of_key, "reading fails: key \"a\"", "give the relay a valid key"),
        (
            403,
            "AuthorizationFailure",
            &"`stores.s.endpoint_url` = ".to_owned(),
            "network rules",
            "permit the relay's network",
        ),
        (
            503,
            "ServerBusy",
            &of_url,
            "reading fails: key \"a\": Azure Blob Storage asks to slow down",
            "try again later",
        ),
        (
            429,
            "TooManyRequests",
            &of_url,
            "reading fails: key \"a\": Azure Blob Storage asks to slow",
            "try again later",
        ),
        (500, "InternalError", &of_url, "reading fails: key \"a\": Azure Blob Storage fails at the", "try again later"),
    ] {
        let azure =
            AzureDouble::scripted(
                false,
                move |asked: &Asked| {
                    if asked.is_list { Act::Serve } else { Act::Fail(status, code, ("", "")) }
                },
            );
        let azure = azure.await;
        azure.put("a", "x");
        let lines = azure_lines(&azure, &format!("account_key_file = {key:?}\n"));
        let said = check("az://container", &lines).await.expect_code(2).stderr;
        assert!(said.contains(start) && said.contains(reason) && said.contains(cure), "{code}: {said}");
    }
}

#[tokio::test]
async fn the_check_fails_if_neither_listing_nor_reading_is_permitted() {
    let folder = data::folder();
    let key = format!("account_key_file = {:?}\n", secret(&folder, KEY));
    for (is_public, status, code, lines, reason, cure) in [
        (false, 403, "AuthorizationPermissionMismatch", &*key, "access denied (403", "deploy/iam/azure-role.json"),
        (
            true,
            404,
            "ResourceNotFound",
            "anonymous = true\n",
            "not public, or there is no such container",
            "credentials",
        ),
        (true, 401, "NoAuthenticationInformation", "anonymous = true\n", "the container is not public", "credentials"),
    ] {
        let azure = AzureDouble::scripted(is_public, move |_: &Asked| Act::Fail(status, code, ("", ""))).await;
        let said = check("az://container", &azure_lines(&azure, lines)).await.expect_code(2).stderr;
        assert!(
            said.contains("may neither list (container \"container\": ") && said.contains(") nor read: "),
            "{said}"
        );
        assert!(said.contains(reason) && said.contains(cure), "{said}");
        let key = if is_public { "`stores.s.anonymous` = true" } else { "`stores.s.account_key_file` = " };
        assert!(said.contains(key), "{said}");
    }
}

#[tokio::test]
async fn the_check_of_a_google_bucket_fails_if_reading_is_refused_or_fails() {
    let page = "<?xml version='1.0'?><ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>\
                <Contents><Key>a</Key><ETag>\"e\"</ETag><Size>5</Size></Contents></ListBucketResult>";
    let folder = data::folder();
    let key = secret(&folder, &service_account());
    for (status, code, reason) in [
        (403, "AccessDenied", "`stores.s.credentials_file` = "),
        (
            401,
            "AuthenticationRequired",
            "reading fails: key \"a\": Google Cloud Storage rejects the relay's credentials",
        ),
        (429, "SlowDown", "reading fails: key \"a\": Google Cloud Storage asks to slow down"),
        (503, "ServiceUnavailable", "reading fails: key \"a\": Google Cloud Storage fails at the moment"),
    ] {
        let google = ServiceDouble::scripted(move |asked, _| {
            if asked.contains("list-type=2") {
                return Response::new(Full::new(Bytes::from_static(page.as_bytes())));
            }
            let text = format!("<Error><Code>{code}</Code><Message>No.</Message></Error>");
            Response::builder().status(status).body(Full::new(Bytes::from(text))).unwrap()
        });
        let google = google.await;
        let lines = format!("endpoint_url = {:?}\ncredentials_file = {key:?}\n", google.url());
        let said = check("gs://bucket", &lines).await.expect_code(2).stderr;
        assert!(said.contains(reason) && said.contains("`stores.s."), "{code}: {said}");
    }
}

#[tokio::test]
async fn the_check_of_a_google_bucket_fails_if_neither_listing_nor_reading_is_permitted() {
    let folder = data::folder();
    let file = format!("credentials_file = {:?}\n", secret(&folder, &service_account()));
    let listing_only = "storage.objects.list";
    for (lines, status, of_object, expected) in [
        (&*file, 403, "relay@p does not have storage.objects.get access.", "deploy/iam/gcs-role.yaml"),
        ("anonymous = true\n", 401, "Anonymous caller does not have storage.objects.get access.", "give the relay"),
        ("anonymous = true\n", 403, "No.", "give the relay credentials, or make the bucket public"),
        (&*file, 403, listing_only, ""),
        ("anonymous = true\n", 401, listing_only, ""),
    ] {
        let google = ServiceDouble::scripted(move |asked, _| {
            let reason = if asked.contains("list-type=2") { listing_only } else { of_object };
            let text =
                format!("<Error><Code>AccessDenied</Code><Message>No.</Message><Details>{reason}</Details></Error>");
            Response::builder().status(status).body(Full::new(Bytes::from(text))).unwrap()
        });
        let google = google.await;
        let checked = check("gs://bucket", &format!("endpoint_url = {:?}\n{lines}", google.url())).await;
        if expected.is_empty() {
            let said = checked.expect_code(0).stdout_text();
            assert!(said.contains("missing keys will be reported as denied; reading was not tested"), "{said}");
            continue;
        }
        let said = checked.expect_code(2).stderr;
        assert!(said.contains("may neither list (bucket \"bucket\": ") && said.contains(") nor read: "), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}

#[tokio::test]
async fn the_check_names_the_reason_why_listing_is_forbidden() {
    let folder = data::folder();
    let key = format!("account_key_file = {:?}\n", secret(&folder, KEY));
    let code = "AuthorizationPermissionMismatch";
    let azure = AzureDouble::scripted(
        false,
        move |asked: &Asked| {
            if asked.is_list { Act::Fail(403, code, ("", "")) } else { Act::Serve }
        },
    );
    let azure = azure.await;
    let of_azure = check("az://container", &azure_lines(&azure, &key)).await;
    let anonymous = AzureDouble::scripted(true, |asked: &Asked| {
        if asked.is_list { Act::Fail(401, "NoAuthenticationInformation", ("", "")) } else { Act::Serve }
    });
    let anonymous = anonymous.await;
    let of_anonymous = check("az://container", &azure_lines(&anonymous, "anonymous = true\n")).await;

    let google = ServiceDouble::scripted(|_, _| {
        let reason = "relay@p.iam.gserviceaccount.com does not have storage.objects.list access.";
        let text = format!(
            "<Error><Code>AccessDenied</Code><Message>Access denied.</Message><Details>{reason}</Details></Error>"
        );
        Response::builder().status(403).body(Full::new(Bytes::from(text))).unwrap()
    });
    let google = google.await;
    let file = secret(&folder, &service_account());
    let lines = format!("endpoint_url = {:?}\ncredentials_file = {file:?}\n", google.url());
    let of_google = check("gs://bucket", &lines).await;

    for (checked, reason, cure) in [
        (
            of_azure,
            "the relay may read: container \"container\": access denied (403 AuthorizationPermissionMismatch: As asked.)",
            "deploy/iam/azure-role.json",
        ),
        (
            of_anonymous,
            "the relay may read: container \"container\": the container or its listing is not public (401 NoAuth",
            "or give the relay credentials",
        ),
        (
            of_google,
            "missing keys will be reported as denied; reading was not tested: bucket \"bucket\": access denied (403 \
             AccessDenied: relay@p.iam.gserviceaccount.com does not have storage.objects.list access.)",
            "grant this identity the permission storage.objects.list on the bucket (deploy/iam/gcs-role.yaml)",
        ),
    ] {
        let said = checked.expect_code(0).stdout_text();
        assert!(said.contains("answers, but the relay may not list") && said.contains(reason), "{said}");
        assert!(said.contains(cure), "{said}");
    }
}

#[tokio::test]
async fn the_check_concludes_nothing_from_archived_blobs() {
    let folder = data::folder();
    let key = format!("account_key_file = {:?}\n", secret(&folder, KEY));
    for (archived, expected) in [
        (["a", "b"], "the relay may list and read"),
        (["a", "c"], "the relay may list; reading was not tested, the first objects are archived"),
    ] {
        let azure = AzureDouble::scripted(false, move |asked: &Asked| {
            let is_archived = !asked.is_list && (archived.contains(&asked.name.as_str()) || archived[1] == "c");
            if is_archived { Act::Fail(409, "BlobArchived", ("", "")) } else { Act::Serve }
        });
        let azure = azure.await;
        for name in ["a", "b", "c"] {
            azure.put(name, "x");
        }
        let checked = check("az://container", &azure_lines(&azure, &key)).await.expect_code(0);
        let said = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(said.contains(expected), "{said}");
    }
}

/// At the level `trace`, the logs of all libraries are included.
#[tokio::test]
async fn no_secret_is_logged_at_any_level() {
    let nats = Nats::plain().await;
    let (azure, gcs) = (AzureDouble::start().await, Gcs::start().await);
    let s3 = S3Double::start(data::random_bytes(1, 1000), |_: &Request| S3Act::Serve).await;
    azure.put("a", "x");
    gcs.put("a", "x").await;
    let token = r#"{"access_token":"hush-token","token_type":"Bearer","expires_in":3600,"expires_on":"4102444800"}"#;
    let tokens = ServiceDouble::refusing(200, token).await;
    let (url, host) = (tokens.url(), tokens.host());
    let (azure_url, gcs_url, s3_url) = (azure.endpoint(), gcs.endpoint(), s3.endpoint());

    let of_azure = [("AZURE_STORAGE_ACCOUNT", ACCOUNT), ("GANTRY_STORES__M__ENDPOINT_URL", &*azure_url)];
    let of_gcs = [("GANTRY_STORES__M__ENDPOINT_URL", &*gcs_url)];
    let application = [
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_CLIENT_ID", "app"),
        ("AZURE_CLIENT_SECRET", "hush-secret"),
        ("AZURE_AUTHORITY_HOST", &*url),
    ];
    let aws = [
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "hush-secret"),
        ("AWS_SESSION_TOKEN", "hush-token"),
        ("AWS_REGION", "us-east-1"),
        ("GANTRY_STORES__M__ENDPOINT_URL", &*s3_url),
    ];
    for (store, variables) in [
        ("az://container", [&of_azure[..], &[("AZURE_STORAGE_KEY", KEY)]].concat()),
        ("az://container", [&of_azure[..], &[("AZURE_STORAGE_SAS_TOKEN", SAS)]].concat()),
        ("az://container", [&of_azure[..], &application[..]].concat()),
        ("gs://bucket", [&of_gcs[..], &[("GCE_METADATA_HOST", &*host), ("GCE_METADATA_IP", &*host)]].concat()),
        ("s3://bucket", aws.to_vec()),
    ] {
        let relay = Relay::on(&nats).store("m", store).env("GANTRY_LOG", "trace");
        let mut relay = variables.iter().fold(relay, |relay, (name, value)| relay.env(name, value)).start().await;
        gantry(["get", "m/a", "-o", "-"]).nats(&nats).run().await;
        relay.logged("TRACE").await;
        relay.signal("TERM");
        relay.wait().await;

        let log = relay.stderr();
        for secret in ["hush", KEY] {
            let line = log.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{store}: {line:?}");
        }
    }
}
