//! A relay's descriptions of objects, pages and itself: accepted only within the protocol's bounds, and within them
//! after a relay has trimmed its store's answer.

use arbitrary::{Arbitrary, Unstructured};

use crate::gantry::{
    Checksum, ChecksumAlgorithm, ChecksumKind, Key, ListEntry, ListPage, ListRequest, ObjectInfo, PartRun, check,
    limits, service,
};
use crate::machine::{Number, object};

#[derive(Arbitrary, Debug)]
struct Input {
    object: Stated,
    page: Page,
    service: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
struct Stated {
    size: Number,
    etag: Text,
    version_id: Option<Text>,
    content_type: Option<Text>,
    metadata: Vec<(Text, Text)>,
    checksum: Option<(Text, u16)>,
}

#[derive(Arbitrary, Debug)]
struct Page {
    prefix: String,
    limit: Option<u16>,
    token: Option<Text>,
    entries: Vec<(Name, Number)>,
    prefixes: Vec<Name>,
    next: Option<Text>,
    omitted: u64,
}

/// Text that may be too long.
#[derive(Arbitrary, Debug)]
struct Text {
    text: String,
    times: u16,
}

/// A name, usually below the requested prefix.
#[derive(Arbitrary, Debug)]
struct Name {
    is_below: bool,
    rest: Text,
}

pub(crate) fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    check_object(input.object.info());
    check_page(&input.page);
    check_service(&input.service);
}

fn check_object(mut info: ObjectInfo) {
    let was_good = check::object(&info).is_ok();
    let before = info.clone();
    check::trim(&mut info);

    if was_good {
        assert_eq!(info, before, "a valid description is trimmed");
    }
    let needed = (info.size, &info.etag, &info.version_id);
    assert_eq!(needed, (before.size, &before.etag, &before.version_id), "a required member is trimmed");
    if check::object(&info).is_ok() {
        assert!(info.size <= limits::OFFSET_MAX);
        assert!((1..=limits::VERSION_MAX_BYTES).contains(&info.etag.len()));
    } else {
        // After trimming, only the members that identify the version can still be invalid.
        info.size = 0;
        info.etag = "e".to_owned();
        info.version_id = None;
        assert_eq!(check::object(&info), Ok(()));
    }
}

fn check_page(input: &Page) {
    let request = ListRequest {
        prefix: input.prefix.clone(),
        limit: input.limit.map(u32::from),
        token: input.token.as_ref().map(Text::text),
        ..ListRequest::default()
    };
    let entries = input.entries.iter().take(50).map(|(name, size)| ListEntry::new(name.text(&input.prefix), size.0));
    let mut page = ListPage::default();
    page.entries = entries.collect();
    page.prefixes = input.prefixes.iter().take(50).map(|name| name.text(&input.prefix)).collect();
    page.next = input.next.as_ref().map(Text::text);
    page.omitted = input.omitted;
    let was_good = check::page(&page, &request).is_ok();
    let before = page.clone();

    check::trim_page(&mut page, &request.prefix);
    let left_out = before.entries.len() + before.prefixes.len() - page.entries.len() - page.prefixes.len();
    assert_eq!(page.omitted, before.omitted.saturating_add(left_out as u64));
    assert!(!was_good || page == before, "a valid page is trimmed");
    let mut names = page.entries.iter().map(|entry| &entry.key).chain(&page.prefixes);
    assert!(names.all(|name| name.starts_with(&request.prefix) && name.parse::<Key>().is_ok()), "{page:?}");
    if check::page(&page, &request).is_ok() {
        assert!(page.entries.iter().all(|entry| entry.size <= limits::OFFSET_MAX));
        assert!(page.next.is_none() || page.next != request.token, "a listing without an end");
    }
}

fn check_service(body: &[u8]) {
    drop(service::Question::parse(body));
    drop(service::Answer::parse(body));
    let text = String::from_utf8_lossy(body);
    let answer = serde_json::json!({ "name": "gantry", "metadata": { "prefix": text } }).to_string();
    let answer = service::Answer::parse(answer.as_bytes());
    assert!(answer.is_none_or(|answer| answer.prefix() == text));
}

impl Stated {
    fn info(&self) -> ObjectInfo {
        let mut info = ObjectInfo::new(object().key, self.size.0, self.etag.text());
        info.version_id = self.version_id.as_ref().map(Text::text);
        info.content_type = self.content_type.as_ref().map(Text::text);
        info.headers = self.metadata.iter().skip(10).map(|(name, value)| (name.text(), value.text())).collect();
        info.metadata = self.metadata.iter().take(10).map(|(name, value)| (name.text(), value.text())).collect();
        info.checksum = self.checksum.as_ref().map(|(value, runs)| Checksum {
            algorithm: ChecksumAlgorithm::Crc32c,
            kind: ChecksumKind::Composite,
            value: value.text(),
            parts: vec![PartRun { count: 1, size: 1 }; usize::from(*runs)],
        });
        info
    }
}

impl Text {
    fn text(&self) -> String {
        self.text.repeat(usize::from(self.times % 200))
    }
}

impl Name {
    fn text(&self, prefix: &str) -> String {
        let rest = self.rest.text();
        if self.is_below { format!("{prefix}{rest}") } else { rest }
    }
}
