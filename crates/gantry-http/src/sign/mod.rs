//! Signatures of requests: AWS Signature Version 4, in the `Authorization` header or in the query of a presigned URL.
//!
//! Source: the S3 API reference, "Authenticating Requests (AWS Signature Version 4)".

mod canonical;
mod scope;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::header::{AUTHORIZATION, DATE, HeaderMap};
use hyper::{Method, StatusCode};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use self::canonical::{Canonical, hex};
use self::scope::{Credential, parse_date};
use crate::date;
use crate::fault::Fault;
use crate::options::Secret;
use crate::target::Query;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// How far the clocks of client and server may differ, in seconds. Source: S3, `RequestTimeTooSkewed`.
const SKEW_MAX: i64 = 15 * 60;

/// The longest validity of a presigned URL, in seconds. Source: S3, `X-Amz-Expires`.
const EXPIRES_MAX: i64 = 7 * 24 * 3600;

/// The hash of a request without a body.
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// The parts of a request that a signature covers.
#[derive(Debug)]
pub(crate) struct Signed<'a> {
    pub(crate) method: &'a Method,
    /// The decoded path.
    pub(crate) path: &'a str,
    pub(crate) query: &'a Query,
    pub(crate) headers: &'a HeaderMap,
}

/// Where a request has its signature.
enum Place<'a> {
    Header(&'a str),
    Query,
}

impl Signed<'_> {
    /// Returns whether the request is signed in any way.
    pub(crate) fn is_signed(&self) -> bool {
        self.headers.contains_key(AUTHORIZATION) || self.has_signed_query()
    }

    /// Verifies the signature at `now`, in seconds since 1970. Returns the access key.
    ///
    /// # Errors
    /// 400 if the signature has an invalid form or another algorithm. 403 if it is invalid, has expired, or is of an
    /// unknown key.
    pub(crate) fn verify(&self, keys: &BTreeMap<String, Secret>, now: i64) -> Result<String, Fault> {
        let place = self.place()?;
        let is_query = matches!(place, Place::Query);
        let signature = match place {
            Place::Header(text) => Signature::of_header(text, self.headers)?,
            Place::Query => Signature::of_query(self.query)?,
        };
        signature.check_time(now)?;
        self.check_payload(is_query)?;
        self.check_signed_headers(&signature, is_query)?;

        let credential = &signature.credential;
        let Some(secret) = keys.get(&credential.access_key) else { return Err(unknown_key()) };

        let canonical = Canonical { request: self, signed_headers: &signature.signed_headers, is_query }.hash();
        let text = format!("{ALGORITHM}\n{}\n{}\n{canonical}", signature.date, credential.scope());
        let expected = hex(&hmac(&signing_key(secret, credential), text.as_bytes()));

        let is_equal: bool = expected.as_bytes().ct_eq(signature.value.as_bytes()).into();
        if is_equal { Ok(credential.access_key.clone()) } else { Err(mismatch()) }
    }

    fn has_signed_query(&self) -> bool {
        ["X-Amz-Signature", "X-Amz-Algorithm", "X-Amz-Credential", "Signature", "AWSAccessKeyId"]
            .iter()
            .any(|name| self.query.has(name))
    }

    fn place(&self) -> Result<Place<'_>, Fault> {
        let mut values = self.headers.get_all(AUTHORIZATION).iter();
        match (values.next(), self.has_signed_query()) {
            (Some(_), true) => Err(Fault::invalid_argument("only one signature is allowed")),
            (Some(value), false) if values.next().is_none() => {
                value.to_str().map(Place::Header).map_err(|_| malformed())
            }
            (Some(_), false) => Err(Fault::invalid_argument("only one signature is allowed")),
            (None, _) => Ok(Place::Query),
        }
    }

    /// Requests have no body.
    fn check_payload(&self, is_query: bool) -> Result<(), Fault> {
        match self.headers.get("x-amz-content-sha256").map(|value| value.as_bytes()) {
            None if is_query => Ok(()),
            Some(hash) if hash == EMPTY_SHA256.as_bytes() || hash == UNSIGNED.as_bytes() => Ok(()),
            None => Err(Fault::invalid_argument("the header x-amz-content-sha256 is missing")),
            Some(_) => {
                let message = "the header x-amz-content-sha256 is not that of an empty body";
                Err(Fault::new(StatusCode::BAD_REQUEST, "XAmzContentSHA256Mismatch", message))
            }
        }
    }

    /// The host and all headers that change an answer's meaning must be signed.
    fn check_signed_headers(&self, signature: &Signature, is_query: bool) -> Result<(), Fault> {
        let is_signed = |name: &str| signature.signed_headers.iter().any(|signed| signed == name);
        let unsigned = self.headers.keys().find(|name| {
            let is_covered = name.as_str().starts_with("x-amz-") && !is_query;
            is_covered && !is_signed(name.as_str())
        });

        if !is_signed("host") || unsigned.is_some() {
            return Err(Fault::denied("the host or a header x-amz-* is not signed"));
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Signature {
    credential: Credential,
    /// In the form `20250102T030405Z`.
    date: String,
    /// Seconds since 1970.
    signed_at: i64,
    /// For how many seconds a presigned URL is valid.
    expires: Option<i64>,
    /// In lower case.
    signed_headers: Vec<String>,
    value: String,
}

impl Signature {
    fn of_header(text: &str, headers: &HeaderMap) -> Result<Self, Fault> {
        let Some((algorithm, rest)) = text.split_once(' ') else { return Err(malformed()) };
        check_algorithm(algorithm)?;

        let field = |name: &str| {
            rest.split(',').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('=')).ok_or_else(malformed)
        };
        let (date, signed_at) = header_date(headers)?;
        Ok(Self {
            credential: Credential::parse(field("Credential")?, &date).ok_or_else(malformed)?,
            date,
            signed_at,
            expires: None,
            signed_headers: names(field("SignedHeaders")?),
            value: field("Signature")?.to_owned(),
        })
    }

    fn of_query(query: &Query) -> Result<Self, Fault> {
        let invalid = |name: &str| {
            let message = format!("the parameter {name} is missing or invalid");
            Fault::new(StatusCode::BAD_REQUEST, "AuthorizationQueryParametersError", message)
        };
        let field = |name: &'static str| query.value(name).ok_or_else(|| invalid(name));
        check_algorithm(query.value("X-Amz-Algorithm").unwrap_or_default())?;

        let date = field("X-Amz-Date")?.to_owned();
        let expires = field("X-Amz-Expires")?.parse().ok().filter(|expires| (1..=EXPIRES_MAX).contains(expires));
        Ok(Self {
            credential: Credential::parse(field("X-Amz-Credential")?, &date)
                .ok_or_else(|| invalid("X-Amz-Credential"))?,
            signed_at: parse_date(&date).ok_or_else(|| invalid("X-Amz-Date"))?,
            date,
            expires: Some(expires.ok_or_else(|| invalid("X-Amz-Expires"))?),
            signed_headers: names(field("X-Amz-SignedHeaders")?),
            value: field("X-Amz-Signature")?.to_owned(),
        })
    }

    fn check_time(&self, now: i64) -> Result<(), Fault> {
        let is_early = self.signed_at > now.saturating_add(SKEW_MAX);
        match self.expires {
            Some(expires) if is_early || now > self.signed_at.saturating_add(expires) => {
                Err(Fault::denied("the request has expired, or is not valid yet"))
            }
            None if is_early || now > self.signed_at.saturating_add(SKEW_MAX) => {
                let message = "the difference between the client's clock and the server's is too large";
                Err(Fault::new(StatusCode::FORBIDDEN, "RequestTimeTooSkewed", message))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Returns the date of a request with a signature in its header, which is in `x-amz-date` or `date`.
fn header_date(headers: &HeaderMap) -> Result<(String, i64), Fault> {
    if let Some(date) = headers.get("x-amz-date") {
        let text = date.to_str().map_err(|_| malformed())?;
        return Ok((text.to_owned(), parse_date(text).ok_or_else(malformed)?));
    }

    let date = headers.get(DATE).and_then(|date| date.to_str().ok()).and_then(date::parse_http);
    let seconds = date.ok_or_else(|| Fault::denied("a signed request needs the header x-amz-date or date"))?;
    Ok((scope::format_date(seconds).ok_or_else(malformed)?, seconds))
}

fn signing_key(secret: &Secret, credential: &Credential) -> [u8; 32] {
    let date = hmac(format!("AWS4{}", secret.reveal()).as_bytes(), credential.day.as_bytes());
    let region = hmac(&date, credential.region.as_bytes());
    let service = hmac(&region, scope::SERVICE.as_bytes());
    hmac(&service, scope::TERMINATOR.as_bytes())
}

fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC accepts keys of any length");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

fn sha256(text: &str) -> String {
    hex(&Sha256::digest(text))
}

fn names(list: &str) -> Vec<String> {
    list.split(';').map(str::to_ascii_lowercase).collect()
}

fn check_algorithm(algorithm: &str) -> Result<(), Fault> {
    if algorithm == ALGORITHM {
        return Ok(());
    }
    let message = "the signature's algorithm is not supported: use AWS4-HMAC-SHA256";
    Err(Fault::new(StatusCode::BAD_REQUEST, "InvalidRequest", message))
}

fn malformed() -> Fault {
    let message = "the Authorization header or the date has an invalid form";
    Fault::new(StatusCode::BAD_REQUEST, "AuthorizationHeaderMalformed", message)
}

fn mismatch() -> Fault {
    let message = "the signature does not match: check the secret key";
    Fault::new(StatusCode::FORBIDDEN, "SignatureDoesNotMatch", message)
}

/// A key that the server does not know.
pub(crate) fn unknown_key() -> Fault {
    Fault::new(StatusCode::FORBIDDEN, "InvalidAccessKeyId", "the server does not know this access key")
}
