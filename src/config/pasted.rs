//! Addresses that other programs use for the same places: explains which address to write instead.
//!
//! The messages repeat no part that may be a secret: nothing after a question mark, and nothing before an `@` unless it
//! is a container's name.

use percent_encoding::percent_decode_str;

use super::place::{STORE_FORM, is_bucket, is_container};

/// The account of Azure's emulators. Source: Azure, "Use the Azurite emulator", "Well-known storage account and key".
const EMULATED_ACCOUNT: &str = "devstoreaccount1";

/// The beginning of a path in Google's JSON API, up to the bucket.
const JSON_API: &str = "storage/v1/b/";

/// Explains what to write for an address with another scheme than those of stores, or with one in capitals. `rest` is
/// what follows `://`.
pub(super) fn of_scheme(scheme: &str, rest: &str) -> Option<String> {
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Some(of_web_address(false, rest)),
        "https" => Some(of_web_address(true, rest)),
        "gcs" | "gss" => Some(format!("must be gs://{} for Google Cloud Storage", repeated(rest, "bucket/prefix"))),
        "azure" | "abfs" | "abfss" | "adl" | "wasb" | "wasbs" => Some(of_azure(rest)),
        lower @ ("s3" | "gs" | "az" | "file") if lower != scheme => {
            let form = match lower {
                "file" => "/dir",
                "az" => "container/prefix",
                _ => "bucket/prefix",
            };
            Some(format!("must be {lower}://{}, with the scheme in lower case", repeated(rest, form)))
        }
        // Hadoop's names of S3.
        "s3a" | "s3n" => Some(format!("must be s3://{}", repeated(rest, "bucket/prefix"))),
        _ => None,
    }
}

/// Explains what to write for a place `rest` in Azure that contains an `@`.
pub(super) fn of_azure_with_user(rest: &str) -> Option<String> {
    let (before, after) = rest.rsplit_once('@')?;
    let (host, path) = after.split_once('/').unwrap_or((after, ""));
    let is_short = !before.contains(['/', ':']);
    if is_short && azure_account(&host.to_ascii_lowercase()).is_some() {
        return Some(of_azure(rest));
    }
    // What precedes the @ may also be a password.
    let is_account = is_short && is_container(host);
    is_account
        .then(|| format!("must be az://{} with the account's name in `account`, not before an @", place(host, path)))
}

/// Explains what to write for `container@account.dfs.core.windows.net/path`, as Hadoop's drivers write it, or for
/// `container/path`.
fn of_azure(rest: &str) -> String {
    let (address, has_sas) = without_query(rest);
    if let Some((container, after)) = address.rsplit_once('@') {
        let (host, path) = after.split_once('/').unwrap_or((after, ""));
        if let Some(found) = azure_account(&host.to_ascii_lowercase()).filter(|_| is_container(container)) {
            return in_account(&place(container, path), &found, has_sas);
        }
    }

    let address = Some(address).filter(|address| !address.contains(['@', '.']) || address.contains('/'));
    let place = address.map_or_else(|| "container/prefix".to_owned(), |address| repeated(address, "container/prefix"));
    format!("must be az://{place} for Azure Blob Storage, with the account's name in `account`")
}

/// Explains which address to write instead of one for a browser or an interface over HTTP.
fn of_web_address(is_tls: bool, rest: &str) -> String {
    let (address, has_sas) = without_query(rest);
    let (authority, path) = address.split_once('/').unwrap_or((address, ""));
    let path = if rest.contains('@') { "" } else { path.trim_matches('/') };
    let authority = authority.to_ascii_lowercase();
    let host = authority.strip_suffix(if is_tls { ":443" } else { ":80" }).unwrap_or(&authority);

    if let Some(found) = azure_account(host) {
        return in_account(or(path, "container/prefix"), &found, has_sas);
    }
    if host == "portal.azure.com" {
        return "is a page of Azure's portal: must be az://container/prefix with the account's name in `account`"
            .to_owned();
    }
    if let Some(place) = in_google(host, path) {
        return format!("must be gs://{place}");
    }
    if let Some((bucket, path, region)) = in_aws(host, path) {
        let region = region.map_or_else(String::new, |region| format!(" with `region` set to {region:?}"));
        return format!("must be s3://{}{region}", place(bucket, path));
    }

    let scheme = if is_tls { "https" } else { "http" };
    if rest.contains('@') {
        return format!("{STORE_FORM}; the address of a server belongs to `endpoint_url`");
    }
    match path.split_once('/').unwrap_or((path, "")) {
        (EMULATED_ACCOUNT, path) => {
            let endpoint = format!("{scheme}://{host}/{EMULATED_ACCOUNT}");
            in_account(or(path, "container/prefix"), &(EMULATED_ACCOUNT.to_owned(), Some(endpoint)), has_sas)
        }
        _ => match of_json_api(path) {
            // An emulator, or a server in front of Google's.
            Some(place) => format!("must be gs://{place} with `endpoint_url` set to \"{scheme}://{host}\""),
            None => format!("{STORE_FORM}; the address of a server belongs to `endpoint_url`"),
        },
    }
}

/// Returns what precedes a question mark or a hash, and whether a signature follows.
fn without_query(rest: &str) -> (&str, bool) {
    (rest.split(['?', '#']).next().unwrap_or_default(), rest.contains("sig="))
}

/// Returns a place to repeat in a message, unless it may contain a secret.
fn repeated(rest: &str, form: &str) -> String {
    let (address, _) = without_query(rest);
    if address.is_empty() || address.contains('@') { form.to_owned() } else { address.to_owned() }
}

fn or<'a>(path: &'a str, form: &'a str) -> &'a str {
    if path.is_empty() { form } else { path }
}

/// Joins the name of a bucket or container with the path in it.
fn place(name: &str, path: &str) -> String {
    match path.trim_matches('/') {
        "" => name.to_owned(),
        path => format!("{name}/{path}"),
    }
}

/// Describes the settings for a place in an account of Azure.
fn in_account(place: &str, (account, endpoint): &(String, Option<String>), has_sas: bool) -> String {
    let endpoint = endpoint.as_ref().map_or_else(String::new, |url| format!(" and `endpoint_url` set to {url:?}"));
    let sas = if has_sas { ", and the part after the question mark in a file that `sas_token_file` names" } else { "" };
    format!("must be az://{place} with `account` set to {account:?}{endpoint}{sas}")
}

/// Returns the account that a host of Azure belongs to, and the address of that host, unless it is the account's public
/// one. Source: Azure, "Storage account overview", "Storage account endpoints", and the endpoints of its other clouds.
fn azure_account(host: &str) -> Option<(String, Option<String>)> {
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

    let account = first.strip_suffix("-secondary").unwrap_or(first);
    let blob = format!("{first}.{}{domain}", services.replace("dfs.", "blob."));
    let is_public = blob == format!("{account}.blob.core.windows.net");
    Some((account.to_owned(), (!is_public).then(|| format!("https://{blob}"))))
}

/// Returns the place that an address of Google's names. Source: Google, "Request endpoints" of Cloud Storage.
fn in_google(host: &str, path: &str) -> Option<String> {
    const FORM: &str = "bucket/prefix";

    match host {
        "storage.googleapis.com" | "www.googleapis.com" => {
            let is_own = host == "storage.googleapis.com";
            of_json_api(path).or_else(|| is_own.then(|| or(path, FORM).to_owned()))
        }
        "storage.cloud.google.com" | "commondatastorage.googleapis.com" => Some(or(path, FORM).to_owned()),
        "firebasestorage.googleapis.com" => path.strip_prefix("v0/b/").and_then(of_bucket),
        "console.cloud.google.com" => {
            // The page of an object is `_details/bucket/key`. Options follow a semicolon.
            let path = path.split(';').next().unwrap_or_default();
            let place = path.strip_prefix("storage/browser").unwrap_or_default().trim_matches('/');
            Some(or(place.strip_prefix("_details/").unwrap_or(place), FORM).to_owned())
        }
        _ => {
            let bucket = host.strip_suffix(".storage.googleapis.com")?;
            is_bucket(bucket).then(|| place(bucket, path))
        }
    }
}

/// Returns the place that a path in Google's JSON API names, also one for a download or an upload.
fn of_json_api(path: &str) -> Option<String> {
    let path = path.strip_prefix("download/").or_else(|| path.strip_prefix("upload/")).unwrap_or(path);
    of_bucket(path.strip_prefix(JSON_API)?)
}

/// Returns the place that `bucket/o/key` names. The slashes of the key are encoded there.
fn of_bucket(path: &str) -> Option<String> {
    let (bucket, rest) = path.split_once('/').unwrap_or((path, ""));
    let key = rest.strip_prefix("o/").unwrap_or_default();
    let key = percent_decode_str(key).decode_utf8().ok().filter(|key| !key.contains(['%', '?', '#']));
    // A key that needs encoding is left out.
    is_bucket(bucket).then(|| place(bucket, &key.unwrap_or_default()))
}

/// Returns the bucket, the path and the region that an address of AWS's names. Source: Amazon S3, "Virtual hosting of
/// buckets".
fn in_aws<'a>(host: &'a str, path: &'a str) -> Option<(&'a str, &'a str, Option<&'a str>)> {
    if host.ends_with("console.aws.amazon.com") {
        let bucket = path.strip_prefix("s3/buckets/")?.split('/').next()?;
        return is_bucket(bucket).then_some((bucket, "", None));
    }

    let of_service = host.strip_suffix(".amazonaws.com")?;
    let labels = || of_service.split('.').collect::<Vec<_>>();
    let region_of = |service: &'a str| match service.strip_prefix("s3") {
        Some("") => Some(None),
        Some(region) => region.strip_prefix(['.', '-']).map(Some),
        None => None,
    };

    // The bucket is in the path.
    if labels().len() <= 2
        && let Some(region) = region_of(of_service)
    {
        let (bucket, path) = path.split_once('/').unwrap_or((path, ""));
        return is_bucket(bucket).then_some((bucket, path, region));
    }
    // The bucket is in the host, and may have dots.
    let at = of_service.rfind(".s3")?;
    let (bucket, service) = (&of_service[..at], &of_service[at + 1..]);
    let region = region_of(service)?;
    is_bucket(bucket).then_some((bucket, path, region))
}

#[cfg(test)]
#[cfg(all(feature = "azure", feature = "gcs"))]
mod tests {
    use super::super::address::StoreAddress;

    /// Asserts that each address is rejected with this text, and without its secrets.
    fn assert_translated(translations: &[(&str, &str)]) {
        for (url, cure) in translations {
            let error = StoreAddress::parse(url).unwrap_err();
            assert!(error.contains(cure) && !error.contains("hush"), "{url}: {error}");
        }
    }

    #[test]
    fn addresses_of_azure_are_translated() {
        let sas = "in a file that `sas_token_file` names";
        let of_emulator = "must be az://c/a with `account` set to \"devstoreaccount1\" and `endpoint_url` set to \
                           \"http://127.0.0.1:10000/devstoreaccount1\"";
        assert_translated(&[
            (
                "https://acct.blob.core.windows.net/models/a?sv=2023-11-03&sig=hush",
                "must be az://models/a with `account` set to \"acct\", and the part after the question mark in a file that \
                 `sas_token_file` names",
            ),
            ("https://ACCT.blob.core.windows.net/models", "must be az://models with `account` set to \"acct\""),
            ("HTTPS://acct.blob.core.windows.net:443/models", "must be az://models with `account` set to \"acct\""),
            ("https://acct.dfs.core.windows.net", "must be az://container/prefix with `account` set to \"acct\""),
            (
                "https://acct.blob.core.chinacloudapi.cn/models?sv=1&sig=hush",
                "must be az://models with `account` set to \"acct\" and `endpoint_url` set to \
                 \"https://acct.blob.core.chinacloudapi.cn\", and the part after the question mark",
            ),
            (
                "https://acct.dfs.core.usgovcloudapi.net/models",
                "must be az://models with `account` set to \"acct\" and `endpoint_url` set to \
                 \"https://acct.blob.core.usgovcloudapi.net\"",
            ),
            ("https://acct.blob.core.cloudapi.de", "`endpoint_url` set to \"https://acct.blob.core.cloudapi.de\""),
            ("https://acct.z01.blob.storage.azure.net/c", "set to \"https://acct.z01.blob.storage.azure.net\""),
            (
                "https://acct-secondary.blob.core.windows.net/c",
                "`account` set to \"acct\" and `endpoint_url` set to \"https://acct-secondary.blob.core.windows.net\"",
            ),
            (
                "https://acct.privatelink.blob.core.windows.net/c",
                "`account` set to \"acct\" and `endpoint_url` set to \"https://acct.privatelink.blob.core.windows.net\"",
            ),
            ("https://evilcore.windows.net/c?sig=hush", "belongs to `endpoint_url`"),
            ("https://acct.blob.evilcore.windows.net/c", "belongs to `endpoint_url`"),
            ("https://acct.queue.core.windows.net/c", "belongs to `endpoint_url`"),
            ("http://127.0.0.1:10000/devstoreaccount1/c/a", of_emulator),
            ("http://127.0.0.1:10000/devstoreaccount1", "must be az://container/prefix with `account` set to"),
            ("http://azurite:10000/devstoreaccount1/c?sig=hush", sas),
            ("abfss://models@acct.dfs.core.windows.net/a", "must be az://models/a with `account` set to \"acct\""),
            ("wasbs://models@acct.blob.core.windows.net/a?sv=1&sig=hush", sas),
            ("abfs://models/a", "must be az://models/a for Azure Blob Storage, with the account's name in `account`"),
            ("azure://models?sig=hush", "must be az://models for Azure"),
            ("wasbs://me:hush@acct.blob.core.windows.net/a", "must be az://container/prefix for Azure"),
            ("adl://acct.azuredatalakestore.net", "must be az://container/prefix for Azure"),
            ("az://models@acct.dfs.core.windows.net/a", "must be az://models/a with `account` set to \"acct\""),
            ("az://hush@models/a", "must be az://models/a with the account's name in `account`, not before an @"),
            ("az://me:hush@models", "must not contain a user and password"),
            ("AZ://models/a", "must be az://models/a, with the scheme in lower case"),
            ("Az://me:hush@models", "must be az://container/prefix, with the scheme in lower case"),
            ("https://portal.azure.com/#view/x", "is a page of Azure's portal: must be az://container/prefix"),
            (
                "az://models/a?sv=1&sig=hush",
                "must be az://models/a, and the part after the question mark in a file that",
            ),
            ("az://Models/A", "must be az://models/A, since the names of containers are in lower case"),
        ]);
    }

    #[test]
    fn addresses_of_google_are_translated() {
        assert_translated(&[
            ("https://storage.googleapis.com/models/a/", "must be gs://models/a"),
            ("https://storage.googleapis.com/", "must be gs://bucket/prefix"),
            ("https://models.storage.googleapis.com/a", "must be gs://models/a"),
            ("https://models.example.com.storage.googleapis.com", "must be gs://models.example.com"),
            ("https://storage.googleapis.com/storage/v1/b/models/o/a%2Fb?alt=media", "must be gs://models/a/b"),
            ("https://storage.googleapis.com/storage/v1/b/models", "must be gs://models"),
            ("https://storage.googleapis.com/download/storage/v1/b/models/o/a", "must be gs://models/a"),
            ("https://www.googleapis.com/storage/v1/b/models/o", "must be gs://models"),
            ("https://storage.cloud.google.com/models/a?authuser=1", "must be gs://models/a"),
            (
                "https://console.cloud.google.com/storage/browser/models/a;tab=objects?project=p",
                "must be gs://models/a",
            ),
            ("https://console.cloud.google.com/storage/browser/_details/models/a", "must be gs://models/a"),
            ("https://console.cloud.google.com/storage", "must be gs://bucket/prefix"),
            ("https://firebasestorage.googleapis.com/v0/b/models/o/a%2Fb?token=hush", "must be gs://models/a/b"),
            (
                "http://127.0.0.1:4443/storage/v1/b/models/o",
                "must be gs://models with `endpoint_url` set to \"http://127.0.0.1:4443\"",
            ),
            ("gcs://models/a", "must be gs://models/a for Google Cloud Storage"),
            ("GS://models/a", "must be gs://models/a, with the scheme in lower case"),
        ]);
    }

    #[test]
    fn addresses_of_s3_are_translated() {
        assert_translated(&[
            ("https://models.s3.amazonaws.com/a", "must be s3://models/a"),
            ("https://models.s3.eu-west-1.amazonaws.com/a", "s3://models/a with `region` set to \"eu-west-1\""),
            ("https://a.b.s3-eu-west-1.amazonaws.com", "s3://a.b with `region` set to \"eu-west-1\""),
            ("https://s3.eu-west-1.amazonaws.com/models/a", "s3://models/a with `region` set to \"eu-west-1\""),
            ("https://s3.amazonaws.com/models?X-Amz-Signature=hush", "must be s3://models"),
            ("https://eu-west-1.console.aws.amazon.com/s3/buckets/models?prefix=a/", "must be s3://models"),
            ("http://127.0.0.1:9000/b?sig=hush", "belongs to `endpoint_url`"),
            ("http://me:hush@127.0.0.1:9000/b", "belongs to `endpoint_url`"),
            ("s3a://models/a", "must be s3://models/a"),
            ("S3://models/a", "must be s3://models/a, with the scheme in lower case"),
            ("FILE:///srv/files", "must be file:///srv/files, with the scheme in lower case"),
        ]);
    }

    #[test]
    fn a_translation_is_a_valid_address() {
        for url in [
            "https://acct.blob.core.windows.net/models/a",
            "http://127.0.0.1:10000/devstoreaccount1/models/a",
            "abfss://models@acct.dfs.core.windows.net/a",
            "https://models.storage.googleapis.com/a",
            "https://storage.googleapis.com/storage/v1/b/models/o/a%2Fb",
            "https://models.s3.eu-west-1.amazonaws.com/a",
            "GS://models/a",
        ] {
            let error = StoreAddress::parse(url).unwrap_err();
            let written = error.strip_prefix("must be ").and_then(|rest| rest.split([' ', ',']).next()).unwrap();
            assert!(StoreAddress::parse(written).is_ok(), "{url}: {error}");
        }
    }
}
