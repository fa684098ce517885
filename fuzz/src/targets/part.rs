//! Part files and records with any content: resumed bytes lie within the object and the file, and a download can always
//! start.

use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use arbitrary::{Arbitrary, Unstructured};

use crate::gantry::{Get, PartFile, Span, chunk};
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
    /// Raw bytes in place of each head and each mark.
    Framed {
        heads: [Vec<u8>; 2],
        marks: [Vec<u8>; SLOTS],
    },
    /// Valid heads, unless one of these numbers makes them invalid or the first one is damaged, and marks with valid
    /// checks.
    Checked {
        numbers: Option<[u64; 3]>,
        format: Option<u8>,
        is_damaged: bool,
        marks: [Mark; SLOTS],
    },
    /// A record that Gantry would write after `durable` bytes.
    Good {
        durable: u16,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Mark {
    len: u16,
    /// Replaces the CRC of the existing bytes.
    crc: Option<u64>,
}

/// The layout of a record, as in `part/record.rs`: a head, two checkpoint marks, the note, the trail, and a copy of the
/// head.
const BLOCK_BYTES: usize = 4096;
const LINE_BYTES: usize = 128;
const TRAIL_SLOTS: usize = 256;
const MARKS_BYTES: usize = 3 * BLOCK_BYTES + TRAIL_SLOTS * LINE_BYTES;

/// The number of marks in an input.
const SLOTS: usize = 6;

/// The offsets of these marks from the end of the first head: two checkpoints, the note, and three marks of the trail.
const OFFSETS: [usize; SLOTS] =
    [0, BLOCK_BYTES, 2 * BLOCK_BYTES, 3 * BLOCK_BYTES, 3 * BLOCK_BYTES + LINE_BYTES, MARKS_BYTES - LINE_BYTES];

pub(crate) fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let folder = runtime::scratch("part");
    std::fs::create_dir_all(&folder).expect("the folder for temporary files is writable");
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
    let wanted = Get::new("s".parse().expect("the name is valid"), object().key).range(span);
    let stop = AtomicBool::new(false);
    let Ok(file) = PartFile::open(&target, wanted.clone(), true, &stop) else { return };
    let Some(range) = span.resolve(SIZE) else { return };

    if let Some(point) = file.resume_point().cloned() {
        assert!(point.range.start < point.proved && point.proved <= point.range.end);
        assert!(point.range.end <= point.object.size);
        let kept = point.proved - point.range.start;
        assert!(kept <= input.part.len() as u64, "resumes bytes that do not exist");

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
    assert!(!target.exists(), "the target appears too early");
    writer.discard();
    assert!(!part_path.exists() && !record_path.exists(), "discarded files remain");
}

/// Writes a file that only its owner may write to, since other files are not resumed.
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
        Record::Framed { heads: [first, second], marks } => {
            let lines = std::array::from_fn(|slot| marks[slot].clone());
            Some(framed(padded(first.clone()), padded(second.clone()), lines))
        }
        Record::Checked { numbers, format, is_damaged, marks } => {
            let [start, end, size] = numbers.unwrap_or([range.start, range.end, SIZE]);
            let (head, head_crc) = head(start..end, size, format.unwrap_or(FORMAT));
            let mut first = head.clone();
            first[LINE_BYTES] ^= u8::from(*is_damaged);
            let lines = std::array::from_fn(|slot| line(input, marks[slot], slot, head_crc));
            Some(framed(first, head, lines))
        }
        Record::Good { durable } => {
            let good = Mark { len: *durable, crc: None };
            let (head, head_crc) = head(range, SIZE, FORMAT);
            let lines = std::array::from_fn(|slot| line(input, good, slot, head_crc));
            Some(framed(head.clone(), head, lines))
        }
    }
}

/// The record format that Gantry reads.
const FORMAT: u8 = 3;

/// Returns a head and its CRC.
fn head(range: Range<u64>, size: u64, format: u8) -> (Vec<u8>, u64) {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned());
    let mut object = object();
    object.size = size;
    let description = serde_json::json!({
        "store": "s", "object": object, "start": range.start, "end": range.end, "boot": boot,
    });
    let mut rest = description.to_string().into_bytes();
    let head_bytes = (LINE_BYTES + rest.len()).next_multiple_of(BLOCK_BYTES);
    rest.resize(head_bytes - LINE_BYTES, b' ');

    let crc = chunk::crc(&rest);
    let opening = serde_json::json!({ "format": format, "head_bytes": head_bytes, "crc": crc });
    let mut head = opening.to_string().into_bytes();
    head.resize(LINE_BYTES, b' ');
    head.extend(rest);
    (head, crc)
}

/// Returns the line of a mark, with a valid check.
fn line(input: &Input, mark: Mark, slot: usize, head_crc: u64) -> Vec<u8> {
    let len = usize::from(mark.len).min(input.part.len());
    let crc = mark.crc.unwrap_or_else(|| chunk::crc(&input.part[..len]));
    let numbers = [head_crc, OFFSETS[slot] as u64, len as u64, crc];
    let check = chunk::crc(&numbers.map(u64::to_le_bytes).concat());
    serde_json::json!({ "len": len, "crc": crc, "check": check }).to_string().into_bytes()
}

fn padded(mut head: Vec<u8>) -> Vec<u8> {
    head.resize(head.len().next_multiple_of(BLOCK_BYTES), b' ');
    head
}

/// Returns a record with these heads and marks.
fn framed(first: Vec<u8>, second: Vec<u8>, lines: [Vec<u8>; SLOTS]) -> Vec<u8> {
    let mut marks = vec![b' '; MARKS_BYTES];
    for (offset, line) in OFFSETS.into_iter().zip(lines) {
        let line = &line[..line.len().min(LINE_BYTES)];
        marks[offset..offset + line.len()].copy_from_slice(line);
    }
    [first, marks, second].concat()
}
