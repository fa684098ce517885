//! Finds Azure's credentials.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::header::HeaderValue;
use object_store::azure::{AzureAccessKey, AzureCredential, MicrosoftAzureBuilder};
use object_store::{CredentialProvider, RetryConfig};

use super::cli::Cli;
use super::options::Credentials;
use super::sas;
use crate::cloud::{self, Loaded, Source, Tokens, check_address, secret_file, shown_path, unusable_credentials};
use crate::connections::innermost;
use crate::{Error, misplaced, secret_text};

/// Length of an account's key. Source: Azure, "Manage storage account access keys": a key has 512 bits.
const KEY_BYTES: usize = 64;

/// The accounts that a server has.
#[derive(Clone, Copy, Debug)]
pub(super) enum Accounts {
    /// Those of Azure.
    OfAzure,
    /// Those of an emulator, whose keys may have any length.
    OfEmulator,
}

/// Loads the credentials. Returns `None` for anonymous requests.
///
/// # Errors
/// [`Error::Unavailable`] if a file can't be read, or contains no credentials, or an id is missing.
pub(super) fn credentials(
    from: Credentials,
    accounts: Accounts,
) -> Result<Option<cloud::Credentials<AzureCredential>>, Error> {
    if matches!(from, Credentials::Anonymous) {
        return Ok(None);
    }

    let tokens = Tokens::new()?;
    let asking = tokens.clone();
    Ok(Some(cloud::Credentials::new(move || load(&from, accounts, &tokens))?.asking(asking)))
}

fn load(from: &Credentials, accounts: Accounts, tokens: &Tokens) -> Result<Loaded<AzureCredential>, Error> {
    match from {
        Credentials::AccountKey(path) => of_file(path, |text| account_key(text, accounts)),
        Credentials::Sas(path) => of_file(path, |text| sas::parse(text).map(AzureCredential::SASToken)),
        Credentials::ClientSecret { tenant, client, secret } => {
            let text = secret_file(secret)?;
            let application = Application::of(tenant.as_deref(), client.as_deref(), "the secret of an application")?;
            let builder = application.builder(tokens, "client_secret")?.with_client_secret(text.as_str());
            built(builder).map(|source| Loaded::tokens(source).of_text(&text))
        }
        Credentials::WorkloadIdentity { tenant, client, token } => {
            let application = Application::of(tenant.as_deref(), client.as_deref(), "a workload identity")?;
            workload_identity(tokens, application, token)
        }
        Credentials::ManagedIdentity { client } => managed_identity(tokens, client.as_deref()),
        Credentials::Cli => Ok(Loaded::tokens(Arc::new(Cli::default())).issued_by("the command az")),
        Credentials::Environment | Credentials::Anonymous => of_environment(accounts, tokens),
    }
}

fn of_environment(accounts: Accounts, tokens: &Tokens) -> Result<Loaded<AzureCredential>, Error> {
    const KEY: &str = "AZURE_STORAGE_KEY";
    const SAS: &str = "AZURE_STORAGE_SAS_TOKEN";
    const TOKEN_FILE: &str = "AZURE_FEDERATED_TOKEN_FILE";
    const SECRET: &str = "AZURE_CLIENT_SECRET";
    let unusable = |name: &'static str| move |problem: String| unusable_credentials(format!("{name}: {problem}"));

    if let Some(key) = set(KEY) {
        return account_key(secret_text::trimmed(&key), accounts).map(Loaded::constant).map_err(unusable(KEY));
    }
    if let Some(text) = set(SAS) {
        let pairs = sas::parse(secret_text::trimmed(&text)).map_err(unusable(SAS))?;
        return Ok(Loaded::constant(AzureCredential::SASToken(pairs)));
    }
    if let Some(path) = set(TOKEN_FILE) {
        let identity = workload_identity(tokens, Application::of(None, None, TOKEN_FILE)?, Path::new(&path));
        return identity.map_err(|error| unusable(TOKEN_FILE)(error.to_string()));
    }
    if let Some(secret) = set(SECRET) {
        let builder = Application::of(None, None, SECRET)?.builder(tokens, "client_secret")?;
        return built(builder.with_client_secret(secret_text::trimmed(&secret))).map(Loaded::tokens);
    }
    managed_identity(tokens, None)
}

fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns a variable with the address of a service.
fn address(name: &str, example: &str) -> Result<Option<String>, Error> {
    let Some(address) = set(name) else { return Ok(None) };
    let invalid = |problem| unusable_credentials(format!("{name}: {problem}, as in {example}"));
    check_address(&address).map_err(invalid)?;
    Ok(Some(address))
}

/// Reads a credential from a file.
fn of_file(
    path: &Path,
    parse: impl Fn(&str) -> Result<AzureCredential, String>,
) -> Result<Loaded<AzureCredential>, Error> {
    let text = secret_file(path)?;
    let unusable = |problem: String| unusable_credentials(format!("{}: {problem}", shown_path(path)));
    let credential = parse(&text).map_err(unusable)?;
    Ok(Loaded::constant(credential).of_text(&text))
}

/// Reads a key of an account. The error contains no part of it.
fn account_key(text: &str, accounts: Accounts) -> Result<AzureCredential, String> {
    let form = "must be a key of the account alone, which is Base64";
    if text.contains("AccountKey=") {
        return Err(format!("is a connection string: {form}, the part after AccountKey= up to the semicolon"));
    }
    if text.contains("sig=") {
        return Err(format!(
            "is a shared access signature: {form}; a signature has a key of its own, `sas_token_file`"
        ));
    }

    let bytes = BASE64_STANDARD.decode(text).map_err(|_| form.to_owned())?;
    if matches!(accounts, Accounts::OfAzure) && bytes.len() != KEY_BYTES {
        let problem = format!("decodes to {} bytes, must be {KEY_BYTES}", bytes.len());
        return Err(format!("{problem}: copy the whole key, and encode it no further"));
    }
    AzureAccessKey::try_new(text).map(AzureCredential::AccessKey).map_err(|_| form.to_owned())
}

/// An application: the ids with which it requests tokens.
struct Application {
    tenant: String,
    client: String,
}

impl Application {
    /// Takes the ids that are missing from the environment. `owner` requires them.
    fn of(tenant: Option<&str>, client: Option<&str>, owner: &str) -> Result<Self, Error> {
        let required = |value: Option<&str>, variable: &str| {
            let missing = || unusable_credentials(format!("{owner} requires {variable}, which is not set"));
            value.map(str::to_owned).or_else(|| set(variable)).ok_or_else(missing)
        };
        let tenant = required(tenant, "AZURE_TENANT_ID")?;
        let client = required(client, "AZURE_CLIENT_ID")?;

        // The service would repeat it in its refusal.
        for (id, variable) in [(&tenant, "AZURE_TENANT_ID"), (&client, "AZURE_CLIENT_ID")] {
            if misplaced::is_token(id) {
                let problem = "must be an id, not a secret, which belongs to AZURE_CLIENT_SECRET";
                return Err(unusable_credentials(format!("{variable}: {problem}")));
            }
        }
        // It becomes a part of a URL.
        if !tenant.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.')) {
            return Err(unusable_credentials("AZURE_TENANT_ID: must be the id of a tenant, or one of its domains"));
        }
        Ok(Self { tenant, client })
    }

    /// Prepares credentials of a kind.
    fn builder(self, tokens: &Tokens, kind: &str) -> Result<MicrosoftAzureBuilder, Error> {
        let builder =
            unsigned(tokens).with_credential_type(kind).with_tenant_id(self.tenant).with_client_id(self.client);
        Ok(match address("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.us")? {
            Some(authority) => builder.with_authority_host(authority.trim_end_matches('/')),
            None => builder,
        })
    }
}

fn workload_identity(
    tokens: &Tokens,
    application: Application,
    token: &Path,
) -> Result<Loaded<AzureCredential>, Error> {
    let text = secret_file(token)?;
    // `object_store` reads the file itself, and sends all of it.
    if secret_text::read(token).is_ok_and(|file| file != text) {
        let problem = "has white space, quotes or a byte order mark around the token: remove them";
        return Err(unusable_credentials(format!("{}: {problem}", shown_path(token))));
    }
    let builder = application.builder(tokens, "workload_identity")?;
    let source = built(builder.with_federated_token_file(token.to_string_lossy()))?;
    Ok(Loaded::tokens(Arc::new(OfFile { path: token.to_owned(), source })))
}

/// Requests tokens with what is in a file. If that fails and the file can't be read, the file is blamed.
#[derive(Debug)]
struct OfFile {
    path: PathBuf,
    source: Source<AzureCredential>,
}

#[async_trait]
impl CredentialProvider for OfFile {
    type Credential = AzureCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AzureCredential>> {
        self.source.get_credential().await.map_err(|error| match secret_file(&self.path) {
            Ok(_) => error,
            Err(unreadable) => object_store::Error::Generic { store: "az", source: unreadable.into() },
        })
    }
}

fn managed_identity(tokens: &Tokens, client: Option<&str>) -> Result<Loaded<AzureCredential>, Error> {
    let mut builder = unsigned(tokens).with_credential_type("managed_identity");
    if let Some(client) = client.map(str::to_owned).or_else(|| set("AZURE_CLIENT_ID")) {
        builder = builder.with_client_id(client);
    }
    if let Some(endpoint) = address("IDENTITY_ENDPOINT", "http://127.0.0.1:41042/msi/token")? {
        builder = builder.with_msi_endpoint(endpoint);
    }
    check_header("IDENTITY_HEADER", set("IDENTITY_HEADER"))?;
    built(builder).map(Loaded::tokens)
}

/// Checks a variable whose value becomes that of a header.
fn check_header(name: &str, value: Option<String>) -> Result<(), Error> {
    let is_valid = value.is_none_or(|value| HeaderValue::try_from(value).is_ok());
    let problem = || unusable_credentials(format!("{name}: must be one line without control characters"));
    is_valid.then_some(()).ok_or_else(problem)
}

fn unsigned(tokens: &Tokens) -> MicrosoftAzureBuilder {
    MicrosoftAzureBuilder::new()
        .with_account("unused")
        .with_container_name("unused")
        .with_http_connector(tokens.clone())
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
}

fn built(builder: MicrosoftAzureBuilder) -> Result<Source<AzureCredential>, Error> {
    // All that can be invalid was checked.
    let store = builder.build().map_err(|error| unusable_credentials(innermost(&error)))?;
    Ok(Arc::clone(store.credentials()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(from: Credentials) -> Result<Option<cloud::Credentials<AzureCredential>>, Error> {
        super::credentials(from, Accounts::OfEmulator)
    }

    #[test]
    fn a_key_of_an_account_of_azure_has_64_bytes() {
        // Azure, "Use the Azurite emulator", "Well-known storage account and key".
        let azurite = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
        let path = "run/secrets/key/";
        for (key, problem) in [
            (azurite, None),
            (&azurite[..40], Some("decodes to 30 bytes, must be 64: copy the whole key")),
            (&azurite[..80], Some("decodes to 60 bytes, must be 64: copy")),
            (&*BASE64_STANDARD.encode(azurite), Some("decodes to 88 bytes, must be 64: copy")),
            (path, Some("decodes to 12 bytes, must be 64: copy")),
        ] {
            assert!(account_key(key, Accounts::OfEmulator).is_ok(), "{key}");
            let found = account_key(key, Accounts::OfAzure).err();
            match problem {
                None => assert_eq!(found, None, "{key}"),
                Some(problem) => assert!(found.unwrap().starts_with(problem), "{key}"),
            }
        }
    }

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

        for text in ["aGVsbG8=\n", "\"aGVsbG8=\"\r\n", "\u{feff}aGVsbG8=", "' aGVsbG8= '"] {
            std::fs::write(&path, text).unwrap();
            let found = credentials(Credentials::AccountKey(path.clone())).unwrap();
            assert_eq!(format!("{found:?}"), "Some(Credentials { .. })", "{text:?}");
        }
        for text in ["\"?sv=2023-11-03&sig=x\"", "\u{feff}sv=2023-11-03&sig=x\n", "'sv=2023-11-03&sig=x'"] {
            std::fs::write(&path, text).unwrap();
            assert!(credentials(Credentials::Sas(path.clone())).unwrap().is_some(), "{text:?}");
        }
    }

    #[test]
    fn a_secret_in_place_of_an_id_and_quotes_around_a_token_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let some = |text: &str| Some(text.to_owned());

        for text in ["\"eyJhush\"", "eyJhush\n", " eyJhush", "\u{feff}eyJhush"] {
            std::fs::write(&file, text).unwrap();
            let token = Credentials::WorkloadIdentity { tenant: some("t"), client: some("c"), token: file.clone() };
            let error = credentials(token).unwrap_err().to_string();
            let problem = "token: has white space, quotes or a byte order mark around the token: remove them";
            assert!(error.ends_with(problem), "{text:?}: {error}");
        }
        std::fs::write(&file, "eyJhush").unwrap();
        let token = Credentials::WorkloadIdentity { tenant: some("t"), client: some("c"), token: file.clone() };
        assert!(credentials(token).unwrap().is_some());

        for (tenant, client, variable) in [("abc8Q~hush", "c", "TENANT"), ("t", "abc8Q~hush", "CLIENT")] {
            let (tenant, client) = (some(tenant), some(client));
            let from = Credentials::ClientSecret { tenant, client, secret: file.clone() };
            let error = credentials(from).unwrap_err().to_string();
            let problem = "must be an id, not a secret, which belongs to AZURE_CLIENT_SECRET";
            assert_eq!(error, format!("AZURE_{variable}_ID: {problem}"));
        }
    }

    #[tokio::test]
    async fn a_federated_token_that_disappears_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "hush").unwrap();
        let (tenant, client) = (Some("t".to_owned()), Some("c".to_owned()));
        let from = Credentials::WorkloadIdentity { tenant, client, token: token.clone() };
        let found = credentials(from).unwrap().unwrap();

        std::fs::remove_file(&token).unwrap();
        let about = crate::ranged::About::Operator("container".to_owned());
        let error = found.get("Azure", &about).await.unwrap_err().error.to_string();
        assert!(error.contains("token: can't be read: No such file"), "{error}");
    }

    #[test]
    fn a_variable_that_is_no_header_is_named_without_its_value() {
        let check = |value: &str| check_header("IDENTITY_HEADER", Some(value.to_owned()));
        assert!(check("853b9a84-5bfa-4b22-a3f3-0b9a43d9ad8a").is_ok());
        let error = check("hush\n").unwrap_err().to_string();
        assert_eq!(error, "IDENTITY_HEADER: must be one line without control characters");
    }

    #[test]
    fn a_missing_id_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "hush").unwrap();

        let from = Credentials::ClientSecret { tenant: None, client: Some("c".to_owned()), secret };
        let error = credentials(from).unwrap_err().to_string();
        assert_eq!(error, "the secret of an application requires AZURE_TENANT_ID, which is not set");
    }
}
