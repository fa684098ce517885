//! Names the key that explains an error of a store in S3, and what to do.

use super::{
    CERTIFICATE_TIME_CURE, PLACE_IN_ENDPOINT_CURE, TOKEN_SERVICE_CURE, again, endpoint_names_place, find, named, proxy,
};
use crate::config::Effective;
use gantry_proto::StoreName;
use gantry_store::{Error, UnavailableKind};

/// Names the key that explains an error of S3, and what to do.
#[expect(clippy::wildcard_enum_match_arm, reason = "all other errors have the same cure")]
pub(super) fn blamed(error: &Error, name: &StoreName, effective: &[Effective]) -> String {
    let url = || named(effective, &format!("stores.{name}.url"));
    let endpoint = || named(effective, &format!("stores.{name}.endpoint_url"));

    let (key, cure) = match error {
        Error::Unavailable { kind: UnavailableKind::Credentials, .. } => {
            return without_credentials(error, name, effective);
        }
        Error::Unavailable { kind: UnavailableKind::UnsupportedProfile, .. } => (
            credentials(name, effective),
            "let the profile use `credential_process = aws configure export-credentials --profile OTHER --format process`",
        ),
        Error::Unavailable { kind: UnavailableKind::TlsNotOffered, .. } => {
            (endpoint(), "use http://, the server does not use TLS")
        }
        Error::Unavailable { kind: UnavailableKind::UnknownAuthority, .. } => (
            named(effective, &format!("stores.{name}.tls_ca_file")),
            "name a PEM file of the authority that issued the server's certificate",
        ),
        Error::Unavailable { kind: UnavailableKind::Clock, .. } => (url(), "correct the clock"),
        Error::Unavailable { kind: UnavailableKind::UnusableAuthorities, .. } => {
            (named(effective, &format!("stores.{name}.tls_ca_file")), "correct the file, or name another")
        }
        Error::Unavailable { kind: UnavailableKind::InvalidCertificate, .. } => {
            (endpoint(), "use the host name of the server's certificate, or renew the certificate")
        }
        Error::Unavailable { kind: UnavailableKind::CertificateTime, .. } => (endpoint(), CERTIFICATE_TIME_CURE),
        Error::Unavailable { kind: UnavailableKind::TokenService, .. } => {
            (credentials(name, effective), TOKEN_SERVICE_CURE)
        }
        Error::Unavailable { kind: UnavailableKind::Busy, retry_after, .. } => {
            return format!("{}: {error}: {}", url(), again(*retry_after));
        }
        Error::Unavailable { kind: UnavailableKind::Proxy, .. } => proxy(effective, name),
        Error::Unavailable { kind: UnavailableKind::Other, .. } => {
            (endpoint(), "start the S3 server, or correct the address")
        }
        Error::Protocol(_) => (endpoint(), "correct the address of the S3 server"),
        Error::Denied(_) if is_anonymous(name, effective) => {
            (named(effective, &anonymous(name)), "give the relay credentials, the bucket is not public")
        }
        Error::Denied(_) => (
            credentials(name, effective),
            "check these credentials and their permissions (deploy/iam/policy.json), and set `requester_pays` if the \
             bucket demands it",
        ),
        Error::NotFound(_) | Error::NoBucket(_) if endpoint_names_place(effective, name) => {
            (endpoint(), PLACE_IN_ENDPOINT_CURE)
        }
        Error::NotFound(_) | Error::NoBucket(_) => {
            (url(), "create the bucket, or correct its name or the server's address")
        }
        _ => (url(), "correct the address, the region or the endpoint"),
    };
    format!("{key}: {error}: {cure}")
}

/// Describes how to permit listing.
pub(super) fn to_list(name: &StoreName, effective: &[Effective]) -> String {
    if is_anonymous(name, effective) {
        return "make the bucket's listing public, or give the relay credentials".to_owned();
    }
    "permit `s3:ListBucket` on the bucket (deploy/iam/policy.json)".to_owned()
}

/// Names the key for the missing credentials, and what to do.
fn without_credentials(error: &Error, name: &StoreName, effective: &[Effective]) -> String {
    let profile = format!("stores.{name}.profile");
    if find(effective, &profile).is_some() {
        // The SDK's message describes the last place that it tried, which is not the profile.
        let key = named(effective, &profile);
        return format!("{key}: the profile does not exist, or has no credentials: correct the name or the profile");
    }
    let cure = "give the relay valid credentials, or set `anonymous` if the bucket is public";
    format!("{}: {error}: {cure}", credentials(name, effective))
}

fn anonymous(name: &StoreName) -> String {
    format!("stores.{name}.anonymous")
}

fn is_anonymous(name: &StoreName, effective: &[Effective]) -> bool {
    find(effective, &anonymous(name)).is_some_and(|line| line.value == "true")
}

fn credentials(name: &StoreName, effective: &[Effective]) -> String {
    let own = ["access_key_id_file", "profile"].map(|key| format!("stores.{name}.{key}"));
    if let Some(key) = own.iter().find(|key| find(effective, key).is_some()) {
        return named(effective, key);
    }
    let variable = ["AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"]
        .into_iter()
        .find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    let source = variable.unwrap_or("AWS's default credential chain");
    format!("`{}` is not set, the credentials come from {source}", own[0])
}
