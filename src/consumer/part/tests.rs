use std::collections::BTreeMap;
use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use super::*;
use crate::proto::{Checksum, ChecksumAlgorithm, ChecksumKind};

const BOOT: &str = "boot one";

/// A folder of its own, and an object to fetch into it.
struct Scene {
    folder: TempDir,
    target: PathBuf,
    object: ObjectInfo,
    bytes: Vec<u8>,
}

impl Scene {
    fn new() -> Self {
        Self::named("object.bin")
    }

    fn named(name: &str) -> Self {
        let bytes: Vec<u8> = (0..100_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let folder = tempfile::tempdir().unwrap();
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &bytes);
        let object = ObjectInfo {
            key: "models/one".parse().unwrap(),
            size: bytes.len() as u64,
            etag: "\"e1\"".to_owned(),
            version_id: None,
            last_modified: None,
            content_type: None,
            metadata: BTreeMap::new(),
            checksum: Some(Checksum {
                algorithm: ChecksumAlgorithm::Crc64Nvme,
                kind: ChecksumKind::FullObject,
                value: STANDARD.encode(crc.to_be_bytes()),
                parts: Vec::new(),
            }),
        };
        Self { target: folder.path().join(name), folder, object, bytes }
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            store: "files".parse().unwrap(),
            key: self.object.key.clone(),
            span: Span::default(),
            pin: Pin::default(),
        }
    }

    fn open(&self) -> PartFile {
        PartFile::open_with(&self.target, self.wanted(), true, policy()).unwrap()
    }

    fn range(&self) -> Range<u64> {
        0..self.object.size
    }

    fn fresh(&self) -> PartWriter {
        self.open().begin(&self.object, self.range(), 0).unwrap()
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// No checkpoint but the ones that a test asks for.
fn policy() -> Policy {
    Policy {
        boot: Some(BOOT.to_owned()),
        checkpoint_bytes: u64::MAX,
        checkpoint_interval: Duration::from_secs(u64::from(u32::MAX)),
    }
}

const PROVED: Proof = Proof::FullObject { algorithm: ChecksumAlgorithm::Crc64Nvme };

#[test]
fn a_new_file_appears_when_it_is_proved() {
    let scene = Scene::new();
    let mut part = scene.fresh();
    for chunk in scene.bytes.chunks(7_001) {
        part.write(chunk).unwrap();
    }
    assert_eq!(part.written(), scene.object.size);
    assert!(!scene.target.exists());

    assert_eq!(part.commit().unwrap(), PROVED);

    assert_eq!(fs::read(&scene.target).unwrap(), scene.bytes);
    assert_eq!(scene.files(), ["object.bin"]);
}

#[test]
fn an_interrupted_download_goes_on_where_it_was() {
    let scene = Scene::new();
    let mut part = scene.fresh();
    part.write(&scene.bytes[..60_000]).unwrap();
    drop(part);
    assert_eq!(scene.files(), [".object.bin.gantry-part", ".object.bin.gantry-part.json"]);

    let part = scene.open();
    let point = part.resume_point().unwrap();
    assert_eq!((&point.object, point.range.clone(), point.proved), (&scene.object, scene.range(), 60_000));
    assert_eq!(point.pin, Pin { if_match: Some("\"e1\"".to_owned()), version_id: None });
    let mut part = part.begin(&scene.object, scene.range(), 60_000).unwrap();
    part.write(&scene.bytes[60_000..]).unwrap();

    assert_eq!(part.commit().unwrap(), PROVED);
    assert_eq!(fs::read(&scene.target).unwrap(), scene.bytes);
    assert_eq!(scene.files(), ["object.bin"]);
}
