//! Secrets that were pasted in place of a file's path.

use std::path::Path;

/// What to do about one.
pub const CURE: &str = "must be the path of a file, but looks like its content: write that to a file which only the \
                        relay's user can read, and name the file here";

/// Shorter words are rather names of files.
const WORD_MIN_BYTES: usize = 20;

/// Shorter texts with a slash are rather paths. The secret access keys of AWS have 40 bytes.
const SLASHED_MIN_BYTES: usize = 40;

/// Returns whether a text in place of a file's path looks like a secret: a token, a key, a signature, JSON or PEM. The
/// path of an existing file never does.
#[must_use]
pub fn is_secret(text: &str) -> bool {
    let is_document = text.contains(['{', '\n', '=', '"']) || text.starts_with("-----BEGIN");
    (is_document || is_token(text) || is_word(text)) && !Path::new(text).exists()
}

/// Returns whether a text looks like a JWT, an access token or a client secret of Google's, or the secret of an Azure
/// application. Neither a path nor an id does.
#[must_use]
pub fn is_token(text: &str) -> bool {
    ["eyJ", "ya29.", "GOCSPX-"].iter().any(|start| text.starts_with(start))
        || (text.contains('~') && !text.contains('/'))
}

/// Returns whether a text is a long word of mixed characters, as keys in Base64 are, and ids and seeds in capitals.
fn is_word(text: &str) -> bool {
    let has = |is_kind: fn(&u8) -> bool| text.bytes().any(|byte| is_kind(&byte));
    let min = if text.contains('/') { SLASHED_MIN_BYTES } else { WORD_MIN_BYTES };

    text.len() >= min
        && !text.starts_with('/')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/_-".contains(&byte))
        && has(u8::is_ascii_digit)
        && has(u8::is_ascii_uppercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_from_paths() {
        let key = "k".repeat(86) + "==";
        for secret in [
            r#"{"private_key":"hush"}"#,
            "-----BEGIN PRIVATE KEY-----",
            "sv=2023-11-03&sig=hush",
            "DefaultEndpointsProtocol=https;AccountKey=hush",
            "eyJhbGciOiJSUzI1NiJ9.e30.hush",
            "ya29.a0AfB_byhush",
            "abc8Q~hush",
            "key\n",
            &key,
            "AKIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY",
            "AIzaSyD4notarealkey0123456789abcdefghij",
        ] {
            assert!(is_secret(secret), "{secret}");
        }
        for path in [
            "/run/secrets/azure-account-key",
            "~/key",
            "keys/a.json",
            "./wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "/var/run/secrets/azure/tokens/Azure-Identity-Token-0123456789",
            "service-account-2026-11-29",
            "Key1",
            "Secrets/Azure/Key1.txt",
        ] {
            assert!(!is_secret(path), "{path}");
        }
    }

    #[test]
    fn a_path_that_exists_is_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a=b");
        assert!(is_secret(path.to_str().unwrap()));
        std::fs::write(&path, "").unwrap();
        assert!(!is_secret(path.to_str().unwrap()));
    }
}
