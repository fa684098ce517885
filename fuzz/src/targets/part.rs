//! A part file and its record with any content: what is resumed lies within the object and within the file, and a
//! download can begin whatever was there.

use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use arbitrary::{Arbitrary, Unstructured};

use crate::gantry::{ObjectInfo, PartFile, Pin, Span, chunk, part};
use crate::machine::{SIZE, object};
use crate::runtime;

#[derive(Arbitrary, Debug)]
struct Input {
    start: u8,
    end: Option<u16>,
    part: Vec<u8>,
    record: Record,
}

#[derive(Arbitrary, Debug)]
enum Record {
    None,
    Raw(Vec<u8>),
    /// Raw bytes in the place of the header and of each mark.
    Framed {
        header: Vec<u8>,
        marks: [Vec<u8>; SLOTS],
    },
    /// A valid header, unless one of these numbers spoils it, and marks with valid checks.
    Checked {
        numbers: Option<[u64; 3]>,
        format: Option<u8>,
        marks: [Mark; SLOTS],
    },
    /// A record that this build would write after `durable` bytes.
    Good {
        durable: u16,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Mark {
    len: u16,
    /// Replaces the CRC of the bytes that are there.
    crc: Option<u64>,
}

/// The layout of a record, as in `part/sidecar.rs`: a header, two marks of checkpoints, one of bytes not yet durable.
const BLOCK_BYTES: usize = 4096;
const MARK_BYTES: usize = 128;
const SLOTS: usize = 3;

pub(crate) fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let folder = runtime::scratch("part");
    std::fs::create_dir_all(&folder).expect("the folder for temporary files takes files");
    check(&folder, &input);
}

fn check(folder: &Path, input: &Input) {
    let target = folder.join("out");
    let (part_path, record_path) = (folder.join(".out.gantry-part"), folder.join(".out.gantry-part.json"));
    for path in [&target, &part_path, &record_path] {
        drop(std::fs::remove_file(path));
    }
    write(&part_path, &input.part);
    if let Some(record) = record(input) {
        write(&record_path, &record);
    }

    let span = Span { start: input.start.into(), end: input.end.map(u64::from) };
    let wanted =
        part::Wanted { store: "s".parse().expect("it is a name"), key: object().key, span, pin: Pin::default() };
    let stop = AtomicBool::new(false);
    let Ok(file) = PartFile::open(&target, wanted.clone(), true, &stop) else { return };
    let Some(range) = span.resolve(SIZE) else { return };

    if let Some(point) = file.resume_point().cloned() {
        assert!(point.range.start < point.proved && point.proved <= point.range.end);
        assert!(point.range.end <= point.object.size);
        let kept = point.proved - point.range.start;
        assert!(kept <= input.part.len() as u64, "resumes bytes that are not there");

        let resumed = file.begin(&point.object, point.range, point.proved, &stop).expect("a download resumes");
        drop(resumed);
        let bytes = std::fs::read(&part_path).expect("the part file is kept");
        assert!(input.part.starts_with(&bytes) && bytes.len() as u64 == kept, "other bytes are resumed");
    } else {
        drop(file);
    }

    // A download can always start from the first byte.
    let file = PartFile::open(&target, wanted, true, &stop).expect("the part file opens again");
    let mut writer = file.begin(&object(), range.clone(), range.start, &stop).expect("a download begins");
    writer.write(b"x").expect("bytes are written");
    assert!(!target.exists(), "the target appears before its time");
    writer.discard();
    assert!(!part_path.exists() && !record_path.exists(), "what is discarded stays");
}

/// Writes a file that only its owner may write to: others are not resumed.
fn write(path: &Path, bytes: &[u8]) {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).expect("it is created");
    file.write_all(bytes).expect("it is written");
}

fn record(input: &Input) -> Option<Vec<u8>> {
    let range = Span { start: input.start.into(), end: input.end.map(u64::from) }.resolve(SIZE).unwrap_or(0..SIZE);
    match &input.record {
        Record::None => None,
        Record::Raw(bytes) => Some(bytes.clone()),
        Record::Framed { header, marks } => Some(framed(header.clone(), |slot, _| marks[slot].clone())),
        Record::Checked { numbers, format, marks } => {
            let [start, end, size] = numbers.unwrap_or([range.start, range.end, SIZE]);
            let header = header(start..end, size, format.unwrap_or(FORMAT));
            Some(framed(header, |slot, header_crc| mark(input, marks[slot], slot, header_crc)))
        }
        Record::Good { durable } => {
            let good = Mark { len: *durable, crc: None };
            Some(framed(header(range, SIZE, FORMAT), |slot, header_crc| mark(input, good, slot, header_crc)))
        }
    }
}

/// The format that this build reads.
const FORMAT: u8 = 2;

fn header(range: Range<u64>, size: u64, format: u8) -> Vec<u8> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned());
    let header = serde_json::json!({
        "format": format, "store": "s", "object": ObjectInfo { size, ..object() },
        "start": range.start, "end": range.end, "boot": boot,
    });
    header.to_string().into_bytes()
}

/// Returns the mark's text, with a valid check.
fn mark(input: &Input, mark: Mark, slot: usize, header_crc: u64) -> Vec<u8> {
    let len = usize::from(mark.len).min(input.part.len());
    let crc = mark.crc.unwrap_or_else(|| chunk::crc(&input.part[..len]));
    let numbers = [header_crc, slot as u64, len as u64, crc];
    let check = chunk::crc(&numbers.map(u64::to_le_bytes).concat());
    serde_json::json!({ "len": len, "crc": crc, "check": check }).to_string().into_bytes()
}

/// Returns a record of this header and of the marks that `mark_of` returns for a slot and the header's CRC.
fn framed(mut header: Vec<u8>, mark_of: impl Fn(usize, u64) -> Vec<u8>) -> Vec<u8> {
    header.resize(header.len().next_multiple_of(BLOCK_BYTES), b' ');
    let header_crc = chunk::crc(&header);

    let mut record = header;
    for slot in 0..SLOTS {
        let mut block = mark_of(slot, header_crc);
        block.resize(MARK_BYTES, b' ');
        block.resize(BLOCK_BYTES, b' ');
        record.extend(block);
    }
    record
}
