//! The addresses in a configuration: of stores, S3 servers, collectors and nats-servers.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use gantry_proto::StoreName;
use gantry_store::{endpoint, misplaced};

use super::pasted;
use super::place::{STORE_FORM, access_point, is_bucket, is_container, percent_decode, written};
use super::redact;

/// The message repeats no part of the address, since everything before its last `@` may be a password.
const NO_USER: &str = "must not contain a user and password: must be s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, nats:STORE or file:///dir";

/// The location of a store's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAddress {
    /// A bucket, and the prefix of the keys in it.
    S3 {
        /// The bucket's name, or the ARN of an access point, with a colon before its name.
        bucket: String,
        /// The text before each key in the bucket; empty, or ending in `/`.
        prefix: String,
    },
    /// A bucket of Google Cloud Storage, and the prefix of the keys in it.
    Gcs {
        /// The bucket's name.
        bucket: String,
        /// The text before each key in the bucket; empty, or ending in `/`.
        prefix: String,
    },
    /// A container of Azure Blob Storage, and the prefix of the keys in it.
    Azure {
        /// The container's name.
        container: String,
        /// The text before each key in the container; empty, or ending in `/`.
        prefix: String,
    },
    /// A store of other relays.
    Nats {
        /// The name under which they serve it.
        store: StoreName,
    },
    /// A directory.
    File {
        /// Its absolute path.
        dir: PathBuf,
    },
}

/// Where a server accepts connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = String;

    /// Parses `127.0.0.1:9000`, `[::1]:9000` or `unix:/run/gantry.sock`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("must name the socket, as in unix:/run/gantry/gateway.sock".to_owned()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| {
                "must be an address and a port, as in 127.0.0.1:9000 or [::1]:9000, or unix:PATH".to_owned()
            }),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl StoreAddress {
    /// Parses an address. `%XX` in its path stands for a byte, as in every URL.
    ///
    /// # Errors
    /// If the address is invalid. The error describes a valid one.
    pub fn parse(url: &str) -> Result<Self, String> {
        if let Some(name) = url.strip_prefix("nats:") {
            return parse_uplink(name);
        }
        if let Some(cure) = pasted::of_connection_string(url) {
            return Err(cure);
        }
        if redact::has_storage_key(url) {
            return Err(pasted::KEY_CURE.to_owned());
        }

        let parsed = Self::parse_place(url);
        match pasted::before_signature(url).filter(|_| parsed.is_err() || pasted::has_parameters_of_signature(url)) {
            Some(place) => Err(pasted::of_signature(url, place, Self::parse_place(place).err())),
            None => parsed,
        }
    }

    /// Parses the address of a bucket, a container or a directory.
    fn parse_place(url: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = url.split_once("://") else {
            let cure = pasted::of_bare_host(url).or_else(|| pasted::of_missing_slashes(url));
            return Err(cure.unwrap_or_else(|| STORE_FORM.to_owned()));
        };
        if let Some(cure) = pasted::of_scheme(scheme, rest) {
            return Err(cure);
        }
        if let Some((cloud, feature)) = missing(scheme) {
            return Err(format!(
                "this gantry was built without stores in {cloud}: build it with the feature `{feature}`"
            ));
        }
        if let Some(cure) = pasted::of_host(scheme, rest).filter(|_| matches!(scheme, "s3" | "gs" | "az")) {
            return Err(cure);
        }
        if let Some(found) = rest.find(['?', '#']) {
            if let Some(cure) = pasted::of_azure_with_sas(rest).filter(|_| scheme == "az" && !rest.contains('@')) {
                return Err(cure);
            }
            return Err(format!(
                "takes no options after {:?}: {} have keys of their own, and in a prefix write %3F or %23",
                &rest[found..=found],
                options(scheme)
            ));
        }

        match scheme {
            "s3" => parse_s3(rest),
            "gs" => {
                let (bucket, prefix) = parse_bucket(rest, "gs://bucket/prefix")?;
                Ok(Self::Gcs { bucket, prefix })
            }
            "az" => {
                let (container, prefix) = parse_container(rest)?;
                Ok(Self::Azure { container, prefix })
            }
            "file" => parse_file(rest),
            other if other.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                Err(format!("{STORE_FORM}, not {other}://"))
            }
            _ => Err(STORE_FORM.to_owned()),
        }
    }
}

/// Returns the cloud and the feature of a scheme whose stores are not a part of this build.
fn missing(scheme: &str) -> Option<(&'static str, &'static str)> {
    match scheme {
        "gs" if cfg!(not(feature = "gcs")) => Some(("Google Cloud", "gcs")),
        "az" if cfg!(not(feature = "azure")) => Some(("Azure", "azure")),
        _ => None,
    }
}

/// Parses the name of a store that other relays serve.
fn parse_uplink(name: &str) -> Result<StoreAddress, String> {
    if name.contains(['/', '@', ':']) {
        return Err(
            "must be nats:STORE, with the name of the upstream store; the server belongs to `nats.url`".to_owned()
        );
    }
    if name.contains(['=', '&', '%']) {
        return Err("must be nats:STORE".to_owned());
    }
    let store = name.parse().map_err(|error| format!("{error}: must be nats:STORE"))?;
    Ok(StoreAddress::Nats { store })
}

/// Names the options that a store's address often contains elsewhere.
fn options(scheme: &str) -> &'static str {
    match scheme {
        "gs" => "billing project and endpoint",
        "az" => "account and endpoint",
        _ => "endpoint and region",
    }
}

/// Describes a name that is missing or not valid. It is repeated unless it may contain a secret, such as a signature that
/// follows it without a question mark.
fn invalid_name(name: &str, what: &str, form: &str) -> String {
    let is_printed = !name.contains(['=', '&', '%', ':']) && !misplaced::is_secret(name);
    if name.is_empty() {
        format!("names no {what}: must be {form}")
    } else if is_printed {
        format!("{name:?} is not a valid {what} name: must be {form}")
    } else {
        format!("has no valid {what} name: must be {form}")
    }
}

/// Splits a text into the name of a bucket, and a prefix. `form` is that of an address.
fn parse_bucket(rest: &str, form: &str) -> Result<(String, String), String> {
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if !is_bucket(name) {
        return Err(if rest.contains('@') { NO_USER.to_owned() } else { invalid_name(name, "bucket", form) });
    }
    Ok((name.to_owned(), parse_prefix(prefix)?))
}

fn parse_container(rest: &str) -> Result<(String, String), String> {
    if let Some(cure) = pasted::of_azure_with_user(rest) {
        return Err(cure);
    }

    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let lower = name.to_ascii_lowercase();
    if lower != name && is_container(&lower) {
        let place = written("az", &lower, prefix);
        let reason = "since the names of containers are in lower case";
        return Err(format!("{name:?} is not a valid container name: must be {place}, {reason}"));
    }
    if !is_container(name) {
        let form = "az://container/prefix, with 3 to 63 lower-case letters, digits and single hyphens in its name";
        return Err(if rest.contains('@') { NO_USER.to_owned() } else { invalid_name(name, "container", form) });
    }
    Ok((name.to_owned(), parse_prefix(prefix)?))
}

fn parse_s3(rest: &str) -> Result<StoreAddress, String> {
    if rest.starts_with("arn:") {
        let (bucket, prefix) = access_point(rest)?;
        return Ok(StoreAddress::S3 { bucket, prefix: parse_prefix(prefix)? });
    }

    let (bucket, prefix) = parse_bucket(rest, "s3://bucket/prefix")?;
    Ok(StoreAddress::S3 { bucket, prefix })
}

fn parse_prefix(text: &str) -> Result<String, String> {
    let mut prefix = percent_decode(text)?;
    if !prefix.is_empty() && !prefix.ends_with('/') {
        prefix.push('/');
    }
    Ok(prefix)
}

fn parse_file(rest: &str) -> Result<StoreAddress, String> {
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(if path.contains('@') {
            NO_USER.to_owned()
        } else if path.starts_with(['.', '~']) {
            "must be an absolute path after three slashes, as in file:///srv/files; --store accepts NAME=./DIR"
                .to_owned()
        } else if path.contains(['=', '&']) {
            "must be an absolute path after three slashes, as in file:///srv/files".to_owned()
        } else {
            format!("must be an absolute path after three slashes, as in file:///{path}")
        });
    }
    Ok(StoreAddress::File { dir: PathBuf::from(percent_decode(path)?) })
}

/// Returns the addresses in a list of nats-servers, separated by commas.
pub(super) fn servers(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|server| !server.is_empty())
}

/// Returns what follows `http://`, or with `is_tls_allowed` also `https://`, in an address without a user.
fn after_scheme(url: &str, is_tls_allowed: bool) -> Option<&str> {
    let tls = is_tls_allowed.then(|| url.strip_prefix("https://")).flatten();
    url.strip_prefix("http://").or(tls).filter(|rest| !rest.is_empty())
}

fn is_web_scheme(scheme: &str) -> bool {
    matches!(scheme, "http" | "https")
}

/// Checks the address of a server of objects.
pub(super) fn check_endpoint(url: &str) -> Result<(), String> {
    match after_scheme(url, true) {
        None if url.split_once("://").is_some_and(|(scheme, _)| is_web_scheme(&scheme.to_ascii_lowercase())) => {
            Err("must begin with http:// or https://, in lower case, and name a host".to_owned())
        }
        None => Err("must begin with http:// or https:// and name a host".to_owned()),
        Some(rest) if rest.contains('@') => {
            Err("must not contain a user and password: credentials have keys of their own".to_owned())
        }
        Some(rest) if rest.contains("sig=") => {
            Err("takes no options after the path: a SAS belongs to a file that `sas_token_file` names".to_owned())
        }
        Some(rest) if rest.contains(['?', '#']) => Err("takes no options after the path".to_owned()),
        Some(rest) if rest.starts_with('/') || !rest.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err("must begin with http:// or https:// and name a host".to_owned())
        }
        Some(rest) => {
            endpoint::check(url)?;
            let scheme = url.split_once("://").map_or("https", |(scheme, _)| scheme);
            pasted::of_endpoint(scheme, rest).map_or(Ok(()), Err)
        }
    }
}

/// Checks the address of a collector of traces.
pub(super) fn check_collector(url: &str) -> Result<(), String> {
    match after_scheme(url, false) {
        Some(rest) if !rest.contains('@') => Ok(()),
        _ => Err("must be http://HOST:PORT; for an encrypted connection, run a collector on this host".to_owned()),
    }
}

/// Returns the host and port of an `http://` address.
#[must_use]
pub fn http_authority(url: &str) -> String {
    let rest = after_scheme(url, false).unwrap_or(url);
    let host = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { host.to_owned() } else { format!("{host}:80") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(all(feature = "azure", feature = "gcs")))]
    #[test]
    fn a_store_that_is_not_a_part_of_the_build_names_its_feature() {
        for (url, feature) in [("gs://bucket", "gcs"), ("az://container", "azure")] {
            let error = StoreAddress::parse(url).unwrap_err();
            assert!(error.ends_with(&format!("build it with the feature `{feature}`")), "{error}");
        }
    }

    #[cfg(all(feature = "azure", feature = "gcs"))]
    #[test]
    fn a_name_that_may_contain_a_secret_is_not_repeated() {
        for url in [
            "az://models&sv=1&sig=hush",
            "az://models%3Fsv=1&sig=hush",
            "gs://models&X-Goog-Signature=hush",
            "s3://models&X-Amz-Signature=hush",
            "az://acct:hush/models",
        ] {
            let error = StoreAddress::parse(url).unwrap_err();
            assert!(error.starts_with("has no valid ") && !error.contains("hush"), "{url}: {error}");
        }
    }

    #[cfg(all(feature = "azure", feature = "gcs"))]
    #[test]
    fn a_secret_in_a_path_is_rejected_and_not_repeated() {
        let sas = "and the SAS in a file that `sas_token_file` names";
        let of_account = format!("must be az://models with `account` set to \"acct\", {sas}");
        for (url, cure) in [
            ("https://acct.blob.core.windows.net/models/a&sig=hush", &*of_account),
            ("https://acct.blob.core.windows.net/models/sv=1&sr=c&sig=hu/sh%3D", &*of_account),
            ("acct.blob.core.windows.net/models/sv=1&sig=hush", &*of_account),
            ("az://acct.blob.core.windows.net/models/sv=1&sig=hush", &*of_account),
            ("az://models/a&sv=1&sig=hush", &*format!("must be az://models, {sas}")),
            ("az://models/b/sv=1&sig=hush", &*format!("must be az://models/b, {sas}")),
            (
                "az://Models/a&sv=1&sig=hush",
                "must be az://models, since the names of containers are in lower case, and",
            ),
            ("AZ://models/a&sig=hush", "must be az://models, with the scheme in lower case, and the SAS in a file"),
            ("azure://models/a&sig=hush", "must be az://models for Azure Blob Storage, with the account's name in"),
            ("gcs://b/o&X-Goog-Signature=hush", "must be gs://b for Google Cloud Storage, without the signature"),
            ("https://storage.googleapis.com/b/o&X-Goog-Signature=hush", "must be gs://b, without the signature"),
            ("http://127.0.0.1:10000/devstoreaccount1/models/sv=1&sig=hush", sas),
        ] {
            let error = StoreAddress::parse(url).unwrap_err();
            assert!(error.contains(cure) && !error.contains("hu"), "{url}: {error}");
        }

        let key = format!("{}==", "aB3+hush".repeat(11).split_at(86).0);
        for url in [format!("az://{key}"), format!("az://models/{key}"), key] {
            let error = StoreAddress::parse(&url).unwrap_err();
            assert!(error.contains("the key in a file that `account_key_file` names"), "{error}");
            assert!(!error.to_ascii_lowercase().contains("hush"), "{error}");
        }
        for url in
            ["s3://b/date=1/sig=2", "s3://b/a=1/sig=2&c", "gs://b/sig=1&c", "file:///x&sig=1", "az://models/sig%3D1&x"]
        {
            assert!(StoreAddress::parse(url).is_ok(), "{url}");
        }
    }

    #[cfg(all(feature = "azure", feature = "gcs"))]
    #[test]
    fn addresses_of_clouds_are_parsed() {
        for (scheme, bucket) in [("gs", "b.example_1"), ("az", "con-tainer1")] {
            let found = StoreAddress::parse(&format!("{scheme}://{bucket}/p%20q/r"));
            let (bucket, prefix) = (bucket.to_owned(), "p q/r/".to_owned());
            assert_eq!(
                found,
                Ok(if scheme == "gs" {
                    StoreAddress::Gcs { bucket, prefix }
                } else {
                    StoreAddress::Azure { container: bucket, prefix }
                })
            );
        }
        assert!(StoreAddress::parse("az://$web").is_ok());
    }

    #[test]
    fn store_addresses_are_parsed() {
        let s3 =
            |bucket: &str, prefix: &str| Ok(StoreAddress::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() });
        let access_point = "arn:aws:s3:eu-west-1:123456789012:accesspoint:point";

        assert_eq!(StoreAddress::parse("s3://b"), s3("b", ""));
        assert_eq!(StoreAddress::parse("s3://b/"), s3("b", ""));
        assert_eq!(StoreAddress::parse("s3://b/p"), s3("b", "p/"));
        for written in [access_point, "arn:aws:s3:eu-west-1:123456789012:accesspoint/point"] {
            assert_eq!(StoreAddress::parse(&format!("s3://{written}")), s3(access_point, ""));
            assert_eq!(StoreAddress::parse(&format!("s3://{written}/p/q")), s3(access_point, "p/q/"));
        }
        assert_eq!(StoreAddress::parse("s3://b/p/q/"), s3("b", "p/q/"));
        assert_eq!(StoreAddress::parse("s3://b/%3F%25"), s3("b", "?%/"));
        assert_eq!(StoreAddress::parse("file:///a%20b/c"), Ok(StoreAddress::File { dir: "/a b/c".into() }));
    }

    #[test]
    fn invalid_store_addresses_are_rejected() {
        for url in [
            "",
            "b",
            "s3://",
            "s3:///p",
            "s3://b c/p",
            "file://a",
            "file:",
            "s3://b/%zz",
            "s3://b/%f",
            "s3://b/%",
            "s3://b/%+1",
            "file:///ü%é",
            "file:///%ff",
            "s3://b#x",
            "gs://",
            "gs://b?generation=1",
            "gs://b c",
            "az://",
            "az://Container",
            "az://a--b",
            "az://ab",
            "az://container?sv=1",
        ] {
            assert!(StoreAddress::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn arns_that_are_not_supported_are_named() {
        for (arn, problem) in [
            ("arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap", "multi-region"),
            ("arn:aws:s3::123456789012:accesspoint:mfzwi23gnjvgw.mrap/prefix", "multi-region"),
            ("arn:aws:s3-outposts:us-west-2:123456789012:outpost/op-01/accesspoint/reports", "Outposts"),
            ("arn:aws:s3-object-lambda:us-west-2:123456789012:accesspoint/reports", "Object Lambda"),
            ("arn:aws:s3:::bucket", "s3://bucket/prefix"),
            ("arn:aws:s3:us-west-2:123456789012:accesspoint/", "accesspoint/NAME"),
            ("arn:aws:s3:us-west-2:accesspoint/reports", "accesspoint/NAME"),
            ("arn:aws:sns:us-west-2:123456789012:accesspoint/reports", "accesspoint/NAME"),
            ("arn:", "accesspoint/NAME"),
        ] {
            let error = StoreAddress::parse(&format!("s3://{arn}")).unwrap_err();
            assert!(error.contains(problem), "{arn}: {error}");
        }
    }

    #[test]
    fn port_80_is_the_default() {
        assert_eq!(http_authority("http://h:4318/v1/traces"), "h:4318");
        assert_eq!(http_authority("http://h/v1/traces"), "h:80");
        assert_eq!(http_authority("http://[::1]/x"), "[::1]:80");
    }
}
