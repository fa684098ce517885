//! One line of progress for a terminal of any width.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::super::output::size;
use super::View;
use gantry_proto::printable;

/// The narrowest bar worth drawing, in columns, and the widest.
const BAR_MIN: usize = 10;
const BAR_MAX: usize = 40;

/// The narrowest name worth showing, in columns.
const NAME_MIN: usize = 8;

/// The gap between two parts, in columns.
const GAP: usize = 2;

/// Returns a line of at most `columns`. In a narrow terminal, the most important parts stay: the percentage or the
/// wait, the rate, the remaining time, the bytes, the files, the recoveries, the name, the bar.
pub(super) fn line(view: &View, columns: usize) -> String {
    let percent = view.total_bytes.map(|total| percent(view.bytes, total));
    let first = match (view.waiting_s, percent) {
        (Some(waited), _) => wait(waited, view.gives_up_after_s, columns),
        (None, Some(percent)) => format!("{percent}%"),
        (None, None) => size(view.bytes),
    };

    // The parts in the order of their importance. Each has its position in the line.
    let mut parts = vec![(3, Some(first))];
    let is_moving = view.waiting_s.is_none();
    parts.push((5, view.bytes_per_s.filter(|_| is_moving).map(|rate| format!("{}/s", size(rate)))));
    parts.push((6, view.eta_s.filter(|_| is_moving && percent != Some(100)).map(|eta| format!("{} left", clock(eta)))));
    parts.push((4, bytes(view).filter(|_| percent.is_some() || !is_moving)));
    parts.push((2, files(view)));
    parts.push((7, recoveries(view)));

    let mut shown: Vec<(u8, String)> = Vec::new();
    let mut left = columns;
    for (place, text) in parts {
        let Some(text) = text else { continue };
        let width = text.width() + if shown.is_empty() { 0 } else { GAP };
        if width > left {
            break;
        }
        left -= width;
        shown.push((place, text));
    }

    let name = printable::text(&view.name);
    if left >= NAME_MIN + GAP && !name.is_empty() {
        let name = shortened(&name, (left - GAP).min(columns / 3).max(NAME_MIN));
        left -= name.width() + GAP;
        shown.push((0, name));
    }
    if left >= BAR_MIN + GAP
        && let Some(percent) = percent
    {
        shown.push((1, bar(percent, (left - GAP).min(BAR_MAX))));
    }

    shown.sort_by_key(|(place, _)| *place);
    let texts: Vec<_> = shown.into_iter().map(|(_, text)| text).collect();
    texts.join("  ")
}

fn wait(waited: u64, limit: Option<u64>, columns: usize) -> String {
    let of = limit.map_or_else(String::new, |limit| format!(" of {limit} s"));
    let long = format!("waiting for a relay ({waited} s{of})");
    if long.len() <= columns { long } else { format!("waiting {waited} s") }
}

fn bytes(view: &View) -> Option<String> {
    Some(match view.total_bytes {
        Some(total) => format!("{} of {}", size(view.bytes), size(total)),
        None => size(view.bytes),
    })
}

fn files(view: &View) -> Option<String> {
    let files = view.files?;
    Some(match view.total_files {
        Some(total) => format!("{files} of {total} files"),
        None => format!("{files} files"),
    })
}

fn recoveries(view: &View) -> Option<String> {
    let times = |count: u64, what: &str| match count {
        0 => None,
        1 => Some(format!("{what} once")),
        count => Some(format!("{what} {count}x")),
    };
    match (times(view.recoveries, "recovered"), times(view.retries, "retried")) {
        (Some(recovered), Some(retried)) => Some(format!("{recovered}, {retried}")),
        (recovered, retried) => recovered.or(retried),
    }
}

fn percent(bytes: u64, total: u64) -> u64 {
    if total == 0 {
        return 100;
    }
    let percent = u128::from(bytes) * 100 / u128::from(total);
    u64::try_from(percent.min(100)).unwrap_or(100)
}

fn bar(percent: u64, columns: usize) -> String {
    let full = usize::try_from(percent).unwrap_or(100) * columns / 100;
    format!("{}{}", "█".repeat(full), "░".repeat(columns - full))
}

/// Returns a duration as `12 s`, `3:07` or `2:03:07`.
fn clock(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{}:{:02}", seconds / 60, seconds % 60),
        _ => format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
    }
}

/// Returns the name, or its end after `…`, in at most `columns`.
fn shortened(name: &str, columns: usize) -> String {
    if name.width() <= columns {
        return name.to_owned();
    }
    let mut width = 1;
    let mut start = name.len();
    for (index, c) in name.char_indices().rev() {
        width += c.width().unwrap_or(0);
        if width > columns {
            break;
        }
        start = index;
    }
    format!("…{}", &name[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> View {
        View {
            name: "firmware-image.bin".to_owned(),
            bytes: 45_256_540,
            total_bytes: Some(104_857_600),
            bytes_per_s: Some(12_582_912),
            eta_s: Some(4),
            ..View::default()
        }
    }

    /// The README shows these lines.
    #[test]
    fn an_object_is_shown_at_every_width() {
        let wide = format!(
            "firmware-image.bin  {}{}  43%  43.2 MiB of 100 MiB  12.0 MiB/s  4 s left",
            "█".repeat(17),
            "░".repeat(23)
        );
        for (columns, expected) in [
            (20, "43%  12.0 MiB/s"),
            (40, "…re-image.bin  43%  12.0 MiB/s  4 s left"),
            (80, "firmware-image.bin  █████░░░░░░░  43%  43.2 MiB of 100 MiB  12.0 MiB/s  4 s left"),
            (200, &wide),
        ] {
            assert_eq!(line(&object(), columns), expected, "{columns}");
        }
    }

    #[test]
    fn no_line_is_wider_than_its_terminal() {
        let wide = View { name: "日本語のファイル名.bin".repeat(3), ..object() };
        let tree = View { files: Some(1234), total_files: Some(10_000), recoveries: 2, retries: 5, ..object() };
        let listing = View { total_bytes: None, eta_s: None, total_files: None, ..tree.clone() };
        let waiting = View { waiting_s: Some(12), gives_up_after_s: Some(120), ..object() };
        for view in [object(), wide, tree, listing, waiting, View::default()] {
            for columns in 20..=200 {
                let line = line(&view, columns);
                assert!(line.width() <= columns, "{columns}: {line}");
                assert!(!line.is_empty());
            }
        }
    }

    #[test]
    fn a_wait_states_its_limit() {
        let waiting = View { waiting_s: Some(12), gives_up_after_s: Some(120), ..object() };
        assert!(line(&waiting, 80).contains("waiting for a relay (12 s of 120 s)"));
        assert!(line(&waiting, 20).starts_with("waiting 12 s"));
    }
}
