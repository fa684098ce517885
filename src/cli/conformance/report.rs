//! The results of all cases, as a table and as JSON.

use std::time::Duration;

use serde::Serialize;

use super::super::exit::{Exit, Failure};
use super::super::output;

/// Whether the tested side follows a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    /// The rule was broken in these ways.
    Failed(Vec<String>),
    /// The rule does not apply, for this reason.
    NotApplicable(&'static str),
}

/// The result of one case.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) id: &'static str,
    /// The heading in `docs/PROTOCOL.md`.
    pub(super) section: &'static str,
    pub(super) rule: &'static str,
    /// The lowest level of consumers to which the rule applies, or `relay`.
    pub(super) level: &'static str,
    pub(super) verdict: Verdict,
    pub(super) elapsed: Duration,
}

#[derive(Serialize)]
struct Report<'a> {
    passed: usize,
    failed: usize,
    not_applicable: usize,
    cases: Vec<Case<'a>>,
}

#[derive(Serialize)]
struct Case<'a> {
    id: &'a str,
    section: &'a str,
    rule: &'a str,
    level: &'a str,
    result: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<&'a str>,
    elapsed_ms: u64,
}

/// Prints the results.
///
/// # Errors
/// If a rule was broken, no case ran, or stdout can't be written to.
pub(super) fn print(rows: &[Row], json: bool) -> Result<(), Failure> {
    let count = |name: &str| rows.iter().filter(|row| row.verdict.name() == name).count();
    let (passed, failed, not_applicable) = (count(PASSED), count(FAILED), count(NOT_APPLICABLE));

    if json {
        let cases = rows.iter().map(Row::to_json).collect();
        output::json(&Report { passed, failed, not_applicable, cases })?;
    } else {
        print_table(rows)?;
        output::line(&format!("{passed} passed, {failed} failed, {not_applicable} not applicable"))?;
    }

    match (passed, failed) {
        (_, 1..) => Err(Failure::new(Exit::Failed, format!("{failed} of {} cases failed", passed + failed))),
        (0, 0) => Err(Failure::usage("no case ran")),
        _ => Ok(()),
    }
}

fn print_table(rows: &[Row]) -> Result<(), Failure> {
    output::line(&format!("{:6} {:9} {:28} rule", "result", "level", "case"))?;
    for row in rows {
        let result = match row.verdict {
            Verdict::Passed => "pass",
            Verdict::Failed(_) => "FAIL",
            Verdict::NotApplicable(_) => "-",
        };
        output::line(&format!("{result:6} {:9} {:28} {}: {}", row.level, row.id, row.section, row.rule))?;

        for detail in row.verdict.details() {
            output::line(&format!("{:16} {detail}", ""))?;
        }
    }
    Ok(())
}

const PASSED: &str = "pass";
const FAILED: &str = "fail";
const NOT_APPLICABLE: &str = "not_applicable";

impl Verdict {
    /// Returns the verdict of a case in which these rules were broken.
    pub(super) fn of(problems: Vec<String>) -> Self {
        if problems.is_empty() { Self::Passed } else { Self::Failed(problems) }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Passed => PASSED,
            Self::Failed(_) => FAILED,
            Self::NotApplicable(_) => NOT_APPLICABLE,
        }
    }

    /// Returns which rules were broken, or why the case does not apply.
    fn details(&self) -> Vec<&str> {
        match self {
            Self::Passed => Vec::new(),
            Self::Failed(problems) => problems.iter().map(String::as_str).collect(),
            Self::NotApplicable(reason) => vec![reason],
        }
    }
}

impl Row {
    fn to_json(&self) -> Case<'_> {
        Case {
            id: self.id,
            section: self.section,
            rule: self.rule,
            level: self.level,
            result: self.verdict.name(),
            details: self.verdict.details(),
            elapsed_ms: u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX),
        }
    }
}
