//! Sends the requests that obtain tokens, over connections of their own.
//!
//! A store's own certificate authorities need not have issued the certificates of these services.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::http::uri::Scheme;
use hyper::{Response, StatusCode};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use tokio::time::timeout;

use super::secrets::Secrets;
use crate::connections::{CONNECT_TIMEOUT, Connections, Pool, innermost};
use crate::ranged::excerpt;
use crate::{Error, UnavailableKind, Unobserved};

/// Maximum time until an answer is complete.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);

/// Maximum length of an answer, in bytes. Tokens have a few kilobytes.
const ANSWER_MAX_BYTES: usize = 256 * 1024;

/// Connections to the services that issue tokens.
#[derive(Clone, Debug)]
pub(crate) struct Tokens {
    services: Pool<HttpRequestBody>,
    /// For metadata servers, which only this machine can reach. Their addresses are the only ones without TLS.
    metadata: Pool<HttpRequestBody>,
    /// The service that was asked last. Clones share it.
    asked: Arc<Mutex<Option<String>>>,
}

impl Tokens {
    /// # Errors
    /// [`Error::Invalid`] if there are no settings for TLS.
    pub(crate) fn new() -> Result<Self, Error> {
        let connections = Connections::new(None, &(Arc::new(Unobserved) as _))?;
        let metadata = connections.without_proxies().pool(CONNECT_TIMEOUT);
        Ok(Self { services: connections.pool(CONNECT_TIMEOUT), metadata, asked: Arc::default() })
    }

    /// Returns the service that was asked last, if any was.
    pub(super) fn asked(&self) -> Option<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Why a service issued no token. The text names the service and has no part of the request.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Problem {
    text: String,
    pub(super) kind: UnavailableKind,
}

impl Problem {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), kind: UnavailableKind::Credentials }
    }

    fn outage(text: impl Into<String>) -> Self {
        Self { text: text.into(), kind: UnavailableKind::TokenService }
    }
}

impl Tokens {
    /// Sends a request, and returns the body of the answer.
    ///
    /// # Errors
    /// If there is no answer in time, or one with a status of failure.
    pub(crate) async fn ask(&self, request: HttpRequest) -> Result<Bytes, Problem> {
        self.answer(request).await.map(Response::into_body).map_err(|(_, problem)| problem)
    }

    async fn answer(&self, request: HttpRequest) -> Result<Response<Bytes>, (HttpErrorKind, Problem)> {
        let service = service(&request);
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(service.clone());
        let answered = timeout(ANSWER_TIMEOUT, self.exchange(request, &service)).await;
        answered.unwrap_or_else(|_| {
            let text = format!("{service} did not answer within {ANSWER_TIMEOUT:?}");
            Err((HttpErrorKind::Timeout, Problem::outage(text)))
        })
    }

    async fn exchange(&self, request: HttpRequest, service: &str) -> Result<Response<Bytes>, (HttpErrorKind, Problem)> {
        let secrets = Secrets::of(&request);
        let is_metadata = request.uri().scheme() == Some(&Scheme::HTTP);
        let pool = if is_metadata { &self.metadata } else { &self.services };
        let answer = pool.send(request).await.map_err(|error| {
            let text = format!("can't reach {service}: {}", innermost(&error));
            (HttpErrorKind::Connect, Problem::outage(text))
        })?;

        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_MAX_BYTES).collect().await.map_err(|error| {
            let text = format!("the answer of {service} is incomplete: {}", innermost(&*error));
            (HttpErrorKind::Interrupted, Problem::outage(text))
        })?;
        let body = body.to_bytes();

        if !head.status.is_success() {
            let refusal = refusal(head.status, &body, &secrets);
            let text = format!("{service} issues no token ({refusal})");
            let problem = match unknown_id(&refusal) {
                _ if is_outage(head.status, &body) => Problem::outage(text),
                // The end of a long text is cut.
                Some((kind, id)) => {
                    Problem { text: format!("{service} issues no token, {id} is wrong ({refusal})"), kind }
                }
                None => Problem::new(text),
            };
            return Err((HttpErrorKind::Unknown, problem));
        }
        Ok(Response::from_parts(head, body))
    }
}

/// Names the service that a request is for.
fn service(request: &HttpRequest) -> String {
    request.uri().authority().map_or_else(String::new, |host| excerpt(host.as_str()))
}

/// Names the id that Azure does not know. Source: Microsoft, "Microsoft Entra authentication and authorization error codes".
fn unknown_id(refusal: &str) -> Option<(UnavailableKind, &'static str)> {
    let has = |codes: &[&str]| codes.iter().any(|code| refusal.contains(&format!("{code}:")));
    if has(&["AADSTS90002", "AADSTS900021", "AADSTS900023"]) {
        return Some((UnavailableKind::UnknownTenant, "the tenant's id (`tenant_id` or AZURE_TENANT_ID)"));
    }
    let application = (UnavailableKind::UnknownApplication, "the application's id (`client_id` or AZURE_CLIENT_ID)");
    has(&["AADSTS700016"]).then_some(application)
}

/// Returns whether a service fails for a while, or asks to slow down. Azure's metadata server answers 410 while it is
/// updated. Source: Azure, "How to use managed identities", "Error handling"; RFC 6749, section 4.1.2.1.
fn is_outage(status: StatusCode, body: &[u8]) -> bool {
    let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    status.is_server_error()
        || matches!(status.as_u16(), 408 | 410 | 425 | 429)
        || matches!(answer["error"].as_str(), Some("temporarily_unavailable" | "server_error"))
}

/// Describes an answer with a status of failure: the status, and the error that it contains as RFC 6749, section 5.2,
/// or Google's interfaces describe it. The error may repeat what was sent.
fn refusal(status: StatusCode, body: &[u8], secrets: &Secrets) -> String {
    let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &answer["error"];
    let text = |value: &serde_json::Value| value.as_str().map(|text| secrets.redacted(text));

    let code = text(error).or_else(|| text(&error["status"]));
    let reason = text(&answer["error_description"]).or_else(|| text(&error["message"]));
    let label =
        code.map_or_else(|| status.as_u16().to_string(), |code| format!("{} {}", status.as_u16(), excerpt(&code)));
    let reason = reason.as_deref().and_then(|reason| reason.lines().next()).filter(|reason| !reason.is_empty());
    reason.map_or_else(|| label.clone(), |reason| format!("{label}: {}", excerpt(reason)))
}

impl HttpConnector for Tokens {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Tokens {
    /// Returns only answers with a token. For others, the error says why, in words that suit our messages.
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let service = service(&request);
        let answer = self.answer(request).await.map_err(|(kind, problem)| HttpError::new(kind, problem))?;

        let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        let body = complete(body).map_err(|missing| {
            let problem = Problem::new(format!("the answer of {service} has no {missing}"));
            HttpError::new(HttpErrorKind::Decode, problem)
        })?;
        let body = body.to_string();
        Ok(answer.map(|_| HttpResponseBody::from(Bytes::from(body))))
    }
}

/// States the lifetime of a token in both ways in which services do: as a duration, and as a time. Limits it to a day,
/// since it is added to the time, which fails for a huge one.
///
/// # Errors
/// If the answer has no token or no lifetime. The error names what is missing.
fn complete(mut answer: serde_json::Value) -> Result<serde_json::Value, &'static str> {
    const MAX_S: u64 = 24 * 3600;

    if answer["access_token"].as_str().is_none_or(str::is_empty) {
        return Err("access token (`access_token`)");
    }

    #[expect(clippy::disallowed_methods, reason = "the services state a time of the wall clock")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let number = |value: &serde_json::Value| value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
    let until = || number(&answer["expires_on"]).map(|time| time.saturating_sub(now));
    let lifetime_s = number(&answer["expires_in"]).or_else(until);
    let lifetime_s = lifetime_s.ok_or("valid lifetime of the token (`expires_in` or `expires_on`, in seconds)")?;

    let lifetime_s = lifetime_s.min(MAX_S);
    answer["expires_in"] = lifetime_s.into();
    answer["expires_on"] = (now + lifetime_s).to_string().into();
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_stated_in_both_ways_and_limited() {
        let of =
            |fields: &str| complete(serde_json::from_str(&format!("{{\"access_token\":\"t\",{fields}}}")).unwrap());

        for (fields, expected) in [
            (r#""expires_in":3599"#, 3599),
            (r#""expires_in":"3599""#, 3599),
            (r#""expires_in":18446744073709551615"#, 86400),
            (r#""expires_on":"18446744073709551615""#, 86400),
            (r#""expires_on":18446744073709551615"#, 86400),
            (r#""expires_on":"1506484173""#, 0),
        ] {
            let answer = of(fields).unwrap();
            assert_eq!(answer["expires_in"], expected, "{fields}");
            assert_eq!(answer["expires_on"].as_str().unwrap().len(), 10, "{fields}");
        }
    }

    #[test]
    fn a_missing_token_or_lifetime_is_named() {
        for (answer, missing) in [
            ("null", "access token"),
            (r#"{"access":"hush","expires_in":3599}"#, "access token"),
            (r#"{"access_token":"","expires_in":3599}"#, "access token"),
            (r#"{"access_token":"hush"}"#, "valid lifetime"),
            (r#"{"access_token":"hush","expires_in":"soon"}"#, "valid lifetime"),
            (r#"{"access_token":"hush","expires_in":-1}"#, "valid lifetime"),
        ] {
            let problem = complete(serde_json::from_str(answer).unwrap()).unwrap_err();
            assert!(problem.starts_with(missing), "{answer}: {problem}");
        }
    }

    #[test]
    fn a_service_that_fails_does_not_refuse() {
        for (status, body, expected) in [
            (500, "", true),
            (503, "<html>", true),
            (429, "{}", true),
            (410, "", true),
            (400, r#"{"error":"temporarily_unavailable"}"#, true),
            (400, r#"{"error":"invalid_grant"}"#, false),
            (401, r#"{"error":{"status":"UNAUTHENTICATED"}}"#, false),
            (403, "", false),
            (404, "", false),
        ] {
            assert_eq!(is_outage(StatusCode::from_u16(status).unwrap(), body.as_bytes()), expected, "{status} {body}");
        }
    }

    #[test]
    fn a_refusal_is_described_by_its_code_and_reason() {
        let form = HttpRequestBody::from("client_secret=hush~1".to_owned());
        let secrets = Secrets::of(&hyper::Request::post("https://login.example").body(form).unwrap());
        let of = |status: u16, body: &str| refusal(StatusCode::from_u16(status).unwrap(), body.as_bytes(), &secrets);
        let azure =
            r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret.\r\nTrace ID: 1"}"#;
        assert_eq!(of(401, azure), "401 invalid_client: AADSTS7000215: Invalid client secret.");
        let google = r#"{"error":{"code":403,"message":"Permission denied","status":"PERMISSION_DENIED"}}"#;
        assert_eq!(of(403, google), "403 PERMISSION_DENIED: Permission denied");
        assert_eq!(of(400, r#"{"error":"invalid_grant"}"#), "400 invalid_grant");
        let echo = format!(r#"{{"error":"invalid_client","error_description":"{}hush~1 is wrong"}}"#, "x".repeat(155));
        assert!(!of(401, &echo).contains("hush"), "a secret is redacted before the text is cut");
        for body in ["", "<html>", "[]", "\"text\""] {
            assert_eq!(of(404, body), "404");
        }
    }
}
