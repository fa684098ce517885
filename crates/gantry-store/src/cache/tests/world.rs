//! A cache over a store that counts what is read from it.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use tempfile::TempDir;

use super::super::*;
use crate::double::{Double, Handle};
use gantry_proto::{Checksum, ChecksumAlgorithm, ChecksumKind};

pub(super) const MIB: usize = 1 << 20;
pub(super) const WHOLE: Span = Span { start: 0, end: None };
pub(super) const CURRENT: Pin = Pin { if_match: None, version_id: None };

/// Room for everything in most tests.
pub(super) const AMPLE: Limits = Limits { bytes_max: 64 << 20, files_max: 1000 };

pub(super) struct World {
    dir: TempDir,
    pub(super) double: Arc<Double>,
    pub(super) folder: Arc<Folder>,
    pub(super) store: Arc<CacheStore>,
    pub(super) reports: Arc<Reports>,
}

/// Everything that was reported.
#[derive(Debug, Default)]
pub(super) struct Reports(Mutex<Vec<Report>>);

impl Observe for Reports {
    fn record(&self, report: Report) {
        self.0.lock().unwrap().push(report);
    }
}

impl Reports {
    /// Returns how often something was reported since the last call, and forgets it.
    pub(super) fn take(&self, wanted: Report) -> usize {
        let mut all = self.0.lock().unwrap();
        let before = all.len();
        all.retain(|report| *report != wanted);
        before - all.len()
    }

    /// Returns the number of bytes that were served from disk.
    pub(super) fn served(&self) -> u64 {
        let all = self.0.lock().unwrap();
        all.iter().map(|report| if let Report::Served(bytes) = report { *bytes } else { 0 }).sum()
    }
}

impl World {
    pub(super) async fn new(limits: Limits, options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let double = Double::new(100_000);
        let reports = Arc::new(Reports::default());
        let (folder, store) = open(&dir.path().join("cache"), &double, &reports, limits, options).await;
        Self { dir, double, folder, store, reports }
    }

    /// Ends the process in effect, and starts another one.
    pub(super) async fn restart(&mut self, limits: Limits, options: Options) {
        self.folder.settled().await;
        let idle = Folder::open(self.dir.path().join("other"), limits, Arc::new(Unobserved)).await;
        let inner = Arc::new(Handle(Arc::clone(&self.double)));
        self.store = Arc::new(CacheStore::new(inner, "s", Arc::clone(&idle), Budget::new(0), options));
        self.folder = idle;
        let (folder, store) = open(&self.path(), &self.double, &self.reports, limits, options).await;
        (self.folder, self.store) = (folder, store);
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// Returns the paths of all blocks, in no order.
    pub(super) fn blocks(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "block")).collect()
    }

    /// Returns the path of the block with this number, of the only version.
    pub(super) fn block(&self, number: u64) -> PathBuf {
        let end = format!("-{number:x}.block");
        let is_it = |path: &PathBuf| path.to_str().unwrap().ends_with(&end);
        self.blocks().into_iter().find(is_it).unwrap()
    }

    pub(super) async fn open(&self, span: Span) -> Result<Opened, Error> {
        self.store.open(&"k".parse().unwrap(), &CURRENT, span).await
    }

    pub(super) async fn read(&self, span: Span) -> Result<Bytes, Error> {
        collect(self.open(span).await?).await
    }

    /// Reads the whole object, and waits until its blocks are on disk.
    pub(super) async fn fill(&self) -> Bytes {
        let bytes = self.read(WHOLE).await.unwrap();
        self.folder.settled().await;
        bytes
    }

    /// Returns how many bytes the store was asked for since the last call.
    pub(super) fn take_read(&self) -> usize {
        usize::try_from(self.double.read.swap(0, Ordering::SeqCst)).unwrap()
    }

    pub(super) fn go_away(&self, is_away: bool) {
        self.double.is_away.store(is_away, Ordering::SeqCst);
    }
}

async fn open(
    path: &Path,
    double: &Arc<Double>,
    reports: &Arc<Reports>,
    limits: Limits,
    options: Options,
) -> (Arc<Folder>, Arc<CacheStore>) {
    let folder = Folder::open(path.to_owned(), limits, Arc::clone(reports) as Observer).await;
    let inner = Arc::new(Handle(Arc::clone(double)));
    let budget = Budget::new(256 << 20).of_store("s");
    let store = CacheStore::new(inner, "s", Arc::clone(&folder), budget, options);
    (folder, Arc::new(store))
}

pub(super) async fn collect(opened: Opened) -> Result<Bytes, Error> {
    let bytes: BytesMut = opened.body.try_collect::<Vec<_>>().await?.concat().as_slice().into();
    Ok(bytes.freeze())
}

/// Returns bytes of which every block differs.
pub(super) fn pattern(len: usize, seed: usize) -> Bytes {
    (0..len).map(|at| (at.wrapping_mul(31) ^ (at >> 9) ^ seed.wrapping_mul(97)).to_le_bytes()[0]).collect()
}

/// Describes bytes together with their CRC-64/NVME.
pub(super) fn checked(name: &str, etag: &str, bytes: &[u8]) -> ObjectInfo {
    let mut object = ObjectInfo::new(name.parse().unwrap(), bytes.len() as u64, etag.to_owned());
    object.checksum = Some(Checksum {
        algorithm: ChecksumAlgorithm::Crc64Nvme,
        kind: ChecksumKind::FullObject,
        value: BASE64_STANDARD.encode(gantry_proto::chunk::crc(bytes).to_be_bytes()),
        parts: Vec::new(),
    });
    object
}
