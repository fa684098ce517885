//! Names the key that explains an error of a store in Google Cloud or Azure, and what to do.

use super::{
    CERTIFICATE_TIME_CURE, PLACE_IN_ENDPOINT_CURE, TOKEN_SERVICE_CURE, again, endpoint_names_place, find, named,
};
use crate::config::Effective;
use gantry_proto::StoreName;
use gantry_store::{Error, UnavailableKind};

/// What the messages about a cloud name.
pub(super) struct Cloud {
    name: &'static str,
    place: &'static str,
    /// The keys that choose credentials, in their order. The first is named if none is set.
    credentials: &'static [&'static str],
    /// Variables with credentials, in their order.
    variables: &'static [&'static str],
    /// Where credentials come from if nothing is set.
    otherwise: &'static str,
    /// What to do if the cloud knows the credentials, but refuses access.
    permission: &'static str,
    /// What to do if the cloud knows the credentials, but they do not permit listing.
    listing: &'static str,
    /// What to do if there are no credentials, or the cloud does not know them.
    unknown: &'static str,
}

#[cfg(feature = "gcs")]
pub(super) const GCS: Cloud = Cloud {
    name: "Google Cloud Storage",
    place: "bucket",
    credentials: &["credentials_file"],
    variables: &["GOOGLE_APPLICATION_CREDENTIALS"],
    otherwise: "Google's application default credentials",
    permission: "grant this identity the role of deploy/iam/gcs-role.yaml on the bucket, and set `billing_project` if the \
                 bucket bills the requester",
    listing: "grant this identity the permission storage.objects.list on the bucket (deploy/iam/gcs-role.yaml)",
    unknown: "give the relay the key of a service account or a workload identity, or set `anonymous` if the bucket is public",
};

#[cfg(feature = "azure")]
pub(super) const AZURE: Cloud = Cloud {
    name: "Azure Blob Storage",
    place: "container",
    credentials: &[
        "account_key_file",
        "sas_token_file",
        "client_secret_file",
        "federated_token_file",
        "azure_cli",
        "client_id",
    ],
    variables: &["AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_CLIENT_SECRET"],
    otherwise: "the machine's managed identity",
    permission: "grant this identity the role of deploy/iam/azure-role.json on the container, or a SAS with the \
                 permissions rl",
    listing: "grant this identity the role of deploy/iam/azure-role.json on the container, or a SAS with the permissions rl",
    unknown: "give the relay a valid key, SAS or identity of this account, or set `anonymous` if the container is public",
};

impl Cloud {
    /// Describes how to permit listing.
    pub(super) fn to_list(&self, name: &StoreName, effective: &[Effective]) -> String {
        if is_anonymous(name, effective) {
            return format!("make the {}'s listing public, or give the relay credentials", self.place);
        }
        self.listing.to_owned()
    }
}

fn is_anonymous(name: &StoreName, effective: &[Effective]) -> bool {
    find(effective, &format!("stores.{name}.anonymous")).is_some_and(|line| line.value == "true")
}

/// Names the key that explains an error, and what to do.
#[expect(clippy::wildcard_enum_match_arm, reason = "all other errors have the same cure")]
pub(super) fn blamed(cloud: &Cloud, error: &Error, name: &StoreName, effective: &[Effective]) -> String {
    let key = |key: &str| format!("stores.{name}.{key}");
    let endpoint = || server(name, effective);

    let is_anonymous = is_anonymous(name, effective);
    if let Some((key, cure)) = blamed_on_administration(cloud, error, name, effective) {
        return format!("{key}: {error}: {cure}");
    }

    let (key, cure) = match error {
        Error::Unavailable { kind: UnavailableKind::Credentials, .. } | Error::Denied(_) if is_anonymous => (
            named(effective, &key("anonymous")),
            format!("give the relay credentials, or make the {} public", cloud.place),
        ),
        Error::Unavailable { kind: UnavailableKind::Credentials, .. } => {
            (credentials(cloud, name, effective), cloud.unknown.to_owned())
        }
        Error::Unavailable { kind: UnavailableKind::Clock, .. } => {
            (named(effective, &key("url")), "correct the clock".to_owned())
        }
        Error::Unavailable { kind: UnavailableKind::UnusableCredentials, .. } => unusable(cloud, name, effective),
        Error::Unavailable { kind: UnavailableKind::UnusableAuthorities, .. } => {
            (named(effective, &key("tls_ca_file")), "correct the file, or name another".to_owned())
        }
        Error::Unavailable { kind: UnavailableKind::TlsNotOffered, .. } => {
            (endpoint(), "use http://, the server does not use TLS".to_owned())
        }
        Error::Unavailable { kind: UnavailableKind::UnknownAuthority, .. } => (
            named(effective, &key("tls_ca_file")),
            "name a PEM file of the authority that issued the server's certificate".to_owned(),
        ),
        Error::Unavailable { kind: UnavailableKind::InvalidCertificate, .. } => {
            (endpoint(), "use the host name of the server's certificate, or renew the certificate".to_owned())
        }
        Error::Unavailable { kind: UnavailableKind::CertificateTime, .. } => {
            (endpoint(), CERTIFICATE_TIME_CURE.to_owned())
        }
        Error::Unavailable { kind: UnavailableKind::TlsRequired, .. } => (endpoint(), "use https://".to_owned()),
        Error::Unavailable { kind: UnavailableKind::NetworkRules, .. } => {
            (endpoint(), "permit the relay's network in the rules, or use a private endpoint".to_owned())
        }
        Error::Unavailable { kind: UnavailableKind::TokenService, .. } => {
            (credentials(cloud, name, effective), TOKEN_SERVICE_CURE.to_owned())
        }
        Error::Unavailable { kind: UnavailableKind::NoBillingProject, .. } => {
            (named(effective, &key("billing_project")), "set it to the project that pays for the requests".to_owned())
        }
        Error::Unavailable { kind: UnavailableKind::AccountDisabled, .. } => {
            let has_account = find(effective, &key("account")).is_some();
            let key = if has_account { endpoint() } else { named(effective, &key("url")) };
            (key, format!("enable the account or the {}, or name another", cloud.place))
        }
        Error::Unavailable { kind: UnavailableKind::Busy, retry_after, .. } => {
            (named(effective, &key("url")), again(*retry_after))
        }
        Error::Unavailable { .. } => {
            (endpoint(), format!("correct the address, or let the relay reach {}", cloud.name))
        }
        Error::Protocol(_) => (endpoint(), "correct the address of the server".to_owned()),
        Error::Denied(_) => (credentials(cloud, name, effective), cloud.permission.to_owned()),
        Error::NotFound(_) | Error::NoBucket(_) if endpoint_names_place(effective, name) => {
            (endpoint(), PLACE_IN_ENDPOINT_CURE.to_owned())
        }
        Error::NotFound(_) | Error::NoBucket(_) => (
            named(effective, &key("url")),
            format!("create the {}, or correct its name or the server's address", cloud.place),
        ),
        _ => (named(effective, &key("url")), "correct the address or the credentials".to_owned()),
    };
    format!("{key}: {error}: {cure}")
}

/// Names the key of an id that the service for tokens does not know, or of a place that a policy protects, and what to do.
fn blamed_on_administration(
    cloud: &Cloud,
    error: &Error,
    name: &StoreName,
    effective: &[Effective],
) -> Option<(String, String)> {
    let Error::Unavailable { kind, .. } = error else { return None };

    let is = |wanted: UnavailableKind| *kind == wanted;
    if is(UnavailableKind::UnknownTenant) {
        let id = id(name, effective, "tenant_id", "AZURE_TENANT_ID");
        Some((id, "set it to the id or a domain of the application's tenant".to_owned()))
    } else if is(UnavailableKind::UnknownApplication) {
        let id = id(name, effective, "client_id", "AZURE_CLIENT_ID");
        Some((id, "set it to the id of an application in this tenant".to_owned()))
    } else if is(UnavailableKind::OrganisationPolicy) {
        let administrator = "let the organisation's administrator exempt the project of the";
        let cure = format!("fulfil the policy, or {administrator} {}", cloud.place);
        Some((named(effective, &format!("stores.{name}.url")), cure))
    } else {
        None
    }
}

/// Names the key that determines the server: the endpoint, or the Azure account.
fn server(name: &StoreName, effective: &[Effective]) -> String {
    let endpoint = format!("stores.{name}.endpoint_url");
    let account = format!("stores.{name}.account");
    let has_account_only = find(effective, &endpoint).is_none() && find(effective, &account).is_some();
    named(effective, if has_account_only { &account } else { &endpoint })
}

fn chosen(cloud: &Cloud, name: &StoreName, effective: &[Effective]) -> Option<String> {
    let keys = cloud.credentials.iter().map(|key| format!("stores.{name}.{key}"));
    keys.into_iter().find(|key| find(effective, key).is_some_and(|line| line.value != "false"))
}

/// Names the place of credentials that are not valid, and what to do. An error about a variable names the variable.
fn unusable(cloud: &Cloud, name: &StoreName, effective: &[Effective]) -> (String, String) {
    if let Some(key) = chosen(cloud, name, effective) {
        return (named(effective, &key), "correct the file, or name another".to_owned());
    }
    let source = variable(cloud).map_or(cloud.otherwise, |_| "the environment");
    (unset(cloud, name, source), "correct the variable or the file".to_owned())
}

/// Names the key or the variable with the credentials.
fn credentials(cloud: &Cloud, name: &StoreName, effective: &[Effective]) -> String {
    if let Some(key) = chosen(cloud, name, effective) {
        return named(effective, &key);
    }
    unset(cloud, name, variable(cloud).unwrap_or(cloud.otherwise))
}

/// Returns the variable with the credentials.
fn variable(cloud: &Cloud) -> Option<&'static str> {
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    cloud.variables.iter().copied().find(is_set)
}

/// Names the key or the variable with an id.
fn id(name: &StoreName, effective: &[Effective], key: &str, variable: &str) -> String {
    let key = format!("stores.{name}.{key}");
    match find(effective, &key) {
        Some(_) => named(effective, &key),
        None => format!("`{key}` is not set, the id comes from {variable}"),
    }
}

/// Names the place of the credentials if no key sets them.
fn unset(cloud: &Cloud, name: &StoreName, source: &str) -> String {
    format!("`stores.{name}.{}` is not set, the credentials come from {source}", cloud.credentials[0])
}
