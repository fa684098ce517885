//! Names the key that explains an error of a store in Google Cloud or Azure, and what to do.

use std::net::{IpAddr, SocketAddr};

use super::{
    CERTIFICATE_TIME_CURE, PLACE_IN_ENDPOINT_CURE, TOKEN_SERVICE_CURE, again, endpoint_names_place, find, named, proxy,
};
use crate::config::Effective;
use gantry_proto::StoreName;
#[cfg(feature = "gcs")]
use gantry_store::gcs;
use gantry_store::{Error, UnavailableKind};

/// What to do if the command az issues no token in time.
const COMMAND_CURE: &str = "run az account get-access-token to see why, try again later, or use other credentials";

/// What to do if a shared access signature permits too little.
const SAS_CURE: &str = "use a SAS with the permissions rl for the container, or one of the account with srt=co";

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

/// Returns whether Google's refusal of a request for a missing object means that the relay may not read. It does not if it
/// names the permission to list. The refusal of a request with credentials may have another reason.
#[cfg(feature = "gcs")]
pub(super) fn forbids_reading(refusal: &str, name: &StoreName, effective: &[Effective]) -> bool {
    let is_for_listing = refusal.contains(gcs::PERMISSION_TO_LIST);
    refusal.contains(gcs::PERMISSION_TO_READ) || (is_anonymous(name, effective) && !is_for_listing)
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
    if let Error::Unavailable { kind, .. } = error
        && let Some((key, cure)) = blamed_on_connection(*kind, name, effective)
    {
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
        Error::Unavailable { kind: UnavailableKind::TokenService, .. } => {
            let is_command = chosen(cloud, name, effective).is_some_and(|key| key.ends_with(".azure_cli"));
            let cure = if is_command { COMMAND_CURE } else { TOKEN_SERVICE_CURE };
            (credentials(cloud, name, effective), cure.to_owned())
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
            let what = if has_account_only(name, effective) { "the account's name" } else { "the address" };
            (endpoint(), format!("correct {what}, or let the relay reach {}", cloud.name))
        }
        Error::Protocol(_) => (endpoint(), "correct the address of the server".to_owned()),
        Error::Denied(_) => {
            let cure = if is_sas(cloud, name, effective) { SAS_CURE } else { cloud.permission };
            (credentials(cloud, name, effective), cure.to_owned())
        }
        Error::NoBucket(text) if text.contains("it is being deleted") => {
            (named(effective, &key("url")), "wait until that ends and create it again, or name another".to_owned())
        }
        Error::NotFound(_) | Error::NoBucket(_) if endpoint_lacks_account(name, effective) => {
            (endpoint(), "add the account to the end of the address, as emulators require".to_owned())
        }
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

/// Names the key that explains a failed or forbidden connection, and what to do.
#[expect(clippy::wildcard_enum_match_arm, reason = "all other errors have nothing to do with the connection")]
fn blamed_on_connection(
    kind: UnavailableKind,
    name: &StoreName,
    effective: &[Effective],
) -> Option<(String, &'static str)> {
    let authorities = || named(effective, &format!("stores.{name}.tls_ca_file"));
    let endpoint = || server(name, effective);

    Some(match kind {
        UnavailableKind::UnusableAuthorities => (authorities(), "correct the file, or name another"),
        UnavailableKind::TlsNotOffered => (endpoint(), "use http://, the server does not use TLS"),
        UnavailableKind::UnknownAuthority => {
            (authorities(), "name a PEM file of the authority that issued the server's certificate")
        }
        UnavailableKind::InvalidCertificate => {
            (endpoint(), "use the host name of the server's certificate, or renew the certificate")
        }
        UnavailableKind::CertificateTime => (endpoint(), CERTIFICATE_TIME_CURE),
        UnavailableKind::TlsRequired => (endpoint(), "use https://"),
        UnavailableKind::NetworkRules => {
            (endpoint(), "permit the relay's network in the rules, or use a private endpoint")
        }
        UnavailableKind::Proxy => proxy(effective, name),
        _ => return None,
    })
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
        let administrator = "ask the organisation's administrator to exempt";
        let cure = format!("comply with the policy, or {administrator} the {}'s project", cloud.place);
        Some((named(effective, &format!("stores.{name}.url")), cure))
    } else {
        None
    }
}

/// Names the key that determines the server: the endpoint, or the Azure account.
fn server(name: &StoreName, effective: &[Effective]) -> String {
    let key = if has_account_only(name, effective) { "account" } else { "endpoint_url" };
    named(effective, &format!("stores.{name}.{key}"))
}

/// Returns whether the name of an Azure account determines the server.
fn has_account_only(name: &StoreName, effective: &[Effective]) -> bool {
    let is_set = |key: &str| find(effective, &format!("stores.{name}.{key}")).is_some();
    is_set("account") && !is_set("endpoint_url")
}

/// Returns whether the address of a server of Azure is an IP address without the account in its path. Those of emulators
/// have it there.
fn endpoint_lacks_account(name: &StoreName, effective: &[Effective]) -> bool {
    let value = |key: &str| find(effective, &format!("stores.{name}.{key}")).map(|line| line.value.trim_matches('"'));
    let server =
        value("endpoint_url").and_then(|url| url.split_once("://")).map(|(_, rest)| rest.trim_end_matches('/'));
    let is_local = |server: &str| server.parse::<SocketAddr>().is_ok() || server.parse::<IpAddr>().is_ok();
    value("account").is_some() && server.is_some_and(|server| is_local(&server.replace("localhost", "127.0.0.1")))
}

/// Returns whether the credentials are a shared access signature.
fn is_sas(cloud: &Cloud, name: &StoreName, effective: &[Effective]) -> bool {
    match chosen(cloud, name, effective) {
        Some(key) => key.ends_with(".sas_token_file"),
        None => variable(cloud) == Some("AZURE_STORAGE_SAS_TOKEN"),
    }
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
