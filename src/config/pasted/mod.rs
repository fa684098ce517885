//! Addresses that other programs use for the same places: explains which address to write instead.
//!
//! The messages repeat no part that may be a secret: nothing after a question mark, and nothing before an `@` unless it
//! is a container's name. Every address in them is one that the parser of stores accepts.

mod connection;
mod endpoints;
mod hosts;
mod secrets;

use std::net::IpAddr;

use hosts::{Account, azure_account, in_aws, in_google, of_json_api};

pub(crate) use self::connection::begins_connection_string;
pub(super) use self::connection::of_connection_string;
pub(super) use self::endpoints::of_endpoint;
#[cfg(feature = "azure")]
pub(super) use self::endpoints::of_other_account;
pub(super) use self::secrets::{KEY_CURE, before_signature, has_parameters_of_signature, of_signature};
use super::place::{STORE_FORM, is_account, is_container, written};

/// The account of Azure's emulators. Source: Azure, "Use the Azurite emulator", "Well-known storage account and key".
pub(super) const EMULATED_ACCOUNT: &str = "devstoreaccount1";

/// Where the signature of a pasted address belongs.
const SAS_CURE: &str = "the part after the question mark in a file that `sas_token_file` names";

/// Explains what to write for an address with another scheme than those of stores, or with one in capitals. `rest` is
/// what follows `://`.
pub(super) fn of_scheme(scheme: &str, rest: &str) -> Option<String> {
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Some(of_web_address(false, rest)),
        "https" => Some(of_web_address(true, rest)),
        "gcs" | "gss" => Some(format!("must be {} for Google Cloud Storage", repeated("gs", rest))),
        "azure" | "abfs" | "abfss" | "adl" | "wasb" | "wasbs" => Some(of_azure(rest)),
        lower @ ("s3" | "gs" | "az" | "file") if lower != scheme => {
            Some(format!("must be {}, with the scheme in lower case", repeated(lower, rest)))
        }
        // Hadoop's names of S3.
        "s3a" | "s3n" => Some(format!("must be {}", repeated("s3", rest))),
        _ => None,
    }
}

/// Explains what to write for a place `rest` whose bucket or container is the host of a cloud, or another server.
pub(super) fn of_host(scheme: &str, rest: &str) -> Option<String> {
    let (address, has_sas) = without_query(rest);
    let (authority, path) = address.split_once('/').unwrap_or((address, ""));
    if rest.contains('@') || authority.starts_with("arn:") {
        return None;
    }

    let authority = authority.to_ascii_lowercase();
    let host = authority.strip_suffix(":443").or_else(|| authority.strip_suffix(":80")).unwrap_or(&authority);
    let path = path.trim_matches('/');
    let of_server = || {
        let (first, below) = path.split_once('/').unwrap_or((path, ""));
        let cure = "and the address of the server belongs to `endpoint_url`";
        of_emulator(&format!("http://{authority}"), path, has_sas)
            .unwrap_or_else(|| format!("must be {}, {cure}", written(scheme, first, below)))
    };
    of_known_host(host, path, has_sas).or_else(|| is_server(&authority).then(of_server))
}

/// Explains what to write for the address of a cloud without a scheme.
pub(super) fn of_bare_host(text: &str) -> Option<String> {
    let (address, has_sas) = without_query(text);
    let (host, path) = address.split_once('/').unwrap_or((address, ""));
    if text.contains('@') { None } else { of_known_host(&host.to_ascii_lowercase(), path.trim_matches('/'), has_sas) }
}

/// Explains what to write for an address such as `az:models` or `az:/models`.
pub(super) fn of_missing_slashes(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once(':')?;
    let scheme = scheme.to_ascii_lowercase();
    let is_known = matches!(&*scheme, "s3" | "gs" | "az" | "file");
    is_known.then(|| format!("must be {}", repeated(&scheme, rest.trim_start_matches('/'))))
}

/// Returns whether an authority is an IP address or has a port, so that it is not the name of a bucket.
fn is_server(authority: &str) -> bool {
    let is_ip = |host: &str| host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let has_port = |(host, port): (&str, &str)| !host.is_empty() && port.parse::<u16>().is_ok();
    is_ip(authority) || authority.rsplit_once(':').is_some_and(has_port)
}

/// Explains what to write for a place `rest` in Azure that contains an `@`.
pub(super) fn of_azure_with_user(rest: &str) -> Option<String> {
    let (before, after) = rest.rsplit_once('@')?;
    let (host, path) = after.split_once('/').unwrap_or((after, ""));
    let is_short = !before.contains(['/', ':']);
    if is_short && azure_account(&host.to_ascii_lowercase()).is_some() {
        return Some(of_azure(rest));
    }
    of_container_and_account(rest).or_else(|| {
        let is_account = is_short && is_container(host);
        let place = written("az", host, path);
        is_account.then(|| format!("must be {place} with the account's name in `account`, not before an @"))
    })
}

/// Explains what to write for `container@account/path`. What precedes the `@` may also be a password, and is not
/// repeated.
fn of_container_and_account(rest: &str) -> Option<String> {
    let (address, has_sas) = without_query(rest);
    let (before, after) = address.rsplit_once('@')?;
    let (name, path) = after.split_once('/').unwrap_or((after, ""));
    if !is_container(before) || !is_account(name) {
        return None;
    }

    let account = Account { name: name.to_owned(), endpoint: None };
    let cure = in_account(&written("az", "container", path), &account, has_sas);
    Some(format!("{cure}, and the part before the @ in place of \"container\""))
}

/// Explains what to write for a place `rest` in Azure that is followed by a signature.
pub(super) fn of_azure_with_sas(rest: &str) -> Option<String> {
    let (_, has_sas) = without_query(rest);
    has_sas.then(|| format!("must be {}, and {SAS_CURE}", repeated("az", rest)))
}

/// Explains what to write for `container@account.dfs.core.windows.net/path`, as Hadoop's drivers write it, or for
/// `container/path`.
fn of_azure(rest: &str) -> String {
    let (address, has_sas) = without_query(rest);
    if let Some((container, after)) = address.rsplit_once('@') {
        let (host, path) = after.split_once('/').unwrap_or((after, ""));
        if let Some(found) = azure_account(&host.to_ascii_lowercase()).filter(|_| is_container(container)) {
            return in_account(&written("az", container, path), &found, has_sas);
        }
        if let Some(cure) = of_container_and_account(rest) {
            return cure;
        }
    }
    if let Some(cure) = of_bare_host(rest) {
        return cure;
    }
    format!("must be {} for Azure Blob Storage, with the account's name in `account`", repeated("az", rest))
}

/// Explains which address to write instead of one for a browser or an interface over HTTP.
fn of_web_address(is_tls: bool, rest: &str) -> String {
    let (address, has_sas) = without_query(rest);
    let (authority, path) = address.split_once('/').unwrap_or((address, ""));
    let path = if rest.contains('@') { "" } else { path.trim_matches('/') };
    let authority = authority.to_ascii_lowercase();
    let host = authority.strip_suffix(if is_tls { ":443" } else { ":80" }).unwrap_or(&authority);
    if let Some(cure) = of_known_host(host, path, has_sas) {
        return cure;
    }

    let server = format!("{}://{host}", if is_tls { "https" } else { "http" });
    let is_server =
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte));
    of_emulator(&server, path, has_sas)
        .filter(|_| is_server && !rest.contains('@'))
        .unwrap_or_else(|| format!("{STORE_FORM}; the address of a server belongs to `endpoint_url`"))
}

/// Explains what to write for an address of a cloud.
fn of_known_host(host: &str, path: &str, has_sas: bool) -> Option<String> {
    let (first, below) = path.split_once('/').unwrap_or((path, ""));

    if let Some(found) = azure_account(host) {
        return Some(in_account(&written("az", first, below), &found, has_sas));
    }
    if host == "portal.azure.com" {
        let cure = "must be az://container/prefix with the account's name in `account`";
        return Some(format!("is a page of Azure's portal: {cure}"));
    }
    if let Some((bucket, path)) = in_google(host, path) {
        return Some(format!("must be {}", written("gs", bucket, path)));
    }
    let (bucket, path, region) = in_aws(host, path)?;
    let region = region.map_or_else(String::new, |region| format!(" with `region` set to {region:?}"));
    Some(format!("must be {}{region}", written("s3", bucket, path)))
}

/// Explains what to write for an address of an emulator, or of a server in front of Google's.
fn of_emulator(server: &str, path: &str, has_sas: bool) -> Option<String> {
    let of_account = |endpoint: String| Account { name: EMULATED_ACCOUNT.to_owned(), endpoint: Some(endpoint) };
    let (first, below) = path.split_once('/').unwrap_or((path, ""));

    if server.split_once("://").is_some_and(|(_, host)| host.split('.').next() == Some(EMULATED_ACCOUNT)) {
        return Some(in_account(&written("az", first, below), &of_account(server.to_owned()), has_sas));
    }
    if first.strip_suffix("-secondary").unwrap_or(first) == EMULATED_ACCOUNT {
        let (container, path) = below.split_once('/').unwrap_or((below, ""));
        let account = of_account(format!("{server}/{first}"));
        return Some(in_account(&written("az", container, path), &account, has_sas));
    }
    let (bucket, path) = of_json_api(path)?;
    Some(format!("must be {} with `endpoint_url` set to {server:?}", written("gs", bucket, path)))
}

/// Returns what precedes a question mark or a hash, and whether a signature follows.
fn without_query(rest: &str) -> (&str, bool) {
    (rest.split(['?', '#']).next().unwrap_or_default(), rest.contains("sig="))
}

/// Repeats a place in a message, unless it may contain a secret.
fn repeated(scheme: &str, rest: &str) -> String {
    let (address, _) = without_query(rest);
    let address = if address.contains('@') { "" } else { address };
    let (name, path) = match scheme {
        "file" => ("", address.strip_prefix("localhost").unwrap_or(address)),
        _ => address.split_once('/').unwrap_or((address, "")),
    };
    written(scheme, name, path)
}

/// Describes the settings for a place in an account of Azure.
fn in_account(place: &str, account: &Account, has_sas: bool) -> String {
    let sas = if has_sas { format!(", and {SAS_CURE}") } else { String::new() };
    format!("must be {place} with {}{sas}", account.settings())
}

#[cfg(test)]
#[cfg(all(feature = "azure", feature = "gcs"))]
mod tests;
