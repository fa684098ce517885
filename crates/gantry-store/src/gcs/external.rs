//! Tokens for an identity of another provider: workload identity federation.
//!
//! A token of the other provider, the *subject token*, is exchanged for one of Google's, and that one for a token of a
//! service account, if the file names one. Source: AIP-4117, RFC 8693, and "generateAccessToken" in the reference of
//! Google's service account credentials.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Uri};
use object_store::CredentialProvider;
use object_store::client::{HttpRequest, HttpRequestBody};
use object_store::gcp::GcpCredential;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::cloud::{Problem, Tokens, encoded_text, secret_file, shown_path};

/// How long before its expiry a token is replaced. Of a short-lived one, it is half of its time.
const MARGIN: Duration = Duration::from_secs(5 * 60);

/// The lifetime of the tokens of a service account, in seconds, if the file sets none. It is also Google's.
const LIFETIME_S: u64 = 3600;

/// The longest lifetime of a token, in seconds, which is also Google's.
const LIFETIME_MAX_S: u64 = 12 * 3600;

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// What a file of the type `external_account` contains.
pub(super) struct Account {
    audience: String,
    subject_token_type: String,
    subject: Subject,
    format: Format,
    token_url: String,
    /// Where to get a token of a service account, and how long it shall be valid, in seconds.
    service_account: Option<(String, u64)>,
    /// The value of `Authorization` in requests to `token_url`.
    authorization: Option<HeaderValue>,
    user_project: Option<String>,
}

/// Where to get the subject token.
enum Subject {
    File(PathBuf),
    Url(String, HeaderMap),
}

/// Where the subject token is in the file or the answer.
enum Format {
    Text,
    /// In this field of a JSON object.
    Json(String),
}

/// Returns a field with a text.
///
/// # Errors
/// If it is missing, or has another type. The error names the field, and has no part of its value.
pub(super) fn field<'a>(object: &'a Value, name: &str) -> Result<&'a str, String> {
    let text = object[name].as_str().filter(|text| !text.is_empty());
    text.ok_or_else(|| format!("`{name}` is missing, or not a text"))
}

/// Returns a field with the address of a service that receives tokens. They are sent without TLS to this machine only.
fn service(object: &Value, name: &str) -> Result<String, String> {
    let url = field(object, name)?;
    let is_own = |rest: &str| {
        ["127.0.0.1", "localhost", "[::1]"]
            .iter()
            .any(|host| rest.strip_prefix(host).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/'])))
    };
    let is_safe = url.starts_with("https://") || url.strip_prefix("http://").is_some_and(is_own);
    if is_safe && is_address(url) {
        return Ok(url.to_owned());
    }
    Err(format!("`{name}` must begin with https://, and name a host"))
}

/// Returns whether a text is an `http://` or `https://` URL with a host and without credentials.
fn is_address(url: &str) -> bool {
    let has_host = |url: &Uri| url.authority().is_some_and(|host| !host.as_str().contains('@'));
    let is_http = url.starts_with("https://") || url.starts_with("http://");
    is_http && url.parse().is_ok_and(|url| has_host(&url))
}

impl Account {
    /// Reads a file.
    ///
    /// # Errors
    /// If a field is missing or not supported. The error names it.
    pub(super) fn parse(file: &Value) -> Result<Self, String> {
        let source = &file["credential_source"];
        let lifetime = &file["service_account_impersonation"]["token_lifetime_seconds"];
        let name = "service_account_impersonation_url";
        let service_account = if file[name].is_null() {
            None
        } else {
            let seconds = if lifetime.is_null() { Some(LIFETIME_S) } else { lifetime.as_u64() };
            let seconds = seconds.filter(|seconds| (1..=LIFETIME_MAX_S).contains(seconds));
            let form = || format!("`token_lifetime_seconds` must be a number from 1 to {LIFETIME_MAX_S}");
            Some((service(file, name)?, seconds.ok_or_else(form)?))
        };

        let subject_token_type = field(file, "subject_token_type")?.to_owned();
        Ok(Self {
            audience: field(file, "audience")?.to_owned(),
            subject_token_type,
            token_url: service(file, "token_url")?,
            subject: Subject::parse(source)?,
            format: Format::parse(&source["format"])?,
            service_account,
            authorization: authorization(file)?,
            user_project: file["workforce_pool_user_project"].as_str().map(str::to_owned),
        })
    }
}

impl Subject {
    fn parse(source: &Value) -> Result<Self, String> {
        let unsupported = |kind: &str| {
            let cure = "use a `file` or a `url`, or the key of a service account";
            Err(format!("`credential_source` is {kind}, which is not supported: {cure}"))
        };
        if source["environment_id"].is_string() {
            return unsupported("AWS");
        }
        if source["executable"].is_object() {
            return unsupported("an executable");
        }
        if source["certificate"].is_object() {
            return unsupported("a certificate");
        }

        if source["file"].is_string() {
            return Ok(Self::File(field(source, "file")?.into()));
        }
        let url = field(source, "url").map_err(|_| "`credential_source` has neither `file` nor `url`".to_owned())?;
        if !is_address(url) {
            return Err("`credential_source.url` must begin with http:// or https://, and name a host".to_owned());
        }

        let named = source["headers"].as_object().into_iter().flatten();
        let headers =
            named.map(|(name, value)| HeaderName::try_from(name).ok().zip(HeaderValue::try_from(value.as_str()?).ok()));
        let headers = headers.collect::<Option<HeaderMap>>();
        let headers = headers.ok_or_else(|| "`credential_source.headers` has an invalid header".to_owned())?;
        Ok(Self::Url(url.to_owned(), headers))
    }
}

impl Format {
    fn parse(format: &Value) -> Result<Self, String> {
        match format["type"].as_str() {
            None | Some("text") => Ok(Self::Text),
            Some("json") => {
                let name = field(format, "subject_token_field_name");
                name.map(|name| Self::Json(name.to_owned())).map_err(|problem| format!("`format`: {problem}"))
            }
            Some(_) => Err("`credential_source.format.type` must be text or json".to_owned()),
        }
    }
}

fn authorization(file: &Value) -> Result<Option<HeaderValue>, String> {
    if file["client_id"].is_null() {
        return Ok(None);
    }
    let pair = format!("{}:{}", field(file, "client_id")?, file["client_secret"].as_str().unwrap_or_default());
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(pair)))
        .map_err(|_| "`client_id` has an invalid character".to_owned())?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Exchanges tokens, and keeps Google's until shortly before it expires.
pub(super) struct External {
    account: Account,
    tokens: Tokens,
    kept: Mutex<Option<Token>>,
}

struct Token {
    credential: Arc<GcpCredential>,
    /// When it must be replaced.
    until: Instant,
}

impl std::fmt::Debug for External {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("External").finish_non_exhaustive()
    }
}

#[async_trait]
impl CredentialProvider for External {
    type Credential = GcpCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<GcpCredential>> {
        let mut kept = self.kept.lock().await;
        if let Some(token) = kept.as_ref().filter(|token| Instant::now() < token.until) {
            return Ok(Arc::clone(&token.credential));
        }

        let token = self
            .token()
            .await
            .map_err(|problem| object_store::Error::Generic { store: "gs", source: Box::new(problem) })?;
        let credential = Arc::clone(&token.credential);
        *kept = Some(token);
        Ok(credential)
    }
}

impl External {
    pub(super) fn new(account: Account, tokens: Tokens) -> Self {
        Self { account, tokens, kept: Mutex::default() }
    }

    async fn token(&self) -> Result<Token, Problem> {
        let asked = Instant::now();
        let (bearer, lifetime_s) = self.exchanged(&self.subject().await?).await?;
        let (bearer, lifetime_s) = match &self.account.service_account {
            Some((url, lifetime_s)) => (self.of_service_account(url, &bearer, *lifetime_s).await?, *lifetime_s),
            None => (bearer, lifetime_s),
        };

        let lifetime = Duration::from_secs(lifetime_s.min(LIFETIME_MAX_S));
        let until = asked + lifetime.saturating_sub(MARGIN.min(lifetime / 2));
        Ok(Token { credential: Arc::new(GcpCredential { bearer }), until })
    }

    /// Returns the subject token.
    async fn subject(&self) -> Result<String, Problem> {
        let (text, place) = match &self.account.subject {
            Subject::File(path) => {
                let text = secret_file(path).map_err(|error| Problem::new(error.to_string()))?;
                (text, shown_path(path))
            }
            Subject::Url(url, headers) => {
                let mut request = Request::get(url).body(HttpRequestBody::empty()).map_err(invalid)?;
                *request.headers_mut() = headers.clone();
                let place = "the answer of `credential_source.url`".to_owned();
                (String::from_utf8_lossy(&self.tokens.ask(request).await?).trim().to_owned(), place)
            }
        };

        let found = match &self.account.format {
            Format::Text => Some(text),
            Format::Json(name) => {
                let object: Value = serde_json::from_str(&text).unwrap_or_default();
                field(&object, name).map(str::to_owned).ok()
            }
        };
        found.filter(|token| !token.is_empty()).ok_or_else(|| Problem::new(format!("{place} has no subject token")))
    }

    /// Exchanges the subject token. Returns Google's token, and its lifetime in seconds.
    async fn exchanged(&self, subject: &str) -> Result<(String, u64), Problem> {
        let Account { audience, subject_token_type, token_url, authorization, user_project, .. } = &self.account;
        let mut form = vec![
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange".to_owned()),
            ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token".to_owned()),
            ("audience", audience.clone()),
            ("scope", SCOPE.to_owned()),
            ("subject_token_type", subject_token_type.clone()),
            ("subject_token", subject.to_owned()),
        ];
        if let Some(project) = user_project.as_ref().filter(|_| authorization.is_none()) {
            form.push(("options", json!({ "userProject": project }).to_string()));
        }
        let form: Vec<_> = form.iter().map(|(name, value)| format!("{name}={}", encoded_text(value))).collect();

        let mut request = post(token_url, "application/x-www-form-urlencoded", form.join("&"))?;
        if let Some(authorization) = authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        let answer = self.ask(request).await?;
        let token = field(&answer, "access_token").map_err(|_| Problem::new("`token_url` sends no access token"))?;
        Ok((token.to_owned(), answer["expires_in"].as_u64().unwrap_or(LIFETIME_S)))
    }

    /// Returns a token of the service account, which the holder of `bearer` may use.
    async fn of_service_account(&self, url: &str, bearer: &str, lifetime_s: u64) -> Result<String, Problem> {
        let body = json!({ "scope": [SCOPE], "lifetime": format!("{lifetime_s}s") });
        let mut request = post(url, "application/json", body.to_string())?;
        let mut authorization = HeaderValue::try_from(format!("Bearer {bearer}"))
            .map_err(|_| Problem::new("`token_url` sends an invalid token"))?;
        authorization.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, authorization);

        let answer = self.ask(request).await?;
        let token = field(&answer, "accessToken");
        token.map(str::to_owned).map_err(|_| Problem::new("the service account's address sends no access token"))
    }

    async fn ask(&self, request: HttpRequest) -> Result<Value, Problem> {
        let body = self.tokens.ask(request).await?;
        Ok(serde_json::from_slice(&body).unwrap_or_default())
    }
}

fn post(url: &str, media_type: &'static str, body: String) -> Result<HttpRequest, Problem> {
    let request = Request::post(url).header(CONTENT_TYPE, media_type);
    request.body(HttpRequestBody::from(body)).map_err(invalid)
}

fn invalid(error: hyper::http::Error) -> Problem {
    Problem::new(format!("the request for a token can't be made: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Value {
        json!({
            "type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/x",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": "https://sts.googleapis.com/v1/token",
            "credential_source": { "file": "/run/token" },
        })
    }

    #[test]
    fn files_of_the_documented_forms_are_accepted() {
        assert!(Account::parse(&file()).is_ok());
        let azure = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=api://x";
        let format = json!({ "type": "json", "subject_token_field_name": "access_token" });
        let mut of_url = file();
        of_url["credential_source"] = json!({ "url": azure, "headers": { "Metadata": "True" }, "format": format });
        of_url["service_account_impersonation_url"] =
            "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a@p.iam.gserviceaccount.com:generateAccessToken"
                .into();
        assert!(Account::parse(&of_url).is_ok());
    }

    #[test]
    fn the_lifetime_of_a_token_has_bounds() {
        let mut file = file();
        file["service_account_impersonation_url"] = "https://iamcredentials.googleapis.com/x".into();
        for (lifetime, is_valid) in [
            (json!(3600), true),
            (json!(null), true),
            (json!("3600"), false),
            (json!(u64::MAX), false),
            (json!(0), false),
        ] {
            file["service_account_impersonation"] = json!({ "token_lifetime_seconds": lifetime });
            let parsed = Account::parse(&file);
            assert_eq!(parsed.is_ok(), is_valid);
            assert!(parsed.err().is_none_or(|error| error.contains("`token_lifetime_seconds`")));
        }
    }

    #[test]
    fn other_files_are_rejected_with_the_field_and_without_its_value() {
        for (name, value, problem) in [
            ("audience", Value::Null, "`audience` is missing"),
            ("token_url", "http://hush.example/token".into(), "`token_url` must begin with https://"),
            ("token_url", "http://localhost.example/hush".into(), "`token_url` must begin with https://"),
            ("token_url", "https://me:hush@sts.googleapis.com".into(), "`token_url` must begin with https://"),
            ("credential_source", json!({ "environment_id": "aws1" }), "is AWS, which is not supported: use a `file`"),
            ("credential_source", json!({ "executable": { "command": "hush" } }), "is an executable, which is not"),
            ("credential_source", json!({ "certificate": {} }), "is a certificate, which is not supported"),
            ("credential_source", json!({}), "has neither `file` nor `url`"),
            ("credential_source", json!({ "url": "hush" }), "must begin with http:// or https://"),
            ("credential_source", json!({ "file": "/x", "format": { "type": "xml" } }), "must be text or json"),
            ("credential_source", json!({ "file": "/x", "format": { "type": "json" } }), "`subject_token_field_name`"),
            ("credential_source", json!({ "url": "http://h", "headers": { "a b": "hush" } }), "has an invalid header"),
            ("service_account_impersonation_url", "ftp://hush".into(), "must begin with https://"),
        ] {
            let mut file = file();
            file[name] = value;
            let error = Account::parse(&file).err().unwrap();
            assert!(error.contains(problem) && !error.contains("hush"), "{error}");
        }
    }
}
