//! Keeps secrets out of messages, logs and `Debug`.

use std::fmt;

use gantry_store::misplaced;
use serde::Deserialize;

/// What is shown in place of a secret.
pub(super) const HIDDEN: &str = "[redacted]";

/// Text that `Debug` does not print.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(super) struct Secret(String);

impl Secret {
    /// Returns the text, for the one place that needs it.
    #[must_use]
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// Returns the printable text of a key. Text that is not an address keeps its `@`.
pub(super) fn shown(key: &str, text: &str) -> String {
    let is_address = ["url", "otlp_endpoint"].iter().any(|name| key.ends_with(name));
    // A secret in place of an id.
    let is_id = ["_id", ".account", "_project"].iter().any(|name| key.ends_with(name));
    let is_secret = is_id && is_secret_for_id(text);
    if is_secret || (key.ends_with("_file") && misplaced::is_secret(text)) {
        return HIDDEN.to_owned();
    }
    if is_address || text.contains("://") { without_credentials(text) } else { without_secret(text.to_owned()) }
}

/// Returns the printable name of a key. One part of it may be a secret that was pasted in its place.
pub(super) fn shown_key(path: &[String]) -> String {
    path.iter().map(|part| without_secret(part.clone())).collect::<Vec<_>>().join(".")
}

/// Returns whether a text in place of an id looks like a secret.
pub(super) fn is_secret_for_id(text: &str) -> bool {
    let is_form = text.split('-').map(str::len).eq([8, 4, 4, 4, 12]) || (text.len() == 32 && !text.contains('-'));
    let is_guid = is_form && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    !is_guid && (misplaced::is_token(text) || misplaced::is_secret(text))
}

/// Replaces the user names, passwords and tokens in one address, or in several separated by commas.
///
/// A password may contain any character, so everything before an address's last `@` counts as one. The scheme may be
/// missing.
#[must_use]
pub fn without_credentials(text: &str) -> String {
    let is_single = ["s3", "gs", "az", "http", "wasb", "abfs"].iter().any(|start| has_scheme(text, start));
    without_secret(if is_single { cleaned(text) } else { text.split(',').map(cleaned).collect::<Vec<_>>().join(",") })
}

/// Replaces the user names, passwords and tokens in the addresses that a message contains.
#[must_use]
pub fn without_credentials_in(message: &str) -> String {
    message.split_inclusive(char::is_whitespace).map(in_word).collect()
}

/// Replaces the credentials in a word of a message, which may have other characters before an address.
fn in_word(word: &str) -> String {
    let is_after = |c: char| c.is_whitespace() || ".,:;'\"`)".contains(c);
    let is_of_scheme = |c: char| c.is_ascii_alphanumeric() || "+.-".contains(c);
    let address = word.find("://");
    let start = match address {
        Some(colon) => word[..colon].trim_end_matches(is_of_scheme).len(),
        None => word.len() - word.trim_start_matches(['"', '\'', '`', '(']).len(),
    };
    let end = word.trim_end_matches(is_after).len().max(address.unwrap_or(start));

    let (before, middle, after) = (&word[..start], &word[start..end], &word[end..]);
    let clean = match address {
        Some(_) => without_credentials(middle),
        None if has_secret_value(middle) => HIDDEN.to_owned(),
        None => middle.to_owned(),
    };
    format!("{before}{clean}{after}")
}

/// Returns whether a word of a message contains the value of a secret of a cloud. The messages about such secrets contain
/// the names of their parts.
fn has_secret_value(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    let is_set = |mark: &str| {
        let mut values = lower.match_indices(mark).map(|(at, mark)| &lower[at + mark.len()..]);
        values.any(|value| value.starts_with(|c: char| c.is_ascii_alphanumeric() || "+/%".contains(c)))
    };
    let is_signature = lower.contains('&') && (is_set("sig=") || is_set("signature="));
    is_signature || is_set("accountkey=") || has_storage_key(word)
}

/// Replaces the whole text if it contains a secret of a cloud, wherever it was pasted: a part of a connection string, a
/// signature, a file of credentials, or a key.
pub(super) fn without_secret(text: String) -> String {
    const MARKS: [&str; 2] = ["accountkey=", "private_key"];

    let lower = text.to_ascii_lowercase();
    let is_secret = MARKS.iter().any(|mark| lower.contains(mark)) || has_signature(&text) || has_storage_key(&text);
    if is_secret { HIDDEN.to_owned() } else { text }
}

/// Returns whether a text contains the parameter of a shared access signature, or of a signed URL of Google's or AWS's.
/// Its equals sign may be encoded.
pub(super) fn has_signature(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    ["sig=", "sig%3d", "signature=", "signature%3d"].iter().any(|mark| lower.contains(mark))
}

/// Returns whether a text contains what looks like the key of an account in Azure: 64 bytes in Base64.
pub(super) fn has_storage_key(text: &str) -> bool {
    const LETTERS: usize = 86;

    let is_of_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    let mut ends = text.match_indices("==").filter_map(|(end, _)| Some((end.checked_sub(LETTERS)?, end)));
    ends.any(|(start, end)| text.as_bytes()[start..end].iter().all(is_of_base64))
}

/// Returns whether an address has a scheme of the name `start`, or one that begins so, in any case.
fn has_scheme(address: &str, start: &str) -> bool {
    let scheme = address.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    scheme.is_some_and(|scheme| scheme.starts_with(start))
}

fn cleaned(address: &str) -> String {
    // The options of such an address may contain a signature or a token.
    let has_options = ["http", "gs", "az", "wasb", "abfs"].iter().any(|start| has_scheme(address, start));
    if let Some(at) = address.find(['?', '#']).filter(|_| has_options) {
        let (before, mark) = (&address[..at], &address[at..=at]);
        return format!("{}{mark}[redacted]", cleaned(before));
    }
    let Some((before, host)) = address.rsplit_once('@') else { return without_password(address) };
    // The address of a directory has no user, but the directory's name may contain an @. With a colon before the @, it
    // may be the address of a server with a user and a password, pasted behind something else.
    if before.strip_prefix("file:///").is_some_and(|path| !path.contains(':')) {
        return address.to_owned();
    }

    match before.split_once("://") {
        Some((scheme, _)) => format!("{scheme}://[redacted]@{host}"),
        None => format!("[redacted]@{host}"),
    }
}

/// Hides what follows the colon of a store's address in a cloud, which has no port: it may be a key.
fn without_password(address: &str) -> String {
    let is_cloud = ["s3", "gs", "az"].iter().any(|start| has_scheme(address, start));
    let found = address.split_once("://").filter(|(_, rest)| is_cloud && !rest.starts_with("arn:"));
    match found.and_then(|(scheme, rest)| Some((scheme, rest.split_once(':')?.0))) {
        Some((scheme, before)) => format!("{scheme}://{before}:{HIDDEN}"),
        None => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_place_of_a_path_is_not_shown() {
        for secret in [r#"{"client_secret":"hush"}"#, "eyJhush.a.b", "abc8Q~hush", "key\n"] {
            assert_eq!(shown("stores.s.client_secret_file", secret), "[redacted]", "{secret}");
        }
        for key in ["client_id", "tenant_id", "account", "billing_project"] {
            for secret in ["abc8Q~hush", "ya29.hush", "GOCSPX-hush", "eyJhush.a.b"] {
                assert_eq!(shown(&format!("stores.s.{key}"), secret), "[redacted]", "{key}: {secret}");
            }
        }
        for key in ["client_id", "tenant_id"] {
            let secret = "aB3hush+/x0123456789aB3hush+/x0123456789aB3=";
            assert_eq!(shown(&format!("stores.s.{key}"), secret), "[redacted]", "{key}");
            for id in [
                "72F988BF-86F1-41AF-91AB-2D7CD011DB47",
                "72f988bf86f141af91ab2d7cd011db47",
                "contoso.onmicrosoft.com",
                "common",
            ] {
                assert_eq!(shown(&format!("stores.s.{key}"), id), id);
            }
        }
        for path in ["/run/secrets/key", "~/key", "keys/a.json"] {
            assert_eq!(shown("stores.s.client_secret_file", path), path);
        }
    }

    #[test]
    fn addresses_lose_their_credentials() {
        for (text, clean) in [
            ("nats://u:p@h:4222,tls://t@[::1]:1", "nats://[redacted]@h:4222,tls://[redacted]@[::1]:1"),
            ("nats://u:p@ss@h", "nats://[redacted]@h"),
            ("c:p3hush@h:1", "[redacted]@h:1"),
            ("nats://a@h,c:p3hush@h", "nats://[redacted]@h,[redacted]@h"),
            ("nats://me:hu/sh@h", "nats://[redacted]@h"),
            ("nats://me:hu#sh@h", "nats://[redacted]@h"),
            ("nats://me:hu?sh@h", "nats://[redacted]@h"),
            ("s3://me:hu,sh/pw@demo", "s3://[redacted]@demo"),
            ("file://me:hush@h/x", "file://[redacted]@h/x"),
            ("file:///srv/a@b", "file:///srv/a@b"),
            ("file:///srv/a@b/c@d", "file:///srv/a@b/c@d"),
            ("file:///srv/files://u:hush@h", "file://[redacted]@h"),
            ("nats://a@h,file:///u:hush@h", "nats://[redacted]@h,file://[redacted]@h"),
            ("s3://bucket/prefix", "s3://bucket/prefix"),
            ("az://account:hush/models", "az://account:[redacted]"),
            ("s3://arn:aws:s3:eu-west-1:1:accesspoint/a", "s3://arn:aws:s3:eu-west-1:1:accesspoint/a"),
            ("https://a.blob.core.windows.net/c?sv=1&sig=hu,sh", "https://a.blob.core.windows.net/c?[redacted]"),
            ("https://me:hush@h/c?sig=hush", "https://[redacted]@h/c?[redacted]"),
            ("az://me:hu,sh@c", "az://[redacted]@c"),
            ("az://c/a?sv=1&sig=hush", "az://c/a?[redacted]"),
            ("az://c#sig=hush", "az://c#[redacted]"),
            ("a.blob.core.windows.net/c?sv=1&sig=hush", "[redacted]"),
            ("s3://b?X-Amz-Signature=hush", "[redacted]"),
            ("https://a.blob.core.windows.net/c/a&sig=hush", "[redacted]"),
            ("az://c/a%26sig%3Dhush", "[redacted]"),
            ("AZ://c?token=hu,sh", "AZ://c?[redacted]"),
            (
                "wasbs://c@a.blob.core.windows.net/p?token=hu,sh",
                "wasbs://[redacted]@a.blob.core.windows.net/p?[redacted]",
            ),
            ("DefaultEndpointsProtocol=https;AccountName=a;accountkey=hush==", "[redacted]"),
        ] {
            assert_eq!(without_credentials(text), clean);
        }
    }

    #[test]
    fn addresses_in_a_message_lose_their_credentials() {
        for (message, clean) in [
            ("can't open 's3://me:hush@demo': no", "can't open 's3://[redacted]@demo': no"),
            ("\"nats://u:hush@h:1,tls://t@h\"\nnext", "\"nats://[redacted]@h:1,tls://[redacted]@h\"\nnext"),
            ("m=az://c?sig=hush: no", "m=az://c?[redacted]: no"),
            ("--store m=s3://demo:hush", "--store m=s3://demo:[redacted]"),
            ("no version \"sv=2023-11-03&sig=hu%2Fsh\": no", "no version \"[redacted]\": no"),
            ("`stores.sv=1&sig=hush.url` in c.toml", "`[redacted]` in c.toml"),
            ("m/AccountName=a;AccountKey=hush==: no", "[redacted]: no"),
        ] {
            assert_eq!(without_credentials_in(message), clean);
        }
        for message in [
            "must be s3://bucket/prefix, gs://bucket/prefix or az://container/prefix: a@b",
            "must be a shared access signature, as in sv=2023-11-03&sp=rl&se=…&sig=…, from its SharedAccessSignature",
            "the part after AccountKey= up to the semicolon; `private_key` is missing in m/date=1/sig=2/a",
            "  with \"http://127.0.0.1:10000/devstoreaccount1\",\n\n and s3://arn:aws:s3:eu-west-1:1:accesspoint/a ",
        ] {
            assert_eq!(without_credentials_in(message), message);
        }
    }

    #[test]
    fn text_that_is_not_an_address_is_printed_unchanged() {
        assert_eq!(shown("nats.user", "me@example.org"), "me@example.org");
        assert_eq!(shown("nats.creds_file", "/run/gantry@1.service/creds"), "/run/gantry@1.service/creds");
        assert_eq!(shown("http.listen", "http://me:hush@h"), "http://[redacted]@h");
        assert_eq!(shown("nats.url", "hush@h"), "[redacted]@h");
    }

    #[test]
    fn secrets_are_not_printed_wherever_they_were_pasted() {
        let key = format!("{}==", "aB3+/x".repeat(15).split_at(86).0);
        assert_eq!(without_credentials(&format!("az://{key}")), "[redacted]");
        assert_eq!(
            without_credentials_in(&format!("store name \"{key}\" is long")),
            "store name \"[redacted]\" is long"
        );
        for text in ["sv=2023&sig=hush", "a?sv=1&sig=hush", r#"{"type":"service_account","private_key":"hush"}"#, &key]
        {
            for option in ["stores.s.account", "stores.s.sas_token_file", "stores.s.account_key_file"] {
                assert_eq!(shown(option, text), "[redacted]", "{option}");
            }
        }
        assert_eq!(shown("stores.s.account_key_file", "/run/secrets/key"), "/run/secrets/key");
    }
}
