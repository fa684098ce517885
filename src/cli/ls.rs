//! `gantry ls`: lists keys, page by page to the end.

use std::collections::HashSet;

use clap::Args;
use serde::Serialize;

use super::address::ListAddress;
use super::exit::{Exit, Failure};
use super::output::{self, Form};
use gantry_client::Client;
use gantry_proto::{ListEntry, ListPage, ListRequest, printable};
use gantry_relay::shutdown::Shutdown;

/// List keys
///
/// Prints size in bytes, date and key; a key that goes on after a slash is cut there, unless -r is given. A key with
/// characters that a terminal would act on, such as a line break, is printed as a JSON string, in quotation marks.
#[derive(Args, Clone, Debug)]
pub(super) struct Ls {
    #[arg(value_name = "STORE[/PREFIX]", help = "The store, and what the keys begin with")]
    address: ListAddress,
    #[arg(short, long, help = "All keys, however deep")]
    recursive: bool,
    #[arg(long, help = "Print one JSON object a line: with key and size, or with prefix")]
    json: bool,
}

/// One line of `--json`.
#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Entry(&'a ListEntry),
    Prefix { prefix: &'a str },
}

impl Ls {
    pub(super) const fn form(&self) -> Form {
        if self.json { Form::Json } else { Form::Text }
    }

    pub(super) async fn run(self, client: &Client, shutdown: &Shutdown) -> Result<(), Failure> {
        let listed = tokio::select! {
            listed = self.list(client) => listed,
            () = shutdown.drain.cancelled() => Err(Failure::interrupted()),
        };
        let prefix = &self.address.prefix;
        let subject =
            if prefix.is_empty() { self.address.store.to_string() } else { format!("{}/{prefix}", self.address.store) };
        match listed {
            Ok(0) if !prefix.is_empty() => {
                Err(Failure::new(Exit::NotFound, "no key starts with this prefix").about(subject))
            }
            Ok(_) => Ok(()),
            Err(failure) if failure.exit == Exit::Interrupted || failure.message.is_empty() => Err(failure),
            Err(failure) => Err(failure.about(subject)),
        }
    }

    /// Prints every page, and returns whether there was anything: the lines, and one more for what can't be shown.
    async fn list(&self, client: &Client) -> Result<usize, Failure> {
        let mut request =
            ListRequest { prefix: self.address.prefix.clone(), recursive: self.recursive, ..ListRequest::default() };
        let mut seen = HashSet::new();
        let mut count = 0;
        let mut omitted = 0_u64;

        loop {
            let page = client.list_page(&self.address.store, &request).await?;
            count += page.entries.len() + page.prefixes.len();
            omitted = omitted.saturating_add(page.omitted);
            self.print(&page)?;
            match page.next {
                None => {
                    warn_of_omitted(omitted);
                    return Ok(count + usize::from(omitted > 0));
                }
                Some(next) if !seen.insert(next.clone()) => {
                    return Err(Failure::new(Exit::Failed, "the relay returns to an earlier page of the listing"));
                }
                Some(next) => request.token = Some(next),
            }
        }
    }

    fn print(&self, page: &ListPage) -> Result<(), Failure> {
        let mut lines: Vec<(&str, Line<'_>)> =
            page.entries.iter().map(|entry| (entry.key.as_str(), Line::Entry(entry))).collect();
        lines.extend(page.prefixes.iter().map(|prefix| (prefix.as_str(), Line::Prefix { prefix })));
        lines.sort_by_key(|(name, _)| *name);
        for (_, line) in lines {
            match line {
                line if self.json => output::json(&line)?,
                Line::Entry(entry) => output::line(&row(
                    &entry.size.to_string(),
                    &entry.last_modified.as_deref().map_or_else(|| "-".to_owned(), to_the_second),
                    &entry.key,
                ))?,
                Line::Prefix { prefix } => output::line(&row("-", "-", prefix))?,
            }
        }
        Ok(())
    }
}

/// Reports on standard error how much of the listing is missing.
fn warn_of_omitted(omitted: u64) {
    let names = match omitted {
        0 => return,
        1 => "1 name is".to_owned(),
        count => format!("{count} names are"),
    };
    output::note(&format!("{names} not shown: unreadable, or not valid as a key"));
}

fn row(size: &str, date: &str, key: &str) -> String {
    format!("{size:>14}  {:<20}  {}", printable::text(date), printable::name(key))
}

/// Cuts the fraction of a second out of an RFC 3339 date.
fn to_the_second(date: &str) -> String {
    match date.split_once('.') {
        Some((before, fraction)) => format!("{before}{}", fraction.trim_start_matches(|c: char| c.is_ascii_digit())),
        None => date.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_one_line_whatever_the_relay_sends() {
        let date = to_the_second("2026\n\u{1b}[31m.5");
        assert_eq!(row("1", &date, "a\nb\u{9b}"), "             1  2026\\n\\u{1b}[31m      \"a\\nb\\u009b\"");
    }

    #[test]
    fn a_row_has_size_date_to_the_second_and_key() {
        let date = to_the_second("2026-11-23T07:36:25.365339137Z");
        assert_eq!(row("50000000", &date, "a b"), "      50000000  2026-11-23T07:36:25Z  a b");
        assert_eq!(to_the_second("2026-11-23T07:36:25.5+01:00"), "2026-11-23T07:36:25+01:00");
        assert_eq!(to_the_second("yesterday"), "yesterday");
    }
}
