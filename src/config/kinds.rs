//! The keys that only some kinds of stores have.

/// The keys that only one kind of store has, and the beginning of its address.
pub(super) const OF_KINDS: [(&str, &[&str]); 4] = [
    (
        "s3://",
        &[
            "region",
            "path_style",
            "profile",
            "access_key_id_file",
            "secret_access_key_file",
            "session_token_file",
            "requester_pays",
        ],
    ),
    ("nats:", &["nats_context"]),
    ("gs://", &["credentials_file", "billing_project"]),
    (
        "az://",
        &[
            "account",
            "account_key_file",
            "sas_token_file",
            "tenant_id",
            "client_id",
            "client_secret_file",
            "federated_token_file",
            "azure_cli",
        ],
    ),
];

/// Returns whether a key belongs only to stores of another kind than the one at this address.
pub(super) fn is_of_other_kind(key: &str, url: &str) -> bool {
    OF_KINDS.into_iter().any(|(scheme, keys)| keys.contains(&key) && !has_keys_of(url, scheme))
}

/// Returns whether a store at this address may have the keys of stores with this scheme.
pub(super) fn has_keys_of(url: &str, scheme: &str) -> bool {
    // Keys of S3 have always been ignored for directories.
    let is_ignored = scheme == "s3://" && url.starts_with("file:");
    url.starts_with(scheme) || is_ignored
}
