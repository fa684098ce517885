//! Connection strings of Azure. Source: Azure, "Configure Azure Storage connection strings".

use super::EMULATED_ACCOUNT;
use super::hosts::{Account, azure_account};
use crate::config::place::is_account;

/// The names with which a connection string may begin.
const NAMES: [&str; 12] = [
    "accountkey",
    "accountname",
    "blobendpoint",
    "blobsecondaryendpoint",
    "defaultendpointsprotocol",
    "developmentstorageproxyuri",
    "endpointsuffix",
    "fileendpoint",
    "queueendpoint",
    "sharedaccesssignature",
    "tableendpoint",
    "usedevelopmentstorage",
];

/// The emulator's address of blobs, unless a connection string has another one.
const EMULATOR: &str = "http://127.0.0.1:10000/devstoreaccount1";

/// How the hosts of Azure's public cloud end.
const PUBLIC_SUFFIX: &str = "core.windows.net";

/// Returns whether what precedes the first `=` of a text is the beginning of a connection string.
pub(crate) fn begins_connection_string(name: &str) -> bool {
    NAMES.contains(&&*name.trim().to_ascii_lowercase())
}

/// Explains what to write for a connection string.
pub(in crate::config) fn of_connection_string(text: &str) -> Option<String> {
    let value = |wanted: &str| {
        let mut pairs = text.split(';').filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
    };
    if value("UseDevelopmentStorage").is_some_and(|is_used| is_used.eq_ignore_ascii_case("true")) {
        let account = Account { name: EMULATED_ACCOUNT.to_owned(), endpoint: Some(EMULATOR.to_owned()) };
        let key = "and the emulator's key in a file that `account_key_file` names";
        let place = "must be az://container/prefix";
        return Some(format!("is a connection string of an emulator: {place} with {}, {key}", account.settings()));
    }

    let credential = if value("AccountKey").is_some() {
        ", and its AccountKey in a file that `account_key_file` names"
    } else if value("SharedAccessSignature").is_some() {
        ", and its SharedAccessSignature in a file that `sas_token_file` names"
    } else {
        value("BlobEndpoint").or_else(|| value("AccountName"))?;
        ""
    };

    let suffix = value("EndpointSuffix").unwrap_or(PUBLIC_SUFFIX);
    let of_name = || azure_account(&format!("{}.blob.{suffix}", value("AccountName")?).to_ascii_lowercase());
    let of_url = |url: &str| of_endpoint(url, value("AccountName"));
    let account = match value("BlobEndpoint") {
        Some(url) => of_url(url),
        None => of_name(),
    };
    // Without the address, the credentials would be sent to Azure's public one.
    let is_elsewhere = value("BlobEndpoint").is_some() || !suffix.eq_ignore_ascii_case(PUBLIC_SUFFIX);
    let account = account.map_or_else(
        || {
            let address = if is_elsewhere { ", and its address in `endpoint_url`" } else { "" };
            format!(" with the account's name in `account`{address}")
        },
        |account| format!(" with {}", account.settings()),
    );
    Some(format!("is a connection string: must be az://container/prefix{account}{credential}"))
}

/// Returns the account at the address of its blobs: one of Azure, or of an emulator or another server.
fn of_endpoint(url: &str, name: Option<&str>) -> Option<Account> {
    let (_, rest) = url.split_once("://")?;
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    if let Some(account) = azure_account(&host.to_ascii_lowercase()) {
        return Some(account);
    }

    let is_printed = url.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":/.-_[]".contains(&byte));
    let name = name.filter(|name| is_account(name) && is_printed)?;
    Some(Account { name: name.to_owned(), endpoint: Some(url.trim_end_matches('/').to_owned()) })
}
