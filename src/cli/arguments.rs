//! Messages of clap about arguments that are addresses with credentials, or connection strings.

use std::ffi::OsString;

use crate::config::{without_credentials, without_credentials_in};
use crate::telemetry;

/// Prints the help, the version or the problem of an invalid command line, and ends the process.
pub(super) fn exit(error: &clap::Error) -> ! {
    let text = error.render().to_string();
    let shown = shown(&text, std::env::args_os());
    if shown == text || !error.use_stderr() {
        error.exit();
    }
    telemetry::print(shown.trim_end());
    std::process::exit(error.exit_code());
}

/// Returns a message without the credentials that it repeats from these arguments.
fn shown(message: &str, arguments: impl Iterator<Item = OsString>) -> String {
    let mut shown = message.to_owned();
    for argument in arguments {
        let argument = argument.to_string_lossy();
        // clap repeats the value of `--option=value` alone.
        let value = argument.split_once('=').filter(|_| argument.starts_with('-')).map(|(_, value)| value);
        for text in [Some(&*argument), value].into_iter().flatten().filter(|text| !text.is_empty()) {
            let clean = without_credentials(text);
            if clean != *text {
                shown = shown.replace(text, &clean);
            }
        }
    }
    without_credentials_in(&shown)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::Cli;
    use super::*;

    #[test]
    fn an_invalid_command_line_is_reported_without_credentials() {
        let sas = "https://acct.blob.core.windows.net/models/a?sv=1&sig=hush";
        let connection = "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=hush==";
        for command in
            [&["get"][..], &["get", "m/a"], &["cat"], &["ls"], &["stat"], &["find"], &["du"], &["cache", "ls"]]
        {
            for secret in [sas, connection, "s3://me:hush@demo/a", "s3://demo:hush/a", "me:hush@demo/a", "me:hush@demo"]
            {
                assert_hidden(&[command, &[secret]].concat());
            }
        }
        for secret in [sas, connection, "s3://me:hush@demo/a"] {
            for command in [&[][..], &["ls", "m", "extra"], &["get", "m/a", "--jobs"], &["ping"]] {
                assert_hidden(&[command, &[secret]].concat());
            }
            assert_hidden(&["get", "m/a", &format!("--range={secret}")]);
        }
        for secret in [sas, "s3://me:hush@demo/a"] {
            assert_hidden(&["health", "--url", secret]);
            assert_hidden(&["health", &format!("--url={secret}")]);
        }
    }

    #[track_caller]
    fn assert_hidden(arguments: &[&str]) {
        let arguments = [&["gantry"], arguments].concat();
        let text = Cli::try_parse_from(&arguments).unwrap_err().render().to_string();
        let shown = shown(&text, arguments.iter().map(OsString::from));
        assert!(!shown.contains("hush") && shown.starts_with("error: "), "{arguments:?}: {shown}");
    }

    #[test]
    fn other_messages_are_unchanged() {
        for arguments in [&["stat", "models"][..], &["get", "m/a@b", "--jobs", "x"], &["got"], &["get", "--nats=x"]] {
            let arguments = [&["gantry"], arguments].concat();
            let text = Cli::try_parse_from(&arguments).unwrap_err().render().to_string();
            assert_eq!(shown(&text, arguments.iter().map(OsString::from)), text);
        }
    }
}
