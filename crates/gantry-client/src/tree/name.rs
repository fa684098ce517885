//! Converts keys to paths. Pure: nothing here accesses a file system.
//!
//! A key is split at its slashes into parts, each of which becomes the name of a folder or file. Two kinds of parts are
//! not used as they are:
//! - A part that could lead elsewhere, or that no file system holds, makes the key [`Unusable`].
//! - A part that is special on other systems is spelled with substitutes: see [`Names::Portable`].

use std::borrow::Cow;
use std::path::Path;

/// The longest name of the common file systems, in bytes (`NAME_MAX` in Linux's `limits.h`).
const NAME_MAX_BYTES: usize = 255;

/// The folder in the target folder that holds files until they are complete and durable.
pub(super) const STAGE: &str = ".gantry-tree";

/// What the names of all part files contain.
const PART: &str = ".gantry-part";

/// Precedes a character of a key that would otherwise be read as a substitute. The same as rclone's.
const QUOTE: char = '\u{201b}';

/// How the parts of a key are spelled as names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    /// Names that every common system can hold. Characters that are special on one of them have substitutes of similar
    /// shape, the same as in rclone:
    ///
    /// | in a key | in the name |
    /// |---|---|
    /// | `\`, `:` | `＼`, `：` (U+FF3C, U+FF1A) |
    /// | control characters | their pictures, such as `␉` (U+2400 to U+241F, U+2421) |
    /// | a dot or space at the end of a part | `．`, `␠` (U+FF0E, U+2420) |
    /// | the first letter of a device name of Windows, such as `con`, `nul.txt`, `LPT1` | the wide letter, `ｃon` |
    /// | one of these substitutes | the same after `‛` (U+201B) |
    ///
    /// No two keys have the same name.
    #[default]
    Portable,
    /// The unchanged parts, as far as this system can hold them.
    Native,
}

/// Why a key can't be the path of a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It starts with a slash, so that it would be an absolute path.
    #[error("it starts with a slash, like an absolute path")]
    Absolute,
    /// Two slashes follow one another.
    #[error("it has an empty part between two slashes")]
    EmptyPart,
    /// A part is `.` or `..`.
    #[error("its part {0:?} names another folder")]
    Dots(String),
    /// It contains a NUL.
    #[error("it contains a NUL")]
    Nul,
    /// A part is longer than 255 bytes, with its substitutes.
    #[error("a part of {0} bytes is longer than the 255 of a file name")]
    TooLong(usize),
    /// A part has a name that is reserved for unfinished downloads.
    #[error("its part {0:?} is reserved for unfinished downloads")]
    Reserved(String),
    /// It ends with a slash, as the key of a folder, but its object has bytes.
    #[error("it ends with a slash like a folder, but has {0} bytes")]
    FolderWithBytes(u64),
}

/// A relative path of plain names, separated by slashes. It leads to a place below the folder that it is used in, unless
/// that contains symbolic links.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RelativePath(String);

impl RelativePath {
    /// Creates a path whose parts are names that were read from a folder.
    pub(super) const fn of_names(path: String) -> Self {
        Self(path)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// Returns the path of the folder, which is empty at the top, and the name in it.
    pub(super) fn split(&self) -> (&str, &str) {
        self.0.rsplit_once('/').unwrap_or(("", &self.0))
    }
}

/// The place of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: RelativePath,
    /// Whether the key ends with a slash, so that it stands for a folder.
    pub(super) is_folder: bool,
    /// Whether a part is spelled with substitutes.
    pub(super) is_renamed: bool,
}

/// Returns the place of an object. `key` is the object's key without the part that is cut.
pub(super) fn place(key: &str, names: Names) -> Result<Place, Unusable> {
    if key.starts_with('/') {
        return Err(Unusable::Absolute);
    }
    if key.contains('\0') {
        return Err(Unusable::Nul);
    }

    let (key, is_folder) = key.strip_suffix('/').map_or((key, false), |folder| (folder, true));
    let mut path = String::with_capacity(key.len());
    let mut is_renamed = false;
    for part in key.split('/') {
        let name = name(part, names)?;
        is_renamed |= *name != *part;
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(&name);
    }

    Ok(Place { path: RelativePath(path), is_folder, is_renamed })
}

fn name(part: &str, names: Names) -> Result<Cow<'_, str>, Unusable> {
    match part {
        "" => return Err(Unusable::EmptyPart),
        "." | ".." => return Err(Unusable::Dots(part.to_owned())),
        _ => {}
    }
    if is_reserved(part) {
        return Err(Unusable::Reserved(part.to_owned()));
    }

    let name = match names {
        Names::Native => Cow::Borrowed(part),
        Names::Portable => encode(part),
    };
    if name.len() > NAME_MAX_BYTES {
        return Err(Unusable::TooLong(name.len()));
    }
    Ok(name)
}

/// Returns whether a name belongs to an unfinished download.
pub(super) fn is_reserved(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower == STAGE || (lower.starts_with('.') && lower.contains(PART))
}

/// Returns the part with substitutes.
fn encode(part: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '\\' | ':') || c == ' ';
    if part.chars().all(is_plain) && !part.ends_with(['.', ' ']) && !is_device(part) {
        return Cow::Borrowed(part);
    }

    let is_device = is_device(part);
    let last = part.chars().count().saturating_sub(1);
    let mut name = String::with_capacity(part.len() + 8);
    for (index, c) in part.chars().enumerate() {
        if index == 0 && is_device {
            name.push(wide(c));
        } else if let Some(substitute) = substitute(c, index == last) {
            name.push(substitute);
        } else {
            let is_ambiguous = c == QUOTE || original(c, index == last).is_some();
            if is_ambiguous || (index == 0 && device_of(part).is_some()) {
                name.push(QUOTE);
            }
            name.push(c);
        }
    }
    Cow::Owned(name)
}

/// Returns the part that [`encode`] spells as `name`, or `None` if no part is spelled so.
pub(super) fn decode(name: &str, names: Names) -> Option<String> {
    if names == Names::Native {
        return Some(name.to_owned());
    }

    let last = name.chars().count().saturating_sub(1);
    let mut part = String::with_capacity(name.len());
    let mut is_quoted = false;
    for (index, c) in name.chars().enumerate() {
        if is_quoted {
            part.push(c);
            is_quoted = false;
        } else if c == QUOTE {
            is_quoted = true;
        } else {
            part.push(original(c, index == last).unwrap_or(c));
        }
    }

    if !name.starts_with(QUOTE)
        && let Some(device) = device_of(&part)
    {
        part = device;
    }
    (encode(&part) == name).then_some(part)
}

/// Returns the substitute of a character that is special, wherever it is or at the end of a part.
fn substitute(c: char, is_last: bool) -> Option<char> {
    match c {
        '\\' | ':' => Some(wide(c)),
        '\0'..='\u{1f}' => char::from_u32(u32::from(c) + 0x2400),
        '\u{7f}' => Some('\u{2421}'),
        '.' if is_last => Some(wide(c)),
        ' ' if is_last => Some('\u{2420}'),
        _ => None,
    }
}

/// Returns the character that has this [`substitute`].
fn original(c: char, is_last: bool) -> Option<char> {
    match c {
        '\u{ff3c}' | '\u{ff1a}' => Some(narrow(c)),
        '\u{2400}'..='\u{241f}' => char::from_u32(u32::from(c) - 0x2400),
        '\u{2421}' => Some('\u{7f}'),
        '\u{ff0e}' if is_last => Some('.'),
        '\u{2420}' if is_last => Some(' '),
        _ => None,
    }
}

/// Returns the name of a device whose first letter is wide in `part`.
fn device_of(part: &str) -> Option<String> {
    let first = part.chars().next().filter(|first| matches!(first, '\u{ff21}'..='\u{ff5a}'))?;
    let device = format!("{}{}", narrow(first), &part[first.len_utf8()..]);
    is_device(&device).then_some(device)
}

/// Returns the wide form of an ASCII character (Unicode block "Halfwidth and Fullwidth Forms").
fn wide(c: char) -> char {
    char::from_u32(u32::from(c) + 0xfee0).unwrap_or(c)
}

fn narrow(c: char) -> char {
    char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c)
}

/// Returns whether Windows takes a name for a device, whatever follows the first dot.
///
/// Source: "Naming Files, Paths, and Namespaces" in the documentation of Win32.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end_matches(' ');
    let stem = stem.to_ascii_lowercase();
    if matches!(stem.as_str(), "con" | "prn" | "aux" | "nul") {
        return true;
    }
    let port = stem.strip_prefix("com").or_else(|| stem.strip_prefix("lpt"));
    port.is_some_and(|number| matches!(number, "¹" | "²" | "³") || matches!(number.as_bytes(), [b'0'..=b'9']))
}

/// Finds keys that are both a file and a folder, as `a` and `a/b` are. Keys must come in ascending order.
///
/// It holds the keys that begin the current one, so that its memory does not depend on the number of keys.
#[derive(Debug, Default)]
pub(super) struct Files(Vec<String>);

impl Files {
    /// Adds a file. Returns the earlier file, if any, that would have to be a folder.
    pub(super) fn add(&mut self, key: &str) -> Option<&str> {
        while self.0.last().is_some_and(|file| !key.starts_with(file.as_str())) {
            self.0.pop();
        }
        if let Some(index) = self.0.iter().position(|file| key.as_bytes().get(file.len()) == Some(&b'/')) {
            return Some(&self.0[index]);
        }

        if self.0.last().is_none_or(|file| file != key) {
            self.0.push(key.to_owned());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(key: &str) -> Result<String, Unusable> {
        place(key, Names::Portable).map(|place| place.path.0)
    }

    #[test]
    fn hostile_keys_are_rejected() {
        let long = "x".repeat(256);
        for (key, why) in [
            ("/etc/passwd", Unusable::Absolute),
            ("//a", Unusable::Absolute),
            ("/", Unusable::Absolute),
            ("", Unusable::EmptyPart),
            ("a//b", Unusable::EmptyPart),
            ("a//", Unusable::EmptyPart),
            ("..", Unusable::Dots("..".to_owned())),
            ("../a", Unusable::Dots("..".to_owned())),
            ("a/../../b", Unusable::Dots("..".to_owned())),
            ("a/..", Unusable::Dots("..".to_owned())),
            ("./a", Unusable::Dots(".".to_owned())),
            ("a/./", Unusable::Dots(".".to_owned())),
            ("a\0b", Unusable::Nul),
            (&long, Unusable::TooLong(256)),
            (".a.gantry-part", Unusable::Reserved(".a.gantry-part".to_owned())),
            ("x/.A.GANTRY-PART.json", Unusable::Reserved(".A.GANTRY-PART.json".to_owned())),
            (".Gantry-Tree/lock", Unusable::Reserved(".Gantry-Tree".to_owned())),
        ] {
            for names in [Names::Portable, Names::Native] {
                assert_eq!(place(key, names), Err(why.clone()), "{key:?}");
            }
        }
    }

    #[test]
    fn parts_that_are_special_on_other_systems_have_substitutes() {
        for (key, name) in [
            ("a\\..\\b", "a＼..＼b"),
            ("C:\\x", "C：＼x"),
            ("C:/x", "C：/x"),
            ("a:stream", "a：stream"),
            ("con", "ｃon"),
            ("x/NUL.txt", "x/ＮUL.txt"),
            ("com1", "ｃom1"),
            ("com¹", "ｃom¹"),
            ("aux .c", "ａux .c"),
            ("a.", "a．"),
            ("a ", "a␠"),
            ("a\tb\u{7f}", "a␉b␡"),
            ("a\u{1b}[31m", "a␛[31m"),
            ("a：b", "a‛：b"),
            ("ｃon", "‛ｃon"),
            ("‛", "‛‛"),
        ] {
            let found = place(key, Names::Portable).unwrap();
            assert_eq!((found.path.as_str(), found.is_renamed), (name, true), "{key:?}");
            assert!(!place(key, Names::Native).unwrap().is_renamed, "{key:?}");
        }
    }

    #[test]
    fn ordinary_keys_are_kept() {
        for key in ["a", "a/b c/ü.bin", ".hidden", "...", "a..b", "console", "com10", "ｃonsole", "a%2Fb", "~", "-rf"]
        {
            if key == "..." {
                assert_eq!(path(key).unwrap(), "..．");
                continue;
            }
            assert_eq!(place(key, Names::Portable).unwrap().path.as_str(), key);
            assert!(!place(key, Names::Portable).unwrap().is_renamed, "{key}");
        }
        let folder = place("a/b/", Names::Portable).unwrap();
        assert_eq!((folder.path.as_str(), folder.is_folder), ("a/b", true));
    }

    #[test]
    fn a_file_that_is_also_a_folder_is_found() {
        let mut files = Files::default();
        let keys = ["a", "a-b", "a.b/c", "a/b", "a/c/d", "ab", "b/c", "b/c/d", "b/cd/e", "c/d", "c/e"];
        let found: Vec<_> = keys.iter().map(|key| files.add(key).map(str::to_owned)).collect();

        let file = |name: &str| Some(name.to_owned());
        let expected = [None, None, None, file("a"), file("a"), None, None, file("b/c"), None, None, None];
        assert_eq!(found, expected);
        assert!(files.0.len() < 3);
    }

    proptest! {
        #[test]
        fn no_two_parts_have_the_same_name(
            part in "[a-cA-C:\\\\. \\t％：＼．␠␉ｃｏ‛conulx0-9/]{1,8}|(con|NUL|ｃon|com1|lpt¹)(\\.[a-z]{0,2}| |．|␠)?|\\PC{1,9}"
        ) {
            for part in part.split('/').filter(|part| !matches!(*part, "" | "." | "..")) {
                let name = encode(part);
                let decoded = decode(&name, Names::Portable);
                prop_assert_eq!(decoded.as_deref(), Some(part));
            }
        }

        #[test]
        fn every_path_is_below_its_folder(key in "(\\.\\./|/|\\./|a|\\\\|:|\0|con/|[ .])*") {
            for names in [Names::Portable, Names::Native] {
                let Ok(place) = place(&key, names) else { continue };
                let parts: Vec<_> = place.path.as_path().components().collect();
                prop_assert!(parts.iter().all(|part| matches!(part, std::path::Component::Normal(_))));
                prop_assert_eq!(parts.len(), place.path.as_str().split('/').count());
            }
        }
    }
}
