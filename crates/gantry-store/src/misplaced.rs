//! Secrets that were pasted in place of a file's path.

use std::path::Path;

/// What to do about one.
pub const CURE: &str = "must be the path of a file, but looks like its content: write that to a file which only the \
                        relay's user can read, and name the file here";

/// Shorter words are rather names of files.
const WORD_MIN_BYTES: usize = 20;

/// Shorter texts with a slash are rather paths. The secret access keys of AWS have as many bytes.
const SLASHED_MIN_BYTES: usize = 40;

/// Shorter hexadecimal numbers are rather names of files. The secret access keys of Cloudflare R2 have 64 digits.
const HEX_MIN_BYTES: usize = 32;

/// Returns whether a text in place of a file's path looks like a secret: a token, a key, a signature, JSON or PEM. The
/// path of an existing file never does.
#[must_use]
pub fn is_secret(text: &str) -> bool {
    let is_document = text.contains(['{', '\n', '"']) || text.starts_with("-----BEGIN");
    let is_setting = text.contains('=') && !text.starts_with('/');
    let is_key = is_word(text) || is_hex(text) || is_slashed_key(text);
    (is_document || is_setting || is_token(text) || is_key) && !Path::new(text).exists()
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
    let min = if text.contains('/') { SLASHED_MIN_BYTES } else { WORD_MIN_BYTES };
    text.len() >= min
        && !text.starts_with('/')
        && text.bytes().all(|byte| is_of_base64(byte) || b"_-".contains(&byte))
        && is_mixed(text)
}

/// Returns whether a text is a long hexadecimal number.
fn is_hex(text: &str) -> bool {
    text.len() >= HEX_MIN_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Returns whether a text looks like a key in Base64 that begins with a slash: the secret of an access key of AWS, or the
/// key of an account of Azure. As a path, it would be in a folder that does not exist, or a strange name in the root.
fn is_slashed_key(text: &str) -> bool {
    let is_length = text.len() == SLASHED_MIN_BYTES || (text.len() == 88 && text.ends_with("=="));
    let is_base64 = text.trim_end_matches('=').bytes().all(is_of_base64);
    let folder = Path::new(text).parent();
    let is_in_root = folder == Some(Path::new("/"));
    let has_folder = folder.is_some_and(Path::exists);
    let is_strange = is_mixed(text) || text.ends_with("==");
    text.starts_with('/') && is_length && is_base64 && if is_in_root { is_strange } else { !has_folder }
}

fn is_of_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/".contains(&byte)
}

fn is_mixed(text: &str) -> bool {
    let has = |is_kind: fn(&u8) -> bool| text.bytes().any(|byte| is_kind(&byte));
    has(u8::is_ascii_digit) && has(u8::is_ascii_uppercase)
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
            &"0a1b2c3d".repeat(8),
            &"0A1B2C3D".repeat(4),
            "/JalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            &format!("/{}==", "k".repeat(85)),
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
            "/srv/env=prod/key",
            "0123abcd",
            "keys/0a1b2c3d0a1b2c3d0a1b2c3d0a1b2c3d",
            "/JalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKE.",
            "/JalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLE/Key",
        ] {
            assert!(!is_secret(path), "{path}");
        }
    }

    #[test]
    fn a_path_that_exists_is_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a\"b");
        assert!(is_secret(path.to_str().unwrap()));
        std::fs::write(&path, "").unwrap();
        assert!(!is_secret(path.to_str().unwrap()));
    }

    #[test]
    fn a_path_in_a_folder_that_exists_is_no_secret() {
        for (text, is_key) in [
            ("/usr/bin/JalrXUtnFEMI7MDENGbPxRfiCYEXAMP", false),
            ("/usr/none/JalrXUtnFEMI7MDENGbPxRfiCYEXAM", true),
            ("/JalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY00", true),
            ("/thenameofafileintherootisseldomthislong", false),
        ] {
            assert_eq!((text.len(), is_secret(text)), (SLASHED_MIN_BYTES, is_key), "{text}");
        }
    }
}
