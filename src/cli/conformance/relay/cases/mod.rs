//! The rules of `docs/PROTOCOL.md` for relays, each with a conversation that shows whether a relay follows it.

mod answers;
mod control;
mod flow;
mod get;
mod invalid;

use super::bench::Case;

/// Returns all cases.
pub(super) fn all() -> impl Iterator<Item = &'static Case> {
    [get::CASES, invalid::CASES, flow::CASES, control::CASES, answers::CASES].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const PROTOCOL: &str = include_str!("../../../../../docs/PROTOCOL.md");

    #[test]
    fn each_case_has_an_id_of_its_own_and_a_section_of_the_document() {
        let mut ids = BTreeSet::new();
        for case in all() {
            assert!(ids.insert(case.id), "{} twice", case.id);
            let heading = format!("# {}\n", case.section);
            assert!(PROTOCOL.contains(&heading), "{}: no heading {:?}", case.id, case.section);
        }
    }
}
