//! The secrets in a request for a token, which the answer may repeat.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use object_store::client::HttpRequest;
use percent_encoding::percent_decode_str;

/// Fields of a form that are secret. Source: RFC 6749, 7521, 7523 and 8693.
const FIELDS: [&str; 5] = ["client_secret", "client_assertion", "assertion", "refresh_token", "subject_token"];

/// Shorter values of other headers than `Authorization` are rather words, such as `true`.
const HEADER_MIN_BYTES: usize = 8;

/// Texts that must not appear in a message.
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    /// Collects those of a request: in its form, and in its headers.
    pub(super) fn of(request: &HttpRequest) -> Self {
        let body = request.body().as_bytes().map(|body| String::from_utf8_lossy(body).into_owned());
        let mut texts = in_form(&body.unwrap_or_default());

        for (name, value) in request.headers() {
            let Ok(value) = value.to_str() else { continue };
            if name == AUTHORIZATION {
                texts.extend(in_authorization(value));
            } else if name != CONTENT_TYPE && name != ACCEPT && value.len() >= HEADER_MIN_BYTES {
                texts.push(value.to_owned());
            }
        }

        texts.retain(|text| !text.is_empty());
        // One may contain another.
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        Self(texts)
    }

    /// Replaces the secrets in a text.
    pub(super) fn redacted(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "[redacted]"))
    }
}

/// Returns the secret values of a form, each as it is and as it is sent.
fn in_form(body: &str) -> Vec<String> {
    let pairs = body.split('&').filter_map(|pair| pair.split_once('='));
    let secret = pairs.filter(|(name, _)| FIELDS.contains(name)).map(|(_, value)| value);
    secret
        .flat_map(|value| {
            let spaced = value.replace('+', " ");
            [percent_decode_str(&spaced).decode_utf8_lossy().trim().to_owned(), value.to_owned()]
        })
        .collect()
}

/// Returns the credentials in a value of `Authorization`, and the password in them.
fn in_authorization(value: &str) -> Vec<String> {
    let credentials = value.split_once(' ').map_or(value, |(_, credentials)| credentials.trim());
    let pair = BASE64_STANDARD.decode(credentials).ok().and_then(|pair| String::from_utf8(pair).ok());
    let password = pair.and_then(|pair| Some(pair.split_once(':')?.1.to_owned()));
    password.into_iter().chain([credentials.to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use object_store::client::HttpRequestBody;

    use super::*;

    #[test]
    fn secrets_are_found_wherever_a_request_has_them() {
        let form = "client_id=app&client_secret=hu%2Bsh%20x&scope=public&client_assertion=eyJhush";
        let request = hyper::Request::post("https://login.example/token")
            .header(AUTHORIZATION, format!("Basic {}", BASE64_STANDARD.encode("app:hush-of-app")))
            .header("x-identity-header", "hush-of-machine")
            .header("metadata", "true")
            .header(ACCEPT, "application/json")
            .body(HttpRequestBody::from(form.to_owned()))
            .unwrap();

        let secrets = Secrets::of(&request);

        for secret in ["hu+sh x", "hu%2Bsh%20x", "eyJhush", "hush-of-app", "hush-of-machine"] {
            assert_eq!(
                secrets.redacted(&format!("The secret '{secret}' is wrong")),
                "The secret '[redacted]' is wrong"
            );
        }
        let harmless = "true: the app and the scope are public application/json";
        assert_eq!(secrets.redacted(harmless), harmless);
    }
}
