//! `gantry get`: downloads objects and verifies them.

mod one;
mod stream;
mod summary;

use std::path::PathBuf;

use clap::{Args, value_parser};

use self::one::One;
use super::address::{ByteRange, Correlation, ObjectAddress, Rate};
use super::exit::Failure;
use super::output::Form;
use super::select::{Address, Selection};
use super::show::Show;
use super::suggest;
use super::tree::{Download, TreeArgs};
use gantry_bus::rate::RateLimit;
use gantry_client::Client;
use gantry_client::part::Destination;
use gantry_proto::StoreName;
use gantry_relay::shutdown::Shutdown;

const ABOUT: &str = "Download objects and verify them

A file appears under its name once it is complete and verified. If the download is interrupted, run the same command \
again to resume it.

With -r, a pattern, several addresses or --from, all objects are written into the folder that -o names. Those whose files \
have the same size and time are skipped. The path of a file is the rest of its key: after the last slash of the address, \
or after the last one before the first of the characters * ? [ {. In patterns, * matches within a part of a key, and ** \
any number of parts. Put patterns into quotation marks. Objects that can't have a file are reported, and the exit code \
is 1.

Devices, FIFOs and open files such as /dev/stdout receive the bytes of one object as they arrive, before they are verified.";

const ONE: &str = "Options for one object";

/// Download objects and verify them
#[derive(Args, Clone, Debug)]
#[command(about = "Download objects and verify them", long_about = ABOUT)]
pub(super) struct Get {
    #[arg(
        value_name = "STORE/KEY",
        required_unless_present = "from",
        conflicts_with = "from",
        help = "Objects to download: an address, with -r the beginning of addresses, or a pattern such as 'files/**/*.bin'"
    )]
    addresses: Vec<Address>,
    #[arg(
        short,
        long,
        value_name = "PATH",
        help = "File or folder to write to, or - for stdout [default: the last part of the key, in the current folder]"
    )]
    output: Option<PathBuf>,
    #[arg(short, long, conflicts_with = "from", help = "Download all keys that begin with the address")]
    recursive: bool,
    #[arg(long, value_name = "FILE", help = "Read one address per line, - for stdin; the whole keys become paths")]
    from: Option<PathBuf>,
    #[arg(long, help = "Take the characters * ? [ { in addresses literally")]
    no_glob: bool,
    #[command(flatten)]
    tree: TreeArgs,
    #[arg(
        long,
        help_heading = ONE,
        value_name = "RANGE",
        allow_hyphen_values = true,
        help = "Bytes to download, as in curl: FIRST-LAST (inclusive), FIRST-, or -COUNT for the last COUNT bytes; requires -o with a file name or -"
    )]
    range: Option<ByteRange>,
    #[arg(long, help_heading = ONE, value_name = "ETAG", value_parser = quoted, help = "Fail unless the object has this ETag, as gantry stat prints it")]
    if_match: Option<String>,
    #[arg(long, help_heading = ONE, value_name = "ID", help = "Version to download, if the store keeps versions")]
    version_id: Option<String>,
    #[arg(
        long,
        help = "Compare the ETag with the MD5 of the bytes if the store keeps no checksum; only a match proves something"
    )]
    verify_etag: bool,
    #[arg(long, help_heading = ONE, help = "Start from the beginning instead of resuming an interrupted download")]
    no_resume: bool,
    #[arg(
        long,
        help_heading = ONE,
        value_name = "N",
        value_parser = value_parser!(u8).range(1..=16),
        help = "Fetch up to N pieces at the same time, from several relays if there are several; for files of more than 16 MiB [default: 1]"
    )]
    streams: Option<u8>,
    #[arg(long, value_name = "RATE", help = "Maximum bytes per second, such as 500K, 10M or 1.5MiB")]
    limit_rate: Option<Rate>,
    #[arg(
        long,
        value_name = "TEXT",
        help = "Id of the download in the logs and traces of both sides, instead of a random one; at most 256 bytes"
    )]
    correlation: Option<Correlation>,
    #[command(flatten)]
    show: Show,
}

/// Returns an `ETag` with the quotation marks that belong to it, which shells take away.
#[expect(clippy::unnecessary_wraps, reason = "a parser of arguments returns a result")]
fn quoted(etag: &str) -> Result<String, std::convert::Infallible> {
    Ok(if etag.contains('"') { etag.to_owned() } else { format!("\"{etag}\"") })
}

/// The kind of download.
enum Mode {
    One(ObjectAddress),
    Tree(Vec<Selection>),
}

impl Get {
    /// Checks that the arguments are compatible, before connecting.
    pub(super) fn check(&self) -> Result<(), Failure> {
        self.mode().map(drop)
    }

    pub(super) fn form(&self) -> Form {
        match self.show.json {
            true if self.stream_target().is_some_and(|stream| stream::is_stdout(&stream)) => Form::JsonToStderr,
            true => Form::Json,
            false => Form::Text,
        }
    }

    pub(super) fn rate_limit(&self) -> Option<RateLimit> {
        self.limit_rate.map(|Rate(bytes_per_s)| RateLimit::new(bytes_per_s))
    }

    /// Returns the stores that the addresses name.
    pub(super) fn stores(&self) -> Vec<StoreName> {
        self.addresses.iter().map(|address| address.store().clone()).collect()
    }

    pub(super) async fn run(self, client: Client, shutdown: &Shutdown) -> Result<(), Failure> {
        match self.mode()? {
            Mode::One(address) => {
                let correlation =
                    self.correlation.clone().map_or_else(gantry_client::new_correlation, |Correlation(id)| id);
                let one = One { get: &self, address, correlation };
                match one.run(&client, shutdown).await {
                    Ok(()) => Ok(()),
                    Err(failure) => Err(suggest::objects(failure, &one.address, &client).await),
                }
            }
            Mode::Tree(selections) => {
                let folder = self.output.clone().unwrap_or_else(|| PathBuf::from("."));
                let Self { tree: args, correlation, show, .. } = self;
                Download { selections, folder, delete: false, args, correlation, show }.run(&client, shutdown).await
            }
        }
    }

    /// Decides whether one object is downloaded or a tree, and rejects options for the other.
    fn mode(&self) -> Result<Mode, Failure> {
        let is_literal = self.no_glob || !self.for_one().is_empty();
        let is_tree = self.recursive
            || self.from.is_some()
            || self.addresses.len() > 1
            || self.addresses.iter().any(|address| address.is_pattern() && !is_literal);

        if let ([address], false) = (self.addresses.as_slice(), is_tree) {
            if let Some(option) = self.tree.given() {
                let message = format!("{option} is for several objects: add -r to download all keys that begin so");
                return Err(Failure::usage(message).about(address.to_string()));
            }
            if self.streams.is_some() && self.stream_target().is_some() {
                let message =
                    "--streams needs a file, since pieces are written out of order: leave it out, or change -o";
                return Err(Failure::usage(message).about(address.to_string()));
            }
            return Ok(Mode::One(address.object()?));
        }

        if let Some(option) = self.for_one().first() {
            return Err(Failure::usage(format!("{option} is for one object: leave it out, or give one address")));
        }
        if self.stream_target().is_some() {
            return Err(Failure::usage(
                "several objects need a folder: add -o with a folder, or pass what gantry find prints to gantry cat",
            ));
        }
        if let Some(path) = &self.from {
            return Ok(Mode::Tree(vec![Selection::Lines(path.clone())]));
        }
        let selections = self.addresses.iter().map(|address| Selection::of(address, self.recursive, self.no_glob));
        Ok(Mode::Tree(selections.collect::<Result<_, _>>()?))
    }

    /// Returns the given options that apply to one object only.
    fn for_one(&self) -> Vec<&'static str> {
        let options = [
            (self.range.is_some(), "--range"),
            (self.if_match.is_some(), "--if-match"),
            (self.version_id.is_some(), "--version-id"),
            (self.no_resume, "--no-resume"),
            (self.streams.is_some(), "--streams"),
        ];
        options.into_iter().filter_map(|(is_given, name)| is_given.then_some(name)).collect()
    }

    /// Returns the destination of the bytes if it is not a file that can be replaced.
    fn stream_target(&self) -> Option<Destination> {
        stream::of(self.output.as_deref()?)
    }

    /// Returns whether only failures are printed. That includes downloads to stderr, where a line would get between the
    /// bytes.
    fn is_quiet(&self) -> bool {
        self.show.quiet || self.stream_target().is_some_and(|stream| stream::is_stderr(&stream))
    }
}
