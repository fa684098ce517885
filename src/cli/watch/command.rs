//! Runs the user's command for an object.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;

use tokio::process::Command;

use super::object::Object;

/// The argument that is replaced by the object's address.
const PLACEHOLDER: &str = "{}";

/// A program and its arguments.
#[derive(Clone, Debug)]
pub(super) struct Runner {
    words: Vec<OsString>,
}

/// Why a command has not handled an object.
#[derive(Debug)]
pub(super) enum Failed {
    /// It ended with a failure.
    Ended(String),
    /// It can't be started, and never could.
    Unusable(String),
}

impl Runner {
    /// Makes a runner, unless there is no command.
    pub(super) fn new(words: Vec<OsString>) -> Option<Self> {
        (!words.is_empty()).then_some(Self { words })
    }

    /// Runs the command for an object, and returns once it has ended with success.
    ///
    /// # Cancel safety
    /// Dropping the future kills the process.
    pub(super) async fn run(&self, object: &Object) -> Result<(), Failed> {
        let Some(program) = self.words.first() else { return Ok(()) };
        let name = program.display();
        let status = self.command(program, object).status().await.map_err(|error| {
            let message = format!("can't run {name}: {error}");
            match matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) {
                true => Failed::Unusable(message),
                false => Failed::Ended(message),
            }
        })?;

        match (status.code(), status.signal()) {
            (Some(0), _) => Ok(()),
            (Some(code), _) => Err(Failed::Ended(format!("{name} ended with exit code {code}"))),
            (None, Some(signal)) => Err(Failed::Ended(format!("{name} was ended by signal {signal}"))),
            (None, None) => Err(Failed::Ended(format!("{name} ended: {status}"))),
        }
    }

    fn command(&self, program: &OsStr, object: &Object) -> Command {
        let address = object.address();
        let mut command = Command::new(program);
        for word in self.words.iter().skip(1) {
            command.arg(if word == PLACEHOLDER { OsStr::new(&address) } else { word });
        }

        command.env("OBJECT_ADDRESS", &address);
        command.env("OBJECT_STORE", object.store.as_str());
        command.env("OBJECT_KEY", object.key.as_str());
        command.env("OBJECT_EVENT", printable(&object.event));
        command.env("OBJECT_SIZE", object.size.map(|size| size.to_string()).unwrap_or_default());
        command.env("OBJECT_ETAG", printable(object.etag.as_deref().unwrap_or_default()));
        match &object.file {
            Some(file) => command.env("OBJECT_FILE", file),
            None => command.env_remove("OBJECT_FILE"),
        };

        // Ctrl-C stops taking events, and lets running commands end.
        command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
        command
    }
}

/// A variable can't hold a NUL.
fn printable(text: &str) -> String {
    gantry_proto::printable::text(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str) -> Object {
        Object {
            store: "s".parse().unwrap(),
            key: key.parse().unwrap(),
            cut: 0,
            size: Some(3),
            etag: None,
            event: "ObjectCreated:Put".to_owned(),
            file: None,
        }
    }

    fn runner(words: &[&str]) -> Runner {
        Runner::new(words.iter().map(OsString::from).collect()).unwrap()
    }

    #[tokio::test]
    async fn the_object_is_an_argument_and_in_the_environment() {
        let script = r#"test "$0|$1|$OBJECT_KEY|$OBJECT_SIZE|$OBJECT_EVENT|${OBJECT_FILE-none}" = \
            's/a b;$(x)|x{}|a b;$(x)|3|ObjectCreated:Put|none'"#;
        assert!(runner(&["sh", "-c", script, "{}", "x{}"]).run(&object("a b;$(x)")).await.is_ok());
    }

    #[tokio::test]
    async fn a_failed_command_differs_from_one_that_can_not_be_started() {
        for (script, why) in [("exit 3", "sh ended with exit code 3"), ("kill -9 $$", "sh was ended by signal 9")] {
            let Err(Failed::Ended(message)) = runner(&["sh", "-c", script]).run(&object("a")).await else {
                panic!("{script} did not fail");
            };
            assert_eq!(message, why);
        }
        let failed = runner(&["/no/such/program"]).run(&object("a")).await;
        assert!(matches!(failed, Err(Failed::Unusable(_))), "{failed:?}");
    }
}
