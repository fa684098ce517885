//! The rules of `docs/PROTOCOL.md` for consumers, each with a transfer that shows whether a consumer follows it.

mod accepted;
mod answers;
mod chunks;
mod ends;
mod flow;
mod liveness;
mod recovery;

use super::case::Case;

/// Returns all cases.
pub(super) fn all() -> impl Iterator<Item = &'static Case> {
    [answers::CASES, accepted::CASES, chunks::CASES, flow::CASES, ends::CASES, recovery::CASES, liveness::CASES]
        .into_iter()
        .flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::case::{Expect, Level};
    use super::*;

    const PROTOCOL: &str = include_str!("../../../../../docs/PROTOCOL.md");

    #[test]
    fn each_case_has_an_id_of_its_own_and_a_section_of_the_document() {
        let mut ids = BTreeSet::new();
        for case in all() {
            assert!(ids.insert(case.id), "{} twice", case.id);
            let heading = format!("# {}\n", case.section);
            assert!(PROTOCOL.contains(&heading), "{}: no heading {:?}", case.id, case.section);
            assert!(!case.rule.is_empty() && !case.rule.ends_with('.'), "{}", case.id);
        }
        assert!(ids.len() > 50, "{} cases", ids.len());
    }

    #[test]
    fn only_bare_consumers_are_allowed_to_give_up() {
        for case in all().filter(|case| case.level > Level::Bare) {
            assert!(case.expect != Expect::Tolerance, "{}", case.id);
        }
    }
}
