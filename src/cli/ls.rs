//! `gantry ls`: lists keys.

use clap::Args;

use super::address::ListAddress;
use super::exit::{Exit, Failure};
use super::output::{self, Form};
use gantry_client::{Client, Listed};
use gantry_proto::{StoreName, printable};
use gantry_relay::shutdown::Shutdown;

/// List keys
///
/// Prints size in bytes, date and key. Keys are cut after the next slash, unless -r is given. A key with control
/// characters, such as a line break, is printed as a JSON string in quotation marks.
#[derive(Args, Clone, Debug)]
pub(super) struct Ls {
    #[arg(value_name = "STORE[/PREFIX]", help = "Store to list, and the beginning of the keys")]
    address: ListAddress,
    #[arg(short, long, help = "List all keys instead of cutting them after the next slash")]
    recursive: bool,
    #[arg(short, long, help = "Print addresses for gantry get instead of keys, and the totals")]
    long: bool,
    #[arg(short = 'H', long, help = "Print sizes as 43.2 MiB")]
    human: bool,
    #[arg(long, help = "Print one JSON object per line, with `key` and `size` or with `prefix`")]
    json: bool,
}

impl Ls {
    pub(super) const fn form(&self) -> Form {
        if self.json { Form::Json } else { Form::Text }
    }

    pub(super) fn store(&self) -> StoreName {
        self.address.store.clone()
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
                Err(Failure::new(Exit::NotFound, "no key begins with this prefix").about(subject))
            }
            Ok(_) => Ok(()),
            Err(failure) if failure.exit == Exit::Interrupted || failure.message.is_empty() => Err(failure),
            Err(failure) => Err(failure.about(subject)),
        }
    }

    /// Prints every name. Returns the number of lines, plus one if names were omitted.
    async fn list(&self, client: &Client) -> Result<usize, Failure> {
        let store = &self.address.store;
        let prefix = self.address.prefix.clone();
        let mut names = if self.recursive { client.list_recursive(store, prefix) } else { client.list(store, prefix) };

        let mut count = 0;
        let mut totals = Totals::default();
        while let Some(name) = names.try_next().await? {
            self.print(&name)?;
            totals.add(&name);
            count += 1;
        }

        if self.long && !self.json {
            output::line(&totals.line(|bytes| self.size(bytes)))?;
        }

        output::warn_of_omitted(names.omitted());
        Ok(count + usize::from(names.omitted() > 0))
    }

    fn print(&self, name: &Listed) -> Result<(), Failure> {
        match name {
            Listed::Object(entry) if self.json => output::json(entry),
            Listed::Object(entry) => {
                let date = entry.last_modified.as_deref().map_or_else(|| "-".to_owned(), to_the_second);
                output::line(&row(&self.size(entry.size), &date, &self.name(&entry.key)))
            }
            Listed::Prefix(prefix) if self.json => output::json(&serde_json::json!({ "prefix": prefix })),
            Listed::Prefix(prefix) => output::line(&row("-", "-", &self.name(prefix))),
            // All present variants are above. The enum is non-exhaustive.
            _ => Ok(()),
        }
    }

    fn size(&self, bytes: u64) -> String {
        if self.human { output::size(bytes) } else { bytes.to_string() }
    }

    fn name(&self, key: &str) -> String {
        if self.long { format!("{}/{key}", self.address.store) } else { key.to_owned() }
    }
}

/// The totals of a listing.
#[derive(Debug, Default)]
struct Totals {
    objects: u64,
    bytes: u64,
    prefixes: u64,
}

impl Totals {
    fn add(&mut self, name: &Listed) {
        match name {
            Listed::Object(entry) => {
                self.objects += 1;
                self.bytes = self.bytes.saturating_add(entry.size);
            }
            Listed::Prefix(_) => self.prefixes += 1,
            // All present variants are above. The enum is non-exhaustive.
            _ => {}
        }
    }

    fn line(&self, size: impl Fn(u64) -> String) -> String {
        let count =
            |number: u64, what: &str, several: &str| format!("{number} {}", if number == 1 { what } else { several });
        let objects = count(self.objects, "object", "objects");
        let prefixes = count(self.prefixes, "prefix", "prefixes");
        format!("{:>14}  {objects}, {prefixes}", size(self.bytes))
    }
}

fn row(size: &str, date: &str, key: &str) -> String {
    format!("{size:>14}  {:<20}  {}", printable::text(date), printable::name(key))
}

/// Removes the fraction of a second from an RFC 3339 date.
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
    fn row_is_one_line_whatever_the_relay_sends() {
        let date = to_the_second("2026\n\u{1b}[31m.5");
        assert_eq!(row("1", &date, "a\nb\u{9b}"), "             1  2026\\n\\u{1b}[31m      \"a\\nb\\u009b\"");
    }

    #[test]
    fn row_has_size_date_to_the_second_and_key() {
        let date = to_the_second("2026-11-23T07:36:25.365339137Z");
        assert_eq!(row("50000000", &date, "a b"), "      50000000  2026-11-23T07:36:25Z  a b");
        assert_eq!(to_the_second("2026-11-23T07:36:25.5+01:00"), "2026-11-23T07:36:25+01:00");
        assert_eq!(to_the_second("yesterday"), "yesterday");
    }
}
