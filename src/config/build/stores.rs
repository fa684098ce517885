//! Builds the options of the stores.

use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_proto::StoreName;
use gantry_store::{file, s3, shared};

use super::Build;
use crate::config::address::StoreAddress;
use crate::config::error::Problem;
use crate::config::kinds::{OF_KINDS, has_keys_of};
use crate::config::layer::DEFAULTS;
use crate::config::{Settings, Store, check, keys};

impl Build {
    pub(super) fn store(&mut self, name: &StoreName, keys: keys::Store, settings: &Settings) -> Option<Store> {
        let Some(url) = &keys.url else {
            let url_key = format!("stores.{name}.url");
            if !self.problems.iter().any(|problem| problem.is_about(&url_key)) {
                let place = self.origin_of_store(name);
                self.problems.push(Problem::store_url_missing(name.as_str(), &place));
            }
            return None;
        };

        // The value has passed the check of the table.
        let address = StoreAddress::parse(url).ok()?;
        self.report_keys_of_other_kinds(name, url);
        match address {
            StoreAddress::Nats { store } => Some(Store::Nats(Box::new(self.uplink(name, store, settings)?))),
            StoreAddress::File { dir } => Some(Store::File(file::Options::new(dir))),
            StoreAddress::S3 { bucket, prefix } => Some(Store::S3(Box::new(self.s3(name, bucket, prefix, keys)))),
            #[cfg(feature = "gcs")]
            StoreAddress::Gcs { bucket, prefix } => Some(Store::Gcs(Box::new(self.gcs(name, bucket, prefix, keys)))),
            #[cfg(feature = "azure")]
            StoreAddress::Azure { container, prefix } => {
                self.azure(name, container, prefix, keys).map(|options| Store::Azure(Box::new(options)))
            }
            #[cfg(not(feature = "gcs"))]
            StoreAddress::Gcs { .. } => None,
            #[cfg(not(feature = "azure"))]
            StoreAddress::Azure { .. } => None,
        }
    }

    /// Reports keys that have no effect on a store of this kind.
    fn report_keys_of_other_kinds(&mut self, name: &StoreName, url: &str) {
        if !url.starts_with("nats:") {
            self.report_uplink_keys(name);
        }
        for (scheme, of_kind) in OF_KINDS.into_iter().filter(|(scheme, _)| !has_keys_of(url, scheme)) {
            let keys = of_kind.iter().map(|key| format!("stores.{name}.{key}"));
            let set: Vec<_> = keys.filter(|key| self.origin(key) != DEFAULTS).collect();
            for key in set {
                let place = self.origin(&key);
                let keys = format!(
                    "`{key}` ({place}) and `stores.{name}.url` ({})",
                    self.origin(&format!("stores.{name}.url"))
                );
                let cure = match key.ends_with(".requester_pays") && url.starts_with("gs://") {
                    true => format!("`{key}` applies only to stores in s3://: set `stores.{name}.billing_project`"),
                    false => format!("`{key}` applies only to stores in {scheme}, remove it"),
                };
                self.problems.push(Problem::Conflict { keys, cure });
            }
        }
    }

    fn s3(&mut self, name: &StoreName, bucket: String, prefix: String, keys: keys::Store) -> s3::Options {
        let section = format!("stores.{name}");
        let limits = limits(&keys);
        let tls_ca_file = self.ca_file(&section, &keys);

        // The SDK reads its variables itself, with rules of its own for the region.
        let is_of_sdk = self.origin(&format!("{section}.endpoint_url")).starts_with("AWS_");
        s3::Options {
            prefix,
            credentials: self.s3_credentials(&section, &keys),
            endpoint_url: keys.endpoint_url.filter(|_| !is_of_sdk),
            region: keys.region,
            path_style: keys.path_style,
            tls_ca_file,
            profile: keys.profile,
            requester_pays: keys.requester_pays,
            limits,
            ..s3::Options::new(bucket)
        }
    }

    fn s3_credentials(&mut self, section: &str, keys: &keys::Store) -> s3::Credentials {
        let id = ("access_key_id_file", keys.access_key_id_file.clone());
        let secret = ("secret_access_key_file", keys.secret_access_key_file.clone());
        let files = self.pair(section, id, secret);

        if keys.anonymous && files.is_some() {
            let place = |key: &str| format!("`{section}.{key}` ({})", self.origin(&format!("{section}.{key}")));
            let keys = format!("{} and {}", place("anonymous"), place("access_key_id_file"));
            self.problems.push(Problem::Conflict { keys, cure: "keep one of them".to_owned() });
        }

        let session_token = keys.session_token_file.as_deref().map(PathBuf::from);
        if session_token.is_some() && (keys.anonymous || keys.access_key_id_file.is_none()) {
            let key = format!("{section}.session_token_file");
            let cure = format!("it belongs to `{section}.access_key_id_file`, set that or remove it");
            self.ignored.push(format!("`{key}` ({}) is ignored: {cure}", self.origin(&key)));
        }
        match files {
            _ if keys.anonymous => s3::Credentials::Anonymous,
            Some((access_key_id, secret_access_key)) => {
                if let Some(path) = &session_token {
                    self.file(&format!("{section}.session_token_file"), path, check::secret_file);
                }
                s3::Credentials::Files(s3::KeyFiles { access_key_id, secret_access_key, session_token })
            }
            None => s3::Credentials::Chain,
        }
    }

    pub(super) fn ca_file(&mut self, section: &str, keys: &keys::Store) -> Option<PathBuf> {
        let path = keys.tls_ca_file.as_deref().map(Path::new)?;
        self.file(&format!("{section}.tls_ca_file"), path, check::file);
        Some(path.to_owned())
    }

    /// Reports keys that exclude one another, of which more than one is set.
    #[cfg(any(feature = "azure", feature = "gcs"))]
    pub(super) fn at_most_one(&mut self, section: &str, keys: &[(&str, bool)]) {
        let set = keys.iter().filter(|(_, is_set)| *is_set).map(|(key, _)| format!("{section}.{key}"));
        let set: Vec<_> = set.map(|key| format!("`{key}` ({})", self.origin(&key))).collect();
        if set.len() > 1 {
            self.problems.push(Problem::Conflict { keys: set.join(" and "), cure: "keep one of them".to_owned() });
        }
    }
}

/// Returns the limits of shared reads, if the store has them. A directory does not need them: the kernel keeps what was
/// read from files.
pub(super) fn shared(keys: &keys::Store) -> Option<shared::Limits> {
    let is_of = |scheme: &str| keys.url.as_ref().is_some_and(|url| url.starts_with(scheme));
    // A thin link must not carry an object once for each consumer.
    let is_shared = keys.shared_reads.unwrap_or(is_of("nats:"));
    (is_shared && !is_of("file:")).then(|| shared::Limits {
        bytes_max: keys.shared_reads_bytes,
        first_bytes: keys.shared_reads_first_bytes,
        ..shared::Limits::default()
    })
}

pub(super) fn limits(keys: &keys::Store) -> s3::Limits {
    let default = s3::Limits::default();
    let answer_timeout = Duration::from_millis(keys.answer_timeout_ms);
    s3::Limits {
        range_bytes: keys.range_bytes,
        concurrency_max: keys.concurrency_max,
        answer_timeout,
        // The second request must have as much time as the first.
        retry_budget: default.retry_budget.max(2 * answer_timeout),
        ..default
    }
}
