//! Lists of indexes, as "0-3,7".

use std::{collections::BTreeSet, fmt::Write};

/// Reads a list; what is no index or above `below` is left out.
pub fn parse(text: &str, below: i32) -> BTreeSet<i32> {
    let ranges = text.split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: i32 = first.trim().parse().ok()?;
        let last: i32 = last.trim().parse().ok()?;
        Some(first.max(0)..=last.min(below - 1))
    });
    ranges.flatten().collect()
}

/// Writes a list; runs of three and more as a range.
pub fn format(indexes: &BTreeSet<i32>) -> String {
    let mut text = String::new();
    let mut rest = indexes.iter().copied().peekable();
    while let Some(first) = rest.next() {
        let mut last = first;
        while rest.next_if_eq(&(last + 1)).is_some() {
            last += 1;
        }
        if !text.is_empty() {
            text.push(',');
        }
        // Writing to a string cannot fail.
        let _ = match last - first {
            0 => write!(text, "{first}"),
            1 => write!(text, "{first},{last}"),
            _ => write!(text, "{first}-{last}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{format, parse};

    #[test]
    fn lists_are_read_as_they_are_written() {
        for text in ["", "0", "0-3,7", "1,2,4-6", "0,2"] {
            assert_eq!(format(&parse(text, 100)), text);
        }
        assert_eq!(format(&parse("0-9,12", 5)), "0-4");
        assert_eq!(format(&parse("x,3,-", 5)), "3");
    }
}
