//! Stores in Google Cloud and Azure: what people paste from other programs, and what only an administrator can correct.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;

use crate::clouds::{azure_lines, check, check_with, secret, service_account};
use crate::clouds_bad_input::assert_line;
use crate::support::azure_double::{ACCOUNT, Act, Asked, AzureDouble, KEY, SAS};
use crate::support::gcs::Gcs;
use crate::support::service_double::ServiceDouble;
use crate::support::{Nats, Relay, data, gantry};

#[tokio::test]
async fn settings_of_other_programs_have_a_cure() {
    let account = "account = \"acct\"\n";
    for (url, lines, expected) in [
        (
            "az://models",
            "account_key = \"hush\"\n",
            "did you mean `stores.s.account_key_file`, which takes the path of",
        ),
        (
            "az://models",
            "connection_string = \"AccountKey=hush\"\n",
            "is not a configuration key: set `account` to the",
        ),
        ("AccountName=acct;AccountKey=hush==", "", "is a connection string: must be az://container/prefix with"),
        ("UseDevelopmentStorage=true", "", "is a connection string of an emulator: must be az://container/prefix with"),
        (
            "az://models",
            "endpoint_url = \"https://acct.blob.core.windows.net/models\"\n",
            "must not name a container: ",
        ),
        ("gs://storage.googleapis.com/models", "", "must be gs://models"),
        ("az://acct.blob.core.windows.net/models", "", "must be az://models with `account` set to \"acct\""),
        (
            "az://models@acct/x",
            "",
            "must be az://container/x with `account` set to \"acct\", and the part before the @",
        ),
        ("gs://models", "account = \"my-project\"\n", "applies only to stores in az://, remove it"),
        ("az://models&sig=hush", "", "has no valid container name: must be az://container/prefix"),
        (
            "az://models",
            "tenant_id = \"abc8Q~hush\"\n",
            "must be the id of a tenant, not a secret, which belongs to a file",
        ),
    ] {
        let lines = if url == "az://models" { format!("{account}{lines}") } else { lines.to_owned() };
        let checked = check_with(url, &lines, &[]).await.expect_code(2);
        assert_line(&checked, expected);
    }
}

#[tokio::test]
async fn a_bucket_at_the_end_of_any_server_is_named() {
    let nothing = ServiceDouble::refusing(404, "<Error><Code>NoSuchBucket</Code></Error>").await;
    for url in ["gs://bucket/prefix", "s3://bucket"] {
        for (path, expected) in [
            ("/bucket", ": remove the bucket or container from the end of the address, since `url` names it"),
            ("/buckets", ": create the bucket, or correct its name or the server's address"),
        ] {
            let lines = format!("anonymous = true\nendpoint_url = \"{}{path}\"\n", nothing.url());
            let checked = check(url, &lines).await.expect_code(2);
            assert_line(&checked, expected);
        }
    }
}

#[tokio::test]
async fn a_store_without_a_name_is_one_line() {
    let nats = Nats::plain().await;
    for (store, expected) in [
        (
            "az://models",
            "gantry: --store \"az://models\": has no name: must be models=az://models, or another NAME=URL",
        ),
        (
            "AccountName=a;AccountKey=hush",
            "gantry: --store \"[redacted]\": must be NAME=URL, and this URL is a connection",
        ),
    ] {
        let said = gantry(["serve", "--check", "--store", store]).nats(&nats).run().await.expect_code(2).stderr;
        assert!(said.starts_with(expected) && said.trim_end().lines().count() == 1, "{said}");
        assert!(!said.contains("hush"), "{said}");
    }
}

#[tokio::test]
async fn a_secret_that_was_pasted_elsewhere_is_not_printed() {
    let nats = Nats::plain().await;
    let sas = "sv=2023-11-03&sr=c&sig=hush%3D";
    let connection = "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=hush==";
    let url = format!("https://acct.blob.core.windows.net/models/a&{sas}");
    let store = format!("m={url}");
    let server = format!("az://models?{sas}");
    for arguments in [
        &["serve", "--check", "--store", &*store][..],
        &["serve", "--check", "--store", &url],
        &["serve", "--check", "--server", &server],
        &["ls", "m", "--server", &server],
        &["ls", "m", "--server", connection],
        &["serve", &url],
        &["get", &url],
        &["stat", connection],
    ] {
        let output = gantry(arguments).nats(&nats).run().await;
        let said = format!("{}{}", output.stderr, output.stdout_text());
        assert!(said.contains("[redacted]") || said.contains("must be"), "{arguments:?}: {said}");
        assert!(!said.contains("hush"), "{arguments:?}: {said}");
    }
}

/// A signature by the account's key once panicked, and ended the relay.
#[tokio::test]
async fn an_address_that_can_not_be_parsed_is_reported() {
    let folder = data::folder();
    let key = secret(&folder, KEY);
    for endpoint in ["http://127.0.0.1:99999/acct", "http://1.2.3.999/acct"] {
        let lines = format!("account = \"acct\"\naccount_key_file = {key:?}\nendpoint_url = {endpoint:?}\n");
        let checked = check("az://good", &lines).await.expect_code(2);
        assert_line(&checked, &format!("`stores.s.endpoint_url` = {endpoint:?} in "));
    }
    let variables =
        [("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_ID", "c"), ("AZURE_AUTHORITY_HOST", "http://127.0.0.1:99999")];
    let lines = format!("account = \"acct\"\nclient_secret_file = {key:?}\n");
    let checked = check_with("az://good", &lines, &variables).await.expect_code(2);
    assert_line(&checked, "AZURE_AUTHORITY_HOST: must have a port from 1 to 65535, as in https://login.");
}

#[tokio::test]
async fn the_host_or_the_proxy_that_can_not_be_reached_is_named() {
    let folder = data::folder();
    let key = format!("account = \"acct\"\naccount_key_file = {:?}\n", secret(&folder, KEY));
    let unknown = check("az://good", &key.replace("acct", "nosuchaccount")).await.expect_code(2);
    assert_line(&unknown, "can't resolve nosuchaccount.blob.core.windows.net: ");
    assert_line(&unknown, ": correct the account's name, or let the relay reach Azure Blob Storage");

    let host = format!("127.0.0.1:{}", data::free_port());
    for (proxy, expected) in [
        (format!("http://me:hush@{host}"), format!("the proxy {host} of HTTPS_PROXY: Connection refused")),
        (format!("socks5://{host}"), format!("the proxy {host} of HTTPS_PROXY: SOCKS is not supported")),
    ] {
        let said = check_with("az://good", &key, &[("HTTPS_PROXY", &proxy)]).await.expect_code(2).stderr;
        assert!(said.starts_with("gantry: HTTPS_PROXY in the environment: container \"good\": can't reach "), "{said}");
        assert!(said.contains(&expected) && !said.contains("hush"), "{said}");
        assert!(
            said.trim_end().ends_with(": correct the proxy's address, or add the store's host to NO_PROXY"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn the_address_of_an_emulator_without_the_account_is_named() {
    let nothing = ServiceDouble::refusing(404, "<Error><Code>ResourceNotFound</Code></Error>").await;
    let folder = data::folder();
    let key = secret(&folder, KEY);
    let lines = format!("account = \"acct\"\naccount_key_file = {key:?}\nendpoint_url = {:?}\n", nothing.url());
    let checked = check("az://good", &lines).await.expect_code(2);
    assert_line(&checked, "`stores.s.endpoint_url` = ");
    assert_line(&checked, ": add the account to the end of the address, as emulators require");
}

#[tokio::test]
async fn a_sas_that_covers_too_little_and_a_late_request_have_a_cure() {
    let folder = data::folder();
    let sas = format!("sas_token_file = {:?}\n", secret(&folder, SAS));
    let code = "AuthorizationResourceTypeMismatch";
    let azure = AzureDouble::scripted(
        false,
        move |asked: &Asked| {
            if asked.is_list { Act::Serve } else { Act::Fail(403, code, ("", "")) }
        },
    );
    let azure = azure.await;
    azure.put("a", "x");
    let checked = check("az://container", &azure_lines(&azure, &sas)).await.expect_code(2);
    assert_line(&checked, "the relay's SAS must cover containers and objects: srt=co (403 Authorization");
    assert_line(&checked, ": use a SAS with the permissions rl for the container, or one of the account with srt=co");

    let detail = "Request date header too old: 'Sat, 28 Nov 2026 21:30:12 GMT'";
    let late = ServiceDouble::scripted(move |_, _| {
        let text = format!(
            "<Error><Code>AuthenticationFailed</Code><AuthenticationErrorDetail>{detail}</AuthenticationErrorDetail></Error>"
        );
        Response::builder().status(403).body(Full::new(Bytes::from(text))).unwrap()
    });
    let late = late.await;
    let lines = format!("account = \"account\"\nendpoint_url = \"{}/account\"\n{sas}", late.url());
    let checked = check("az://container", &lines).await.expect_code(2);
    assert_line(&checked, "finds the request too old, by its clock (403 AuthenticationFailed): correct the clock");
}

#[tokio::test]
async fn a_tenant_or_an_application_that_azure_does_not_know_is_named() {
    let azure = AzureDouble::start().await;
    let folder = data::folder();
    let file = secret(&folder, "hush");
    let tenant = r#"{"error":"invalid_request","error_description":"AADSTS90002: Tenant 'nowhere' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud.\r\nTrace ID: 1"}"#;
    let application = r#"{"error":"unauthorized_client","error_description":"AADSTS700016: Application with identifier 'nothing' was not found in the directory 'Contoso'. This can happen if the application has not been installed.\r\nTrace ID: 1"}"#;

    for (answer, key, value, reason, cure) in [
        (
            tenant,
            "tenant_id",
            "nowhere",
            "issues no token, the tenant's id (`tenant_id` or AZURE_TENANT_ID) is wrong (400 invalid_request: AADSTS90002: ",
            ": set it to the id or a domain of the application's tenant",
        ),
        (
            application,
            "client_id",
            "nothing",
            "issues no token, the application's id (`client_id` or AZURE_CLIENT_ID) is wrong (400 unauthorized_client: AADSTS700016: ",
            ": set it to the id of an application in this tenant",
        ),
    ] {
        let tokens = ServiceDouble::refusing(400, answer).await;
        let url = tokens.url();
        let authority = [("AZURE_AUTHORITY_HOST", &*url)];
        let variables = [("AZURE_TENANT_ID", "nowhere"), ("AZURE_CLIENT_ID", "nothing")];

        let lines = format!("tenant_id = \"nowhere\"\nclient_id = \"nothing\"\nclient_secret_file = {file:?}\n");
        let of_keys = check_with("az://container", &azure_lines(&azure, &lines), &authority).await.expect_code(2);
        let lines = format!("client_secret_file = {file:?}\n");
        let mixed = [&authority[..], &variables[..]].concat();
        let of_both = check_with("az://container", &azure_lines(&azure, &lines), &mixed).await.expect_code(2);
        let secret = [&mixed[..], &[("AZURE_CLIENT_SECRET", "hush")]].concat();
        let of_variables = check_with("az://container", &azure_lines(&azure, ""), &secret).await.expect_code(2);

        assert_line(&of_keys, &format!("`stores.s.{key}` = {value:?} in "));
        let variable = format!("AZURE_{}", key.to_uppercase());
        assert_line(&of_both, &format!("`stores.s.{key}` = {value:?} in {variable}: container \"container\": "));
        assert_line(&of_variables, &format!("`stores.s.{key}` is not set, the id comes from {variable}: container "));
        for checked in [of_keys, of_both, of_variables] {
            assert_line(&checked, reason);
            assert_line(&checked, cure);
        }
        assert!(
            tokens.asked().iter().all(|asked| asked.contains("/nowhere/oauth2/v2.0/token")),
            "{:?}",
            tokens.asked()
        );
    }
}

#[tokio::test]
async fn quotes_and_a_byte_order_mark_around_a_secret_are_removed() {
    let azure = AzureDouble::start().await;
    azure.put("a", "x");
    let folder = data::folder();
    for (key, text) in [
        ("account_key_file", format!("\u{feff}{KEY}\r\n")),
        ("account_key_file", format!("\"{KEY}\"\n")),
        ("sas_token_file", format!("'?{SAS}'\n")),
        ("sas_token_file", format!("\u{feff}  {SAS}\n\n")),
    ] {
        let lines = azure_lines(&azure, &format!("{key} = {:?}\n", secret(&folder, &text)));
        let said = check("az://container", &lines).await.expect_code(0).stdout_text();
        assert!(said.contains("the relay may list and read"), "{text:?}: {said}");
    }
    for (variable, text) in
        [("AZURE_STORAGE_KEY", format!("\"{KEY}\"")), ("AZURE_STORAGE_SAS_TOKEN", format!("'{SAS}'"))]
    {
        check_with("az://container", &azure_lines(&azure, ""), &[(variable, &text)]).await.expect_code(0);
    }

    let gcs = Gcs::start().await;
    gcs.put("a", "x").await;
    let of_google = format!("endpoint_url = {:?}\n", gcs.endpoint());
    for text in [format!("\u{feff}{}", service_account()), format!("'{}'\n", service_account())] {
        let lines = format!("{of_google}credentials_file = {:?}\n", secret(&folder, &text));
        check("gs://bucket", &lines).await.expect_code(0);
    }
}

#[tokio::test]
async fn an_encoding_or_white_space_that_damages_a_secret_is_named() {
    let azure = AzureDouble::start().await;
    let folder = data::folder();
    let path = folder.path().join("key");
    let utf_16: Vec<u8> = [0xff, 0xfe].into_iter().chain("hush".bytes().flat_map(|byte| [byte, 0])).collect();
    std::fs::write(&path, utf_16).unwrap();
    let lines = azure_lines(&azure, &format!("account_key_file = {path:?}\n"));
    let checked = check("az://container", &lines).await.expect_code(2);
    assert_line(&checked, "can't be read: it is in UTF-16, save it in UTF-8");

    let wrapped = secret(&folder, &SAS.replace("&sig", "\n&sig"));
    let lines = azure_lines(&azure, &format!("sas_token_file = {wrapped:?}\n"));
    let checked = check("az://container", &lines).await.expect_code(2);
    assert_line(&checked, "has white space inside: must be a shared access signature");
}

#[tokio::test]
async fn the_check_fails_if_no_listed_object_can_be_found() {
    let folder = data::folder();
    let key = format!("account_key_file = {:?}\n", secret(&folder, KEY));
    let azure =
        AzureDouble::scripted(
            false,
            |asked: &Asked| {
                if asked.is_list { Act::Serve } else { Act::Fail(404, "BlobNotFound", ("", "")) }
            },
        );
    let azure = azure.await;
    azure.put("a", "x");
    azure.put("b", "x");

    let checked = check("az://container", &azure_lines(&azure, &key)).await.expect_code(2);
    assert_line(
        &checked,
        "the store lists objects, but none of the first ones can be read, they are missing: key \"b\": ",
    );
    assert_line(&checked, "(404 BlobNotFound): correct the address of the server");
}

#[tokio::test]
async fn the_check_concludes_nothing_from_objects_that_were_deleted_meanwhile() {
    let folder = data::folder();
    let key = secret(&folder, &service_account());
    let listings = AtomicUsize::new(0);
    let google = ServiceDouble::scripted(move |asked, _| {
        if !asked.contains("list-type=2") {
            return Response::builder().status(404).body(Full::new(Bytes::new())).unwrap();
        }
        // The first listing tests whether the store answers.
        let is_early = listings.fetch_add(1, Ordering::SeqCst) < 2;
        let object = "<Contents><Key>a</Key><ETag>\"e\"</ETag><Size>5</Size></Contents>";
        let page = format!(
            "<?xml version='1.0'?><ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>{}\
             </ListBucketResult>",
            if is_early { object } else { "" }
        );
        Response::new(Full::new(Bytes::from(page)))
    });
    let google = google.await;

    let lines = format!("endpoint_url = {:?}\ncredentials_file = {key:?}\n", google.url());
    let said = check("gs://bucket", &lines).await.expect_code(0).stdout_text();
    let expected = "the relay may list; reading was not tested, the first objects were deleted meanwhile";
    assert!(said.contains(expected), "{said}");
}

#[tokio::test]
async fn a_consumer_of_a_relay_whose_credentials_are_refused_is_referred_to_the_operator() {
    let nats = Nats::plain().await;
    let is_revoked = Arc::new(AtomicBool::new(false));
    let revoked = Arc::clone(&is_revoked);
    let azure = AzureDouble::scripted(false, move |_: &Asked| {
        if revoked.load(Ordering::SeqCst) { Act::Fail(403, "AuthenticationFailed", ("", "")) } else { Act::Serve }
    });
    let azure = azure.await;
    azure.put("a", "x");
    let relay = Relay::on(&nats)
        .store("m", "az://container")
        .env("AZURE_STORAGE_ACCOUNT", ACCOUNT)
        .env("AZURE_STORAGE_KEY", KEY)
        .env("GANTRY_STORES__M__ENDPOINT_URL", azure.endpoint());
    let _relay = relay.start().await;

    is_revoked.store(true, Ordering::SeqCst);
    for command in [&["get", "m/a", "-o", "-"][..], &["stat", "m/a"], &["ls", "m/"]] {
        let said = gantry(command).nats(&nats).run().await.expect_code(5).stderr;
        assert!(
            said.contains("Azure Blob Storage rejects the relay's credentials (403 AuthenticationFailed"),
            "{said}"
        );
        assert!(said.contains("): the relay's operator must correct this"), "{said}");
        assert!(!said.contains("again") && said.trim_end().lines().count() == 1, "{said}");
    }
}
