//! Exit codes, and the failures that lead to them.

use std::borrow::Cow;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use crate::config::{self, without_credentials_in};
use gantry_bus as bus;
use gantry_client::{self as consumer, Cause, part};
use gantry_proto::{Code, TransferId, printable};

/// The end of the name of a hidden file with the bytes of an unfinished download.
const PART_SUFFIX: &str = ".gantry-part";

/// The name of the hidden folder with the files of an unfinished download of a folder.
const STAGE: &str = ".gantry-tree";

/// The exit codes. The help text and the documents list them, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Success. A download is complete and verified.
    Done = 0,
    /// Any other failure.
    Failed = 1,
    /// The command line or the configuration is invalid.
    Usage = 2,
    /// There is no such store, bucket, key or version.
    NotFound = 4,
    /// Gave up on a temporary failure.
    GaveUp = 5,
    /// The bytes do not match the store's checksum.
    Integrity = 6,
    /// The object changed during the download.
    Changed = 7,
    /// Access is denied.
    Denied = 8,
    /// Interrupted by a signal.
    Interrupted = 130,
}

impl Exit {
    /// Every exit code, in ascending order.
    pub const ALL: [Self; 9] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::NotFound,
        Self::GaveUp,
        Self::Integrity,
        Self::Changed,
        Self::Denied,
        Self::Interrupted,
    ];

    /// Returns the number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Returns the name in JSON output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::GaveUp => "gave_up",
            Self::Integrity => "integrity",
            Self::Changed => "changed",
            Self::Denied => "denied",
            Self::Interrupted => "interrupted",
        }
    }

    /// Returns the exit code for a relay's error that ended a request.
    #[must_use]
    pub const fn of_code(code: Code) -> Self {
        match code {
            Code::NotFound => Self::NotFound,
            Code::Changed => Self::Changed,
            Code::Denied => Self::Denied,
            Code::BadRequest | Code::Range => Self::Usage,
            Code::Idle | Code::Ended | Code::Busy | Code::StoreUnavailable | Code::Draining | Code::Internal => {
                Self::GaveUp
            }
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Failure {
    /// The exit code.
    #[serde(rename = "code", serialize_with = "name_of")]
    pub(super) exit: Exit,
    /// The subject, such as `store/key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) subject: Option<String>,
    /// The message to the user. If it is empty, nothing is printed, for example after the reader of stdout has closed
    /// the pipe.
    pub(super) message: String,
    /// Whether the message is one line, so that any line break in it comes from a peer.
    #[serde(skip)]
    pub(super) is_one_line: bool,
    /// The last transfer, as in the relay's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) transfer: Option<TransferId>,
    /// The id of the download, which the logs and traces of both sides contain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) correlation: Option<String>,
    /// Whether the store answers that it has no such object.
    #[serde(skip)]
    pub(super) is_missing_object: bool,
}

fn name_of<S: serde::Serializer>(exit: &Exit, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(exit.name())
}

impl Failure {
    /// Makes a failure without a subject. An address in the message, such as one in place of a path, loses its
    /// credentials.
    #[must_use]
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            subject: None,
            message: without_credentials_in(&message.into()),
            is_one_line: false,
            transfer: None,
            correlation: None,
            is_missing_object: false,
        }
    }

    /// Makes a failure of the command line or the configuration.
    #[must_use]
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Makes the failure of a command that a signal interrupted.
    #[must_use]
    pub(super) fn interrupted() -> Self {
        Self::new(Exit::Interrupted, "interrupted")
    }

    /// Adds the subject, without credentials.
    #[must_use]
    pub(super) fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(without_credentials_in(&subject.into()));
        self
    }

    /// Adds the download's last transfer and its id.
    #[must_use]
    pub(super) fn of(mut self, transfer: Option<TransferId>, correlation: &str) -> Self {
        self.transfer = transfer;
        self.correlation = Some(correlation.to_owned());
        self
    }

    /// Returns the lines to print on stderr.
    #[must_use]
    pub(super) fn lines(&self) -> Vec<String> {
        let subject =
            self.subject.as_ref().map_or_else(String::new, |subject| format!("{}: ", printable::text(subject)));
        let transfer = self.transfer.map_or_else(String::new, |id| format!(" (transfer {id})"));
        self.message_lines().map(|line| format!("gantry: {subject}{line}{transfer}")).collect()
    }

    /// Returns the lines of the message, escaped. Text from a peer can't add lines.
    pub(super) fn message_lines(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let whole = Some(self.message.as_str()).filter(|text| self.is_one_line && !text.is_empty());
        let split = (!self.is_one_line).then(|| self.message.lines());
        whole.into_iter().chain(split.into_iter().flatten()).map(printable::text)
    }

    /// Marks the message as one line, since it contains text from a peer.
    #[must_use]
    pub(super) const fn on_one_line(mut self) -> Self {
        self.is_one_line = true;
        self
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<bus::Error> for Failure {
    fn from(error: bus::Error) -> Self {
        let exit = match &error {
            bus::Error::Unreachable { .. } | bus::Error::Closed => Exit::GaveUp,
            bus::Error::Unauthorized { .. } => Exit::Denied,
            bus::Error::Options { .. } | bus::Error::Subject(_) => Exit::Usage,
            bus::Error::TooLarge { .. } | bus::Error::Header(_) => Exit::Failed,
            _ => Exit::Failed,
        };
        Self::new(exit, with_cure(error.to_string(), cure_of_bus(&error))).on_one_line()
    }
}

impl From<consumer::Error> for Failure {
    fn from(error: consumer::Error) -> Self {
        let cure = cure(&error);
        let is_missing_object = matches!(&error, consumer::Error::Refused(error) if error.code == Code::NotFound);
        let exit = match error {
            consumer::Error::Bus(error) => return error.into(),
            consumer::Error::NoRelay { .. }
            | consumer::Error::StoreLeft(_)
            | consumer::Error::Unanswered { .. }
            | consumer::Error::GaveUp { .. } => Exit::GaveUp,
            consumer::Error::Address(_) => Exit::Usage,
            consumer::Error::NoStore { .. } => Exit::NotFound,
            consumer::Error::Refused(ref error) if !error.retryable && Exit::of_code(error.code) == Exit::GaveUp => {
                Exit::Failed
            }
            consumer::Error::Refused(ref error) => Exit::of_code(error.code),
            consumer::Error::NotPermitted { .. } => Exit::Denied,
            consumer::Error::Changed(_) => Exit::Changed,
            consumer::Error::Mismatch(_) | consumer::Error::Part(part::Error::Mismatch { .. }) => Exit::Integrity,
            consumer::Error::Part(_) | consumer::Error::Malformed(_) => Exit::Failed,
            // Only a download to a file can be cancelled this way.
            consumer::Error::Cancelled => {
                return Self::new(Exit::Interrupted, "interrupted: run the same command again to resume");
            }
            // All present variants are above. The enum is non-exhaustive.
            _ => Exit::Failed,
        };
        let message = with_cure(format!("{:#}", anyhow::Error::from(error)), cure);
        Self { is_missing_object, ..Self::new(exit, message).on_one_line() }
    }
}

/// Returns what the user can do about a failed connection, unless the message already includes it.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other messages include what to do")]
const fn cure_of_bus(error: &bus::Error) -> Option<&'static str> {
    match error {
        bus::Error::Unreachable { .. } => Some("start nats-server, or correct --server"),
        bus::Error::Unauthorized { .. } => Some("correct the credentials, such as --creds or --user and --password"),
        bus::Error::Closed => Some("run the command again"),
        _ => None,
    }
}

/// Returns what the user can do about a failed download or request, unless the message already includes it.
#[expect(clippy::wildcard_enum_match_arm, reason = "most messages include what to do")]
fn cure(error: &consumer::Error) -> Option<Cow<'static, str>> {
    let cure = match error {
        consumer::Error::NoRelay { .. } => {
            "start one with gantry serve, wait for one with --await-relay, or correct --server or --prefix"
        }
        consumer::Error::NoStore { .. } => "correct the store's name, or start a relay that serves it",
        consumer::Error::GaveUp { cause: Cause::Refused(refusal), .. } if refusal.needs_operator == Some(true) => {
            "the relay's operator must correct this"
        }
        consumer::Error::StoreLeft(_) | consumer::Error::GaveUp { .. } => "run the command again later",
        consumer::Error::Unanswered { .. } => {
            "the relay may not answer there: add this inbox to its `relay.delivery_allow`, or use another --inbox-prefix"
        }
        consumer::Error::NotPermitted { what, subject } => return Some(cure_of_denial(what, subject)),
        consumer::Error::Part(part::Error::InUse(_)) => "wait until it ends, or choose another target with -o",
        consumer::Error::Part(part::Error::Full { path, .. }) => return Some(cure_of_full_disk(path)),
        consumer::Error::Part(part::Error::MountPoint(_)) => {
            "choose another target with -o, or write into it: -o - > FILE"
        }
        consumer::Error::Part(part::Error::TooLarge { .. }) => "choose a target on another file system with -o",
        consumer::Error::Part(part::Error::NotWritable { .. }) => {
            "get permission to write in this folder, or choose another target with -o"
        }
        consumer::Error::Part(part::Error::NoFolder(_)) => "create it, or choose another target with -o",
        _ => return None,
    };
    Some(cure.into())
}

/// Returns which permission the user needs.
fn cure_of_denial(what: &str, subject: &str) -> Cow<'static, str> {
    if what == "subscribing to" {
        return "use an --inbox-prefix that the user may subscribe to, or grant that permission to the user".into();
    }
    // The subject belongs to one transfer, but the user needs permission for all of their transfers.
    match subject.split_once(".v1.ctl.") {
        Some((prefix, _)) => format!("permit the user to publish to {prefix}.v1.ctl.*.*").into(),
        None => "grant that permission to the user".into(),
    }
}

fn cure_of_full_disk(path: &Path) -> Cow<'static, str> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // The disk may have been full when writing the file itself, the record beside it, or the files of a folder.
    let hidden = match name.split_once(PART_SUFFIX) {
        None if name == STAGE => name.into_owned(),
        Some((name, _)) => format!("{name}{PART_SUFFIX}"),
        None => format!(".{name}{PART_SUFFIX}"),
    };
    format!(
        "free some space, and run the command again to resume; {hidden} contains the bytes received so far, and may be \
         deleted"
    )
    .into()
}

fn with_cure(message: String, cure: Option<impl AsRef<str>>) -> String {
    match cure {
        Some(cure) => format!("{message}: {}", cure.as_ref()),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_bus::nats::OptionKind;
    use gantry_client::verify::Mismatch;
    use gantry_proto::WireError;

    #[test]
    fn every_consumer_error_has_an_exit_code() {
        let mismatch = || Mismatch::Length { expected: 2, actual: 1 };
        let of_part = |error| consumer::Error::Part(error);
        let looping = WireError { retryable: false, ..WireError::new(Code::StoreUnavailable, "in a circle") };
        for (error, exit) in [
            (consumer::Error::NoRelay { prefix: "gantry".to_owned(), server: String::new() }, Exit::GaveUp),
            (consumer::Error::NoStore { store: "files".parse().unwrap(), stores: Vec::new() }, Exit::NotFound),
            (consumer::Error::StoreLeft("files".parse().unwrap()), Exit::GaveUp),
            (consumer::Error::Unanswered { inbox: "_INBOX.x".to_owned(), requests: 9 }, Exit::GaveUp),
            (consumer::Error::Refused(WireError::new(Code::Denied, "")), Exit::Denied),
            (consumer::Error::Refused(WireError::new(Code::NotFound, "")), Exit::NotFound),
            (consumer::Error::Refused(WireError::new(Code::Range, "")), Exit::Usage),
            (consumer::Error::Refused(WireError::new(Code::StoreUnavailable, "")), Exit::GaveUp),
            (consumer::Error::Refused(looping), Exit::Failed),
            (consumer::Error::NotPermitted { what: "publishing to", subject: "x".to_owned() }, Exit::Denied),
            (consumer::Error::Changed(String::new()), Exit::Changed),
            (consumer::Error::GaveUp { cause: Cause::Stall, requests: 1 }, Exit::GaveUp),
            (consumer::Error::Mismatch(mismatch()), Exit::Integrity),
            (of_part(part::Error::Mismatch { target: "x".into(), source: mismatch() }), Exit::Integrity),
            (of_part(part::Error::NoFolder("x".into())), Exit::Failed),
            (consumer::Error::Bus(bus::Error::Closed), Exit::GaveUp),
            (consumer::Error::Malformed(String::new()), Exit::Failed),
            (consumer::Error::Cancelled, Exit::Interrupted),
        ] {
            let shown = error.to_string();
            assert_eq!(Failure::from(error).exit, exit, "{shown}");
        }
    }

    #[test]
    fn only_the_operator_can_act_on_refused_credentials() {
        let message = |needs_operator| {
            let refused = WireError { needs_operator, ..WireError::new(Code::StoreUnavailable, "no credentials") };
            Failure::from(consumer::Error::GaveUp { cause: Cause::Refused(refused), requests: 2 }).message
        };
        assert_eq!(
            message(Some(true)),
            "gave up after 2 requests: no credentials: the relay's operator must correct this"
        );
        for other in [None, Some(false)] {
            assert_eq!(message(other), "gave up after 2 requests: no credentials: run the command again later");
        }
    }

    #[test]
    fn failure_includes_its_cause() {
        let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = consumer::Error::Part(part::Error::Full { path: "/mnt/x".into(), source });
        assert_eq!(
            Failure::from(error).message,
            "no space left for /mnt/x: no storage space: free some space, and run the command again to resume; \
             .x.gantry-part contains the bytes received so far, and may be deleted"
        );
    }

    #[test]
    fn denials_name_the_permission_that_is_missing() {
        let denied = |what: &'static str, subject: &str| {
            let error = consumer::Error::NotPermitted { what, subject: subject.to_owned() };
            Failure::from(error).message
        };
        let control = denied("publishing to", "site.a.v1.ctl.abc.def");
        assert!(control.contains("\"site.a.v1.ctl.abc.def\"") && control.ends_with("site.a.v1.ctl.*.*"), "{control}");
        let inbox = denied("subscribing to", "_INBOX.abc");
        assert!(inbox.contains("\"_INBOX.abc\"") && inbox.contains("--inbox-prefix"), "{inbox}");
    }

    #[test]
    fn a_missing_relay_and_a_missing_store_are_described() {
        let relay = consumer::Error::NoRelay { prefix: "gantry".to_owned(), server: "nats://h:4222".to_owned() };
        let message = Failure::from(relay).message;
        assert!(message.starts_with("no relay is listening at nats://h:4222 with the prefix gantry: "), "{message}");

        let stores = ["a", "b"].map(|name| name.parse().unwrap()).to_vec();
        let message = Failure::from(consumer::Error::NoStore { store: "c".parse().unwrap(), stores }).message;
        assert!(message.starts_with("no relay serves store c, only a, b: "), "{message}");
    }

    #[test]
    fn exit_codes_match_the_documentation() {
        let numbers: Vec<_> = Exit::ALL.iter().map(|exit| exit.number()).collect();
        assert_eq!(numbers, [0, 1, 2, 4, 5, 6, 7, 8, 130]);
    }

    #[test]
    fn every_wire_code_has_an_exit_code() {
        let exits: Vec<_> = Code::ALL.iter().map(|code| (code.name(), Exit::of_code(*code).number())).collect();
        assert_eq!(
            exits,
            [
                ("bad_request", 2),
                ("denied", 8),
                ("not_found", 4),
                ("idle", 5),
                ("ended", 5),
                ("changed", 7),
                ("range", 2),
                ("busy", 5),
                ("internal", 5),
                ("store_unavailable", 5),
                ("draining", 5),
            ]
        );
    }

    #[test]
    fn failure_is_one_line_with_its_subject() {
        let failure = Failure::new(Exit::NotFound, "no such key").about("files/a");
        assert_eq!(failure.lines(), ["gantry: files/a: no such key"]);
        let json = serde_json::to_string(&failure).unwrap();
        assert_eq!(json, r#"{"code":"not_found","subject":"files/a","message":"no such key"}"#);
    }

    #[test]
    fn failure_contains_no_credentials() {
        let failure = Failure::usage("configuration file s3://me:hush@demo/x: no such file").about("http://me:hush@h/");
        assert_eq!(
            failure.lines(),
            ["gantry: http://[redacted]@h/: configuration file s3://[redacted]@demo/x: no such file"]
        );
    }

    #[test]
    fn message_of_a_peer_adds_no_line() {
        let hostile = "no\ngantry: wrote a: 1 bytes\u{1b}[2K";
        let refused = WireError::new(Code::NotFound, hostile);
        let failure = Failure::from(consumer::Error::Refused(refused)).about("s/a\u{9b}31m\nb");
        assert_eq!(failure.lines(), ["gantry: s/a\\u{9b}31m\\nb: no\\ngantry: wrote a: 1 bytes\\u{1b}[2K"]);
        assert_eq!(failure.message, hostile, "JSON contains the original text");
        let server = bus::Error::Unreachable { servers: "a".to_owned(), reason: "x\ny".to_owned() };
        assert_eq!(Failure::from(server).lines().len(), 1);
    }

    #[test]
    fn bus_errors_distinguish_absence_from_refusal() {
        let servers = || "127.0.0.1:4222".to_owned();
        let exit = |error: bus::Error| Failure::from(error).exit;
        assert_eq!(exit(bus::Error::Unreachable { servers: servers(), reason: String::new() }), Exit::GaveUp);
        assert_eq!(exit(bus::Error::Unauthorized { servers: servers(), reason: String::new() }), Exit::Denied);
        assert_eq!(exit(bus::Error::Options { option: OptionKind::Address, reason: String::new() }), Exit::Usage);
        assert_eq!(exit(bus::Error::Closed), Exit::GaveUp);
    }
}
