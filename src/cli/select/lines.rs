//! Reads addresses from a file or standard input, one per line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, unfold};
use tokio::sync::mpsc;

use gantry_client::{Error, part};
use gantry_proto::Key;

/// The longest line in bytes: a store, a slash, and a key as a JSON string with `\u` for each byte.
const LINE_MAX_BYTES: u64 = 128 + 6 * Key::MAX_BYTES as u64;

/// The number of lines that are read ahead.
const AHEAD: usize = 1000;

/// Returns the lines of a file, or of standard input for `-`. Empty lines are skipped. A line that starts with a
/// quotation mark is a JSON string, as `ls` and `find` print names with control characters.
pub(super) fn lines(path: PathBuf) -> BoxStream<'static, Result<String, Error>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let read = if path == Path::new("-") {
            read(io::stdin().lock(), &path, &sender)
        } else {
            match File::open(&path) {
                Ok(file) => read(BufReader::new(file), &path, &sender),
                Err(error) => Err(unreadable(&path, &error.to_string())),
            }
        };
        if let Err(error) = read {
            // If nobody receives it, the download has ended for another reason.
            drop(sender.blocking_send(Err(error)));
        }
    });
    unfold(receiver, async |mut receiver| receiver.recv().await.map(|line| (line, receiver))).boxed()
}

fn read(mut input: impl BufRead, path: &Path, sender: &mpsc::Sender<Result<String, Error>>) -> Result<(), Error> {
    let mut number = 0;
    loop {
        number += 1;
        let invalid = |why: &str| unreadable(path, &format!("line {number} {why}"));

        let mut line = Vec::new();
        let len = input.by_ref().take(LINE_MAX_BYTES).read_until(b'\n', &mut line);
        match len.map_err(|error| unreadable(path, &error.to_string()))? {
            0 => return Ok(()),
            len if len as u64 == LINE_MAX_BYTES && !line.ends_with(b"\n") => return Err(invalid("is too long")),
            _ => {}
        }

        let Ok(line) = String::from_utf8(line) else { return Err(invalid("is not UTF-8")) };
        let line = line.trim_end_matches(['\n', '\r']);
        if line.is_empty() {
            continue;
        }
        let line = match line.starts_with('"') {
            true => serde_json::from_str(line).map_err(|_| invalid("starts like a JSON string, but is not one"))?,
            false => line.to_owned(),
        };
        if sender.blocking_send(Ok(line)).is_err() {
            return Ok(());
        }
    }
}

fn unreadable(path: &Path, reason: &str) -> Error {
    let path = if path == Path::new("-") { PathBuf::from("stdin") } else { path.to_owned() };
    part::Error::Io { path, source: io::Error::other(reason.to_owned()) }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(input: &[u8]) -> (Vec<String>, Option<String>) {
        let (sender, mut receiver) = mpsc::channel(100);
        let error =
            read(input, Path::new("list"), &sender).err().map(|error| format!("{:#}", anyhow::Error::from(error)));
        drop(sender);
        let mut lines = Vec::new();
        while let Some(line) = receiver.blocking_recv() {
            lines.push(line.unwrap());
        }
        (lines, error)
    }

    #[test]
    fn each_line_is_an_address() {
        let (lines, error) = read_all(b"s/a\n\r\ns/b c\r\n\n\"s/d\\t\"\ns/last");
        assert_eq!((lines, error), (vec!["s/a".into(), "s/b c".into(), "s/d\t".into(), "s/last".into()], None));
    }

    #[test]
    fn an_invalid_line_is_named() {
        for (input, why) in [(&b"s/a\ns/\xff\n"[..], "line 2 is not UTF-8"), (b"\"s/a\n", "line 1 starts like")] {
            let error = read_all(input).1.unwrap();
            assert!(error.contains(why), "{error}");
        }
        assert!(read_all(&[b'x'; 10_000]).1.unwrap().contains("line 1 is too long"));
    }
}
