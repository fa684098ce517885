//! Reads small XML documents: listings and errors.

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};

/// Maximum depth of a document. Azure's listings have five levels.
const DEPTH_MAX: usize = 16;

/// An element, with the text and the elements in it.
#[derive(Debug, Default)]
pub(crate) struct Element {
    pub(crate) name: String,
    /// All text directly in the element.
    pub(crate) text: String,
    /// Whether an attribute states that the text is encoded as in a URL.
    pub(crate) is_encoded: bool,
    pub(crate) children: Vec<Self>,
}

impl Element {
    /// Returns the first element of this name in the element.
    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// Returns the text of the first element of this name in the element.
    pub(crate) fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.as_str())
    }

    /// Returns the elements of this name in the element.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    fn of(start: &BytesStart<'_>) -> Self {
        let is_encoded = matches!(start.try_get_attribute("Encoded"), Ok(Some(value)) if &*value.value == b"true");
        let name = String::from_utf8_lossy(start.local_name().as_ref()).into_owned();
        Self { name, is_encoded, ..Self::default() }
    }
}

/// Parses a document, and returns its root.
///
/// # Errors
/// If it is not well-formed, or nested too deeply. The error describes the problem.
pub(crate) fn parse(body: &[u8]) -> Result<Element, String> {
    let text = std::str::from_utf8(body).map_err(|_| "it is not UTF-8".to_owned())?;
    let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
    // The elements that are open.
    let mut open: Vec<Element> = Vec::new();

    loop {
        let event = reader.read_event().map_err(|error| error.to_string())?;
        if let (Some(text), Some(element)) = (text_of(&event)?, open.last_mut()) {
            element.text.push_str(&text);
        }
        let closed = match event {
            Event::Start(_) if open.len() == DEPTH_MAX => return Err("it is nested too deeply".to_owned()),
            Event::Start(start) => {
                open.push(Element::of(&start));
                None
            }
            Event::Empty(start) => Some(Element::of(&start)),
            Event::End(_) => open.pop(),
            Event::Eof => return Err("it ends early".to_owned()),
            Event::Text(_)
            | Event::CData(_)
            | Event::GeneralRef(_)
            | Event::Comment(_)
            | Event::Decl(_)
            | Event::PI(_)
            | Event::DocType(_) => None,
        };

        match (closed, open.last_mut()) {
            (Some(closed), Some(parent)) => parent.children.push(closed),
            (Some(root), None) => return Ok(root),
            (None, _) => {}
        }
    }
}

/// Returns the text that an event stands for, if it is text.
fn text_of(event: &Event<'_>) -> Result<Option<String>, String> {
    Ok(match event {
        Event::Text(text) => Some(text.decode().map_err(|error| error.to_string())?.into_owned()),
        Event::CData(text) => Some(text.decode().map_err(|error| error.to_string())?.into_owned()),
        Event::GeneralRef(reference) => {
            let name = reference.decode().map_err(|error| error.to_string())?;
            let character = reference.resolve_char_ref().map_err(|error| error.to_string())?;
            let text = character.map(String::from).or_else(|| resolve_predefined_entity(&name).map(str::to_owned));
            Some(text.ok_or_else(|| "it has an unknown entity".to_owned())?)
        }
        Event::Start(_)
        | Event::End(_)
        | Event::Empty(_)
        | Event::Comment(_)
        | Event::Decl(_)
        | Event::PI(_)
        | Event::DocType(_)
        | Event::Eof => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_keep_their_spaces_and_characters() {
        let body = "\u{feff}<?xml version='1.0'?><L xmlns='x'><K> a&amp;b&lt;&#x1F680; ü </K><K Encoded=\"true\">a%01</K><E/>\
                    <C><![CDATA[<&>]]></C></L>";
        let root = parse(body.as_bytes()).unwrap();

        assert_eq!(root.name, "L");
        let keys: Vec<_> = root.all("K").map(|key| (key.text.as_str(), key.is_encoded)).collect();
        assert_eq!(keys, [(" a&b<🚀 ü ", false), ("a%01", true)]);
        assert_eq!((root.text_of("E"), root.text_of("C"), root.text_of("X")), (Some(""), Some("<&>"), None));
    }

    #[test]
    fn other_documents_are_rejected() {
        let deep = "<a>".repeat(DEPTH_MAX + 1);
        for body in ["", "text", "{}", "<a>", "<a></b>", "<a>&who;</a>", "<!doctype html><title>Sign in", &deep] {
            assert!(parse(body.as_bytes()).is_err(), "{body}");
        }
        assert!(parse(b"<a>\xff</a>").is_err());
    }
}
