//! Builds the options of the stores in Google Cloud and Azure.

use std::path::PathBuf;

use gantry_proto::StoreName;
#[cfg(feature = "azure")]
use gantry_store::azure;
#[cfg(feature = "gcs")]
use gantry_store::gcs;

use super::Build;
use super::stores::limits;
#[cfg(feature = "azure")]
use crate::config::error::Problem;
#[cfg(feature = "azure")]
use crate::config::pasted::{self, EMULATED_ACCOUNT};
use crate::config::{check, keys};

/// Variables with credentials for Google Cloud that are not read, and what to do.
#[cfg(feature = "gcs")]
const UNREAD_OF_GOOGLE: [(&str, &str); 3] = [
    ("GOOGLE_CREDENTIALS", OF_GOOGLE),
    ("GOOGLE_APPLICATION_CREDENTIALS_JSON", OF_GOOGLE),
    ("GOOGLE_OAUTH_ACCESS_TOKEN", OF_GOOGLE),
];

#[cfg(feature = "gcs")]
const OF_GOOGLE: &str = "name a file with the credentials in GOOGLE_APPLICATION_CREDENTIALS or `credentials_file`";

/// Variables with credentials for Azure that are read, if no key sets any.
#[cfg(feature = "azure")]
const READ_FOR_AZURE: [&str; 4] =
    ["AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_CLIENT_SECRET"];

#[cfg(feature = "azure")]
const CONNECTION_STRING: &str = "AZURE_STORAGE_CONNECTION_STRING";

/// Variables with credentials for Azure that are not read, and what to do.
#[cfg(feature = "azure")]
const UNREAD_OF_AZURE: [(&str, &str); 5] = [
    (
        CONNECTION_STRING,
        "set AZURE_STORAGE_KEY to its AccountKey, or AZURE_STORAGE_SAS_TOKEN to its SharedAccessSignature",
    ),
    ("AZURE_STORAGE_ACCOUNT_KEY", "set AZURE_STORAGE_KEY in its place"),
    ("AZURE_STORAGE_ACCESS_KEY", "set AZURE_STORAGE_KEY in its place"),
    (
        "AZURE_CLIENT_CERTIFICATE_PATH",
        "certificates of applications are not supported, use a secret (AZURE_CLIENT_SECRET), a workload identity or a \
         managed identity",
    ),
    (
        "AZURE_PASSWORD",
        "passwords of users are not supported, use `azure_cli`, a workload identity or a managed identity",
    ),
];

#[cfg(feature = "gcs")]
impl Build {
    pub(super) fn gcs(&mut self, name: &StoreName, bucket: String, prefix: String, keys: keys::Store) -> gcs::Options {
        let section = format!("stores.{name}");
        let limits = limits(&keys);
        let tls_ca_file = self.ca_file(&section, &keys);
        let ways = [("credentials_file", keys.credentials_file.is_some()), ("anonymous", keys.anonymous)];
        self.at_most_one(&section, &ways);

        let credentials = match keys.credentials_file.map(PathBuf::from) {
            _ if keys.anonymous => gcs::Credentials::Anonymous,
            Some(path) => {
                self.file(&format!("{section}.credentials_file"), &path, check::secret_file);
                gcs::Credentials::File(path)
            }
            None => {
                self.report_unread(&section, &["GOOGLE_APPLICATION_CREDENTIALS"], &UNREAD_OF_GOOGLE);
                gcs::Credentials::Default
            }
        };

        gcs::Options {
            prefix,
            endpoint_url: keys.endpoint_url,
            tls_ca_file,
            credentials,
            billing_project: keys.billing_project,
            limits,
            ..gcs::Options::new(bucket)
        }
    }
}

#[cfg(feature = "azure")]
impl Build {
    pub(super) fn azure(
        &mut self,
        name: &StoreName,
        container: String,
        prefix: String,
        keys: keys::Store,
    ) -> Option<azure::Options> {
        let section = format!("stores.{name}");
        let limits = limits(&keys);
        let tls_ca_file = self.ca_file(&section, &keys);
        let credentials = self.azure_credentials(&section, &keys);

        let Some(account) = keys.account else {
            let account = format!("{section}.account");
            if !self.problems.iter().any(|problem| problem.is_about(&account)) {
                self.missing(&account, self.cure_without_account(&section));
            }
            return None;
        };
        self.check_address_of_account(&section, &account, &container, keys.endpoint_url.as_deref());
        Some(azure::Options {
            prefix,
            endpoint_url: keys.endpoint_url,
            tls_ca_file,
            credentials,
            limits,
            ..azure::Options::new(account, container)
        })
    }

    /// Describes how to name the account. Other programs have other variables for it, which are not read.
    fn cure_without_account(&self, section: &str) -> String {
        if let Some(text) = self.environment.get(CONNECTION_STRING) {
            let (variable, part) = match text.contains("SharedAccessSignature=") {
                true => ("AZURE_STORAGE_SAS_TOKEN", "SharedAccessSignature"),
                false => ("AZURE_STORAGE_KEY", "AccountKey"),
            };
            let name = "set AZURE_STORAGE_ACCOUNT to its AccountName";
            return format!("{CONNECTION_STRING} is not read: {name}, and {variable} to its {part}");
        }

        let other = "AZURE_STORAGE_ACCOUNT_NAME";
        if self.environment.get(other).is_some() {
            return format!("{other} is not read: set AZURE_STORAGE_ACCOUNT in its place");
        }
        format!("`{section}.url` ({}) requires it, or AZURE_STORAGE_ACCOUNT", self.origin(&format!("{section}.url")))
    }

    /// Reports an address that does not belong to the account.
    fn check_address_of_account(&mut self, section: &str, account: &str, container: &str, endpoint: Option<&str>) {
        let place = |build: &Self, key: &str| {
            let key = format!("{section}.{key}");
            format!("`{key}` ({})", build.origin(&key))
        };
        let Some(endpoint) = endpoint else {
            if account == EMULATED_ACCOUNT {
                let cure = format!(
                    "{} is the account of Azure's emulators: set it to the emulator's address, as in \
                     http://127.0.0.1:10000/{EMULATED_ACCOUNT}",
                    place(self, "account")
                );
                self.missing(&format!("{section}.endpoint_url"), cure);
            }
            return;
        };
        if let Some(cure) = pasted::of_other_account(endpoint, account, container) {
            let keys = format!("{} and {}", place(self, "account"), place(self, "endpoint_url"));
            self.problems.push(Problem::Conflict { keys, cure });
        }
    }

    fn azure_credentials(&mut self, section: &str, keys: &keys::Store) -> azure::Credentials {
        let ways = [
            ("account_key_file", keys.account_key_file.is_some()),
            ("sas_token_file", keys.sas_token_file.is_some()),
            ("client_secret_file", keys.client_secret_file.is_some()),
            ("federated_token_file", keys.federated_token_file.is_some()),
            ("azure_cli", keys.azure_cli),
            ("anonymous", keys.anonymous),
        ];
        self.at_most_one(section, &ways);
        self.ids_of_application(section, keys);
        self.ids_without_application(section, keys, &ways);

        let mut file = |key: &str, path: &Option<String>| {
            let path = path.as_deref().map(PathBuf::from)?;
            self.file(&format!("{section}.{key}"), &path, check::secret_file);
            Some(path)
        };
        let (tenant, client) = (keys.tenant_id.clone(), keys.client_id.clone());

        if let Some(path) = file("account_key_file", &keys.account_key_file) {
            azure::Credentials::AccountKey(path)
        } else if let Some(path) = file("sas_token_file", &keys.sas_token_file) {
            azure::Credentials::Sas(path)
        } else if let Some(secret) = file("client_secret_file", &keys.client_secret_file) {
            azure::Credentials::ClientSecret { tenant, client, secret }
        } else if let Some(token) = file("federated_token_file", &keys.federated_token_file) {
            azure::Credentials::WorkloadIdentity { tenant, client, token }
        } else if keys.azure_cli {
            azure::Credentials::Cli
        } else if keys.anonymous {
            azure::Credentials::Anonymous
        } else if client.is_some() {
            self.report_overridden(section);
            azure::Credentials::ManagedIdentity { client }
        } else {
            self.report_unread(section, &READ_FOR_AZURE, &UNREAD_OF_AZURE);
            azure::Credentials::Environment
        }
    }

    /// Reports ids that a secret or a federated token requires.
    fn ids_of_application(&mut self, section: &str, keys: &keys::Store) {
        let ways = [
            ("client_secret_file", keys.client_secret_file.is_some()),
            ("federated_token_file", keys.federated_token_file.is_some()),
        ];
        let Some((way, _)) = ways.into_iter().find(|(_, is_set)| *is_set) else { return };

        let ids =
            [("tenant_id", &keys.tenant_id, "AZURE_TENANT_ID"), ("client_id", &keys.client_id, "AZURE_CLIENT_ID")];
        for (id, _, variable) in ids.into_iter().filter(|(_, value, _)| value.is_none()) {
            let id = format!("{section}.{id}");
            if self.problems.iter().any(|problem| problem.is_about(&id)) {
                continue;
            }
            let place = self.origin(&format!("{section}.{way}"));
            self.missing(&id, format!("`{section}.{way}` ({place}) requires it, or {variable}"));
        }
    }

    /// Reports ids that have no effect, since there is neither a secret nor a federated token, nor, for `client_id`, a
    /// managed identity.
    fn ids_without_application(&mut self, section: &str, keys: &keys::Store, ways: &[(&str, bool)]) {
        let of_application = ["client_secret_file", "federated_token_file"];
        let set = || ways.iter().filter(|(_, is_set)| *is_set).map(|(way, _)| *way);
        if set().any(|way| of_application.contains(&way)) {
            return;
        }

        let owners = format!("`{section}.client_secret_file` or `{section}.federated_token_file`");
        let place =
            |build: &Self, key: &str| format!("`{section}.{key}` ({})", build.origin(&format!("{section}.{key}")));
        let ids = [("tenant_id", keys.tenant_id.is_some()), ("client_id", keys.client_id.is_some())];
        for (id, _) in ids.into_iter().filter(|(_, is_set)| *is_set) {
            if let Some(way) = set().next() {
                let keys = format!("{} and {}", place(self, way), place(self, id));
                let identity = if id == "client_id" { ", or alone to a managed identity" } else { "" };
                let cure = format!("`{id}` belongs to {owners}{identity}: remove it");
                self.problems.push(Problem::Conflict { keys, cure });
            } else if id == "tenant_id" {
                let cure = format!(
                    "{} requires it, or `{section}.federated_token_file`: set one of them, or remove `tenant_id`",
                    place(self, id)
                );
                self.missing(&format!("{section}.client_secret_file"), cure);
            }
        }
    }

    /// Reports variables with credentials that a managed identity overrides.
    fn report_overridden(&mut self, section: &str) {
        let id = format!("{section}.client_id");
        for variable in READ_FOR_AZURE.into_iter().filter(|variable| self.environment.get(variable).is_some()) {
            let place = self.origin(&id);
            self.ignored.push(format!(
                "{variable} is ignored: `{id}` ({place}) chooses a managed identity: remove one of them, or set \
                 AZURE_CLIENT_ID in place of the key"
            ));
        }
    }
}

impl Build {
    /// Reports variables of other programs with credentials that are not read, unless one of those that are `read` is
    /// set.
    fn report_unread(&mut self, section: &str, read: &[&str], unread: &[(&str, &str)]) {
        if read.iter().any(|variable| self.environment.get(variable).is_some()) {
            return;
        }
        for (variable, cure) in unread.iter().filter(|(variable, _)| self.environment.get(variable).is_some()) {
            self.ignored.push(format!("{variable} is ignored for `{section}`: {cure}, or unset it"));
        }
    }
}
