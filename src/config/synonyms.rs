//! Names that the clouds' libraries and other programs have for the settings of a store.

use super::keys;
use super::similar::nearest_of;

/// What to write in place of a name.
pub(super) enum Meaning {
    /// This key of a store.
    Key(&'static str),
    /// No key has this meaning. The text says what to do.
    Cure(&'static str),
}

/// Names without capitals, underscores and hyphens, and the key with the same meaning. Sources: the variables and
/// options of Azure's, Google's and AWS's libraries, of fsspec, rclone and `object_store`.
const KEYS: [(&str, &[&str]); 16] = [
    ("account", &["accountname", "storageaccount", "storageaccountname"]),
    (
        "account_key_file",
        &["accountkey", "storagekey", "storageaccountkey", "storageaccesskey", "sharedkey", "masterkey"],
    ),
    (
        "sas_token_file",
        &["sas", "sastoken", "sasurl", "saskey", "sassignature", "storagesastoken", "sharedaccesssignature"],
    ),
    ("tenant_id", &["tenant", "directoryid", "authorityid"]),
    ("client_id", &["client", "appid", "applicationid", "msiclientid", "managedidentityclientid"]),
    ("client_secret_file", &["clientsecret", "appsecret", "applicationsecret"]),
    ("federated_token_file", &["federatedtoken", "federatedtokenpath", "identitytoken", "identitytokenfile"]),
    ("azure_cli", &["cli", "usecli", "azcli", "useazcli", "useazurecli"]),
    ("anonymous", &["anon", "public", "unsigned", "skipsignature", "nosignrequest"]),
    (
        "credentials_file",
        &[
            "credential",
            "credentials",
            "credentialsjson",
            "credentialspath",
            "applicationcredentials",
            "applicationcredentialsjson",
            "googleapplicationcredentials",
            "googlecredentials",
            "serviceaccount",
            "serviceaccountfile",
            "serviceaccountkey",
            "serviceaccountkeyfile",
            "serviceaccountjson",
            "serviceaccountpath",
            "serviceaccountcredentials",
            "keyfile",
            "keyfilename",
            "keyfilepath",
        ],
    ),
    ("billing_project", &["userproject", "quotaproject", "quotaprojectid", "requesterpaysproject"]),
    ("access_key_id_file", &["accesskey", "accesskeyid"]),
    ("secret_access_key_file", &["secretkey", "secretaccesskey"]),
    ("session_token_file", &["sessiontoken", "securitytoken"]),
    ("path_style", &["forcepathstyle", "s3forcepathstyle", "usepathstyle", "addressingstyle"]),
    ("endpoint_url", &["endpoint", "server", "blobendpoint", "accounturl", "accounthost", "apiendpoint"]),
];

/// Names of settings that no key has, and what to do.
const CURES: [(&[&str], &str); 4] = [
    (
        &["connectionstring", "connstr", "connectionstr", "storageconnectionstring"],
        "set `account` to the AccountName of the connection string, and write its AccountKey to a file that \
         `account_key_file` names, or its SharedAccessSignature to one that `sas_token_file` names",
    ),
    (
        &["bucket", "bucketname", "container", "containername", "filesystem", "prefix", "root"],
        "the bucket or container and the prefix belong to `url`, as in s3://bucket/prefix, gs://bucket/prefix or \
         az://container/prefix; that of upstream relays belongs to `nats.prefix`",
    ),
    (
        &["project", "projectid", "projectnumber"],
        "reading a bucket requires no project, remove the key; a project that pays for requests belongs to \
         `billing_project`",
    ),
    (
        &["usemsi", "msi", "managedidentity", "usemanagedidentity", "usemanagedidentityextension"],
        "the managed identity of the machine is used if no credentials are set, and `client_id` chooses one of several: \
         remove it",
    ),
];

/// The beginnings of names in several libraries.
const VENDORS: [&str; 5] = ["azure", "google", "gcs", "gcp", "aws"];

/// Returns what to write for the key at this path, if it is one of a store and has such a name.
pub(super) fn of(path: &[String]) -> Option<Meaning> {
    let [section, _, name] = path else { return None };
    if section != "stores" {
        return None;
    }

    let name = squeezed(name);
    let short = VENDORS.iter().find_map(|vendor| name.strip_prefix(vendor)).unwrap_or(&name);
    let is_named = |names: &[&str]| names.iter().any(|known| *known == name || *known == short);

    let spelled = own_keys().find(|key| [&*name, short].contains(&&*squeezed(key)));
    let synonym = || KEYS.iter().find(|(_, names)| is_named(names)).map(|(key, _)| *key);
    let cure = || CURES.iter().find(|(names, _)| is_named(names)).map(|(_, cure)| Meaning::Cure(cure));
    spelled.or_else(synonym).map(Meaning::Key).or_else(cure)
}

/// Returns the key of a store that a misspelled name stands for. Less similar names rather have another meaning.
pub(super) fn similar(name: &str) -> Option<String> {
    let found = nearest_of(name, own_keys().map(str::to_owned))?;
    (3 * strsim::damerau_levenshtein(name, &found) <= name.len()).then_some(found)
}

/// Returns the key of stores at `url` with the meaning that `key` has for stores of another kind.
pub(super) fn of_kind(key: &str, url: &str) -> Option<&'static str> {
    // Azure calls the keys of an account its access keys.
    let is_access_key = matches!(key, "access_key_id_file" | "secret_access_key_file");
    (is_access_key && url.starts_with("az://")).then_some("account_key_file")
}

/// Returns the keys of a store.
fn own_keys() -> impl Iterator<Item = &'static str> {
    keys::KEYS.iter().filter_map(|key| key.name.strip_prefix("stores.NAME."))
}

/// Returns the letters and digits of a name in lower case.
fn squeezed(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_synonyms_are_of_existing_keys_and_unambiguous() {
        let known: Vec<_> = own_keys().collect();
        for (key, names) in KEYS {
            assert!(known.contains(&key), "{key}");
            assert!(names.iter().all(|name| squeezed(name) == *name), "{names:?}");
        }

        let of_keys = KEYS.iter().flat_map(|(_, names)| names.iter());
        let mut names: Vec<_> = of_keys.chain(CURES.iter().flat_map(|(names, _)| names.iter())).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
