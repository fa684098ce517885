//! Finds Google's credentials.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;

use object_store::RetryConfig;
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use serde_json::Value;

use super::external::{Account, External, field};
use super::options::Credentials;
use crate::cloud::{self, Loaded, Tokens, check_endpoint, secret_file, shown_path, unusable_credentials};
use crate::connections::innermost;
use crate::{Error, secret_text};

/// The file that the `gcloud` command writes, below its folder.
const OF_GCLOUD: &str = "application_default_credentials.json";

/// Names a file with application default credentials.
const VARIABLE: &str = "GOOGLE_APPLICATION_CREDENTIALS";

/// A file with credentials.
struct File {
    path: PathBuf,
    /// The variable that names it.
    variable: Option<&'static str>,
}

impl File {
    fn unusable(&self, problem: &str) -> Error {
        let variable = self.variable.map_or_else(String::new, |name| format!("{name}: "));
        unusable_credentials(format!("{variable}{}: {problem}", shown_path(&self.path)))
    }
}

/// Loads the credentials. Returns `None` for anonymous requests.
///
/// # Errors
/// [`Error::Unavailable`] if a file can't be read, or contains no credentials that are supported.
pub(super) fn credentials(from: Credentials) -> Result<Option<cloud::Credentials<GcpCredential>>, Error> {
    let file = match from {
        Credentials::Anonymous => return Ok(None),
        Credentials::File(path) => Some(File { path, variable: None }),
        Credentials::Default => default_file(),
    };

    let tokens = Tokens::new()?;
    let asking = tokens.clone();
    let load = move || file.as_ref().map_or_else(|| of_machine(&tokens), |file| of_file(file, &tokens));
    Ok(Some(cloud::Credentials::new(load)?.asking(asking)))
}

/// Returns the file with application default credentials, if there is one.
fn default_file() -> Option<File> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = set(VARIABLE) {
        return Some(File { path, variable: Some(VARIABLE) });
    }

    let folder = set("CLOUDSDK_CONFIG").or_else(|| Some(set("HOME")?.join(".config/gcloud")))?;
    let path = Some(folder.join(OF_GCLOUD)).filter(|path| path.exists())?;
    Some(File { path, variable: None })
}

/// Requests tokens from the metadata server.
fn of_machine(tokens: &Tokens) -> Result<Loaded<GcpCredential>, Error> {
    for name in ["GCE_METADATA_HOST", "GCE_METADATA_ROOT", "GCE_METADATA_IP"] {
        let is_host = |host: &str| check_endpoint(&format!("http://{host}")).is_ok() && !host.contains('/');
        if env::var(name).is_ok_and(|host| !is_host(&host)) {
            return Err(unusable_credentials(format!("{name}: must be HOST or HOST:PORT")));
        }
    }

    let store = builder(tokens).build().map_err(|error| unusable_credentials(innermost(&error)))?;
    Ok(Loaded::tokens(Arc::clone(store.credentials())))
}

fn of_file(file: &File, tokens: &Tokens) -> Result<Loaded<GcpCredential>, Error> {
    let text = secret_file(&file.path).map_err(|error| match file.variable {
        Some(name) => unusable_credentials(format!("{name}: {error}")),
        None => error,
    })?;

    let source = match kind(&text).map_err(|problem| file.unusable(&problem))? {
        Kind::ServiceAccount => {
            let built = builder(tokens).with_service_account_key(text.as_str()).build();
            // All other fields were checked.
            let store = built.map_err(|_| file.unusable("`private_key` is not an RSA key in PEM form"))?;
            Arc::clone(store.credentials())
        }
        Kind::User => {
            // `object_store` reads the file itself.
            if secret_text::read(&file.path).is_ok_and(|found| found.trim() != text) {
                return Err(file.unusable("has quotes or a byte order mark around the JSON: remove them"));
            }
            let built = builder(tokens).with_application_credentials(file.path.to_string_lossy()).build();
            let store = built.map_err(|error| file.unusable(&innermost(&error)))?;
            Arc::clone(store.credentials())
        }
        Kind::External(account) => Arc::new(External::new(*account, tokens.clone())),
    };
    Ok(Loaded::tokens(source).of_text(&text))
}

fn builder(tokens: &Tokens) -> GoogleCloudStorageBuilder {
    GoogleCloudStorageBuilder::new()
        .with_bucket_name("unused")
        .with_http_connector(tokens.clone())
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
}

/// What a file contains.
enum Kind {
    /// The key of a service account.
    ServiceAccount,
    /// The credentials of a user.
    User,
    /// The settings for tokens of another identity provider.
    External(Box<Account>),
}

/// Determines what a file contains. An error names the field that is missing or not supported, and no value of a field
/// that is secret.
fn kind(text: &str) -> Result<Kind, String> {
    let form = "must be the key file of a service account, as Google's console creates it";
    let file: Value = serde_json::from_str(text).map_err(|_| format!("is not JSON: {form}"))?;

    let (kind, required) = match file["type"].as_str() {
        Some("service_account") => (Kind::ServiceAccount, ["client_email", "private_key", "private_key_id"]),
        Some("authorized_user") => (Kind::User, ["client_id", "client_secret", "refresh_token"]),
        Some("external_account") => return Account::parse(&file).map(Box::new).map(Kind::External),
        Some(
            other @ ("impersonated_service_account" | "external_account_authorized_user" | "gdch_service_account"),
        ) => {
            let cure = "use the key of a service account, an `external_account`, or a workload identity of GKE without a \
                        file";
            return Err(format!("has credentials of the type {other}, which is not supported: {cure}"));
        }
        _ => return Err(format!("`type` is missing or unknown: {form}")),
    };
    for name in required {
        field(&file, name)?;
    }
    Ok(kind)
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
            (r#"{"type":"external_account","audience":"hush"}"#, "`subject_token_type` is missing"),
            (r#"{"type":"impersonated_service_account","x":"hush"}"#, "which is not supported: use the key"),
            (r#"{"type":"service_account","client_email":"a@b","private_key":"hush"}"#, "`private_key_id` is missing"),
            (r#"{"type":"authorized_user","client_id":"a","client_secret":["hush"]}"#, "`client_secret` is missing"),
            (
                r#"{"type":"service_account","client_email":"a@b","private_key":"hush","private_key_id":"1"}"#,
                "key.json: `private_key` is not an RSA key in PEM form",
            ),
            ("", "the file is empty"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = credentials(Credentials::File(path.clone())).unwrap_err().to_string();
            assert!(error.contains(problem) && !error.contains("hush") && !error.contains("Generic"), "{error}");
        }
    }

    #[test]
    fn a_byte_order_mark_and_quotes_around_the_json_are_accepted_or_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.json");
        let user = r#"{"type":"authorized_user","client_id":"a","client_secret":"hush","refresh_token":"c"}"#;
        let account = r#"{"type":"service_account","client_email":"a@b","private_key":"hush","private_key_id":"1"}"#;

        for text in [format!("\u{feff}{account}"), format!("'{account}'\n"), format!(" {account}\r\n")] {
            std::fs::write(&path, text).unwrap();
            let error = credentials(Credentials::File(path.clone())).unwrap_err().to_string();
            assert!(error.ends_with("`private_key` is not an RSA key in PEM form"), "the JSON was read: {error}");
        }
        for text in [format!("\u{feff}{user}"), format!("'{user}'\n")] {
            std::fs::write(&path, text).unwrap();
            let error = credentials(Credentials::File(path.clone())).unwrap_err().to_string();
            assert!(error.ends_with("has quotes or a byte order mark around the JSON: remove them"), "{error}");
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
