//! What the documentation says that a program says.

/// Asserts that docs/CONFIGURATION.md holds this message as it was, once `volatile` parts have their stand-ins.
pub(crate) fn assert_documented(said: &str, volatile: &[(&str, &str)]) {
    let said = said.trim().trim_start_matches("gantry: ").to_owned();
    let said = volatile.iter().fold(said, |said, (part, stand_in)| said.replace(part, stand_in));
    let page = include_str!("../../../docs/CONFIGURATION.md");
    assert!(page.contains(&format!("| `` {said} `` |")), "docs/CONFIGURATION.md must hold:\n| `` {said} `` |");
}
