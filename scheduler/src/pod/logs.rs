//! What containers wrote, from their log files.
//!
//! The monitor writes the format of the CRI, which the kubelet and every log
//! collector read:
//!
//! ```text
//! 2026-01-31T12:00:00.000000001Z stdout F a whole line
//! 2026-01-31T12:00:00.000000002Z stderr P the beginning of a long line
//! 2026-01-31T12:00:00.000000003Z stderr F and its end
//! ```
//!
//! Read more: `kuberuntime/logs` of the kubelet, design proposal "CRI: Log management".

use jiff::Timestamp;

/// A file that grows, read as it does.
pub mod follow;
/// The last lines of a file, without reading the rest.
pub mod tail;

/// Where a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of a log file, or a part of a long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// When it was written.
    pub at: Timestamp,
    /// The same, as the file has it.
    pub at_text: &'a str,
    /// Where it was written to.
    pub stream: Stream,
    /// More of the same line follows in the next entry of this stream.
    pub partial: bool,
    /// The bytes, which need not be UTF-8, without the line's end.
    pub content: &'a [u8],
}

/// Reads one line of a log file, without its newline; nothing when it has another form.
pub fn read_entry(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let at_text = std::str::from_utf8(parts.next()?).ok()?;
    let stream = match parts.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // The tags may grow further words, parted by colons; the first says whether it is whole.
    let partial = match parts.next()?.split(|byte| *byte == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    let content = parts.next().unwrap_or(b"");
    Some(Entry {
        at: at_text.parse().ok()?,
        at_text,
        stream,
        partial,
        content,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_four_parts() {
        let entry = read_entry(b"2026-01-31T12:00:00.5Z stderr P two  words").unwrap();
        assert_eq!((entry.stream, entry.partial), (Stream::Stderr, true));
        assert_eq!(entry.content, b"two  words");
        assert_eq!(entry.at, "2026-01-31T12:00:00.5Z".parse().unwrap());
        let empty = read_entry(b"2026-01-31T12:00:00Z stdout F").unwrap();
        assert_eq!(empty.content, b"");
        assert!(!empty.partial);
        assert_eq!(
            read_entry(b"2026-01-31T12:00:00Z stdout F:x \xff")
                .unwrap()
                .content,
            b"\xff"
        );
    }

    #[test]
    fn what_is_no_entry_is_nothing() {
        for line in [
            "",
            "a plain line",
            "yesterday stdout F x",
            "2026-01-31T12:00:00Z stdin F x",
        ] {
            assert_eq!(read_entry(line.as_bytes()), None, "{line}");
        }
    }
}
