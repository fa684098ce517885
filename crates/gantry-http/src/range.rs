//! Byte ranges. Source: RFC 9110, section 14.

use std::ops::Range;

/// The maximum number of ranges in one response, after merging. A request for more is answered with the whole object.
pub(crate) const RANGES_MAX: usize = 1024;

/// What a `Range` header requests of an object. Ends are exclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ranges {
    /// The whole object: the header is invalid, has another unit, or requests too many ranges.
    Whole,
    /// None of the ranges is within the object.
    Unsatisfiable,
    /// One range, which is not empty.
    One(Range<u64>),
    /// Several ranges that do not overlap and are not empty.
    Several(Vec<Range<u64>>),
}

/// A single range that can be requested without knowing the size: its first byte and its exclusive end.
pub(crate) fn plain(header: &str) -> Option<(u64, Option<u64>)> {
    let mut specs = specs(header)?;
    let spec = specs.next()??;
    if specs.next().is_some() {
        return None;
    }

    match spec {
        Spec::From { first, last } => Some((first, last.map(|last| last.saturating_add(1)))),
        Spec::Suffix(_) => None,
    }
}

/// Resolves a `Range` header for an object of `size` bytes.
pub(crate) fn resolve(header: &str, size: u64) -> Ranges {
    let Some(specs) = specs(header) else { return Ranges::Whole };

    let mut ranges = Vec::new();
    let mut is_empty = true;
    for spec in specs {
        let Some(spec) = spec else { return Ranges::Whole };
        is_empty = false;
        ranges.extend(spec.resolve(size));
    }
    if is_empty {
        return Ranges::Whole;
    }

    let ranges = merge(ranges);
    match ranges.as_slice() {
        [] => Ranges::Unsatisfiable,
        [one] => Ranges::One(one.clone()),
        several if several.len() > RANGES_MAX => Ranges::Whole,
        _ => Ranges::Several(ranges),
    }
}

/// Merges ranges that overlap, and sorts them if there are such. Ranges that only touch stay separate, since some
/// clients expect the parts that they requested.
fn merge(requested: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut sorted = requested.clone();
    sorted.sort_unstable_by_key(|range| range.start);

    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            Some(_) | None => merged.push(range),
        }
    }

    if merged.len() == requested.len() { requested } else { merged }
}

#[derive(Clone, Copy, Debug)]
enum Spec {
    /// The last byte is inclusive.
    From { first: u64, last: Option<u64> },
    /// The number of bytes at the end.
    Suffix(u64),
}

impl Spec {
    /// Returns `None` for an invalid range.
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        if first.is_empty() {
            return Some(Self::Suffix(number(last)?));
        }

        let first = number(first)?;
        let last = if last.is_empty() { None } else { Some(number(last)?) };
        last.is_none_or(|last| first <= last).then_some(Self::From { first, last })
    }

    fn resolve(self, size: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::From { first, last } => first..last.map_or(size, |last| last.saturating_add(1).min(size)),
            Self::Suffix(len) => size.saturating_sub(len)..size,
        };
        (range.start < range.end).then_some(range)
    }
}

/// Returns the ranges of a header in bytes. Invalid ones are `None`.
fn specs(header: &str) -> Option<impl Iterator<Item = Option<Spec>>> {
    let (unit, set) = header.split_once('=')?;
    let is_bytes = unit.trim().eq_ignore_ascii_case("bytes");
    let specs = set.split(',').map(|text| text.trim_matches([' ', '\t'])).filter(|text| !text.is_empty());
    is_bytes.then(|| specs.map(Spec::parse))
}

/// Parses digits. A number that is too large counts as the largest one.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_resolved() {
        for (header, expected) in [
            ("bytes=0-0", Ranges::One(0..1)),
            ("bytes=2-", Ranges::One(2..10)),
            ("bytes=-3", Ranges::One(7..10)),
            ("bytes=-30", Ranges::One(0..10)),
            ("bytes=5-100", Ranges::One(5..10)),
            ("BYTES=5-5", Ranges::One(5..6)),
            ("bytes= 1-2 ,, 4-5 ,", Ranges::Several(vec![1..3, 4..6])),
            ("bytes=4-5,1-2", Ranges::Several(vec![4..6, 1..3])),
            ("bytes=0-4,5-9", Ranges::Several(vec![0..5, 5..10])),
            ("bytes=4-9,0-5", Ranges::One(0..10)),
            ("bytes=7-8,0-2,1-4", Ranges::Several(vec![0..5, 7..9])),
            ("bytes=0-1,99-", Ranges::One(0..2)),
            ("bytes=0-18446744073709551615", Ranges::One(0..10)),
            ("bytes=0-99999999999999999999999", Ranges::One(0..10)),
            ("bytes=10-", Ranges::Unsatisfiable),
            ("bytes=99999999999999999999999-", Ranges::Unsatisfiable),
            ("bytes=-0", Ranges::Unsatisfiable),
            ("bytes=10-11,12-13", Ranges::Unsatisfiable),
            ("bytes=2-1", Ranges::Whole),
            ("bytes=0-1,2-1", Ranges::Whole),
            ("bytes=", Ranges::Whole),
            ("bytes=,", Ranges::Whole),
            ("bytes=-", Ranges::Whole),
            ("bytes=a-b", Ranges::Whole),
            ("bytes=+1-2", Ranges::Whole),
            ("bytes=0x1-2", Ranges::Whole),
            ("bytes=1-2-3", Ranges::Whole),
            ("bytes 0-1", Ranges::Whole),
            ("items=0-1", Ranges::Whole),
        ] {
            assert_eq!(resolve(header, 10), expected, "{header}");
        }
        assert_eq!(resolve("bytes=0-", 0), Ranges::Unsatisfiable);
        assert_eq!(resolve("bytes=-1", 0), Ranges::Unsatisfiable);
    }

    #[test]
    fn a_plain_range_needs_no_size() {
        assert_eq!(plain("bytes=5-9"), Some((5, Some(10))));
        assert_eq!(plain("bytes=5-"), Some((5, None)));
        for header in ["bytes=-5", "bytes=1-2,3-4", "bytes=2-1", "bytes=", "items=1-2"] {
            assert_eq!(plain(header), None, "{header}");
        }
    }

    #[test]
    fn ten_thousand_ranges_are_merged_or_ignored() {
        let list = |step: u64| {
            let specs: Vec<_> = (0..10_000).map(|i| format!("{}-{}", i * step, i * step + 5)).collect();
            format!("bytes={}", specs.join(","))
        };
        assert_eq!(resolve(&list(1), 1 << 30), Ranges::One(0..10_005));
        assert_eq!(resolve(&list(10), 1 << 30), Ranges::Whole);
        assert_eq!(resolve(&list(0), 1 << 30), Ranges::One(0..6));
    }

    proptest! {
        #[test]
        fn merged_ranges_cover_the_same_bytes(
            pairs in prop::collection::vec((0_u64..60, 0_u64..60), 1..20), size in 1_u64..50,
        ) {
            let specs: Vec<_> = pairs.iter().map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))).collect();
            let wanted: Vec<bool> =
                (0..size).map(|at| pairs.iter().any(|(a, b)| (*a.min(b)..=*a.max(b)).contains(&at))).collect();

            let ranges = match resolve(&format!("bytes={}", specs.join(",")), size) {
                Ranges::Whole => panic!("the header is valid"),
                Ranges::Unsatisfiable => Vec::new(),
                Ranges::One(range) => vec![range],
                Ranges::Several(ranges) => ranges,
            };

            let mut covered = vec![0; usize::try_from(size).unwrap()];
            for range in ranges {
                prop_assert!(range.start < range.end && range.end <= size);
                range.for_each(|at| covered[usize::try_from(at).unwrap()] += 1);
            }
            prop_assert_eq!(covered, wanted.into_iter().map(u8::from).collect::<Vec<_>>());
        }
    }
}
