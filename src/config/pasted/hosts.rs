//! Reads the hosts and paths of Azure's, Google's and AWS's own addresses.

use super::super::place::{is_account, is_bucket};

/// The beginning of a path in Google's JSON API, up to the bucket.
const JSON_API: &str = "storage/v1/b/";

/// An account of Azure, and the address of its blobs unless it is the public one.
pub(super) struct Account {
    pub(super) name: String,
    pub(super) endpoint: Option<String>,
}

impl Account {
    /// Names the keys of the configuration, with their values.
    pub(super) fn settings(&self) -> String {
        let endpoint = self.endpoint.as_ref();
        let endpoint = endpoint.map_or_else(String::new, |url| format!(" and `endpoint_url` set to {url:?}"));
        format!("`account` set to {:?}{endpoint}", self.name)
    }
}

/// Returns the account that a host of Azure belongs to, and the address of that host, unless it is the account's public
/// one. Source: Azure, "Storage account overview", "Storage account endpoints", and the endpoints of its other clouds.
pub(super) fn azure_account(host: &str) -> Option<Account> {
    const DOMAINS: [&str; 5] = [
        "core.windows.net",
        "core.chinacloudapi.cn",
        "core.usgovcloudapi.net",
        "core.cloudapi.de",
        // With a zone before the service, as in account.z01.blob.storage.azure.net.
        "storage.azure.net",
    ];

    let (first, rest) = host.split_once('.')?;
    let domain = DOMAINS.iter().find(|domain| rest.ends_with(**domain))?;
    let services = rest.strip_suffix(domain)?;
    if !services.ends_with('.') || !services.split('.').any(|label| matches!(label, "blob" | "dfs")) {
        return None;
    }

    let name = first.strip_suffix("-secondary").unwrap_or(first);
    let is_host = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    if !is_account(name) || !is_host {
        return None;
    }
    let blob = format!("{first}.{}{domain}", services.replace("dfs.", "blob."));
    let is_public = blob == format!("{name}.blob.core.windows.net");
    Some(Account { name: name.to_owned(), endpoint: (!is_public).then(|| format!("https://{blob}")) })
}

/// Returns the bucket and the path that an address of Google's names. The bucket is empty if the address names none.
/// Source: Google, "Request endpoints" of Cloud Storage.
pub(super) fn in_google<'a>(host: &'a str, path: &'a str) -> Option<(&'a str, &'a str)> {
    let split = |path: &'a str| path.split_once('/').unwrap_or((path, ""));

    match host {
        "storage.googleapis.com" => of_json_api(path).or_else(|| Some(split(path))),
        "www.googleapis.com" => of_json_api(path),
        "storage.cloud.google.com" | "commondatastorage.googleapis.com" => Some(split(path)),
        "firebasestorage.googleapis.com" => path.strip_prefix("v0/b/").and_then(of_bucket),
        "console.cloud.google.com" => {
            // The page of an object is `_details/bucket/key`. Options follow a semicolon.
            let path = path.split(';').next().unwrap_or_default();
            let place = path.strip_prefix("storage/browser").unwrap_or_default().trim_matches('/');
            Some(split(place.strip_prefix("_details/").unwrap_or(place)))
        }
        _ => {
            let bucket = host.strip_suffix(".storage.googleapis.com")?;
            is_bucket(bucket).then_some((bucket, path))
        }
    }
}

/// Returns the place that a path in Google's JSON API names, also one for a download or an upload.
pub(super) fn of_json_api(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix("download/").or_else(|| path.strip_prefix("upload/")).unwrap_or(path);
    of_bucket(path.strip_prefix(JSON_API)?)
}

/// Returns the place that `bucket/o/key` names. The slashes of the key are encoded there.
fn of_bucket(path: &str) -> Option<(&str, &str)> {
    let (bucket, rest) = path.split_once('/').unwrap_or((path, ""));
    is_bucket(bucket).then(|| (bucket, rest.strip_prefix("o/").unwrap_or_default()))
}

/// Returns the bucket, the path and the region that an address of AWS's names. Source: Amazon S3, "Virtual hosting of
/// buckets", and "Amazon Simple Storage Service endpoints and quotas".
pub(super) fn in_aws<'a>(host: &'a str, path: &'a str) -> Option<(&'a str, &'a str, Option<&'a str>)> {
    if host.ends_with("console.aws.amazon.com") {
        let bucket = path.strip_prefix("s3/buckets/")?.split('/').next()?;
        return is_bucket(bucket).then_some((bucket, "", None));
    }

    let of_service = host.strip_suffix(".amazonaws.com").or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
    // The bucket is in the path.
    if let Some(region) = region_of(of_service) {
        let (bucket, path) = path.split_once('/').unwrap_or((path, ""));
        return is_bucket(bucket).then_some((bucket, path, region));
    }
    // The bucket is in the host, and may have dots.
    let at = of_service.rfind(".s3")?;
    let (bucket, service) = (&of_service[..at], &of_service[at + 1..]);
    let region = region_of(service)?;
    is_bucket(bucket).then_some((bucket, path, region))
}

/// Returns the region in the name of S3's service, as in `s3.dualstack.eu-west-1`, which may be missing. Returns `None`
/// for other services.
fn region_of(service: &str) -> Option<Option<&str>> {
    let mut rest = service.strip_prefix("s3")?;
    for part in ["fips", "website", "dualstack"] {
        let after = rest.strip_prefix(['.', '-']).and_then(|rest| rest.strip_prefix(part));
        rest = after.unwrap_or(rest);
    }
    if rest.is_empty() || matches!(rest, "-accelerate" | "-accelerate.dualstack" | "-external-1") {
        return Some(None);
    }

    let region = rest.strip_prefix(['.', '-'])?;
    let (words, number) = region.rsplit_once('-')?;
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
    let is_region = words.split('-').count() >= 2
        && words.split('-').all(is_word)
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit());
    is_region.then_some(Some(region))
}
