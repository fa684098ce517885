//! Stores in Google Cloud and Azure with the built binary: a download, and what `gantry serve --check` reports.

use crate::support::azure_double::{ACCOUNT, Act, Asked, AzureDouble, KEY, SAS};
use crate::support::gantry::Output;
use crate::support::gcs::Gcs;
use crate::support::service_double::ServiceDouble;
use crate::support::{Nats, Relay, data, doc, gantry};

/// Checks one store `s` at `url` with these lines of configuration.
pub(crate) async fn check(url: &str, lines: &str) -> Output {
    check_with(url, lines, &[]).await
}

/// Checks one store `s` at `url` with these lines of configuration, and these variables.
pub(crate) async fn check_with(url: &str, lines: &str, variables: &[(&str, &str)]) -> Output {
    let nats = Nats::plain().await;
    let folder = data::folder();
    let file = folder.path().join("gantry.toml");
    std::fs::write(&file, format!("[stores.s]\nurl = {url:?}\n{lines}")).unwrap();
    let check = gantry(["serve", "--check", "--http", "off", "--config"]).arg(&file).nats(&nats);
    variables.iter().fold(check, |check, (name, value)| check.env(name, value)).run().await
}

pub(crate) fn azure_lines(azure: &AzureDouble, lines: &str) -> String {
    format!("account = {ACCOUNT:?}\nendpoint_url = {:?}\n{lines}", azure.endpoint())
}

/// Writes a secret to a file in a folder, and returns its path.
pub(crate) fn secret(folder: &tempfile::TempDir, text: &str) -> String {
    let path = folder.path().join("secret");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Returns the text of the key file of a service account.
pub(crate) fn service_account() -> String {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap().serialize_pem();
    let account = serde_json::json!({
        "type": "service_account", "client_email": "relay@p.iam.gserviceaccount.com", "private_key_id": "1",
        "private_key": key,
    });
    account.to_string()
}

/// Starts a relay that serves the container of `azure` with the key of its account, as the store `m`.
async fn relay_with_key(nats: &Nats, azure: &AzureDouble) -> Relay {
    let relay = Relay::on(nats)
        .store("m", "az://container/models")
        .env("AZURE_STORAGE_ACCOUNT", ACCOUNT)
        .env("AZURE_STORAGE_KEY", KEY)
        .env("GANTRY_STORES__M__ENDPOINT_URL", azure.endpoint());
    relay.start().await
}

/// Asserts that the check fails with this line, after replacing volatile parts, and that docs/CONFIGURATION.md has it.
fn assert_reported(checked: &Output, volatile: &[(&str, &str)]) {
    let line = checked.stderr.lines().find(|line| line.contains("`stores.s.")).unwrap_or(&checked.stderr);
    assert!(!checked.stderr.contains("hush") && !checked.stderr.contains(KEY), "{}", checked.stderr);
    doc::assert_documented(line, volatile);
}

#[tokio::test]
async fn a_download_from_google_cloud_is_verified_and_resumes_by_its_generation() {
    let nats = Nats::plain().await;
    let gcs = Gcs::start().await;
    let bytes = data::random_bytes(1, 20_000_000);
    gcs.put("models/a", bytes.clone()).await;
    let address = gcs.endpoint();
    let _relay = Relay::on(&nats).store("m", "gs://bucket/models").env("STORAGE_EMULATOR_HOST", &address).start().await;

    let folder = data::folder();
    let target = folder.path().join("a");
    let output = gantry(["get", "m/a", "--json", "-o"]).arg(&target).nats(&nats).run().await.expect_code(0);

    assert!(std::fs::read(&target).unwrap() == bytes);
    let report = output.json();
    assert_eq!(report["proof"]["algorithm"].as_str(), Some("crc32c"), "{report}");
    let generation = gantry(["stat", "m/a", "--json"]).nats(&nats).run().await.expect_code(0).json();
    let generation = generation["version_id"].as_str().unwrap().to_owned();
    let again = gantry(["get", "m/a", "--version-id", &generation, "-o", "-"]).nats(&nats).run().await.expect_code(0);
    assert_eq!(again.stdout.len(), bytes.len());
}

#[tokio::test]
async fn a_download_from_azure_is_verified_by_its_md5() {
    let nats = Nats::plain().await;
    let azure = AzureDouble::start().await;
    let bytes = data::random_bytes(1, 20_000_000);
    azure.put("models/a", bytes.clone());
    azure.put_without_md5("models/b", "blocks");
    let folder = data::folder();
    let _relay = relay_with_key(&nats, &azure).await;

    let target = folder.path().join("a");
    let output = gantry(["get", "m/a", "--json", "-o"]).arg(&target).nats(&nats).run().await.expect_code(0);
    assert!(std::fs::read(&target).unwrap() == bytes);
    assert_eq!(output.json()["proof"]["algorithm"].as_str(), Some("md5"), "{}", output.json());

    let target = folder.path().join("b");
    let output = gantry(["get", "m/b", "-o"]).arg(&target).nats(&nats).run().await.expect_code(0);
    assert!(output.stderr.contains("verified in transport only"), "{}", output.stderr);
}

#[tokio::test]
async fn the_check_reports_that_both_clouds_can_be_listed_and_read() {
    let gcs = Gcs::start().await;
    gcs.put("a", "x").await;
    let azure = AzureDouble::start().await;
    azure.put("a", "x");
    let folder = data::folder();
    let key = format!("account_key_file = {:?}\n", secret(&folder, KEY));

    let google = check("gs://bucket", &format!("anonymous = true\nendpoint_url = {:?}\n", gcs.endpoint())).await;
    let microsoft = check("az://container", &azure_lines(&azure, &key)).await;
    for checked in [google, microsoft] {
        let said = checked.expect_code(0).stdout;
        assert!(String::from_utf8_lossy(&said).contains("the relay may list and read"), "{said:?}");
    }
}

#[tokio::test]
async fn the_check_names_the_wrong_account_container_or_server() {
    let azure = AzureDouble::start().await;
    let folder = data::folder();
    let key = format!("account_key_file = {:?}\n", secret(&folder, KEY));

    let absent = check("az://absent", &azure_lines(&azure, &key)).await.expect_code(2);
    assert!(absent.stderr.contains("`stores.s.url` = \"az://absent\""), "{}", absent.stderr);
    assert!(absent.stderr.contains("no such container (404 ContainerNotFound)"), "{}", absent.stderr);

    // Such an account has no address.
    let account = check("az://container", &format!("account = \"nosuchaccount\"\n{key}")).await.expect_code(2);
    assert!(account.stderr.contains("`stores.s.account` = \"nosuchaccount\""), "{}", account.stderr);
    assert!(account.stderr.contains("can't reach Azure Blob Storage"), "{}", account.stderr);

    let gcs = Gcs::start().await;
    let lines = format!("anonymous = true\nendpoint_url = {:?}\n", gcs.endpoint());
    let absent = check("gs://absent", &lines).await.expect_code(2);
    assert!(absent.stderr.contains("`stores.s."), "{}", absent.stderr);
}

#[tokio::test]
async fn the_check_names_credentials_that_are_refused_or_not_credentials() {
    let azure = AzureDouble::start().await;
    let folder = data::folder();
    for (key, text, expected) in [
        ("account_key_file", "d3Jvbmc=", "rejects the relay's credentials (403 AuthenticationFailed"),
        ("account_key_file", "AccountName=a;AccountKey=hush==", "is a connection string"),
        ("sas_token_file", &SAS.replace("2999", "2020"), "it expired at 2020-01-01T00:00:00Z"),
        ("sas_token_file", "hush", "must be a shared access signature"),
        ("sas_token_file", "https://account.blob.core.windows.net/c?sig=hush", "is an address"),
    ] {
        let lines = azure_lines(&azure, &format!("{key} = {:?}\n", secret(&folder, text)));
        let checked = check("az://container", &lines).await.expect_code(2);
        let said = &checked.stderr;
        assert!(said.contains(&format!("`stores.s.{key}` = ")) && said.contains(expected), "{text}: {said}");
        assert!(!said.contains("hush") && !said.contains(text), "{said}");
    }

    let key = secret(&folder, "AIzaSyNotAFile");
    let checked = check("gs://bucket", &format!("credentials_file = {key:?}\n")).await.expect_code(2);
    assert!(checked.stderr.contains("`stores.s.credentials_file` = "), "{}", checked.stderr);
    assert!(checked.stderr.contains("is not JSON"), "{}", checked.stderr);
}

#[tokio::test]
async fn the_check_names_a_wrong_clock() {
    let azure = AzureDouble::scripted(false, |_: &Asked| {
        Act::Fail(403, "AuthenticationFailed", ("date", "Sat, 01 Jan 2000 00:00:00 GMT"))
    });
    let azure = azure.await;
    let folder = data::folder();
    let key = format!("account_key_file = {:?}\n", secret(&folder, KEY));

    let checked = check("az://container", &azure_lines(&azure, &key)).await.expect_code(2);
    assert!(checked.stderr.contains("minutes ahead: correct the clock"), "{}", checked.stderr);
}

#[tokio::test]
async fn the_documentation_has_the_messages_of_the_check() {
    let azure = AzureDouble::start().await;
    let folder = data::folder();
    let key = secret(&folder, "d3Jvbmc=");
    let config = |checked: &Output| {
        let at = checked.stderr.find("/gantry.toml:").unwrap_or_default();
        let start = checked.stderr[..at].rfind(" in ").map_or(at, |start| start + 4);
        checked.stderr[start..at].to_owned()
    };

    let lines = azure_lines(&azure, &format!("account_key_file = {key:?}\n"));
    let refused = check("az://container", &lines).await.expect_code(2);
    let place = config(&refused);
    assert_reported(&refused, &[(&key, "/run/azure/key"), (&place, "/etc/gantry")]);

    let expired = secret(&folder, &SAS.replace("2999", "2020"));
    let lines = azure_lines(&azure, &format!("sas_token_file = {expired:?}\n"));
    let late = check("az://container", &lines).await.expect_code(2);
    let place = config(&late);
    assert_reported(&late, &[(&expired, "/run/azure/sas"), (&place, "/etc/gantry")]);

    let private = check("az://container", &azure_lines(&azure, "anonymous = true\n")).await.expect_code(2);
    let place = config(&private);
    assert_reported(&private, &[(&place, "/etc/gantry")]);
}

#[tokio::test]
async fn tokens_of_azure_come_from_a_workload_identity_an_application_or_a_managed_identity() {
    let azure = AzureDouble::start().await;
    azure.put("a", "x");
    let tokens = ServiceDouble::issuing().await;
    let folder = data::folder();
    let file = secret(&folder, "federated");
    let (url, msi) = (tokens.url(), format!("{}/msi/token", tokens.url()));
    let of_tenant = [("AZURE_TENANT_ID", "tenant"), ("AZURE_CLIENT_ID", "app"), ("AZURE_AUTHORITY_HOST", &*url)];

    let workload = [&of_tenant[..], &[("AZURE_FEDERATED_TOKEN_FILE", &*file)]].concat();
    let managed = [("IDENTITY_ENDPOINT", &*msi), ("IDENTITY_HEADER", "header")];
    let application = format!("client_secret_file = {file:?}\n");
    for (lines, variables, expected) in [
        ("", &workload[..], "client_assertion=federated"),
        (&*application, &of_tenant[..], "client_secret=federated"),
        ("client_id = \"mine\"\n", &managed[..], "client_id=mine"),
    ] {
        let checked = check_with("az://container", &azure_lines(&azure, lines), variables).await.expect_code(0);
        let said = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(said.contains("the relay may list and read") && !said.contains("federated"), "{said}");
        let asked = tokens.asked();
        assert!(asked.last().is_some_and(|asked| asked.contains(expected)), "{expected}: {asked:?}");
    }
    assert_eq!(tokens.asked().len(), 3, "a token is requested once for each store");
}

#[tokio::test]
async fn a_metadata_server_is_reached_without_the_proxy() {
    let azure = AzureDouble::start().await;
    azure.put("a", "x");
    let tokens = ServiceDouble::issuing().await;
    let msi = format!("{}/msi/token", tokens.url());
    let proxy = format!("http://127.0.0.1:{}", data::free_port());
    let lines = azure_lines(&azure, "").replace("127.0.0.1", "localhost");
    let identity = [("IDENTITY_ENDPOINT", &*msi), ("IDENTITY_HEADER", "header")];
    let variables = [&identity[..], &[("HTTP_PROXY", &*proxy), ("NO_PROXY", "localhost")]].concat();

    check_with("az://container", &lines, &variables).await.expect_code(0);
    assert_eq!(tokens.asked().len(), 1);
}

#[tokio::test]
async fn the_check_names_what_an_account_does_not_permit() {
    let folder = data::folder();
    let key = format!("account_key_file = {:?}\n", secret(&folder, KEY));
    for (code, name, expected) in [
        ("KeyBasedAuthenticationNotPermitted", "account_key_file", "use an identity"),
        ("AccountIsDisabled", "endpoint_url", "the account is disabled"),
    ] {
        let azure = AzureDouble::scripted(false, move |_: &Asked| Act::Fail(403, code, ("", ""))).await;
        let checked = check("az://container", &azure_lines(&azure, &key)).await.expect_code(2);
        let said = &checked.stderr;
        assert!(said.contains(&format!("`stores.s.{name}` = ")) && said.contains(expected), "{said}");
    }
}

#[tokio::test]
async fn variables_that_are_not_read_are_warned_of() {
    let azure = AzureDouble::start().await;
    azure.put("a", "x");
    let tokens = ServiceDouble::issuing().await;
    let msi = format!("{}/msi/token", tokens.url());
    let variables = [("IDENTITY_ENDPOINT", &*msi), ("AZURE_STORAGE_CONNECTION_STRING", "AccountKey=hush==")];

    let checked = check_with("az://container", &azure_lines(&azure, ""), &variables).await.expect_code(0);
    let said = checked.stdout_text();
    assert!(said.contains("\nWARNING: AZURE_STORAGE_CONNECTION_STRING is ignored for `stores.s`: set"), "{said}");
    assert!(!said.contains("hush"), "{said}");
}

#[tokio::test]
async fn a_relay_that_can_not_open_a_store_names_the_key_and_the_cure() {
    let nats = Nats::plain().await;
    let serve = || gantry(["serve", "--http", "off", "--store", "s=az://container"]).nats(&nats);
    let account = ("AZURE_STORAGE_ACCOUNT", ACCOUNT);

    let of_variable = serve().env(account.0, account.1).env("AZURE_STORAGE_KEY", "hush!").run().await.expect_code(2);
    let expected =
        "`stores.s.account_key_file` is not set, the credentials come from the environment: AZURE_STORAGE_KEY: ";
    assert!(of_variable.stderr.contains(expected), "{}", of_variable.stderr);
    assert!(of_variable.stderr.contains(": correct the variable or the file"), "{}", of_variable.stderr);

    let folder = data::folder();
    let file = secret(&folder, "hush!");
    let of_file = serve().env(account.0, account.1).env("GANTRY_STORES__S__ACCOUNT_KEY_FILE", &file);
    let of_file = of_file.run().await.expect_code(2);
    let expected = format!("`stores.s.account_key_file` = {file:?} in GANTRY_STORES__S__ACCOUNT_KEY_FILE: ");
    assert!(of_file.stderr.contains(&expected), "{}", of_file.stderr);
    assert!(of_file.stderr.contains(": correct the file, or name another"), "{}", of_file.stderr);
    for said in [of_variable.stderr, of_file.stderr] {
        assert!(!said.contains("hush"), "{said}");
    }
}

#[tokio::test]
async fn a_token_of_azure_comes_from_the_command_az() {
    let azure = AzureDouble::start().await;
    azure.put("a", "x");
    let folder = data::folder();
    let script = folder.path().join("az");
    std::fs::write(&script, "#!/bin/sh\necho '{\"accessToken\": \"token\", \"expires_on\": 4102444800}'\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", folder.path().display());

    let lines = azure_lines(&azure, "azure_cli = true\n");
    let checked = check_with("az://container", &lines, &[("PATH", &path)]).await;
    checked.expect_code(0);

    let absent = data::folder().path().join("none").display().to_string();
    let checked = check_with("az://container", &lines, &[("PATH", &absent)]).await.expect_code(2);
    assert!(checked.stderr.contains("`stores.s.azure_cli` = true"), "{}", checked.stderr);
    assert!(checked.stderr.contains("the command az can't be run"), "{}", checked.stderr);
}

#[tokio::test]
async fn tokens_of_google_come_from_the_metadata_server_or_a_service_account() {
    let gcs = Gcs::start().await;
    gcs.put("a", "x").await;
    let tokens = ServiceDouble::issuing().await;
    let lines = format!("endpoint_url = {:?}\n", gcs.endpoint());

    let host = tokens.host();
    check_with("gs://bucket", &lines, &[("GCE_METADATA_HOST", &host)]).await.expect_code(0);
    let asked = tokens.asked();
    assert!(asked.len() == 1 && asked[0].contains("service-accounts/default/token"), "{asked:?}");

    // The key signs the token itself, so nothing is requested.
    let folder = data::folder();
    let file = secret(&folder, &service_account());
    check_with("gs://bucket", &lines, &[("GOOGLE_APPLICATION_CREDENTIALS", &file)]).await.expect_code(0);
    assert_eq!(tokens.asked().len(), 1);
}

#[tokio::test]
async fn a_machine_without_an_identity_is_reported() {
    let gcs = Gcs::start().await;
    let port = data::free_port();
    let host = format!("127.0.0.1:{port}");
    let lines = format!("endpoint_url = {:?}\n", gcs.endpoint());
    let variables = [("GCE_METADATA_HOST", &*host), ("GCE_METADATA_IP", &*host)];

    let checked = check_with("gs://bucket", &lines, &variables).await.expect_code(2);
    let expected = "`stores.s.credentials_file` is not set, the credentials come from Google's application default";
    assert!(checked.stderr.contains(expected), "{}", checked.stderr);
    assert!(checked.stderr.contains("can't obtain credentials for Google Cloud Storage"), "{}", checked.stderr);
}

#[tokio::test]
async fn a_folder_is_downloaded_although_a_blob_marks_it() {
    let nats = Nats::plain().await;
    let azure = AzureDouble::start().await;
    azure.put_folder("models/sub");
    azure.put("models/sub/a", "of a folder");
    azure.put("models/b", "beside it");
    let _relay = relay_with_key(&nats, &azure).await;

    let folder = data::folder();
    for command in [["get", "-r"], ["sync", "--delete"]] {
        let target = folder.path().join(command[0]);
        let run = gantry(command).arg("m/").arg(if command[0] == "get" { "-o" } else { "--json" });
        run.arg(&target).nats(&nats).run().await.expect_code(0);
        assert_eq!(std::fs::read(target.join("sub/a")).unwrap(), b"of a folder");
        assert_eq!(std::fs::read(target.join("b")).unwrap(), b"beside it");
    }
}
