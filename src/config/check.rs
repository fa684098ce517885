//! The requirements for the values of single keys, beyond their types.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use gantry_proto::subject::{DeliveryAllow, Prefix, is_literal};
use gantry_store::secret_text;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::address::{self, ListenAddress, StoreAddress};
use super::place::is_account;
use super::redact;
use super::similar;

type Checked = Result<(), String>;

/// Where the secret of an application belongs.
const OF_APPLICATION: &str = "which belongs to a file that `client_secret_file` names";

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

pub(super) fn prefix(text: &str) -> Checked {
    Prefix::new(text).map(drop).map_err(|_| {
        "must be tokens separated by dots, without white space, `*`, `>`, and without a leading `$` or `_`".to_owned()
    })
}

/// What is pasted from elsewhere is rejected here, since messages about connections repeat the addresses.
pub(super) fn servers(text: &str) -> Checked {
    let has_scheme = |server: &str| {
        let scheme = server.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        scheme.is_none_or(|scheme| ["nats", "tls", "ws", "wss"].contains(&&*scheme))
    };
    let is_server = |server: &str| has_scheme(server) && redact::without_credentials(server) != redact::HIDDEN;

    let mut servers = address::servers(text).peekable();
    if servers.peek().is_some() && servers.all(is_server) {
        Ok(())
    } else {
        Err("must be addresses such as nats://127.0.0.1:4222".to_owned())
    }
}

pub(super) fn inbox_prefix(text: &str) -> Checked {
    if is_literal(text.trim_end_matches('.')) {
        Ok(())
    } else {
        Err("must be tokens separated by dots, without white space, `*` and `>`".to_owned())
    }
}

pub(super) fn delivery_allow(text: &str) -> Checked {
    let prefixes = text.split(',').map(str::to_owned).collect();
    DeliveryAllow::new(prefixes).map(drop).map_err(|error| format!("{error}, each with a final dot"))
}

pub(super) fn store_url(text: &str) -> Checked {
    StoreAddress::parse(text).map(drop)
}

pub(super) fn endpoint(text: &str) -> Checked {
    address::check_endpoint(text)
}

/// Source: Azure, "Storage account overview", "Storage account name".
pub(super) fn account(text: &str) -> Checked {
    if text.contains("AccountKey=") || redact::has_storage_key(text) {
        return Err(
            "must be the account's name alone; the key belongs to a file that `account_key_file` names".to_owned()
        );
    }
    if text.contains("sig=") {
        return Err(
            "must be the account's name alone; the SAS belongs to a file that `sas_token_file` names".to_owned()
        );
    }
    if is_account(text) {
        return Ok(());
    }
    let form = "must be an account's name: 3 to 24 lower-case letters and digits";
    let lower = text.to_ascii_lowercase();
    // It may be the account's address.
    let host = lower.rsplit("://").next().unwrap_or_default().trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let name = host.split('.').next().unwrap_or_default();
    Err(if is_account(name) { format!("{form}, as in {name}") } else { form.to_owned() })
}

pub(super) fn tenant(text: &str) -> Checked {
    if redact::is_secret_for_id(text) {
        return Err(format!("must be the id of a tenant, not a secret, {OF_APPLICATION}"));
    }
    if is_name(text, b"-.") { Ok(()) } else { Err("must be the id of a tenant, or one of its domains".to_owned()) }
}

/// The ids of applications are GUIDs.
pub(super) fn application(text: &str) -> Checked {
    if redact::is_secret_for_id(text) {
        return Err(format!("must be the id of an application, not its secret, {OF_APPLICATION}"));
    }
    Ok(())
}

pub(super) fn project(text: &str) -> Checked {
    if redact::is_secret_for_id(text) {
        return Err("must be the id or the number of a project, not a secret; credentials belong to a file that \
                    `credentials_file` names"
            .to_owned());
    }
    // The id of a project may have a domain before a colon.
    if is_name(text, b"-.:") { Ok(()) } else { Err("must be the id or the number of a project".to_owned()) }
}

/// Returns whether a text consists of letters, digits, and the bytes in `others`.
fn is_name(text: &str, others: &[u8]) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte))
}

pub(super) fn region(text: &str) -> Checked {
    if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
        Ok(())
    } else {
        Err("must be the name of a region, as in eu-west-1".to_owned())
    }
}

pub(super) fn listen(text: &str) -> Checked {
    if text == "off" || text.parse::<SocketAddr>().is_ok() {
        Ok(())
    } else {
        Err("must be an address and a port, as in 127.0.0.1:8080 or [::]:8080, or off".to_owned())
    }
}

pub(super) fn front(text: &str) -> Checked {
    text.parse::<ListenAddress>().map(drop)
}

pub(super) fn collector(text: &str) -> Checked {
    address::check_collector(text)
}

/// Accepts only directives that name a level. `tracing` treats a word that is not a level as the name of a module,
/// which hides all messages of other modules.
pub(super) fn log_level(text: &str) -> Checked {
    let form = "must be error, warn, info, debug, trace or off, or levels by module as in info,gantry_relay=debug";
    for directive in text.split(',').filter(|directive| !directive.trim().is_empty()) {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level).trim();
        if level.is_empty() || level.parse::<LevelFilter>().is_err() {
            let known = LEVELS.iter().map(|level| (*level).to_owned());
            let suggestion = similar::nearest_of(&level.to_lowercase(), known);
            let suggestion = suggestion.map_or_else(String::new, |level| format!("; did you mean `{level}`?"));
            return Err(format!("{form}{suggestion}"));
        }
    }

    text.parse::<EnvFilter>().map(drop).map_err(|error| format!("{error}: {form}"))
}

/// Checks that a file can be read now, since it may be needed only much later.
pub(super) fn file(path: &Path) -> Checked {
    let metadata =
        File::open(path).and_then(|file| file.metadata()).map_err(|error| secret_text::unreadable(path, &error))?;
    if metadata.is_dir() { Err("is a directory: must be a file".to_owned()) } else { Ok(()) }
}

/// Checks that a file can be read and contains text. Only regular files are read: a pipe yields its text only once.
pub(super) fn text_file(path: &Path) -> Checked {
    file(path)?;
    if !path.is_file() {
        return Ok(());
    }
    is_filled(path, fs::read(path).and_then(secret_text::decoded))
}

/// Checks that a file can be read and holds a secret of a store. A store reads only regular files, again and again.
pub(super) fn secret_file(path: &Path) -> Checked {
    if path.is_dir() {
        return Err("is a directory: must be a file".to_owned());
    }
    is_filled(path, secret_text::read(path))
}

fn is_filled(path: &Path, content: io::Result<String>) -> Checked {
    match content {
        Ok(text) if secret_text::trimmed(&text).is_empty() => Err("the file is empty".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(secret_text::unreadable(path, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_a_shell_would_expand_has_a_cure() {
        for (path, cure) in [
            ("~/key.json", ": write the whole path, since ~ and variables are not expanded"),
            ("$HOME/key.json", ": write the whole path, since ~ and variables are not expanded"),
            ("file:///none/key.json", ": write the path alone, without file://"),
            ("/none/key.json", "can't be read: No such file or directory (os error 2)"),
        ] {
            for check in [file, secret_file] {
                let error = check(Path::new(path)).unwrap_err();
                assert!(error.ends_with(cure), "{path}: {error}");
            }
        }
    }

    #[test]
    fn a_pipe_or_a_device_is_no_file_with_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [Path::new("/dev/zero"), &pipe] {
            let expected = "can't be read: it is a pipe or a device, name a regular file";
            assert_eq!(secret_file(path), Err(expected.to_owned()));
        }
    }

    #[test]
    fn log_levels_are_levels_or_modules_with_levels() {
        for text in [
            "warn",
            "INFO",
            "off",
            "info,gantry_relay=debug",
            "gantry_relay::transfer=trace",
            "info,[transfer{store=a}]=debug",
        ] {
            assert_eq!(log_level(text), Ok(()), "{text}");
        }
    }

    /// These words were once treated as names of modules, and nothing was logged.
    #[test]
    fn words_that_are_not_levels_are_rejected() {
        for text in ["warning", "verbose", "gantry_relay", "info,loud", "gantry_relay=", "a=b=loud"] {
            assert!(log_level(text).is_err(), "{text}");
        }
        assert!(log_level("warning").unwrap_err().ends_with("did you mean `warn`?"));
    }
}
