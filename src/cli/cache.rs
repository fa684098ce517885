//! `gantry cache`: what a relay keeps on disk.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use gantry_proto::printable;
use gantry_store::cache::{Inspection, KeptObject, Trouble};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::address::ListAddress;
use super::exit::{Exit, Failure};
use super::output::{self, Form};
use crate::config::Config;

const ABOUT: &str = "Show, verify and remove what relays keep on disk

The folder is that of --dir, or the cache_dir of the named store in the configuration. All subcommands work while a relay \
uses the folder: it reads again from its store what it no longer finds.";

/// Show, verify and remove what relays keep on disk
#[derive(Args, Clone, Debug)]
#[command(about = "Show, verify and remove what relays keep on disk", long_about = ABOUT)]
pub(super) struct Cache {
    #[command(subcommand)]
    action: Action,
}

#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// List the objects: kept bytes, size, last use, address
    Ls {
        #[command(flatten)]
        place: Place,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Read all files, and report the damaged ones
    Verify {
        #[command(flatten)]
        place: Place,
        /// Remove the damaged files
        #[arg(long)]
        remove: bool,
    },
    /// Remove the objects of a store whose keys begin with PREFIX
    Purge {
        #[command(flatten)]
        place: Place,
        /// Remove everything in the folder
        #[arg(long)]
        all: bool,
    },
}

#[derive(Args, Clone, Debug)]
struct Place {
    #[arg(value_name = "STORE[/PREFIX]", help = "Store, and the beginning of the keys")]
    address: Option<ListAddress>,
    #[arg(long, value_name = "DIR", help = "Cache folder; default: cache_dir of the store in the configuration")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    store: &'a str,
    key: &'a str,
    etag: &'a str,
    size: u64,
    kept_bytes: u64,
    is_complete: bool,
    used: String,
}

impl Cache {
    pub(super) const fn form(&self) -> Form {
        match self.action {
            Action::Ls { json: true, .. } => Form::Json,
            Action::Ls { .. } | Action::Verify { .. } | Action::Purge { .. } => Form::Text,
        }
    }

    pub(super) fn run(self, config: &Config) -> Result<(), Failure> {
        match self.action {
            Action::Ls { place, json } => list(&place, json, config),
            Action::Verify { place, remove } => verify(&place, remove, config),
            Action::Purge { place, all } => purge(&place, all, config),
        }
    }
}

impl Place {
    fn folder(&self, config: &Config) -> Result<PathBuf, Failure> {
        if let Some(dir) = &self.dir {
            return Ok(dir.clone());
        }
        let Some(address) = &self.address else {
            return Err(Failure::usage("no cache folder: name a store of the configuration, or use --dir DIR"));
        };
        let cache = config.caches.get(&address.store);
        cache.map(|cache| cache.dir.clone()).ok_or_else(|| {
            let store = &address.store;
            Failure::usage(format!(
                "`stores.{store}.cache_dir` is not set: set it in the configuration, or use --dir DIR"
            ))
        })
    }

    fn matches(&self, store: &str, key: &str) -> bool {
        self.address.as_ref().is_none_or(|address| address.store.as_str() == store && key.starts_with(&address.prefix))
    }

    fn open(&self, config: &Config) -> Result<(PathBuf, Inspection), Failure> {
        let dir = self.folder(config)?;
        let inspection = Inspection::open(&dir).map_err(|trouble| failure(&dir, &trouble))?;
        Ok((dir, inspection))
    }
}

fn list(place: &Place, json: bool, config: &Config) -> Result<(), Failure> {
    let (_, inspection) = place.open(config)?;
    let objects = inspection.objects();
    for object in objects.iter().filter(|object| place.matches(&object.store, &object.key)) {
        if json {
            output::json(&line(object))?;
        } else {
            output::line(&text(object))?;
        }
    }

    let (bytes, files) = inspection.total();
    if !json {
        output::note(&format!("{bytes} bytes in {files} files"));
    }
    Ok(())
}

fn line(object: &KeptObject) -> Line<'_> {
    Line {
        store: &object.store,
        key: &object.key,
        etag: &object.etag,
        size: object.size,
        kept_bytes: object.kept_bytes,
        is_complete: object.is_complete(),
        used: date(object.used),
    }
}

fn text(object: &KeptObject) -> String {
    let KeptObject { store, key, size, kept_bytes, used, .. } = object;
    let state = if object.is_complete() { "complete" } else { "partial " };
    format!("{kept_bytes:>12} of {size:>12}  {state}  {}  {store}/{}", date(*used), printable::name(key))
}

fn date(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let date = i64::try_from(since).ok().and_then(|since| OffsetDateTime::from_unix_timestamp(since).ok());
    date.and_then(|date| date.format(&Rfc3339).ok()).unwrap_or_default()
}

fn verify(place: &Place, remove: bool, config: &Config) -> Result<(), Failure> {
    let (dir, inspection) = place.open(config)?;
    let damaged = inspection.verify().map_err(|trouble| failure(&dir, &trouble))?;
    for file in &damaged {
        output::line(&format!("{}: {}", file.name, file.reason))?;
    }

    let (_, files) = inspection.total();
    if damaged.is_empty() {
        output::note(&format!("{files} files are intact"));
        return Ok(());
    }
    let count = damaged.len();
    if remove {
        let removed = inspection.remove_damaged(&damaged).map_err(|trouble| failure(&dir, &trouble))?;
        output::note(&format!(
            "removed {removed} of {files} files: their bytes are read again when they are requested"
        ));
        return if removed == count { Ok(()) } else { Err(left(&dir, count - removed)) };
    }
    let message = format!(
        "{}: {count} of {files} files are damaged: a relay detects them and reads their bytes again; use --remove to \
         remove them now",
        dir.display()
    );
    Err(Failure::new(Exit::Integrity, message))
}

/// Describes directories with content in the place of damaged files.
fn left(dir: &Path, count: usize) -> Failure {
    let message = format!(
        "{}: {count} of the damaged files are directories with content, which no cache has created: remove them by hand",
        dir.display()
    );
    Failure::new(Exit::Integrity, message)
}

fn purge(place: &Place, all: bool, config: &Config) -> Result<(), Failure> {
    if place.address.is_none() && !all {
        return Err(Failure::usage("nothing to remove: name STORE/PREFIX, or use --all"));
    }
    let (dir, inspection) = place.open(config)?;
    let purged = if all { inspection.purge_all() } else { inspection.purge(|store, key| place.matches(store, key)) };

    let (bytes, files) = purged.map_err(|trouble| failure(&dir, &trouble))?;
    output::note(&format!("removed {bytes} bytes in {files} files"));
    Ok(())
}

fn failure(dir: &Path, trouble: &Trouble) -> Failure {
    Failure::new(Exit::Failed, format!("the cache folder {}: {trouble}", dir.display()))
}
