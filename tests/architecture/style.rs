//! Limits of files, and paragraphs in functions.

use super::{packages, sources};

/// The maximum number of lines of a file without its tests.
const FILE_LINES_MAX: usize = 500;

/// Functions with more lines than this need paragraphs.
const LONG_FUNCTION_LINES: usize = 15;

/// The minimum share of blank lines in the long functions of a package, in percent.
const BLANK_PERCENT_MIN: usize = 4;

#[test]
fn files_have_at_most_500_lines() {
    let all = packages().into_iter().flat_map(|package| sources(&package));
    let too_long: Vec<_> = all
        .filter(|source| source.text.lines().count() > FILE_LINES_MAX)
        .map(|source| format!("{}: {} lines", source.path.display(), source.text.lines().count()))
        .collect();

    assert!(too_long.is_empty(), "{}", too_long.join("\n"));
}

#[test]
fn long_functions_have_paragraphs() {
    let mut dense = Vec::new();
    for package in packages() {
        let sources = sources(&package);
        let bodies: Vec<_> = sources.iter().flat_map(|source| bodies(&source.text)).collect();
        let long = bodies.into_iter().filter(|body| body.len() > LONG_FUNCTION_LINES);
        let (blank, total) = long.fold((0, 0), |(blank, total), body| {
            (blank + body.iter().filter(|line| line.is_empty()).count(), total + body.len())
        });

        if blank * 100 < total * BLANK_PERCENT_MIN {
            dense.push(format!("{}: {blank} blank lines of {total} in long functions", package.display()));
        }
    }

    assert!(dense.is_empty(), "{}", dense.join("\n"));
}

#[test]
fn bodies_are_found() {
    let text =
        "impl A {\n    pub fn a(\n        b: u8,\n    ) -> u8 {\n        b\n\n    }\n}\nconst fn c() {}\nfn d() {\n}\n";
    assert_eq!(bodies(text), [vec!["        b", ""], vec![]]);
}

/// Returns the bodies of all functions in formatted code, as lines.
fn bodies(text: &str) -> Vec<Vec<&str>> {
    let lines: Vec<_> = text.lines().collect();
    let mut bodies = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        if !is_function(line) {
            continue;
        }

        let indent = &line[..line.len() - line.trim_start().len()];
        let closing = format!("{indent}}}");
        let Some(opening) = lines[start..].iter().position(|line| line.ends_with(['{', ';', '}'])) else { continue };
        let body = &lines[start + opening + 1..];
        if lines[start + opening].ends_with('{')
            && let Some(len) = body.iter().position(|line| **line == closing)
        {
            bodies.push(body[..len].to_vec());
        }
    }
    bodies
}

/// Returns whether a function starts on this line.
fn is_function(line: &str) -> bool {
    let is_qualifier =
        |word: &&str| matches!(*word, "pub" | "pub(crate)" | "pub(super)" | "const" | "async" | "unsafe");
    line.split_whitespace().find(|word| !is_qualifier(word)) == Some("fn")
}
