//! Finds Azure's credentials.

use std::env;
use std::path::Path;
use std::sync::Arc;

use object_store::RetryConfig;
use object_store::azure::{AzureAccessKey, AzureCredential, MicrosoftAzureBuilder};

use super::cli::Cli;
use super::options::Credentials;
use super::sas;
use crate::Error;
use crate::cloud::{self, Loaded, Tokens, secret_file};

/// Loads the credentials. Returns `None` for anonymous requests.
///
/// # Errors
/// [`Error::Invalid`] if a file can't be read, or contains no credentials, or an id is missing.
pub(super) fn credentials(from: Credentials) -> Result<Option<cloud::Credentials<AzureCredential>>, Error> {
    if matches!(from, Credentials::Anonymous) {
        return Ok(None);
    }

    let tokens = Tokens::new()?;
    cloud::Credentials::new(move || load(&from, &tokens)).map(Some)
}

fn load(from: &Credentials, tokens: &Tokens) -> Result<Loaded<AzureCredential>, Error> {
    match from {
        Credentials::AccountKey(path) => of_file(path, account_key),
        Credentials::Sas(path) => of_file(path, |text| sas::parse(text).map(AzureCredential::SASToken)),
        Credentials::ClientSecret { tenant, client, secret } => {
            let text = secret_file(secret)?;
            let builder = builder(tokens, "client_secret", tenant.as_deref(), client.as_deref())?;
            built(builder.with_client_secret(text.as_str())).map(|loaded| loaded.of_text(&text))
        }
        Credentials::WorkloadIdentity { tenant, client, token } => {
            secret_file(token)?;
            let builder = builder(tokens, "workload_identity", tenant.as_deref(), client.as_deref())?;
            built(builder.with_federated_token_file(token.to_string_lossy()))
        }
        Credentials::ManagedIdentity { client } => managed_identity(tokens, client.as_deref()),
        Credentials::Cli => Ok(Loaded::tokens(Arc::new(Cli::default()))),
        Credentials::Environment | Credentials::Anonymous => of_environment(tokens),
    }
}

fn of_environment(tokens: &Tokens) -> Result<Loaded<AzureCredential>, Error> {
    let invalid = |name: &'static str| move |problem: String| Error::Invalid(format!("{name}: {problem}"));
    if let Some(key) = set("AZURE_STORAGE_KEY") {
        return account_key(&key).map(Loaded::constant).map_err(invalid("AZURE_STORAGE_KEY"));
    }
    if let Some(text) = set("AZURE_STORAGE_SAS_TOKEN") {
        let pairs = sas::parse(&text).map_err(invalid("AZURE_STORAGE_SAS_TOKEN"))?;
        return Ok(Loaded::constant(AzureCredential::SASToken(pairs)));
    }
    if let Some(token) = set("AZURE_FEDERATED_TOKEN_FILE") {
        return built(builder(tokens, "workload_identity", None, None)?.with_federated_token_file(token));
    }
    if let Some(secret) = set("AZURE_CLIENT_SECRET") {
        return built(builder(tokens, "client_secret", None, None)?.with_client_secret(secret));
    }
    managed_identity(tokens, None)
}

fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Reads a credential from a file.
fn of_file(
    path: &Path,
    parse: impl Fn(&str) -> Result<AzureCredential, String>,
) -> Result<Loaded<AzureCredential>, Error> {
    let text = secret_file(path)?;
    let credential = parse(&text).map_err(|problem| Error::Invalid(format!("{}: {problem}", path.display())))?;
    Ok(Loaded::constant(credential).of_text(&text))
}

/// Reads a key of an account. The error contains no part of it.
fn account_key(text: &str) -> Result<AzureCredential, String> {
    let form = "must be a key of the account alone, which is Base64";
    if text.contains("AccountKey=") {
        return Err(format!("is a connection string: {form}, the part after AccountKey= up to the semicolon"));
    }
    if text.contains("sig=") {
        return Err(format!(
            "is a shared access signature: {form}; a signature has a key of its own, `sas_token_file`"
        ));
    }
    AzureAccessKey::try_new(text).map(AzureCredential::AccessKey).map_err(|_| form.to_owned())
}

/// Prepares credentials of this kind for an application.
fn builder(
    tokens: &Tokens,
    kind: &str,
    tenant: Option<&str>,
    client: Option<&str>,
) -> Result<MicrosoftAzureBuilder, Error> {
    let required = |value: Option<&str>, key: &str, variable: &str| {
        let missing = || Error::Invalid(format!("no `{key}` is set: set it, or {variable}"));
        value.map(str::to_owned).or_else(|| set(variable)).ok_or_else(missing)
    };

    let mut builder = unsigned(tokens)
        .with_credential_type(kind)
        .with_tenant_id(required(tenant, "tenant_id", "AZURE_TENANT_ID")?)
        .with_client_id(required(client, "client_id", "AZURE_CLIENT_ID")?);
    if let Some(authority) = set("AZURE_AUTHORITY_HOST") {
        builder = builder.with_authority_host(authority.trim_end_matches('/'));
    }
    Ok(builder)
}

fn managed_identity(tokens: &Tokens, client: Option<&str>) -> Result<Loaded<AzureCredential>, Error> {
    let mut builder = unsigned(tokens).with_credential_type("managed_identity");
    if let Some(client) = client.map(str::to_owned).or_else(|| set("AZURE_CLIENT_ID")) {
        builder = builder.with_client_id(client);
    }
    if let Some(endpoint) = set("IDENTITY_ENDPOINT") {
        builder = builder.with_msi_endpoint(endpoint);
    }
    built(builder)
}

fn unsigned(tokens: &Tokens) -> MicrosoftAzureBuilder {
    MicrosoftAzureBuilder::new()
        .with_account("unused")
        .with_container_name("unused")
        .with_http_connector(tokens.clone())
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
}

fn built(builder: MicrosoftAzureBuilder) -> Result<Loaded<AzureCredential>, Error> {
    let store = builder.build().map_err(|error| Error::Invalid(error.to_string()))?;
    Ok(Loaded::tokens(Arc::clone(store.credentials())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_something_else_than_a_key_is_rejected_without_its_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for (text, problem) in [
            ("DefaultEndpointsProtocol=https;AccountName=a;AccountKey=hush==;", "is a connection string"),
            ("?sv=2023-11-03&sig=hush", "is a shared access signature"),
            ("hush!", "which is Base64"),
            (" \n", "the file is empty"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = credentials(Credentials::AccountKey(path.clone())).unwrap_err().to_string();
            assert!(error.contains(problem) && !error.contains("hush"), "{error}");
        }

        std::fs::write(&path, "aGVsbG8=\n").unwrap();
        let found = credentials(Credentials::AccountKey(path)).unwrap();
        assert_eq!(format!("{found:?}"), "Some(Credentials { .. })");
    }

    #[test]
    fn a_missing_id_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "hush").unwrap();

        let from = Credentials::ClientSecret { tenant: None, client: Some("c".to_owned()), secret };
        let error = credentials(from).unwrap_err().to_string();
        assert_eq!(error, "no `tenant_id` is set: set it, or AZURE_TENANT_ID");
    }
}
