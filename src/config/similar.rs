//! Suggestions for misspelled words.

/// Names below this similarity are not suggested. The similarity of "prefx" and "prefix" is 0.97.
const SIMILAR: f64 = 0.8;

/// Returns the closest of the known words, if any is similar enough.
pub(crate) fn nearest_of(wanted: &str, known: impl Iterator<Item = String>) -> Option<String> {
    known
        .map(|name| (strsim::jaro_winkler(wanted, &name), strsim::damerau_levenshtein(wanted, &name), name))
        .filter(|(similarity, ..)| *similarity >= SIMILAR)
        .min_by_key(|(_, distance, _)| *distance)
        .map(|(.., name)| name)
}
