//! Addresses of servers that also name a bucket or container.

use super::EMULATED_ACCOUNT;
use super::hosts::{azure_account, in_aws, in_google, of_json_api};
use super::without_query;
use crate::config::place::written;

/// Explains what to write for the address of a server that names a place in it, or does not serve objects. `rest` is what
/// follows `://`, and has no user.
pub(in crate::config) fn of_endpoint(scheme: &str, rest: &str) -> Option<String> {
    let (address, _) = without_query(rest);
    let (authority, path) = address.split_once('/').unwrap_or((address, ""));
    let authority = authority.to_ascii_lowercase();
    let host = authority.strip_suffix(if scheme == "https" { ":443" } else { ":80" }).unwrap_or(&authority);
    let path = path.trim_matches('/');

    of_azure(scheme, host, path)
        .or_else(|| of_google(scheme, host, path))
        .or_else(|| of_aws(scheme, host, path))
        .or_else(|| of_server(scheme, host, path))
}

/// Explains why the address `url` of a server is not that of this account: it names another account, or the container as
/// well.
#[cfg(feature = "azure")]
pub(in crate::config) fn of_other_account(url: &str, account: &str, container: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host).to_ascii_lowercase();
    let path = path.trim_matches('/');
    if path == format!("{account}/{container}") {
        return Some("remove the container from the end of the address, since `url` names it".to_owned());
    }

    let first = path.split('/').next().unwrap_or_default();
    let first = first.strip_suffix("-secondary").unwrap_or(first);
    let emulated = || (first == EMULATED_ACCOUNT).then(|| first.to_owned());
    let named = azure_account(&host).map(|found| found.name).or_else(emulated)?;
    (named != account).then(|| format!("the address belongs to the account {named:?}: correct one of them"))
}

fn of_azure(scheme: &str, host: &str, path: &str) -> Option<String> {
    let of_service = host.strip_prefix("blob.").and_then(|domain| azure_account(&format!("account.blob.{domain}")));
    if of_service.is_some() {
        return Some(format!("must be {scheme}://ACCOUNT.{host}, with the account's name in place of ACCOUNT"));
    }

    let account = azure_account(host)?;
    let public = format!("https://{}.blob.core.windows.net", account.name);
    let is_blob = host.split('.').any(|label| label == "blob");
    let own = format!("{scheme}://{host}");
    let server = if is_blob { own } else { account.endpoint.unwrap_or(public) };
    if !path.is_empty() {
        return Some(with_place("container", "az", path, &server));
    }
    (!is_blob).then(|| format!("must be {server:?}, the account's address for blobs"))
}

fn of_google(scheme: &str, host: &str, path: &str) -> Option<String> {
    let is_regional = host.ends_with(".rep.googleapis.com") && !path.is_empty();
    if is_regional {
        return Some(with_place("bucket", "gs", path, &format!("{scheme}://{host}")));
    }

    // The beginning of paths in Google's JSON API names no bucket.
    let is_interface = ["storage", "storage/v1", "storage/v1/b"].contains(&path);
    let (bucket, path) = in_google(host, if is_interface { "" } else { path })?;
    if is_interface {
        return Some(format!("must be {scheme}://{host} alone"));
    }
    if bucket.is_empty() {
        return None;
    }
    Some(with_place("bucket", "gs", &format!("{bucket}/{path}"), "https://storage.googleapis.com"))
}

fn of_aws(scheme: &str, host: &str, path: &str) -> Option<String> {
    let (bucket, path, _) = in_aws(host, path)?;
    if host.ends_with("console.aws.amazon.com") {
        return Some("is a page of AWS's console: remove the key, and set `region`".to_owned());
    }
    let service = host.strip_prefix(bucket).and_then(|rest| rest.strip_prefix('.')).unwrap_or(host);
    Some(with_place("bucket", "s3", &format!("{bucket}/{path}"), &format!("{scheme}://{service}")))
}

/// Explains an address of an emulator, or one of a server with Google's JSON API.
fn of_server(scheme: &str, host: &str, path: &str) -> Option<String> {
    if let Some((bucket, path)) = of_json_api(path) {
        return Some(with_place("bucket", "gs", &format!("{bucket}/{path}"), &format!("{scheme}://{host}")));
    }

    let (account, place) = path.split_once('/')?;
    let is_emulated = account.strip_suffix("-secondary").unwrap_or(account) == EMULATED_ACCOUNT;
    is_emulated.then(|| with_place("container", "az", place, &format!("{scheme}://{host}/{account}")))
}

/// Describes the address of a server without the bucket or container at the beginning of a path.
fn with_place(what: &str, scheme: &str, path: &str, server: &str) -> String {
    let (name, below) = path.split_once('/').unwrap_or((path, ""));
    let place = written(scheme, name, below);
    format!("must not name a {what}: must be {server:?}, since the {what} belongs to `url`, as in {place}")
}
