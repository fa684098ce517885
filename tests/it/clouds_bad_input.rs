//! Invalid settings of stores in Google Cloud and Azure: `gantry serve --check` prints one clear line for each.

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;

use crate::clouds::{azure_lines, check_with, secret, service_account};
use crate::support::azure_double::{Act, AzureDouble, KEY, SAS};
use crate::support::gantry::Output;
use crate::support::gcs::Gcs;
use crate::support::service_double::ServiceDouble;
use crate::support::tls::TlsFront;
use crate::support::{data, doc};

const CONNECTION_STRING: &str =
    "DefaultEndpointsProtocol=https;AccountName=account;AccountKey=hush==;EndpointSuffix=core.windows.net";

/// Asserts that a failed check prints one line about the store, which contains this text, and no secret or text of a
/// library.
pub(crate) fn assert_line(checked: &Output, expected: &str) {
    let said = checked.stderr.trim_end();
    assert!(said.contains(expected), "{expected:?} is not in: {said}");
    assert!(said.starts_with("gantry: `stores.s.") && !said.contains('\n'), "{said}");
    for part in ["hush", KEY, "Generic", "object_store", "MicrosoftAzure", "Error {"] {
        assert!(!said.contains(part), "{part:?} is in: {said}");
    }
}

#[tokio::test]
async fn a_variable_with_unusable_credentials_is_named() {
    let azure = AzureDouble::start().await;
    let lines = azure_lines(&azure, "");
    let ids = [("AZURE_TENANT_ID", "tenant"), ("AZURE_CLIENT_ID", "app")];
    let of = |variables: &[(&'static str, &'static str)]| variables.to_vec();

    for (variables, expected) in [
        (of(&[("AZURE_STORAGE_KEY", CONNECTION_STRING)]), "AZURE_STORAGE_KEY: is a connection string"),
        (of(&[("AZURE_STORAGE_KEY", "sv=1&sig=hush")]), "AZURE_STORAGE_KEY: is a shared access signature"),
        (of(&[("AZURE_STORAGE_KEY", "hush!")]), "AZURE_STORAGE_KEY: must be a key of the account alone"),
        (of(&[("AZURE_STORAGE_KEY", "d3Jvbmc=")]), "come from AZURE_STORAGE_KEY: container"),
        (of(&[("AZURE_STORAGE_SAS_TOKEN", CONNECTION_STRING)]), "AZURE_STORAGE_SAS_TOKEN: is a connection string"),
        (of(&[("AZURE_STORAGE_SAS_TOKEN", "hush")]), "AZURE_STORAGE_SAS_TOKEN: must be a shared access signature"),
        (of(&[("AZURE_STORAGE_SAS_TOKEN", "https://a/?sig=hush")]), "AZURE_STORAGE_SAS_TOKEN: is an address"),
        (of(&[("AZURE_CLIENT_SECRET", "hush")]), "AZURE_CLIENT_SECRET requires AZURE_TENANT_ID, which is not set"),
        ([&of(&ids)[..], &[("AZURE_FEDERATED_TOKEN_FILE", "/absent")]].concat(), "FILE: /absent: can't be read"),
        (of(&[("AZURE_FEDERATED_TOKEN_FILE", "/absent")]), "FILE requires AZURE_TENANT_ID, which is not set"),
        (
            [&of(&ids)[..], &[("AZURE_CLIENT_SECRET", "hush"), ("AZURE_AUTHORITY_HOST", "login.example")]].concat(),
            "AZURE_AUTHORITY_HOST: must begin with http:// or https://",
        ),
        (
            of(&[("AZURE_TENANT_ID", "a/b"), ("AZURE_CLIENT_ID", "app"), ("AZURE_CLIENT_SECRET", "hush")]),
            "AZURE_TENANT_ID: must be the id of a tenant",
        ),
        (of(&[("IDENTITY_ENDPOINT", "127.0.0.1:1")]), "IDENTITY_ENDPOINT: must begin with http:// or https://"),
    ] {
        let checked = check_with("az://container", &lines, &variables).await.expect_code(2);
        assert_line(&checked, expected);
        assert!(!checked.stderr.contains("`stores.s.url`"), "{}", checked.stderr);
    }
}

#[tokio::test]
async fn a_variable_with_unusable_credentials_for_google_is_named() {
    let gcs = Gcs::start().await;
    let lines = format!("endpoint_url = {:?}\n", gcs.endpoint());
    let folder = data::folder();

    for (text, expected) in [
        ("AIzahush", "is not JSON: must be the key file of a service account"),
        ("{\"private_key\": \"hush\"}", "`type` is missing or unknown"),
        (r#"{"type":"service_account","private_key":"hush"}"#, "`client_email` is missing"),
        (
            r#"{"type":"service_account","client_email":"a@b","private_key":"hush","private_key_id":"1"}"#,
            "`private_key` is not an RSA key in PEM form",
        ),
        (r#"{"type":"impersonated_service_account","source_credentials":"hush"}"#, "which is not supported: use"),
        (
            r#"{"type":"external_account","subject_token_type":"jwt","audience":"hush",
                "token_url":"https://sts.googleapis.com/v1/token","credential_source":{"environment_id":"aws1"}}"#,
            "`credential_source` is AWS, which is not supported: use a `file` or a `url`",
        ),
        ("", "the file is empty"),
    ] {
        let file = secret(&folder, text);
        let of_variable = [("GOOGLE_APPLICATION_CREDENTIALS", &*file)];
        let checked = check_with("gs://bucket", &lines, &of_variable).await.expect_code(2);
        assert_line(&checked, &format!("GOOGLE_APPLICATION_CREDENTIALS: {file}: "));
        assert_line(&checked, expected);

        if !text.is_empty() {
            let of_key = format!("{lines}credentials_file = {file:?}\n");
            let checked = check_with("gs://bucket", &of_key, &[]).await.expect_code(2);
            assert_line(&checked, expected);
            assert!(checked.stderr.contains("`stores.s.credentials_file` = "), "{}", checked.stderr);
        }
    }

    for (variable, value, expected) in [
        ("GOOGLE_APPLICATION_CREDENTIALS", "/absent", "GOOGLE_APPLICATION_CREDENTIALS: /absent: can't be read"),
        ("GCE_METADATA_HOST", "http://169.254.169.254", "GCE_METADATA_HOST: must be HOST or HOST:PORT"),
    ] {
        let checked = check_with("gs://bucket", &lines, &[(variable, value)]).await.expect_code(2);
        assert_line(&checked, expected);
    }
}

#[tokio::test]
async fn a_service_that_issues_no_token_is_named_with_its_reason() {
    let azure = AzureDouble::start().await;
    let lines = azure_lines(&azure, "");
    let refused = ServiceDouble::refusing(
        401,
        r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret.\r\nTrace ID: 1"}"#,
    );
    let refused = refused.await;
    let url = refused.url();
    let application = [
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_CLIENT_ID", "app"),
        ("AZURE_CLIENT_SECRET", "hush"),
        ("AZURE_AUTHORITY_HOST", &*url),
    ];
    let checked = check_with("az://container", &lines, &application).await.expect_code(2);
    assert_line(&checked, "come from AZURE_CLIENT_SECRET: ");
    assert_line(
        &checked,
        "issues no token (401 invalid_client: AADSTS7000215: Invalid client secret.): give the relay",
    );

    let echoing =
        ServiceDouble::refusing(401, r#"{"error":"invalid_client","error_description":"'hush' is wrong"}"#).await;
    let url = echoing.url();
    let application = [&application[..3], &[("AZURE_AUTHORITY_HOST", &*url)]].concat();
    let checked = check_with("az://container", &lines, &application).await.expect_code(2);
    assert_line(&checked, "issues no token (401 invalid_client: '[redacted]' is wrong)");

    let endless = ServiceDouble::refusing(200, r#"{"access_token":"hush"}"#).await;
    let url = endless.url();
    let application = [&application[..3], &[("AZURE_AUTHORITY_HOST", &*url)]].concat();
    let checked = check_with("az://container", &lines, &application).await.expect_code(2);
    assert_line(&checked, "has no valid lifetime of the token (`expires_in` or `expires_on`, in seconds)");

    let msi = format!("{}/msi/token", ServiceDouble::refusing(404, "").await.url());
    let identity = [("IDENTITY_ENDPOINT", &*msi), ("IDENTITY_HEADER", "hush")];
    let checked = check_with("az://container", &lines, &identity).await.expect_code(2);
    assert_line(&checked, "can't reach 127.0.0.1:");

    let gcs = Gcs::start().await;
    let lines = format!("endpoint_url = {:?}\n", gcs.endpoint());
    let nothing = ServiceDouble::refusing(404, "no such account").await;
    let host = nothing.host();
    let variables = [("GCE_METADATA_HOST", &*host), ("GCE_METADATA_IP", &*host)];
    let checked = check_with("gs://bucket", &lines, &variables).await.expect_code(2);
    assert_line(&checked, "issues no token (404): give the relay the key of a service account");

    let other = ServiceDouble::refusing(200, "{\"access\": \"hush\"}").await;
    let host = other.host();
    let variables = [("GCE_METADATA_HOST", &*host), ("GCE_METADATA_IP", &*host)];
    let checked = check_with("gs://bucket", &lines, &variables).await.expect_code(2);
    assert_line(
        &checked,
        &format!("can't obtain credentials for Google Cloud Storage: the answer of {host} has no access token"),
    );
}

#[tokio::test]
async fn what_google_refuses_is_one_line_with_its_key_and_cure() {
    let folder = data::folder();
    let key = secret(&folder, &service_account());
    for (status, code, date, expected) in [
        (404, "NoSuchBucket", "", "`stores.s.url` = \"gs://bucket\" in "),
        (404, "NoSuchBucket", "", "no such bucket (404 NoSuchBucket): create the bucket, or correct its name"),
        (401, "AuthenticationRequired", "", "rejects the relay's credentials (401 AuthenticationRequired"),
        (401, "", "Sat, 01 Jan 2000 00:00:00 GMT", " minutes ahead: correct the clock"),
        (400, "UserProjectMissing", "", "`stores.s.billing_project` is not set: bucket \"bucket\": the bucket bills"),
        (429, "SlowDown", "", "`stores.s.url` = \"gs://bucket\" in "),
        (429, "SlowDown", "", "Google Cloud Storage asks to slow down (429 SlowDown): try again later"),
        (
            503,
            "ServiceUnavailable",
            "",
            "Google Cloud Storage fails at the moment (503 ServiceUnavailable): try again later",
        ),
        (
            412,
            "OrgPolicyConstraintFailed",
            "",
            "a policy of the organisation forbids the request (412 OrgPolicyConstraintFailed: No.): comply with the policy, or ask",
        ),
        (412, "PreconditionFailed", "", "Google Cloud Storage refuses the request (412 PreconditionFailed: No.)"),
        (
            403,
            "AccountProblem",
            "",
            "the account of the bucket's project has a problem, such as billing that is disabled",
        ),
        (
            403,
            "UserProjectAccessDenied",
            "",
            "`stores.s.billing_project` is not set: bucket \"bucket\": the relay may not",
        ),
        (
            200,
            "",
            "",
            "what answers is not Google Cloud Storage, but a web page or another service: correct the address of the server",
        ),
    ] {
        let double = ServiceDouble::scripted(move |_, _| {
            let text = format!("<Error><Code>{code}</Code><Message>No.</Message></Error>");
            let answer = Response::builder().status(status);
            let answer = if date.is_empty() { answer } else { answer.header("date", date) };
            answer.body(Full::new(Bytes::from(text))).unwrap()
        });
        let double = double.await;
        let lines = format!("endpoint_url = {:?}\ncredentials_file = {key:?}\n", double.url());
        let checked = check_with("gs://bucket", &lines, &[]).await.expect_code(2);
        assert_line(&checked, expected);
    }
}

#[tokio::test]
async fn what_azure_refuses_is_one_line_with_its_key_and_cure() {
    let folder = data::folder();
    let key = format!("account_key_file = {:?}\n", secret(&folder, KEY));
    for (status, code, date, expected) in [
        (404, "ContainerNotFound", "", "no such container (404 ContainerNotFound): create the container"),
        (403, "AuthenticationFailed", "Sat, 01 Jan 2000 00:00:00 GMT", "minutes ahead: correct the clock"),
        (400, "OutOfRangeInput", "", "name of the container is not valid (400 OutOfRangeInput)"),
        (403, "AuthorizationFailure", "", "the account's network rules exclude the relay (403 AuthorizationFailure)"),
        (503, "ServerBusy", "", "Azure Blob Storage asks to slow down (503 ServerBusy): try again later"),
        (500, "InternalError", "", "Azure Blob Storage fails at the moment (500 InternalError): try again later"),
        (400, "AccountRequiresHttps", "", "the account permits only https:// (400 AccountRequiresHttps): use https://"),
        (400, "AccountRequiresHttps", "", "`stores.s.endpoint_url` = \"http://127.0.0.1:"),
        (409, "ContainerDisabled", "", "the container is disabled (409 ContainerDisabled): enable the account or the"),
    ] {
        let azure = AzureDouble::scripted(false, move |_| Act::Fail(status, code, ("date", date))).await;
        let checked = check_with("az://container", &azure_lines(&azure, &key), &[]).await.expect_code(2);
        assert_line(&checked, expected);
    }

    let azure = AzureDouble::scripted(false, |_| Act::Fail(503, "ServerBusy", ("retry-after", "7"))).await;
    let checked = check_with("az://container", &azure_lines(&azure, &key), &[]).await.expect_code(2);
    assert_line(&checked, "Azure Blob Storage asks to slow down (503 ServerBusy): try again in 7 seconds");

    let azure = AzureDouble::start().await;
    for (text, expected) in [
        (&*SAS.replace("2999", "2020"), "the relay's SAS can't be used now: it expired at 2020-01-01T00:00:00Z"),
        (CONNECTION_STRING, "secret: is a connection string: must be a shared access signature"),
    ] {
        let lines = format!("sas_token_file = {:?}\n", secret(&folder, text));
        let checked = check_with("az://container", &azure_lines(&azure, &lines), &[]).await.expect_code(2);
        assert_line(&checked, expected);
    }

    for url in [
        "https://account.blob.core.windows.net/container?sv=1&sig=hush",
        "https://account.blob.core.usgovcloudapi.net/container",
        "abfss://container@account.dfs.core.windows.net/prefix",
        "az://container?timeout=5",
    ] {
        let checked = check_with(url, &key, &[]).await.expect_code(2);
        assert_line(&checked, "`stores.s.url` = ");
    }
}

#[tokio::test]
async fn the_key_that_is_wrong_is_named_and_not_the_credentials() {
    let azure = AzureDouble::start().await;
    let folder = data::folder();
    let key = format!("account_key_file = {:?}\n", secret(&folder, KEY));
    let authorities = data::folder();
    let garbage = secret(&authorities, "hush");

    for lines in [
        format!("{key}tls_ca_file = {garbage:?}\n"),
        format!("{key}endpoint_url = \"https:///c\"\n"),
        format!("{key}endpoint_url = \"https://me:hush@account.blob.core.windows.net\"\n"),
        format!("{key}endpoint_url = \"https://account.blob.core.windows.net/?sv=1&sig=hush\"\n"),
    ] {
        let name = if lines.contains("tls_ca_file") { "tls_ca_file" } else { "endpoint_url" };
        let lines =
            if name == "tls_ca_file" { azure_lines(&azure, &lines) } else { format!("account = \"account\"\n{lines}") };
        let checked = check_with("az://container", &lines, &[]).await.expect_code(2);
        assert_line(&checked, &format!("`stores.s.{name}` = "));
    }

    for account in [CONNECTION_STRING, "sv=1&sig=hush", "account.blob.core.windows.net", "https://account/"] {
        let checked = check_with("az://container", &format!("account = {account:?}\n"), &[]).await.expect_code(2);
        assert_line(&checked, "`stores.s.account` = ");
    }
}

#[tokio::test]
async fn the_documentation_has_the_messages_about_variables() {
    let azure = AzureDouble::start().await;
    let lines = azure_lines(&azure, "");
    let variables = [("AZURE_STORAGE_KEY", CONNECTION_STRING)];
    let checked = check_with("az://container", &lines, &variables).await.expect_code(2);
    doc::assert_documented(&checked.stderr, &[]);

    let variables = [("GOOGLE_APPLICATION_CREDENTIALS", "/run/google/key.json")];
    let checked = check_with("gs://bucket", "", &variables).await.expect_code(2);
    doc::assert_documented(&checked.stderr, &[]);
}

#[tokio::test]
async fn a_certificate_outside_its_time_is_blamed_on_the_clock() {
    let azure = AzureDouble::start().await;
    let gcs = Gcs::start().await;
    let folder = data::folder();
    let key = format!("account = \"account\"\naccount_key_file = {:?}\n", secret(&folder, KEY));

    for (years, expected) in [
        (1990..2020, "it expired at 2020-01-01T00:00:00Z, and the clock shows 2"),
        (3000..3001, "it is valid from 3000-01-01T00:00:00Z, and the clock shows 2"),
    ] {
        for (url, server, lines) in
            [("az://container", azure.endpoint(), &*key), ("gs://bucket", gcs.endpoint(), "anonymous = true\n")]
        {
            let (base, path) = server.split_at(server.rfind("/account").unwrap_or(server.len()));
            let front = TlsFront::start_valid(base, "127.0.0.1", years.clone()).await;
            let endpoint = format!("{}{path}", front.endpoint());
            let lines = format!("{lines}endpoint_url = {endpoint:?}\ntls_ca_file = {:?}\n", front.ca());
            let checked = check_with(url, &lines, &[]).await.expect_code(2);
            assert_line(&checked, expected);
            assert_line(&checked, ": by the relay's clock, the certificate of ");
            assert_line(&checked, ": correct this machine's clock, or renew the certificate if the clock is right");
            assert_line(&checked, "`stores.s.endpoint_url` = ");
        }
    }
}

#[tokio::test]
async fn a_secret_in_place_of_a_path_has_a_cure() {
    let storage_key = format!("{}==", "aB3+hush".repeat(11).split_at(86).0);
    let google = service_account().replace("relay@", "hush@");
    let google = google.as_str();
    let cure =
        "must be the path of a file, but looks like its content: write that to a file which only the relay's user";
    for (url, key, secret) in [
        ("az://container", "account_key_file", &*storage_key),
        ("az://container", "account_key_file", CONNECTION_STRING),
        ("az://container", "sas_token_file", "?sv=2023-11-03&sp=rl&sig=hush"),
        ("az://container", "client_secret_file", "abc8Q~hush.hush_hush"),
        ("az://container", "federated_token_file", "eyJhbGciOiJSUzI1NiJ9.hush.hush"),
        ("gs://bucket", "credentials_file", google),
        ("gs://bucket", "credentials_file", "AIzaSyD4hush0123456789abcdefghij"),
        ("s3://bucket", "secret_access_key_file", "wJalrXUtnhush/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        ("gs://bucket", "tls_ca_file", "-----BEGIN CERTIFICATE-----\nhush\n-----END CERTIFICATE-----"),
    ] {
        let account = if url.starts_with("az:") { "account = \"account\"\n" } else { "" };
        let ids = if key.starts_with("client") || key.starts_with("federated") {
            "tenant_id = \"t\"\nclient_id = \"c\"\n"
        } else {
            ""
        };
        let id = if url.starts_with("s3:") { "access_key_id_file = \"/dev/null\"\n" } else { "" };
        let checked = check_with(url, &format!("{account}{ids}{id}{key} = {secret:?}\n"), &[]).await.expect_code(2);
        let said = checked.stderr + &String::from_utf8_lossy(&checked.stdout);
        assert!(
            said.contains(&format!("`stores.s.{key}` = \"[redacted]\" in ")) && said.contains(cure),
            "{key}: {said}"
        );
        assert!(!said.contains("hush"), "{key}: {said}");
    }

    let variables = [("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_ID", "c"), ("AZURE_FEDERATED_TOKEN_FILE", "eyJhush.a.b")];
    let checked = check_with("az://container", "account = \"account\"\n", &variables).await.expect_code(2);
    assert_line(&checked, &format!("AZURE_FEDERATED_TOKEN_FILE: [redacted]: {cure}"));
    let variables = [("GOOGLE_APPLICATION_CREDENTIALS", google)];
    let checked = check_with("gs://bucket", "", &variables).await.expect_code(2);
    assert_line(&checked, &format!("GOOGLE_APPLICATION_CREDENTIALS: [redacted]: {cure}"));
}

/// Asserts that a check blames a service that issues tokens, and not the credentials.
fn assert_outage(checked: &Output, key: &str, problem: &str) {
    assert_line(checked, key);
    assert_line(checked, ", the service that issues tokens is unavailable: ");
    assert_line(checked, problem);
    assert_line(checked, ": let the relay reach this service, try again later, or use other credentials");
}

#[tokio::test]
async fn a_service_for_tokens_that_is_unavailable_is_not_blamed_on_the_credentials() {
    let azure = AzureDouble::start().await;
    let gcs = Gcs::start().await;
    let folder = data::folder();
    let subject = secret(&folder, "hush");
    let file = data::folder();
    let of_google = format!("endpoint_url = {:?}\n", gcs.endpoint());
    let closed = format!("127.0.0.1:{}", data::free_port());
    let failing = ServiceDouble::refusing(503, r#"{"error":"temporarily_unavailable"}"#).await;
    let throttling = ServiceDouble::refusing(429, "").await;
    // Accepts connections, and never answers.
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let silent_host = silent.local_addr().unwrap().to_string();

    for (host, problem) in [
        (closed.clone(), format!("can't reach {closed}: Connection refused")),
        (failing.host(), format!("{} issues no token (503 temporarily_unavailable)", failing.host())),
        (throttling.host(), format!("{} issues no token (429)", throttling.host())),
        (silent_host.clone(), format!("{silent_host} did not answer in")),
    ] {
        let url = format!("http://{host}");
        let application = [
            ("AZURE_TENANT_ID", "tenant"),
            ("AZURE_CLIENT_ID", "app"),
            ("AZURE_CLIENT_SECRET", "hush"),
            ("AZURE_AUTHORITY_HOST", &*url),
        ];
        let checked = check_with("az://container", &azure_lines(&azure, ""), &application).await.expect_code(2);
        assert_outage(&checked, "the credentials come from AZURE_CLIENT_SECRET: ", &problem);

        let msi = format!("{url}/msi/token");
        let identity = [("IDENTITY_ENDPOINT", &*msi), ("IDENTITY_HEADER", "hush")];
        let checked = check_with("az://container", &azure_lines(&azure, ""), &identity).await.expect_code(2);
        assert_outage(&checked, "come from the machine's managed identity: ", &problem);

        let metadata = [("GCE_METADATA_HOST", &*host), ("GCE_METADATA_IP", &*host)];
        let checked = check_with("gs://bucket", &of_google, &metadata).await.expect_code(2);
        assert_outage(&checked, "come from Google's application default credentials: ", &problem);

        let account = serde_json::json!({
            "type": "external_account", "audience": "a", "subject_token_type": "jwt",
            "token_url": format!("{url}/v1/token"), "credential_source": { "file": subject },
        });
        let path = secret(&file, &account.to_string());
        let lines = format!("{of_google}credentials_file = {path:?}\n");
        let checked = check_with("gs://bucket", &lines, &[]).await.expect_code(2);
        assert_outage(&checked, "`stores.s.credentials_file` = ", &problem);
    }
}
