//! `gantry find`: lists keys by name, size and age.

use std::str::FromStr;

use bytesize::ByteSize;
use clap::Args;
use globset::{GlobBuilder, GlobMatcher};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::address::ListAddress;
use super::exit::Failure;
use super::output::{self, Form};
use gantry_client::{Client, ListEntry, Listed};
use gantry_proto::{StoreName, printable};
use gantry_relay::shutdown::Shutdown;

/// Find objects by name, size and age
///
/// Prints addresses that gantry get --from reads. An object must match all options. In patterns, * matches within a part of
/// a key, and ** any number of parts.
#[derive(Args, Clone, Debug)]
pub(super) struct Find {
    #[arg(value_name = "STORE[/PREFIX]", help = "Store, and the beginning of the keys")]
    address: ListAddress,
    #[arg(long, value_name = "PATTERN", help = "Match the last part of the key, such as '*.bin'")]
    name: Option<Pattern>,
    #[arg(long, value_name = "PATTERN", help = "Match the whole key, such as '**/2026-*/*.bin'")]
    key: Option<Pattern>,
    #[arg(long, value_name = "SIZE", help = "Match objects of at least this size, such as 10MiB")]
    min_size: Option<ByteSize>,
    #[arg(long, value_name = "SIZE", help = "Match objects of at most this size")]
    max_size: Option<ByteSize>,
    #[arg(
        long,
        value_name = "AGE",
        help = "Match objects modified since, such as 90m, 12h, 7d or 2026-11-23T00:00:00Z"
    )]
    newer: Option<Age>,
    #[arg(long, value_name = "AGE", help = "Match objects modified before")]
    older: Option<Age>,
    #[arg(long, help = "Print one JSON object per line, with the same members as gantry ls")]
    json: bool,
}

#[derive(Clone, Debug)]
struct Pattern(GlobMatcher);

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut builder = GlobBuilder::new(text);
        let glob = builder.literal_separator(true).backslash_escape(true).build().map_err(|error| error.to_string())?;
        Ok(Self(glob.compile_matcher()))
    }
}

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    Before(Duration),
    At(OffsetDateTime),
}

impl FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
            return Ok(Self::At(time));
        }
        let form = || "must be a number with s, m, h, d or w, or a time such as 2026-11-23T00:00:00Z".to_owned();
        let unit = text.chars().last().ok_or_else(form)?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return Err(form()),
        };
        let number: u32 = text[..text.len() - 1].parse().map_err(|_| form())?;
        Ok(Self::Before(Duration::seconds(i64::from(number) * seconds)))
    }
}

impl Age {
    fn time(self, now: OffsetDateTime) -> OffsetDateTime {
        match self {
            Self::Before(duration) => now.checked_sub(duration).unwrap_or(OffsetDateTime::UNIX_EPOCH),
            Self::At(time) => time,
        }
    }
}

impl Find {
    pub(super) const fn form(&self) -> Form {
        if self.json { Form::Json } else { Form::Text }
    }

    pub(super) fn store(&self) -> StoreName {
        self.address.store.clone()
    }

    pub(super) async fn run(self, client: &Client, shutdown: &Shutdown) -> Result<(), Failure> {
        let found = tokio::select! {
            found = self.find(client) => found,
            () = shutdown.drain.cancelled() => Err(Failure::interrupted()),
        };
        let subject = format!("{}/{}", self.address.store, self.address.prefix);
        found.map_err(|failure| if failure.message.is_empty() { failure } else { failure.about(subject) })
    }

    async fn find(&self, client: &Client) -> Result<(), Failure> {
        let store = &self.address.store;
        let now = OffsetDateTime::now_utc();
        let mut names = client.list_recursive(store, self.address.prefix.clone());
        while let Some(name) = names.try_next().await? {
            let Listed::Object(entry) = name else { continue };
            if !self.matches(&entry, now) {
                continue;
            }
            if self.json {
                output::json(&entry)?;
            } else {
                output::line(&printable::name(&format!("{store}/{}", entry.key)))?;
            }
        }
        output::warn_of_omitted(names.omitted());
        Ok(())
    }

    fn matches(&self, entry: &ListEntry, now: OffsetDateTime) -> bool {
        let last = entry.key.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let modified = entry.last_modified.as_deref().and_then(|time| OffsetDateTime::parse(time, &Rfc3339).ok());
        self.name.as_ref().is_none_or(|Pattern(name)| name.is_match(last))
            && self.key.as_ref().is_none_or(|Pattern(key)| key.is_match(&entry.key))
            && self.min_size.is_none_or(|min| entry.size >= min.as_u64())
            && self.max_size.is_none_or(|max| entry.size <= max.as_u64())
            && self.newer.is_none_or(|newer| modified.is_some_and(|time| time >= newer.time(now)))
            && self.older.is_none_or(|older| modified.is_some_and(|time| time < older.time(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_durations_or_times() {
        assert_eq!("90m".parse(), Ok(Age::Before(Duration::minutes(90))));
        assert_eq!("2w".parse(), Ok(Age::Before(Duration::weeks(2))));
        assert!(matches!("2026-11-23T00:00:00Z".parse(), Ok(Age::At(_))));
        for text in ["", "d", "-1d", "1y", "1 d", "1ü", "yesterday"] {
            assert!(text.parse::<Age>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_object_must_match_all_options() {
        let now = OffsetDateTime::parse("2026-11-23T12:00:00Z", &Rfc3339).unwrap();
        let mut entry = ListEntry::new("a/b/x.bin".to_owned(), 2048);
        entry.last_modified = Some("2026-11-23T10:00:00Z".to_owned());
        let find = || Find {
            address: "s".parse().unwrap(),
            name: None,
            key: None,
            min_size: None,
            max_size: None,
            newer: None,
            older: None,
            json: false,
        };
        for (find, is_match) in [
            (find(), true),
            (Find { name: Some("*.bin".parse().unwrap()), ..find() }, true),
            (Find { name: Some("a*".parse().unwrap()), ..find() }, false),
            (Find { key: Some("a/**".parse().unwrap()), ..find() }, true),
            (Find { key: Some("*.bin".parse().unwrap()), ..find() }, false),
            (Find { min_size: Some(ByteSize(2048)), max_size: Some(ByteSize(2048)), ..find() }, true),
            (Find { min_size: Some(ByteSize(2049)), ..find() }, false),
            (Find { newer: Some("3h".parse().unwrap()), ..find() }, true),
            (Find { newer: Some("1h".parse().unwrap()), ..find() }, false),
            (Find { older: Some("1h".parse().unwrap()), ..find() }, true),
        ] {
            assert_eq!(find.matches(&entry, now), is_match, "{find:?}");
        }
    }
}
