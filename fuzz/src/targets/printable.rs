//! Text from peers in output: terminals interpret none of it, and names stay unambiguous.

use crate::gantry::printable;

pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    assert!(printable::text(&text).chars().all(printable::is_printable));
    assert!(printable::lines(&text).chars().all(|c| printable::is_printable(c) || c == '\n'));

    let name = printable::name(&text);
    assert!(name.chars().all(printable::is_printable));
    let back = if name.starts_with('"') { serde_json::from_str(&name).expect("it is JSON") } else { name.into_owned() };
    assert_eq!(back, text);

    let json = serde_json::json!({ text.as_ref(): [text.as_ref()] });
    let printed = printable::json(&json.to_string()).into_owned();
    assert!(printed.chars().all(printable::is_printable));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&printed).expect("it is JSON"), json);
}
