//! Options of every command: where NATS is, who to be there, what to log.

use std::path::PathBuf;

use clap::Args;

use crate::config::{ContextChoice, Sources, parse_duration_ms};

/// Options of every command. Those for NATS have the names, and their variables, of the `nats` command line.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "NATS options")]
pub(super) struct Global {
    #[arg(
        short,
        long,
        global = true,
        value_name = "URL",
        help = "Addresses of nats-server, separated by commas [env: NATS_URL] [default: nats://127.0.0.1:4222]"
    )]
    server: Option<String>,
    #[arg(long, global = true, value_name = "FILE", help = "Credentials file [env: NATS_CREDS]")]
    creds: Option<PathBuf>,
    #[arg(long, global = true, value_name = "FILE", help = "File with an nkey seed [env: NATS_NKEY]")]
    nkey: Option<PathBuf>,
    #[arg(
        long,
        global = true,
        value_name = "USER",
        help = "User name, or a token when there is no password [env: NATS_USER]"
    )]
    user: Option<String>,
    #[arg(long, global = true, value_name = "PASSWORD", help = "Password [env: NATS_PASSWORD]")]
    password: Option<String>,
    #[arg(long, global = true, value_name = "TOKEN", help = "Token [env: NATS_TOKEN]")]
    token: Option<String>,
    #[arg(long, global = true, value_name = "FILE", help = "Certificate authorities to trust, PEM [env: NATS_CA]")]
    tlsca: Option<PathBuf>,
    #[arg(long, global = true, value_name = "FILE", help = "Client certificate, PEM [env: NATS_CERT]")]
    tlscert: Option<PathBuf>,
    #[arg(long, global = true, value_name = "FILE", help = "Client key, PEM [env: NATS_KEY]")]
    tlskey: Option<PathBuf>,
    #[arg(long, global = true, help = "Begin TLS before the server's greeting")]
    tlsfirst: bool,
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        conflicts_with = "no_context",
        help = "Context of the nats command line, by name or .json file; default: the selected one [env: NATS_CONTEXT]"
    )]
    context: Option<String>,
    #[arg(long, global = true, help = "Go without the selected context")]
    no_context: bool,
    #[arg(
        long,
        global = true,
        value_name = "PREFIX",
        help = "Prefix of reply subjects, for private inboxes [default: _INBOX]"
    )]
    inbox_prefix: Option<String>,
    #[arg(long, global = true, value_name = "NAME", help = "Name of the connection in nats-server's reports")]
    connection_name: Option<String>,
    #[arg(long, global = true, value_name = "DURATION", value_parser = parse_duration_ms, help = "How long to try to connect, as in 500ms or 5s [env: NATS_TIMEOUT] [default: 4s]")]
    timeout: Option<u64>,
    #[arg(
        long,
        global = true,
        value_name = "PREFIX",
        help_heading = "Global options",
        help = "First tokens of Gantry's subjects [env: GANTRY_PREFIX] [default: gantry]"
    )]
    prefix: Option<String>,
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Global options",
        help = "Configuration file [env: GANTRY_CONFIG]"
    )]
    config: Option<PathBuf>,
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        help_heading = "Global options",
        help = "What to log, as in debug or info,gantry_relay=debug [env: GANTRY_LOG]"
    )]
    log_level: Option<String>,
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        help_heading = "Global options",
        help = "How to log: text or json [env: GANTRY_LOG__FORMAT]"
    )]
    log_format: Option<String>,
}

impl Global {
    /// Lays these options over `sources`.
    pub(super) fn sources(&self, mut sources: Sources) -> Sources {
        if let Some(config) = &self.config {
            sources.file = Some(config.clone());
        }
        if let Some(context) = &self.context {
            sources.context = ContextChoice::Named(context.clone());
        }
        if self.no_context {
            sources.context = ContextChoice::Never;
        }
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        for (key, value, flag) in [
            ("nats.url", self.server.clone(), "--server"),
            ("nats.creds_file", path(&self.creds), "--creds"),
            ("nats.nkey_file", path(&self.nkey), "--nkey"),
            ("nats.user", self.user.clone(), "--user"),
            ("nats.password", self.password.clone(), "--password"),
            ("nats.token", self.token.clone(), "--token"),
            ("nats.tls_ca_file", path(&self.tlsca), "--tlsca"),
            ("nats.tls_cert_file", path(&self.tlscert), "--tlscert"),
            ("nats.tls_key_file", path(&self.tlskey), "--tlskey"),
            ("nats.tls_first", self.tlsfirst.then(|| "true".to_owned()), "--tlsfirst"),
            ("nats.inbox_prefix", self.inbox_prefix.clone(), "--inbox-prefix"),
            ("nats.connection_name", self.connection_name.clone(), "--connection-name"),
            ("nats.connect_timeout_ms", self.timeout.map(|ms| ms.to_string()), "--timeout"),
            ("prefix", self.prefix.clone(), "--prefix"),
            ("log.level", self.log_level.clone(), "--log-level"),
            ("log.format", self.log_format.clone(), "--log-format"),
        ] {
            if let Some(value) = value {
                sources.flags.set(key, value, flag);
            }
        }
        sources
    }
}
