//! Creates the configured stores.

use std::sync::Arc;
use std::time::Duration;

use super::caches::Folders;
use super::connect::REFUSED_LIMIT;
use super::exit::Exit;
use crate::config::{self, Config};
use futures_util::FutureExt as _;
use gantry_bus::Bus;
use gantry_bus::nats;
use gantry_client as consumer;
use gantry_proto::StoreName;
use gantry_relay::Stores;
use gantry_relay::metrics::S3Metrics;
#[cfg(feature = "azure")]
use gantry_store::azure::{self, AzureStore};
use gantry_store::budget::Budget;
use gantry_store::file::FileStore;
#[cfg(feature = "gcs")]
use gantry_store::gcs::{self, GcsStore};
use gantry_store::s3::{self, S3Store};
use gantry_store::shared::SharedStore;
use gantry_store::{self as store, Observer, Store, UnavailableKind};
use gantry_upstream::{self as upstream, Uplink};

/// What the user can do about a directory that can't be served.
pub(super) const DIRECTORY_CURE: &str = "create the directory, let the relay's user read it, or correct the path";

/// Opens every store of the configuration. Each has its share of `budget`, and all share `metrics` for their requests.
/// A store is cached on disk, and read once for several consumers, if this is configured.
/// Opening sends no request to a store.
///
/// # Errors
/// The error of the first store that can't be opened, with its name and configuration.
pub(super) async fn open<'a>(
    config: &'a Config,
    budget: &Budget,
    folders: &Folders,
    metrics: &S3Metrics,
) -> Result<Stores, (&'a StoreName, &'a config::Store, store::Error)> {
    let mut stores = Stores::new();
    for (name, store) in &config.stores {
        let budget = budget.of_store(name.as_str());
        let opened = open_one(name, store, &budget, metrics).await.map_err(|error| (name, store, error))?;
        let opened = match config.caches.get(name) {
            Some(cache) => folders.cached(name, opened, cache, &budget, &metrics.cache).await,
            None => opened,
        };

        let opened: Arc<dyn Store> = match config.shared_reads.get(name) {
            Some(limits) => {
                let observer = Arc::new(metrics.shared.of_store(name.as_str()));
                Arc::new(SharedStore::new(opened, budget, limits.clone(), observer))
            }
            None => opened,
        };
        stores.insert(name.clone(), opened);
    }
    Ok(stores)
}

/// Opens one store.
pub(super) async fn open_one(
    name: &StoreName,
    config: &config::Store,
    budget: &Budget,
    metrics: &S3Metrics,
) -> Result<Arc<dyn Store>, store::Error> {
    let observer = || Arc::new(metrics.of_store(name.as_str())) as Observer;
    match config {
        config::Store::File(options) => Ok(Arc::new(FileStore::connect(options.clone(), budget.clone()).await?)),
        config::Store::S3(options) => {
            let options = s3::Options { observer: observer(), ..s3::Options::clone(options) };
            Ok(Arc::new(S3Store::connect(options, budget.clone()).await?))
        }
        #[cfg(feature = "gcs")]
        config::Store::Gcs(options) => {
            let options = gcs::Options { observer: observer(), ..gcs::Options::clone(options) };
            Ok(Arc::new(GcsStore::connect(options, budget.clone())?))
        }
        #[cfg(feature = "azure")]
        config::Store::Azure(options) => {
            let options = azure::Options { observer: observer(), ..azure::Options::clone(options) };
            Ok(Arc::new(AzureStore::connect(options, budget.clone())?))
        }
        config::Store::Nats(uplink) => Ok(Arc::new(connect_uplink(uplink))),
    }
}

/// How long an upstream store retries while no new bytes arrive. Its consumers wait meanwhile, and have other relays.
const UPLINK_PATIENCE: Duration = Duration::from_secs(30);

/// The first window of an upstream store, in bytes. Its connection crosses the site's link also where it ends at the
/// server of the upstream relay, so that relay does not count as near: 50 ms of a link of 10 Mbit/s.
const UPLINK_WINDOW_INITIAL_BYTES: u64 = 64 << 10;

/// Starts a store of other relays. It is connected in the background.
fn connect_uplink(config: &config::Uplink) -> Uplink {
    let options = nats::Options { refused_limit: REFUSED_LIMIT, ..config.nats.clone() };
    let connect = move || {
        let connecting = nats::connect(options.clone());
        async move {
            let bus = connecting.await.map_err(|error| error.to_string())?;
            Ok::<Arc<dyn Bus>, String>(bus)
        }
        .boxed()
    };

    let client = consumer::Options::default()
        .prefix(config.prefix.clone())
        .patience(UPLINK_PATIENCE)
        .window_initial_bytes(UPLINK_WINDOW_INITIAL_BYTES);
    Uplink::start(config.store.clone(), Box::new(connect), client, upstream::Options::fresh())
}

/// Returns the exit code for a store that can't be opened.
pub(super) const fn exit(error: &store::Error) -> Exit {
    match error {
        store::Error::Unavailable {
            kind: UnavailableKind::UnusableCredentials | UnavailableKind::UnusableAuthorities,
            ..
        } => Exit::Usage,
        store::Error::Unavailable { .. } | store::Error::Protocol(_) => Exit::GaveUp,
        store::Error::NotFound(_) | store::Error::NoBucket(_) => Exit::NotFound,
        store::Error::Denied(_) | store::Error::Archived(_) => Exit::Denied,
        store::Error::Changed(_) | store::Error::Range { .. } | store::Error::Invalid(_) => Exit::Usage,
        _ => Exit::Failed,
    }
}
