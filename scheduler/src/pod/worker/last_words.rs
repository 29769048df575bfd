//! What a container said as it ended.
//!
//! A program may write why it ended to a file (`/dev/termination-log` unless the
//! pod names another). With `FallbackToLogsOnError` the end of the log stands in
//! for an empty file when the program failed.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

/// How much of the file becomes the message.
const MESSAGE_BYTES: u64 = 4096;
/// How much of a log becomes the message.
const LOG_BYTES: u64 = 2048;
/// How many lines of a log become the message.
const LOG_LINES: usize = 80;

/// The text of the file that the container wrote to, if it wrote any.
pub fn read_message(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(MESSAGE_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    (!text.is_empty()).then_some(text)
}

/// The end of a log in the CRI's format, without its times and streams.
pub fn read_log_end(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    // Twice as much as is shown: each line has a time in front of it.
    file.seek(SeekFrom::Start(length.saturating_sub(2 * LOG_BYTES)))
        .ok()?;
    let mut bytes = Vec::new();
    file.take(2 * LOG_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter_map(content).collect();
    let shown = &lines[lines.len().saturating_sub(LOG_LINES)..];
    let text = shown.join("\n");
    let from = text
        .len()
        .saturating_sub(usize::try_from(LOG_BYTES).unwrap_or(usize::MAX));
    let from = (from..=text.len()).find(|at| text.is_char_boundary(*at))?;
    let text = text[from..].to_owned();
    (!text.is_empty()).then_some(text)
}

/// `TIME STREAM TAG CONTENT` without the first three; nothing for half a line.
fn content(line: &str) -> Option<&str> {
    let mut fields = line.splitn(4, ' ');
    let stream = fields.nth(1)?;
    let tag = fields.next()?;
    let known = matches!(stream, "stdout" | "stderr") && matches!(tag, "F" | "P");
    known.then(|| fields.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::{read_log_end, read_message};

    #[test]
    fn the_file_speaks_and_is_cut() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("message");
        assert_eq!(read_message(&path), None);
        std::fs::write(&path, "").unwrap();
        assert_eq!(read_message(&path), None);
        std::fs::write(&path, "x".repeat(5000)).unwrap();
        assert_eq!(read_message(&path).unwrap().len(), 4096);
    }

    #[test]
    fn the_end_of_the_log_speaks_without_its_times() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("0.log");
        assert_eq!(read_log_end(&path), None);
        let line = |number: usize| {
            format!("2026-01-01T00:00:00.000000000Z stderr F line {number} of many\n")
        };
        let log: String = (0..200).map(line).collect();
        std::fs::write(&path, log).unwrap();
        let end = read_log_end(&path).unwrap();
        assert!(
            end.ends_with("line 199 of many") && end.len() <= 2048,
            "{end}"
        );
        assert!(
            end.starts_with("line 1") && !end.contains("stderr"),
            "{end}"
        );
    }
}
