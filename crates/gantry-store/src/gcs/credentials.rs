//! Finds Google's credentials.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::RetryConfig;
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use serde::Deserialize;

use super::options::Credentials;
use crate::Error;
use crate::cloud::{self, Loaded, Tokens, secret_file};

/// The file that the `gcloud` command writes, below its folder.
const OF_GCLOUD: &str = "application_default_credentials.json";

/// Loads the credentials. Returns `None` for anonymous requests.
///
/// # Errors
/// [`Error::Invalid`] if a file can't be read, or contains no credentials that are supported.
pub(super) fn credentials(from: Credentials) -> Result<Option<cloud::Credentials<GcpCredential>>, Error> {
    let path = match from {
        Credentials::Anonymous => return Ok(None),
        Credentials::File(path) => Some(path),
        Credentials::Default => default_file(),
    };

    let tokens = Tokens::new()?;
    cloud::Credentials::new(move || load(path.as_deref(), &tokens)).map(Some)
}

/// Returns the file with application default credentials, if there is one.
fn default_file() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = set("GOOGLE_APPLICATION_CREDENTIALS") {
        return Some(path);
    }

    let folder = set("CLOUDSDK_CONFIG").or_else(|| Some(set("HOME")?.join(".config/gcloud")))?;
    Some(folder.join(OF_GCLOUD)).filter(|path| path.exists())
}

fn load(path: Option<&Path>, tokens: &Tokens) -> Result<Loaded<GcpCredential>, Error> {
    let text = path.map(|path| Ok((path, secret_file(path)?))).transpose()?;
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name("unused")
        .with_http_connector(tokens.clone())
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() });

    if let Some((path, text)) = &text {
        check(path, text)?;
        builder = builder.with_application_credentials(path.to_string_lossy());
    }
    let store = builder.build().map_err(|error| match path {
        Some(path) => invalid(path, &error.to_string()),
        None => Error::Invalid(error.to_string()),
    })?;

    let loaded = Loaded::tokens(Arc::clone(store.credentials()));
    Ok(match &text {
        Some((_, text)) => loaded.of_text(text),
        None => loaded,
    })
}

/// Checks the kind of the credentials in a file, since the library's message for others shows only a variant.
fn check(path: &Path, text: &str) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct File {
        r#type: Option<String>,
    }

    let file: File = serde_json::from_str(text).map_err(|_| {
        invalid(path, "is not JSON: must be the key file of a service account, as Google's console creates it")
    })?;
    match file.r#type.as_deref() {
        Some("service_account" | "authorized_user") => Ok(()),
        Some(other @ ("external_account" | "impersonated_service_account")) => {
            let cure = "use the key of a service account, or a workload identity of GKE without a file";
            Err(invalid(path, &format!("has credentials of the type {other}, which is not supported: {cure}")))
        }
        _ => Err(invalid(path, "has no credentials of a service account or a user: `type` is missing or unknown")),
    }
}

fn invalid(path: &Path, problem: &str) -> Error {
    Error::Invalid(format!("{}: {problem}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_supported_credentials_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.json");
        for (text, problem) in [
            ("AIzaSyNotAFile", "is not JSON"),
            ("{}", "`type` is missing"),
            (r#"{"type":"external_account","audience":"hush"}"#, "external_account"),
            (
                r#"{"type":"service_account","client_email":"a@b","private_key":"hush","private_key_id":"1"}"#,
                "key.json",
            ),
            ("", "the file is empty"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = credentials(Credentials::File(path.clone())).unwrap_err().to_string();
            assert!(error.contains(problem) && !error.contains("hush"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_user_file_needs_no_request_until_it_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("user.json");
        let text = r#"{"type":"authorized_user","client_id":"a","client_secret":"b","refresh_token":"c"}"#;
        std::fs::write(&path, text).unwrap();

        assert!(credentials(Credentials::File(path)).unwrap().is_some());
        assert!(credentials(Credentials::Anonymous).unwrap().is_none());
    }
}
