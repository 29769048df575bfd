//! The name that was meant.

use strsim::levenshtein;

/// The known name that is fewest edits away, if it is near enough to be meant.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = 1 + name.len() / 3;
    known
        .map(|candidate| (levenshtein(name, candidate), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= limit)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_understood_and_nonsense_is_not() {
        let known = ["level", "format"];
        assert_eq!(nearest("levle", known.into_iter()), Some("level"));
        assert_eq!(nearest("fromat", known.into_iter()), Some("format"));
        assert_eq!(nearest("colour", known.into_iter()), None);
        assert_eq!(levenshtein("", "abc"), 3);
        assert_eq!(levenshtein("kitten", "sitting"), 3);
    }
}
