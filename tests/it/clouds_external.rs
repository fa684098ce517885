//! Workload identity federation of Google: tokens of another provider are exchanged, against a double.

use serde_json::{Value, json};

use crate::clouds::{check_with, secret};
use crate::support::data;
use crate::support::gantry::Output;
use crate::support::gcs::Gcs;
use crate::support::service_double::ServiceDouble;

/// Returns the text of a file of the type `external_account`.
fn file(tokens: &ServiceDouble, source: &Value) -> Value {
    json!({
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/x",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": format!("{}/v1/token", tokens.url()),
        "credential_source": source,
    })
}

/// Checks a store with this file.
async fn checked(gcs: &Gcs, file: &Value) -> Output {
    let folder = data::folder();
    let path = secret(&folder, &file.to_string());
    let lines = format!("endpoint_url = {:?}\n", gcs.endpoint());
    check_with("gs://bucket", &lines, &[("GOOGLE_APPLICATION_CREDENTIALS", &path)]).await
}

#[tokio::test]
async fn a_subject_token_in_a_file_is_exchanged_once() {
    let gcs = Gcs::start().await;
    gcs.put("a", "x").await;
    let tokens = ServiceDouble::issuing().await;
    let folder = data::folder();
    let subject = secret(&folder, "sub.ject+token\n");

    let said = checked(&gcs, &file(&tokens, &json!({ "file": subject }))).await.expect_code(0).stdout;

    assert!(String::from_utf8_lossy(&said).contains("the relay may list and read"));
    let asked = tokens.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    for part in [
        "POST /v1/token ",
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&",
        "audience=%2F%2Fiam.googleapis.com%2Fprojects%2F1%2F",
        "scope=https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fcloud-platform&",
        "subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt&",
        "subject_token=sub.ject%2Btoken",
        "application/x-www-form-urlencoded",
    ] {
        assert!(asked[0].contains(part), "{part}: {asked:?}");
    }
}

#[tokio::test]
async fn a_subject_token_from_a_url_becomes_one_of_a_service_account() {
    let gcs = Gcs::start().await;
    gcs.put("a", "x").await;
    let tokens = ServiceDouble::issuing().await;
    let source = json!({
        "url": format!("{}/subject?resource=api://x", tokens.url()),
        "headers": { "Metadata": "True" },
        "format": { "type": "json", "subject_token_field_name": "token_type" },
    });
    let mut file = file(&tokens, &source);
    let account = "v1/projects/-/serviceAccounts/a@p.iam.gserviceaccount.com:generateAccessToken";
    file["service_account_impersonation_url"] = format!("{}/{account}", tokens.url()).into();
    file["service_account_impersonation"] = json!({ "token_lifetime_seconds": 2800 });
    file["client_id"] = "id".into();
    file["client_secret"] = "secret".into();

    checked(&gcs, &file).await.expect_code(0);

    let asked = tokens.asked();
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(asked[0].starts_with("GET /subject?resource=api://x ") && asked[0].contains("\"metadata\": \"True\""));
    assert!(asked[1].contains("subject_token=Bearer") && asked[1].contains("\"authorization\": "), "{asked:?}");
    assert!(asked[2].starts_with(&format!("POST /{account} ")), "{asked:?}");
    assert!(asked[2].contains("\"lifetime\":\"2800s\"") && asked[2].contains("Bearer token"), "{asked:?}");
}

#[tokio::test]
async fn a_failed_exchange_is_reported_with_its_reason() {
    let gcs = Gcs::start().await;
    let refusal = r#"{"error":"invalid_grant","error_description":"The audience does not match."}"#;
    let refused = ServiceDouble::refusing(400, refusal).await;
    let folder = data::folder();
    let subject = secret(&folder, "hush");

    let refused = checked(&gcs, &file(&refused, &json!({ "file": subject }))).await.expect_code(2);
    let tokens = ServiceDouble::issuing().await;
    let absent = checked(&gcs, &file(&tokens, &json!({ "file": "/absent" }))).await.expect_code(2);
    let format = json!({ "type": "json", "subject_token_field_name": "id_token" });
    let empty = checked(&gcs, &file(&tokens, &json!({ "file": subject, "format": format }))).await.expect_code(2);

    for (checked, expected) in [
        (refused, "issues no token (400 invalid_grant: The audience does not match.)"),
        (absent, "can't obtain credentials for Google Cloud Storage: /absent: can't be read"),
        (empty, "secret has no subject token"),
    ] {
        let said = checked.stderr;
        assert!(said.contains(expected) && said.contains("come from GOOGLE_APPLICATION_CREDENTIALS"), "{said}");
        assert!(!said.contains("hush") && !said.contains("Generic"), "{said}");
    }
}
