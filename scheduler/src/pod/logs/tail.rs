//! The last lines of a file, without reading the rest.
//!
//! A log may be gigabytes long, so it is read backwards, a block at a time.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

const BLOCK_BYTES: u64 = 64 * 1024;

/// The offset at which the last `lines` lines of a log in the CRI's format begin.
///
/// Parts of a long line count as one line: an entry counts when it ends one.
///
/// # Errors
///
/// The file cannot be read.
pub fn find_tail(file: &File, lines: usize) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    if lines == 0 {
        return Ok(end);
    }
    // The bytes from `end` on that have been looked at already begin in the
    // middle of an entry; `head` is that entry's beginning.
    let mut head: Vec<u8> = Vec::new();
    let mut whole = 0;
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES);
        let mut block = vec![0; (end - start) as usize];
        file.read_exact_at(&mut block, start)?;
        let mut stop = block.len();
        while let Some(newline) = block[..stop].iter().rposition(|byte| *byte == b'\n') {
            let mut entry = block[newline + 1..stop].to_vec();
            entry.append(&mut head);
            stop = newline;
            if ends_a_line(&entry) {
                whole += 1;
            }
            // One more than asked for: its end is where the tail begins.
            if whole > lines {
                return Ok(start + newline as u64 + 1 + entry.len() as u64 + 1);
            }
        }
        let mut entry = block[..stop].to_vec();
        entry.append(&mut head);
        head = entry;
        end = start;
    }
    // The first entry of the file has no newline before it.
    let enough = whole == lines && ends_a_line(&head);
    Ok(if enough { head.len() as u64 + 1 } else { 0 })
}

/// The lines of a log, parts of long ones counted once.
///
/// # Errors
///
/// The file cannot be read.
pub fn count_lines(mut file: &File) -> io::Result<usize> {
    file.seek(SeekFrom::Start(0))?;
    let entries = BufReader::new(file).split(b'\n');
    let mut lines = 0;
    for entry in entries {
        lines += usize::from(ends_a_line(&entry?));
    }
    Ok(lines)
}

fn ends_a_line(entry: &[u8]) -> bool {
    let mut parts = entry.splitn(4, |byte| *byte == b' ').skip(2);
    parts.next().is_some_and(|tags| tags.first() == Some(&b'F'))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn log(entries: &[(&str, &str)]) -> (File, String) {
        let mut file = tempfile::tempfile().unwrap();
        let text: String = entries
            .iter()
            .map(|(tag, words)| format!("2026-01-31T12:00:00Z stdout {tag} {words}\n"))
            .collect();
        file.write_all(text.as_bytes()).unwrap();
        (file, text)
    }

    fn tail(entries: &[(&str, &str)], lines: usize) -> String {
        let (file, text) = log(entries);
        let from = find_tail(&file, lines).unwrap() as usize;
        text[from..]
            .lines()
            .map(|line| line[28..].to_owned() + "|")
            .collect()
    }

    #[test]
    fn the_last_lines_are_found() {
        let entries = [("F", "one"), ("F", "two"), ("F", "three")];
        assert_eq!(tail(&entries, 0), "");
        assert_eq!(tail(&entries, 1), "F three|");
        assert_eq!(tail(&entries, 2), "F two|F three|");
        assert_eq!(tail(&entries, 3), "F one|F two|F three|");
        assert_eq!(tail(&entries, 9), "F one|F two|F three|");
        assert_eq!(tail(&[], 1), "");
    }

    #[test]
    fn a_line_in_parts_is_one() {
        let entries = [("F", "one"), ("P", "long"), ("F", "er"), ("F", "three")];
        assert_eq!(tail(&entries, 2), "P long|F er|F three|");
    }

    #[test]
    fn blocks_are_no_boundary() {
        let words = "x".repeat(1000);
        let entries: Vec<(&str, &str)> = (0..300).map(|_| ("F", words.as_str())).collect();
        for lines in [1, 63, 64, 65, 128, 299, 300] {
            let (file, text) = log(&entries);
            let from = find_tail(&file, lines).unwrap() as usize;
            assert_eq!(text[from..].lines().count(), lines);
        }
    }
}
