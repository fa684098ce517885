//! A part file and its record with any content: what is resumed lies within the object and within the file, and a
//! download can begin whatever was there.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use arbitrary::{Arbitrary, Unstructured};

use crate::gantry::{PartFile, Pin, Span, part};
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
    /// One that fits but for these numbers.
    Fits {
        start: u64,
        end: u64,
        durable: u64,
        crc: u64,
        size: u64,
        format: u8,
    },
    /// One that fits.
    Good {
        durable: u16,
    },
}

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
    std::fs::write(&part_path, &input.part).expect("it is written");
    if let Some(record) = record(input) {
        std::fs::write(&record_path, record).expect("it is written");
    }

    let span = Span { start: input.start.into(), end: input.end.map(u64::from) };
    let wanted =
        part::Wanted { store: "s".parse().expect("it is a name"), key: object().key, span, pin: Pin::default() };
    let Ok(file) = PartFile::open(&target, wanted, true, &AtomicBool::new(false)) else { return };
    let Some(range) = span.resolve(SIZE) else { return };
    if let Some(point) = file.resume_point() {
        assert!(point.range.start < point.proved && point.proved <= point.range.end);
        assert!(point.range.end <= point.object.size);
        assert!(point.proved - point.range.start <= input.part.len() as u64, "resumes bytes that are not there");
    }
    // From the first byte on it can always be downloaded.
    let mut writer = file.begin(&object(), range.clone(), range.start).expect("a download begins");
    writer.write(b"x").expect("bytes are written");
    assert!(!target.exists(), "the target appears before its time");
    writer.discard();
    assert!(!part_path.exists() && !record_path.exists(), "what is discarded stays");
}

fn record(input: &Input) -> Option<Vec<u8>> {
    let range = Span { start: input.start.into(), end: input.end.map(u64::from) }.resolve(SIZE).unwrap_or(0..SIZE);
    let json = match &input.record {
        Record::None => return None,
        Record::Raw(bytes) => return Some(bytes.clone()),
        Record::Fits { start, end, durable, crc, size, format } => serde_json::json!({
            "format": format, "store": "s", "object": { "key": "a/b", "size": size, "etag": "\"a\"" },
            "start": start, "end": end, "boot": null, "durable": durable, "durable_crc": crc,
        }),
        Record::Good { durable } => {
            let durable = usize::from(*durable).min(input.part.len());
            serde_json::json!({
                "format": 1, "store": "s", "object": object(), "start": range.start, "end": range.end,
                "boot": std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned()),
                "durable": durable, "durable_crc": crate::gantry::chunk::crc(&input.part[..durable]),
            })
        }
    };
    Some(json.to_string().into_bytes())
}
