//! The options of a connection: addresses, TLS and credentials.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;

/// The options of a connection. They are those that NATS users know.
#[derive(Clone)]
pub struct Options {
    /// Server addresses, each `[nats://|tls://|ws://|wss://][user:password@|token@]host[:port]` or several of them
    /// separated by commas. `ws://` and `wss://` use WebSocket, and may have a path. One address with `tls://` or `wss://`
    /// requires TLS for all servers, including those discovered later.
    pub servers: Vec<String>,
    /// The connection's name, as `nats server report connections` shows it.
    pub name: String,
    /// The credentials. [`Auth::None`] uses the user information of the first address that has any.
    pub auth: Auth,
    /// A PEM file with the certificate authorities to trust instead of the system's. Requires TLS.
    pub tls_ca: Option<PathBuf>,
    /// A PEM file with this client's certificate chain. Needs `tls_key`, and requires TLS.
    pub tls_cert: Option<PathBuf>,
    /// A PEM file with this client's private key. Needs `tls_cert`.
    pub tls_key: Option<PathBuf>,
    /// Refuses a connection without TLS, and therefore addresses with `ws://`.
    pub tls_required: bool,
    /// Starts with the TLS handshake, before the server's first message. The server must have `handshake_first`. Does
    /// not apply to `wss://`, which always starts with TLS.
    pub tls_first: bool,
    /// Connects only to `servers`, not to other members of their cluster.
    pub ignore_discovered_servers: bool,
    /// The first tokens of reply subjects.
    pub inbox_prefix: String,
    /// Timeout for the first connection, including all attempts. With more than four addresses it is extended, so that each
    /// gets a second.
    pub connect_timeout: Duration,
    /// How long to retry on a reconnect while a server refuses the credentials or the TLS handshake, before the bus
    /// closes for good. The server may be reloading its configuration, or the credentials may be about to be replaced.
    pub refused_limit: Duration,
    /// How many messages may wait to be sent. The limit counts messages, not bytes: with messages of 1 MiB the default
    /// bounds the queue to 16 MiB.
    pub queue_messages: usize,
    /// How many unread messages one subscription holds. While it is full, new messages are lost, and
    /// [`Event::SlowConsumer`](crate::Event::SlowConsumer) is reported.
    pub subscription_messages: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            servers: vec!["nats://127.0.0.1:4222".to_owned()],
            name: "gantry".to_owned(),
            auth: Auth::None,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            tls_required: false,
            tls_first: false,
            ignore_discovered_servers: false,
            inbox_prefix: "_INBOX".to_owned(),
            // A connection with TLS takes five round trips. This is enough for a slow link, and below 5 s together
            // with the start of the process.
            connect_timeout: Duration::from_secs(4),
            refused_limit: Duration::from_secs(5),
            queue_messages: 16,
            // async-nats' own default; slots are allocated as they are used.
            subscription_messages: 65_536,
        }
    }
}

impl Options {
    /// Returns the addresses one by one.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().flat_map(|servers| servers.split(',')).map(str::trim).filter(|server| !server.is_empty())
    }

    /// Returns whether a connection without TLS must be refused. Configured certificates imply TLS.
    pub(super) const fn needs_tls(&self) -> bool {
        self.tls_required || self.tls_first || self.tls_ca.is_some() || self.tls_cert.is_some()
    }

    /// Checks everything that can be checked without a server, so that mistakes are reported before the first attempt.
    pub(super) async fn check(&self) -> Result<(), Error> {
        if self.addresses().next().is_none() {
            return Err(Error::option(OptionKind::Address, "no nats-server address is given"));
        }
        if self.queue_messages == 0 || self.subscription_messages == 0 {
            return Err(Error::option(OptionKind::Queues, "the NATS queues must hold at least one message"));
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            let reason = "a TLS certificate and its key go together, but one is missing";
            return Err(Error::option(OptionKind::TlsCertificate, reason));
        }

        let files = [
            ("TLS authorities", OptionKind::TlsAuthorities, &self.tls_ca, "CERTIFICATE-----"),
            ("TLS certificate", OptionKind::TlsCertificate, &self.tls_cert, "CERTIFICATE-----"),
            ("TLS key", OptionKind::TlsKey, &self.tls_key, "PRIVATE KEY-----"),
        ];
        for (what, option, path, mark) in files {
            let Some(path) = path else { continue };
            if !read(what, option, path).await?.contains(mark) {
                let reason = format!("{what} file {} contains no {what} in PEM form", path.display());
                return Err(Error::option(option, reason));
            }
        }
        Ok(())
    }
}

/// Reads a file that an option names.
pub(super) async fn read(what: &str, option: OptionKind, path: &Path) -> Result<String, Error> {
    tokio::fs::read_to_string(path)
        .await
        .map_err(|error| Error::option(option, format!("{what} file {} can't be read: {error}", path.display())))
}

/// Omits everything that could be a credential.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers: Vec<_> = self.addresses().map(without_credentials).collect();
        f.debug_struct("Options")
            .field("servers", &servers)
            .field("name", &self.name)
            .field("auth", &self.auth)
            .field("tls_ca", &self.tls_ca)
            .field("tls_cert", &self.tls_cert)
            .field("tls_key", &self.tls_key)
            .field("tls_required", &self.tls_required)
            .field("tls_first", &self.tls_first)
            .field("ignore_discovered_servers", &self.ignore_discovered_servers)
            .field("inbox_prefix", &self.inbox_prefix)
            .field("connect_timeout", &self.connect_timeout)
            .field("refused_limit", &self.refused_limit)
            .field("queue_messages", &self.queue_messages)
            .field("subscription_messages", &self.subscription_messages)
            .finish()
    }
}

/// Returns an address without its user information.
pub(super) fn without_credentials(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").map_or(("", address), |(scheme, rest)| (scheme, rest));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") }
}

/// The option of a connection that an [`Error::Options`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionKind {
    /// [`Options::servers`].
    Address,
    /// [`Options::auth`], or the file that it names.
    Credentials,
    /// The file [`Options::tls_ca`].
    TlsAuthorities,
    /// The file [`Options::tls_cert`].
    TlsCertificate,
    /// The file [`Options::tls_key`].
    TlsKey,
    /// The TLS handshake failed: `tls_ca` does not contain the authority of the server's certificate, the certificate is
    /// for another host, or the server requires a client certificate.
    TlsHandshake,
    /// TLS is required, but the server does not offer it.
    TlsNotOffered,
    /// [`Options::queue_messages`] or [`Options::subscription_messages`].
    Queues,
}

/// The credentials for nats-server.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Auth {
    /// No credentials.
    #[default]
    None,
    /// A user with a password.
    UserPassword {
        /// The user's name.
        user: String,
        /// The password.
        password: String,
    },
    /// A user whose password is in a file.
    UserPasswordFile {
        /// The user's name.
        user: String,
        /// The file. Leading and trailing white space is ignored.
        password: PathBuf,
    },
    /// A token.
    Token(String),
    /// A file with a token. Leading and trailing white space is ignored.
    TokenFile(PathBuf),
    /// A credentials file: a user JWT and its seed, as `nsc` writes it.
    Credentials(PathBuf),
    /// A file with the seed of an nkey.
    Nkey(PathBuf),
}

/// Omits passwords and tokens.
impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::UserPassword { user, .. } => write!(f, "UserPassword({user:?})"),
            Self::UserPasswordFile { user, password } => write!(f, "UserPasswordFile({user:?}, {password:?})"),
            Self::Token(_) => f.write_str("Token"),
            Self::TokenFile(path) => f.debug_tuple("TokenFile").field(path).finish(),
            Self::Credentials(path) => f.debug_tuple("Credentials").field(path).finish(),
            Self::Nkey(path) => f.debug_tuple("Nkey").field(path).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_credential() {
        let options = Options {
            servers: vec!["nats://u:s3cret@a:1,tls://s3cret@b".to_owned(), "u:s3cret@c:3".to_owned()],
            auth: Auth::UserPassword { user: "u".to_owned(), password: "s3cret".to_owned() },
            ..Options::default()
        };
        let text = format!("{options:?} {:?}", Auth::Token("s3cret".to_owned()));
        assert!(!text.contains("s3cret"), "{text}");
        assert!(text.contains(r#"["nats://a:1", "tls://b", "c:3"]"#), "{text}");
    }

    #[tokio::test]
    async fn errors_name_the_invalid_option() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        let cases = [
            (Options { servers: vec![" , ".to_owned()], ..Options::default() }, "address"),
            (Options { queue_messages: 0, ..Options::default() }, "at least one"),
            (Options { tls_cert: Some(empty.clone()), ..Options::default() }, "go together"),
            (Options { tls_ca: Some(dir.path().join("missing.pem")), ..Options::default() }, "missing.pem"),
            (Options { tls_ca: Some(empty), ..Options::default() }, "empty.pem"),
        ];
        for (options, named) in cases {
            let error = options.check().await.unwrap_err();
            assert!(matches!(&error, Error::Options { reason, .. } if reason.contains(named)), "{error}");
        }
    }
}
