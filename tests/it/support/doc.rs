//! Comparison of a program's messages with the documentation.

/// Asserts that docs/CONFIGURATION.md contains this message, after replacing its `volatile` parts.
pub(crate) fn assert_documented(said: &str, volatile: &[(&str, &str)]) {
    let said = said.trim().trim_start_matches("gantry: ").to_owned();
    let said = volatile.iter().fold(said, |said, (part, stand_in)| said.replace(part, stand_in));
    let page = include_str!("../../../docs/CONFIGURATION.md");
    assert!(page.contains(&format!("| `` {said} `` |")), "docs/CONFIGURATION.md must contain:\n| `` {said} `` |");
}
