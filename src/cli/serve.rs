//! `gantry serve`: the relay.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use clap::Args;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use prometheus_client::registry::Registry;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::caches::Folders;
use super::exit::{Exit, Failure};
use super::gateway::{Front, Served};
use super::key_options::ServeKeys;
use super::{Cli, check, connect, pages, payload, stores};
use crate::config::{Config, Effective, Sources, StoreAddress, begins_connection_string, without_credentials};
use crate::http;
use crate::telemetry;
use gantry_bus as bus;
use gantry_bus::nats;
use gantry_proto::{self as proto, StoreName};
use gantry_relay::metrics::{Facts, RelayMetrics, ResultLabel, Sampled};
use gantry_relay::shutdown::{self, Shutdown};
use gantry_relay::{self as relay, Buses, Readiness, Relay, Replaced, Stores};
use gantry_store::budget::Budget;
use gantry_store::misplaced;

const ABOUT: &str = "Serve stores to consumers

S3 is configured with the variables of the AWS tools, such as AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, \
AWS_REGION and AWS_ENDPOINT_URL. To use several S3 servers, or to set limits, use a configuration file or variables such \
as GANTRY_STORES__FILES__ENDPOINT_URL.

After the first SIGTERM or SIGINT, the relay finishes its transfers and exits. After the second one, it exits \
immediately. SIGHUP reloads the stores' configuration.";

/// Serve stores to consumers
#[derive(Args, Clone, Debug)]
#[command(about = "Serve stores to consumers", long_about = ABOUT)]
pub(super) struct Serve {
    #[arg(
        long = "store",
        value_name = "NAME=URL",
        help = "Store to serve: its name, and s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, nats:STORE, file:///dir or ./dir; may be repeated"
    )]
    stores: Vec<String>,
    #[arg(value_name = "DIR", help = "Directory to serve, as a store named like it; may be repeated")]
    folders: Vec<PathBuf>,
    #[command(flatten)]
    keys: ServeKeys,
    #[arg(
        long,
        value_name = "ADDRESS",
        help = "Also serve the stores to HTTP and S3 clients at this address, or at unix:PATH [env: GANTRY_GATEWAY__LISTEN]"
    )]
    gateway: Option<String>,
    #[arg(long, help = "Print the effective configuration, test the connection and every store, and exit with 0 or 2")]
    check: bool,
}

/// The form of a `--store`.
const STORE_ARG_FORM: &str = "must be NAME=URL, as in files=file:///srv/files";

#[derive(Clone, Debug, PartialEq, Eq)]
struct StoreArg {
    name: StoreName,
    url: String,
}

impl FromStr for StoreArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((name, url)) = text.split_once('=').filter(|(name, _)| !is_address(name)) else {
            return Err(without_name(text));
        };

        // The error of an invalid name contains the name, which may be an address with a password, or a key.
        let name = name.parse().map_err(|error| {
            let is_secret = name.contains('@') || misplaced::is_secret(name) || without_credentials(text) != text;
            if is_secret { STORE_ARG_FORM.to_owned() } else { format!("{error}: {STORE_ARG_FORM}") }
        })?;
        let url = if url.starts_with(['.', '/']) { file_url(Path::new(url))? } else { url.to_owned() };
        StoreAddress::parse(&url)?;
        Ok(Self { name, url })
    }
}

impl StoreArg {
    /// Returns the store of a directory, named after its last part.
    fn of_folder(folder: &Path) -> Result<Self, String> {
        if folder.to_str().is_some_and(|text| text.contains("://") && !folder.exists()) {
            let address = folder.to_str().and_then(named_address);
            let address = address.as_deref().unwrap_or("NAME=URL");
            return Err(format!("it must be a directory: use --store {address} for a store at an address"));
        }

        let text = folder.to_str().filter(|_| !folder.exists()).unwrap_or_default();
        if let Some((name, _)) = text.split_once('=') {
            if is_address(name) {
                return Err(without_name(text));
            }
            if name.parse::<StoreName>().is_ok() {
                return Err(format!("there is no such directory: use --store {} for a store {name}", shown(text)));
            }
        }
        if is_secret(folder) {
            return Err("there is no such directory".to_owned());
        }

        let url = file_url(folder)?;
        let name = std::path::absolute(folder).ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let name = name.unwrap_or_default().replace(|c| !is_allowed(c), "-");
        let name =
            name.get(..64).unwrap_or(&name).parse().map_err(|_| "it has no name: use --store NAME=DIR".to_owned())?;
        Ok(Self { name, url })
    }
}

/// Returns whether what is given in place of a directory looks like a secret.
fn is_secret(folder: &Path) -> bool {
    let text = folder.to_string_lossy();
    !folder.exists() && !text.starts_with(['.', '~']) && misplaced::is_secret(&text)
}

/// Returns whether what precedes the first `=` is the beginning of an address, and not a name.
fn is_address(name: &str) -> bool {
    name.contains("://") || begins_connection_string(name)
}

/// Describes what to write for a `--store` without a name.
fn without_name(text: &str) -> String {
    if let Some(named) = named_address(text) {
        return format!("has no name: must be {named}, or another NAME=URL");
    }
    match StoreAddress::parse(text) {
        Err(cure) if is_address(text.split('=').next().unwrap_or_default()) => {
            format!("must be NAME=URL, and this URL {cure}")
        }
        _ => STORE_ARG_FORM.to_owned(),
    }
}

/// Returns a valid address with a name of its own, as in `bucket=s3://bucket`.
fn named_address(url: &str) -> Option<String> {
    let address = StoreAddress::parse(url).ok()?;
    let last = |text: &str| text.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
    let name = match &address {
        StoreAddress::S3 { bucket: place, prefix }
        | StoreAddress::Gcs { bucket: place, prefix }
        | StoreAddress::Azure { container: place, prefix } => {
            if prefix.is_empty() {
                last(place)
            } else {
                last(prefix)
            }
        }
        StoreAddress::Nats { store } => store.to_string(),
        StoreAddress::File { dir } => last(&dir.to_string_lossy()),
    };
    let name = name.parse::<StoreName>().map_or_else(|_| "NAME".to_owned(), |name| name.to_string());
    Some(format!("{name}={url}"))
}

/// Returns a `--store` without the credentials in its address.
fn shown(store: &str) -> String {
    match store.split_once('=') {
        Some((name, url)) if name.parse::<StoreName>().is_ok() && !is_address(name) => {
            format!("{name}={}", without_credentials(url))
        }
        Some(_) | None => without_credentials(store),
    }
}

/// Returns the address of a directory whose path may be relative.
fn file_url(path: &Path) -> Result<String, String> {
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

    // `canonicalize` removes the dots, so that the place has the same name wherever the relay is started.
    let path = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path)).map_err(|error| error.to_string())?;
    Ok(format!("file://{}", percent_encode(path.as_os_str().as_bytes(), KEPT)))
}

impl Serve {
    pub(super) fn settings(&self, sources: &mut Sources) -> Result<(), Failure> {
        let mut seen = BTreeSet::new();
        for text in &self.stores {
            // clap would print an invalid argument with the password that may be in it.
            let StoreArg { name, url } =
                text.parse().map_err(|error| Failure::usage(format!("--store {:?}: {error}", shown(text))))?;
            if !seen.insert(name.clone()) {
                return Err(Failure::usage(format!(
                    "--store {name} is given twice: use a different name for each store"
                )));
            }
            sources.flags.set_store(&name, &url);
        }
        for folder in &self.folders {
            let text = folder.to_string_lossy();
            let place = match shown(&text) {
                shown if shown == text && is_secret(folder) => "[redacted]".to_owned(),
                shown => shown,
            };
            let StoreArg { name, url } =
                StoreArg::of_folder(folder).map_err(|error| Failure::usage(format!("{place}: {error}")))?;
            if !seen.insert(name.clone()) {
                return Err(Failure::usage(format!(
                    "{place}: there is another store {name}: use --store NAME={place} with a different name"
                )));
            }
            sources.flags.set_store(&name, &url);
        }

        if let Some(address) = &self.gateway {
            sources.flags.set("gateway.listen", address, "--gateway");
        }
        self.keys.apply(&mut sources.flags);
        Ok(())
    }

    pub(super) const fn is_check(&self) -> bool {
        self.check
    }

    pub(super) async fn run(
        self,
        config: &Config,
        effective: &[Effective],
        cli: &Cli,
        shutdown: &Shutdown,
    ) -> Result<(), Failure> {
        if self.check {
            return check::run(config, effective).await;
        }
        if config.stores.is_empty() {
            return Err(Failure::usage(
                "no store to serve: set one, as in --store files=file:///srv/files, or [stores.NAME] in a \
                 configuration file",
            ));
        }

        warn_of_ignored(config);
        raise_open_files_limit(config.relay.places());
        let mut hangups = shutdown::hangups()
            .map_err(|error| Failure::new(Exit::Failed, format!("can't listen for signals: {error}")))?;

        let budget = config.relay.budget.clone();
        let mut registry = Registry::default();
        let metrics = Arc::new(RelayMetrics::register(&mut registry, facts(&budget)));
        let folders = Folders::default();
        let stores = opened(config, effective, &budget, &folders, &metrics).await?;
        for name in config.stores.keys() {
            let key = format!("stores.{name}.url");
            let place = effective.iter().find(|line| line.key == key).map_or("", |line| line.value.trim_matches('"'));
            info!(store = %name, place, "serving a store: try gantry ls {name}");
        }
        let listener = pages::listen(&config.http).await?;

        let front = Front::if_configured(&config.gateway, &mut registry).await?;
        let of_front = Served::new(stores.clone());

        let readiness = watch::Sender::new(Readiness::default());
        let transfers = Arc::new(OnceLock::new());
        let pages = http::Pages {
            registry: Arc::new(registry),
            readiness: http::Ready::Relay(readiness.subscribe()),
            transfers: Some(Arc::clone(&transfers)),
        };

        let served = Box::pin(async {
            let Some(buses) = first_connections(&config.nats, shutdown).await? else { return Ok(()) };
            let data = Arc::clone(&buses.data);
            payload::find_limit(config, &*data).await;
            let options = config.relay.clone();
            let relay = Relay::start(buses, stores, options, Arc::clone(&metrics), shutdown.clone()).await?;

            transfers.get_or_init(|| relay.active_transfers());
            let reloads = async {
                // Signals that arrive during a reload cause one more.
                while hangups.recv().await.is_some() {
                    reload(&relay, &of_front, config, cli, &budget, &folders, &metrics).await;
                }
            };
            // A reload waits for NATS, and must delay neither readiness nor the shutdown. A reload in progress at the
            // shutdown is dropped, with the stores that it would have served.
            let limit = payload::follow_limit(config, &*data);
            let beside = async { tokio::join!(show(relay.readiness(), &readiness), reloads, limit) };
            tokio::select! {
                served = relay.wait() => Ok(served?),
                _ = beside => Ok(relay.wait().await?),
            }
        });
        // The front serves the stores also while there is no connection to NATS. It ends with the relay.
        let ends = Shutdown { drain: shutdown.drain.child_token(), force: shutdown.force.child_token() };
        let fronted = Box::pin(async {
            if let Some(front) = front {
                front.serve(Arc::new(of_front.clone()), &ends).await;
            }
        });
        let served = async {
            let served = served.await;
            ends.drain.cancel();
            if served.is_err() {
                ends.force.cancel();
            }
            served
        };
        let both = async { tokio::join!(served, fronted).0 };
        pages::beside(both, listener, pages).await
    }
}

/// Opens the stores. A failure names the key that explains it, and what to do, as `gantry serve --check` does.
async fn opened(
    config: &Config,
    effective: &[Effective],
    budget: &Budget,
    folders: &Folders,
    metrics: &RelayMetrics,
) -> Result<Stores, Failure> {
    let opened = stores::open(config, budget, folders, &metrics.s3).await;
    opened.map_err(|(name, store, error)| {
        Failure::new(stores::exit(&error), check::explained(store, &error, name, effective))
    })
}

/// Logs settings without effect.
fn warn_of_ignored(config: &Config) {
    for ignored in &config.ignored {
        warn!("{ignored}");
    }
}

/// Raises the limit on open files as far as the system allows, and warns if the transfers may need more.
fn raise_open_files_limit(transfers: u64) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        warn!(%error, "can't raise the limit on open files");
    }

    let needed = open_files_needed(transfers);
    // Without a value there is no limit.
    if let Some(limit) = getrlimit(Resource::Nofile).current.filter(|limit| *limit < needed) {
        warn!(
            limit,
            needed,
            "with as many transfers as allowed, the relay may run out of open files: raise the limit (LimitNOFILE, ulimit -n) or lower `relay.transfers_max`"
        );
    }
}

/// Returns how many files may be open at once. Each transfer has a file or a connection to S3. Up to a hundred transfers
/// may have a few more connections each.
const fn open_files_needed(transfers: u64) -> u64 {
    const OF_THE_PROCESS: u64 = 64;
    const AHEAD: u64 = 100 * 3;
    transfers.saturating_add(AHEAD + OF_THE_PROCESS)
}

/// Passes the relay's readiness on to the HTTP pages.
async fn show(mut of_relay: watch::Receiver<Readiness>, readiness: &watch::Sender<Readiness>) {
    loop {
        let now = of_relay.borrow_and_update().clone();
        readiness.send_replace(now);
        if of_relay.changed().await.is_err() {
            return;
        }
    }
}

/// Connects to NATS. Retries without limit, since nats-server may start later. Returns `None` on shutdown.
///
/// # Errors
/// If a retry would fail in the same way: the server refuses the credentials, or an option is invalid.
async fn first_connections(options: &nats::Options, shutdown: &Shutdown) -> Result<Option<Buses>, Failure> {
    loop {
        // An attempt that is dropped on shutdown leaves nothing behind.
        let attempt = tokio::select! {
            attempt = connect::try_buses(options) => attempt,
            () = shutdown.drain.cancelled() => return Ok(None),
            () = shutdown.force.cancelled() => return Ok(None),
        };
        match attempt {
            Ok(buses) => return Ok(Some(buses)),
            Err(bus::Error::Unreachable { servers, reason }) => {
                warn!(servers, reason, "no connection to NATS yet: retrying, /readyz reports not ready until then");
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn facts(budget: &Budget) -> Facts {
    let sampled = budget.clone();
    Facts {
        protocol: proto::VERSION,
        memory_budget_bytes: budget.total_bytes(),
        memory_reserved_bytes: Sampled::new(move || sampled.reserved_bytes()),
        log_lines_dropped: Sampled::new(telemetry::dropped_lines),
    }
}

/// Reloads the configuration and serves its stores. If the configuration is invalid, logs the problem and changes
/// nothing.
async fn reload(
    relay: &Relay,
    of_front: &Served,
    running: &Config,
    cli: &Cli,
    budget: &Budget,
    folders: &Folders,
    metrics: &RelayMetrics,
) {
    let reloaded = async {
        let (config, effective) = cli.sources()?.read();
        let config = config?;
        let stores = opened(&config, &effective, budget, folders, metrics).await?;
        warn_of_ignored(&config);
        let replaced = relay.replace_stores(stores.clone()).await?;
        of_front.replace(stores);
        Ok::<_, Failure>((config, replaced))
    };
    let result = match reloaded.await {
        Ok((config, Replaced { added, kept, removed })) => {
            let names = |stores: Vec<StoreName>| stores.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            info!(added = names(added), kept = names(kept), removed = names(removed), "reloaded the stores");
            let others = config.differs_beside_stores(running);
            if !others.is_empty() {
                warn!(
                    sections = others.join(","),
                    "only the stores were reloaded: other changes apply after a restart"
                );
            }
            "ok"
        }
        Err(failure) => {
            for problem in failure.message.lines() {
                error!(problem, "the configuration is invalid: keeping the previous one");
            }
            "failed"
        }
    };
    metrics.reloads.get_or_create(&ResultLabel { result }).inc();
}

impl From<relay::Error> for Failure {
    fn from(error: relay::Error) -> Self {
        match error {
            relay::Error::NoStore => Self::usage(error.to_string()),
            relay::Error::TaskEnded(_) => Self::new(Exit::Failed, error.to_string()),
            relay::Error::Bus(error) => error.into(),
            relay::Error::Lost { .. } => Self::new(Exit::Denied, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn the_limit_on_open_files_is_raised_as_far_as_the_system_allows() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let lower = maximum.unwrap_or(1 << 20) / 2;
        setrlimit(Resource::Nofile, Rlimit { current: Some(lower), maximum }).unwrap();

        raise_open_files_limit(1000);
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }

    #[test]
    fn a_directory_is_a_store_of_its_name() {
        for (folder, name) in [("/srv/files", "files"), ("/srv/my files.d/", "my-files-d")] {
            assert_eq!(StoreArg::of_folder(Path::new(folder)).unwrap().name.as_str(), name);
        }
        assert!(StoreArg::of_folder(Path::new("/")).is_err());
    }

    #[test]
    fn a_store_is_shown_without_the_credentials_in_its_address() {
        for (store, expected) in [
            (
                "m=https://acct.blob.core.windows.net/c?sv=1&sig=hush",
                "m=https://acct.blob.core.windows.net/c?[redacted]",
            ),
            ("m=az://c?sv=1&sig=hush", "m=az://c?[redacted]"),
            ("m=az://me:hush@c", "m=az://[redacted]@c"),
            ("m=s3://b?X-Amz-Signature=hush", "m=[redacted]"),
            ("m=DefaultEndpointsProtocol=https;AccountName=a;AccountKey=hush==", "m=[redacted]"),
            ("https://acct.blob.core.windows.net/c?sv=1&sig=hush", "https://acct.blob.core.windows.net/c?[redacted]"),
        ] {
            assert_eq!(shown(store), expected);
        }
    }

    #[test]
    fn store_arguments_are_a_name_and_an_address() {
        let arg: StoreArg = "files=s3://bucket/a=b".parse().unwrap();
        assert_eq!((arg.name.as_str(), arg.url.as_str()), ("files", "s3://bucket/a=b"));
        for (text, url) in [("a=/srv/no dir", "file:///srv/no%20dir"), ("a=/no/%41", "file:///no/%2541")] {
            assert_eq!(text.parse::<StoreArg>().unwrap().url, url);
        }
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        assert_eq!("a=.".parse::<StoreArg>().unwrap().url, file_url(&here).unwrap());
        for text in ["", "files", "files=", "=s3://b", "a.b=s3://b", "files=bucket", "files=http://b"] {
            assert!(text.parse::<StoreArg>().is_err(), "{text:?}");
        }
    }

    #[cfg(all(feature = "azure", feature = "gcs"))]
    #[test]
    fn a_store_without_a_name_has_the_form_to_write() {
        let key = format!("{}==", "aB3+hush".repeat(11).split_at(86).0);
        for (text, expected) in [
            ("s3://bucket", "has no name: must be bucket=s3://bucket, or another NAME=URL"),
            ("gs://bucket/a/b/", "has no name: must be b=gs://bucket/a/b/, or another NAME=URL"),
            ("az://models/a=b", "has no name: must be NAME=az://models/a=b, or another NAME=URL"),
            ("s3://a.b", "has no name: must be NAME=s3://a.b, or another NAME=URL"),
            ("nats:models", "has no name: must be models=nats:models, or another NAME=URL"),
            ("file:///srv/files", "has no name: must be files=file:///srv/files, or another NAME=URL"),
            (
                "https://acct.blob.core.windows.net/models?sv=1&sig=hush",
                "must be NAME=URL, and this URL must be az://models with `account` set to \"acct\", and the part after",
            ),
            (
                "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=hush==",
                "must be NAME=URL, and this URL is a connection string: must be az://container/prefix with `account` set",
            ),
            ("UseDevelopmentStorage=true", "must be NAME=URL, and this URL is a connection string of an emulator: "),
            (
                "az://models/a&sv=1&sig=hush",
                "must be NAME=URL, and this URL must be az://models, and the SAS in a file that `sas_token_file` names",
            ),
            (&*key, STORE_ARG_FORM),
            (
                &*format!("az://{key}"),
                "must be NAME=URL, and this URL must be az://container/prefix with the account's",
            ),
            (
                &*format!("m=az://{key}"),
                "must be az://container/prefix with the account's name in `account`, and the key",
            ),
            ("me:hush@demo", STORE_ARG_FORM),
            ("files", STORE_ARG_FORM),
        ] {
            let error = text.parse::<StoreArg>().unwrap_err();
            assert!(error.starts_with(expected) && !error.contains("hush"), "{text}: {error}");
        }
        let folder = StoreArg::of_folder(Path::new("s3://bucket")).unwrap_err();
        assert!(folder.contains("use --store bucket=s3://bucket for a store at an address"), "{folder}");
    }

    #[test]
    fn an_address_in_place_of_a_directory_is_reported_without_credentials() {
        for (folder, cure) in [
            (
                "https://acct.blob.core.windows.net/m?sv=1&sig=hush",
                "https://acct.blob.core.windows.net/m?[redacted]: it must be a directory: use --store NAME=URL",
            ),
            ("s3://me:hush@b", "s3://[redacted]@b: it must be a directory: use --store NAME=URL"),
            (
                "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=hush==",
                "[redacted]: must be NAME=URL, and this URL is a connection string: must be az://container/prefix",
            ),
            ("m=az://me:hush@c", "m=az://[redacted]@c: it must be a directory: use --store NAME=URL"),
            ("m=./sv=1&sig=hush", "m=[redacted]: there is no such directory: use --store m=[redacted]"),
            ("{\"private_key\": \"hush\"}", "[redacted]: there is no such directory"),
        ] {
            let cli = Cli::try_parse_from(["gantry", "serve", folder]).unwrap();
            let message = cli.sources().unwrap_err().message;
            assert!(message.starts_with(cure) && !message.contains("hush"), "{folder}: {message}");
        }
    }
}
