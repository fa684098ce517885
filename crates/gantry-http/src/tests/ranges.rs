//! Ranges of an object.

use std::ops::Range;

use super::*;

fn slice(bytes: &[u8], range: Range<usize>) -> Vec<u8> {
    bytes[range].to_vec()
}

#[tokio::test]
async fn a_range_is_answered_with_its_bytes() {
    let site = Site::new();
    let bytes = site.put("a", 1000);

    for (header, range) in [
        ("bytes=0-0", 0..1),
        ("bytes=0-99", 0..100),
        ("bytes=150-349", 150..350),
        ("bytes=900-", 900..1000),
        ("bytes=-1", 999..1000),
        ("bytes=-5000", 0..1000),
        ("bytes=999-2000", 999..1000),
        ("bytes=500-700,600-800", 500..801),
        ("bytes=10-19,5000-6000", 10..20),
    ] {
        let answer = site.get("/models/a", &[("Range", header)]).await;
        assert_eq!(answer.status, 206, "{header}");
        assert_eq!(answer.header("content-range"), Some(&*format!("bytes {}-{}/1000", range.start, range.end - 1)));
        assert_eq!(answer.header("content-length"), Some(&*range.len().to_string()));
        assert_eq!(answer.header("accept-ranges"), Some("bytes"));
        assert_eq!(answer.body, slice(&bytes, range), "{header}");
    }
}

#[tokio::test]
async fn a_range_past_the_end_is_refused_with_the_size() {
    let site = Site::new();
    site.put("a", 1000);
    site.put("empty", 0);

    for (key, header, size) in [
        ("a", "bytes=1000-", 1000),
        ("a", "bytes=1000-1001", 1000),
        ("a", "bytes=99999999999999999999-", 1000),
        ("a", "bytes=18446744073709551615-18446744073709551615", 1000),
        ("a", "bytes=-0", 1000),
        ("a", "bytes=1000-,2000-", 1000),
        ("empty", "bytes=0-", 0),
        ("empty", "bytes=-1", 0),
    ] {
        let answer = site.get(&format!("/models/{key}"), &[("Range", header)]).await;
        assert_eq!((answer.status, answer.code()), (416, "InvalidRange"), "{header}");
        assert_eq!(answer.header("content-range"), Some(&*format!("bytes */{size}")), "{header}");
    }
}

#[tokio::test]
async fn an_invalid_range_is_ignored() {
    let site = Site::new();
    let bytes = site.put("a", 300);

    for header in ["bytes=2-1", "bytes=", "bytes=a-b", "items=0-1", "bytes=0-1,x", "bytes"] {
        let answer = site.get("/models/a", &[("Range", header)]).await;
        assert_eq!((answer.status, &answer.body), (200, &bytes), "{header}");
    }
    let repeated = site.get("/models/a", &[("Range", "bytes=0-1"), ("Range", "bytes=2-3")]).await;
    assert_eq!((repeated.status, &repeated.body), (200, &bytes));
}

/// Splits a `multipart/byteranges` body into the values of `Content-Range` and the bytes.
fn parts(answer: &Answer) -> Vec<(String, Vec<u8>)> {
    let boundary = answer.header("content-type").unwrap().strip_prefix("multipart/byteranges; boundary=").unwrap();
    let mut rest = answer.body.as_slice();
    let mut parts = Vec::new();

    loop {
        rest = rest.strip_prefix(format!("\r\n--{boundary}").as_bytes()).unwrap();
        if rest == b"--\r\n" {
            return parts;
        }
        let end = rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = fields(std::str::from_utf8(&rest[2..end]).unwrap().split("\r\n"));
        let range = &head.iter().find(|(name, _)| name == "content-range").unwrap().1;
        let (first, last) = range.strip_prefix("bytes ").unwrap().split_once('/').unwrap().0.split_once('-').unwrap();
        let len = last.parse::<usize>().unwrap() - first.parse::<usize>().unwrap() + 1;
        parts.push((range.clone(), rest[end + 4..end + 4 + len].to_vec()));
        rest = &rest[end + 4 + len..];
    }
}

#[tokio::test]
async fn several_ranges_are_parts_of_one_response() {
    let site = Site::new();
    let bytes = site.put("a.txt", 300_000);

    let header = "bytes=0-9, 90-209, 500-500, 200000-200099, -1";
    let answer = site.get("/models/a.txt", &[("Range", header)]).await;
    assert_eq!(answer.status, 206);
    assert!(answer.is_complete);
    assert_eq!(answer.header("content-range"), None);
    assert!(String::from_utf8_lossy(&answer.body).contains("Content-Type: text/plain"));

    let expected: Vec<_> = [0..10, 90..210, 500..501, 200_000..200_100, 299_999..300_000]
        .into_iter()
        .map(|range| (format!("bytes {}-{}/300000", range.start, range.end - 1), slice(&bytes, range)))
        .collect();
    assert_eq!(parts(&answer), expected);
    // The first three are close to each other, and read at once.
    assert_eq!(site.store.opens(), 3);

    let reversed = site.get("/models/a.txt", &[("Range", "bytes=90-99,0-9")]).await;
    let ranges: Vec<_> = parts(&reversed).into_iter().map(|(range, _)| range).collect();
    assert_eq!(ranges, ["bytes 90-99/300000", "bytes 0-9/300000"]);
}

#[tokio::test]
async fn at_most_1024_ranges_are_parts() {
    let options = Options { header_bytes_max: 256 << 10, ..Options::default() };
    let site = Site::with(options);
    let bytes = site.put("a", 200_000);
    let list = |count: usize, step: usize, len: usize| {
        let ranges: Vec<_> = (0..count).map(|i| format!("{}-{}", i * step, i * step + len - 1)).collect();
        format!("bytes={}", ranges.join(","))
    };

    let most = site.get("/models/a", &[("Range", &list(1024, 10, 5))]).await;
    assert_eq!((most.status, parts(&most).len(), site.store.opens()), (206, 1024, 1));

    let more = site.get("/models/a", &[("Range", &list(1025, 10, 5))]).await;
    assert_eq!((more.status, more.body.len()), (200, bytes.len()));

    let many = site.get("/models/a", &[("Range", &list(10_000, 10, 5))]).await;
    assert_eq!((many.status, many.body.len()), (200, bytes.len()));

    let overlapping = site.get("/models/a", &[("Range", &list(10_000, 10, 15))]).await;
    assert_eq!(overlapping.header("content-range"), Some("bytes 0-100004/200000"));
    assert_eq!(overlapping.body, slice(&bytes, 0..100_005));
}

#[tokio::test]
async fn head_ignores_ranges() {
    let site = Site::new();
    site.put("a", 300);

    let answer = site.ask("HEAD", "/models/a", &[("Range", "bytes=0-9")]).await;
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("300")));
}
