//! `gantry du`: adds up sizes.

use clap::Args;
use serde::Serialize;

use super::address::ListAddress;
use super::exit::{Exit, Failure};
use super::output::{self, Form};
use gantry_client::{Client, Listed};
use gantry_proto::{StoreName, printable};
use gantry_relay::shutdown::Shutdown;

/// Add up the sizes of objects
///
/// Prints the bytes and the number of objects for each next part of the keys, and for all. It reads the whole listing.
#[derive(Args, Clone, Debug)]
pub(super) struct Du {
    #[arg(value_name = "STORE[/PREFIX]", help = "Store, and the beginning of the keys")]
    address: ListAddress,
    #[arg(long, help = "Print the total only")]
    summarize: bool,
    #[arg(short = 'H', long, help = "Print sizes as 43.2 MiB")]
    human: bool,
    #[arg(long, help = "Print one JSON object per line")]
    json: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Sum {
    address: String,
    objects: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

impl Du {
    pub(super) const fn form(&self) -> Form {
        if self.json { Form::Json } else { Form::Text }
    }

    pub(super) fn store(&self) -> StoreName {
        self.address.store.clone()
    }

    pub(super) async fn run(self, client: &Client, shutdown: &Shutdown) -> Result<(), Failure> {
        let summed = tokio::select! {
            summed = self.sum(client) => summed,
            () = shutdown.drain.cancelled() => Err(Failure::interrupted()),
        };
        summed.map_err(|failure| if failure.message.is_empty() { failure } else { failure.about(self.subject()) })
    }

    fn subject(&self) -> String {
        format!("{}/{}", self.address.store, self.address.prefix)
    }

    async fn sum(&self, client: &Client) -> Result<(), Failure> {
        let ListAddress { store, prefix } = &self.address;
        let mut names = client.list_recursive(store, prefix.clone());
        let mut total = Sum { address: self.subject(), ..Sum::default() };
        let mut part: Option<Sum> = None;
        while let Some(name) = names.try_next().await? {
            let Listed::Object(entry) = name else { continue };
            total.add(entry.size);

            // Keys come in order, so those of one part follow each other.
            let next = next_part(prefix, &entry.key).map(|part| format!("{store}/{part}"));
            if part.as_ref().map(|part| &part.address) != next.as_ref() {
                self.print(part.take())?;
                part = next.map(|address| Sum { address, ..Sum::default() });
            }
            if let Some(part) = &mut part {
                part.add(entry.size);
            }
        }

        self.print(part)?;
        if total.objects == 0 && !prefix.is_empty() {
            return Err(Failure::new(Exit::NotFound, "no key begins with this prefix"));
        }
        self.print_line(&total)
    }

    fn print(&self, part: Option<Sum>) -> Result<(), Failure> {
        part.filter(|_| !self.summarize).map_or(Ok(()), |part| self.print_line(&part))
    }

    fn print_line(&self, sum: &Sum) -> Result<(), Failure> {
        if self.json {
            return output::json(sum);
        }
        let size = if self.human { output::size(sum.bytes) } else { sum.bytes.to_string() };
        output::line(&format!("{size:>14}  {:>9}  {}", sum.objects, printable::name(&sum.address)))
    }
}

/// Returns the key up to the next slash after the prefix, if there is one.
fn next_part<'a>(prefix: &str, key: &'a str) -> Option<&'a str> {
    let slash = key.get(prefix.len()..)?.find('/')?;
    key.get(..=prefix.len() + slash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_end_with_the_next_slash() {
        assert_eq!(next_part("", "a/b/c"), Some("a/"));
        assert_eq!(next_part("a/", "a/b/c"), Some("a/b/"));
        assert_eq!(next_part("a/b", "a/bc/d"), Some("a/bc/"));
        assert_eq!(next_part("a/", "a/b"), None);
    }
}
