//! Writes S3's XML. Everything that is written is escaped, so nothing that a store returns can become markup.

/// The namespace of S3's answers.
pub(crate) const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// A document in progress.
#[derive(Debug)]
pub(crate) struct Xml(String);

impl Xml {
    /// Begins a document with its declaration.
    pub(crate) fn new() -> Self {
        Self("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned())
    }

    /// Writes a root element in S3's namespace.
    pub(crate) fn root(name: &'static str, content: impl FnOnce(&mut Self)) -> String {
        let mut xml = Self::new();
        xml.0 += &format!("<{name} xmlns=\"{NAMESPACE}\">");
        content(&mut xml);
        xml.0 += &format!("</{name}>");
        xml.0
    }

    /// Writes a root element with text in it, in S3's namespace.
    pub(crate) fn text_in_namespace(&mut self, name: &'static str, text: &str) {
        self.0 += &format!("<{name} xmlns=\"{NAMESPACE}\">");
        escape(text, &mut self.0);
        self.0 += &format!("</{name}>");
    }

    /// Writes an element with elements in it.
    pub(crate) fn group(&mut self, name: &'static str, content: impl FnOnce(&mut Self)) {
        self.0 += &format!("<{name}>");
        content(self);
        self.0 += &format!("</{name}>");
    }

    /// Writes an element with text in it.
    pub(crate) fn text(&mut self, name: &'static str, text: &str) {
        self.group(name, |xml| escape(text, &mut xml.0));
    }

    /// Writes an element with a number in it.
    pub(crate) fn number(&mut self, name: &'static str, number: u64) {
        self.text(name, &number.to_string());
    }

    pub(crate) fn finish(self) -> String {
        self.0
    }
}

/// Appends a text in which no character is markup, for XML and for HTML.
///
/// Control characters become references, as in S3's own answers. XML 1.0 does not allow them in any form, which is what
/// `encoding-type=url` is for.
pub(crate) fn escape(text: &str, to: &mut String) {
    for c in text.chars() {
        match c {
            '&' => to.push_str("&amp;"),
            '<' => to.push_str("&lt;"),
            '>' => to.push_str("&gt;"),
            '"' => to.push_str("&quot;"),
            '\'' => to.push_str("&#39;"),
            '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => {
                to.push_str(&format!("&#x{:X};", u32::from(c)));
            }
            _ => to.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_never_becomes_markup() {
        let xml = Xml::root("Key", |xml| xml.text("Name", "</Name><a b='c' d=\"e\">&amp;\u{1}\n"));
        let expected = "&lt;/Name&gt;&lt;a b=&#39;c&#39; d=&quot;e&quot;&gt;&amp;amp;&#x1;&#xA;";
        assert!(xml.ends_with(&format!("<Name>{expected}</Name></Key>")), "{xml}");
    }
}
