//! A container's output as lines of the CRI log format.
//!
//! ```text
//! 2026-11-21T07:30:00.123456789Z stdout F a whole line
//! 2026-11-21T07:30:00.123456789Z stderr P a piece of a longer line
//! ```
//!
//! `F` ends a line of the program, `P` says that more of it follows. The
//! kubelet and log shippers join pieces again. Pure: the caller reads the clock
//! and writes the bytes.
//!
//! A line waits here until it is whole or [`LINE_LIMIT_BYTES`] long, so that a
//! program that writes single characters does not make a log line of each. A
//! last line without an end is a `P` line.
//!
//! See KEP-2411 and `pkg/kubelet/kuberuntime/logs` in Kubernetes for the reader.

use crate::clock::Timestamp;

/// The longest piece of a program's line in one line of the log.
pub const LINE_LIMIT_BYTES: usize = 8 * 1024;

/// Which of a program's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, and all output of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn word(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Cuts the two outputs of one container into lines.
#[derive(Debug, Default)]
pub struct LineCutter {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl LineCutter {
    /// Takes `bytes` of a stream and appends the log lines that are complete.
    /// `at_nanoseconds` counts from the epoch.
    pub fn cut(&mut self, stream: Stream, bytes: &[u8], at_nanoseconds: i64, out: &mut Vec<u8>) {
        let stamp = Timestamp::at(at_nanoseconds);
        let waiting = self.waiting(stream);
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = LINE_LIMIT_BYTES - waiting.len();
            let end = rest.iter().position(|byte| *byte == b'\n');
            match end {
                Some(end) if end <= room => {
                    append_line(out, &stamp, stream, Tag::Full, &[waiting, &rest[..end]]);
                    // A cleared Vec would keep its 8 KiB for ever; most lines
                    // never wait.
                    *waiting = Vec::new();
                    rest = &rest[end + 1..];
                }
                _ if rest.len() > room => {
                    append_line(out, &stamp, stream, Tag::Partial, &[waiting, &rest[..room]]);
                    *waiting = Vec::new();
                    rest = &rest[room..];
                }
                _ => {
                    waiting.extend_from_slice(rest);
                    rest = &[];
                }
            }
        }
    }

    /// Appends what still waits of a stream, at its end.
    pub fn finish(&mut self, stream: Stream, at_nanoseconds: i64, out: &mut Vec<u8>) {
        let waiting = std::mem::take(self.waiting(stream));
        if !waiting.is_empty() {
            let stamp = Timestamp::at(at_nanoseconds);
            append_line(out, &stamp, stream, Tag::Partial, &[&waiting]);
        }
    }

    fn waiting(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

#[derive(Clone, Copy)]
enum Tag {
    Full,
    Partial,
}

fn append_line(out: &mut Vec<u8>, stamp: &Timestamp, stream: Stream, tag: Tag, pieces: &[&[u8]]) {
    out.extend_from_slice(stamp.as_bytes());
    out.push(b' ');
    out.extend_from_slice(stream.word().as_bytes());
    out.extend_from_slice(match tag {
        Tag::Full => b" F ",
        Tag::Partial => b" P ",
    });
    for piece in pieces {
        out.extend_from_slice(piece);
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: i64 = 1_475_713_029_669_794_202;
    const STAMP: &str = "2016-10-06T00:17:09.669794202Z";

    fn log(pieces: &[&str]) -> String {
        let mut cutter = LineCutter::default();
        let mut out = Vec::new();
        for piece in pieces {
            cutter.cut(Stream::Stdout, piece.as_bytes(), AT, &mut out);
        }
        cutter.finish(Stream::Stdout, AT, &mut out);
        String::from_utf8(out).unwrap().replace(STAMP, "T")
    }

    #[test]
    fn lines_become_full_lines() {
        assert_eq!(log(&["a\nb\n"]), "T stdout F a\nT stdout F b\n");
        assert_eq!(log(&["a", "b\n\n"]), "T stdout F ab\nT stdout F \n");
        assert_eq!(log(&["no end"]), "T stdout P no end\n");
    }

    #[test]
    fn a_line_at_the_limit_is_full_and_above_it_partial() {
        let limit = "x".repeat(LINE_LIMIT_BYTES);
        assert_eq!(log(&[&limit, "\n"]), format!("T stdout F {limit}\n"));
        assert_eq!(
            log(&[&format!("{limit}y\n")]),
            format!("T stdout P {limit}\nT stdout F y\n")
        );
        assert_eq!(
            log(&[&limit, &limit, "\n"]),
            format!("T stdout P {limit}\nT stdout F {limit}\n")
        );
    }

    #[test]
    fn the_two_streams_do_not_mix() {
        let mut cutter = LineCutter::default();
        let mut out = Vec::new();
        cutter.cut(Stream::Stdout, b"out ", AT, &mut out);
        cutter.cut(Stream::Stderr, b"err\n", AT, &mut out);
        cutter.cut(Stream::Stdout, b"put\n", AT, &mut out);
        let text = String::from_utf8(out).unwrap().replace(STAMP, "T");
        assert_eq!(text, "T stderr F err\nT stdout F out put\n");
    }

    #[test]
    fn any_cutting_of_the_input_gives_the_same_text() {
        let text = format!("one\n{}\ntwo\n\nend", "z".repeat(3 * LINE_LIMIT_BYTES + 5));
        let whole = log(&[&text]);
        for size in [1, 7, 4096, 8191, 8192, 8193] {
            let pieces: Vec<&str> = text
                .as_bytes()
                .chunks(size)
                .map(|piece| std::str::from_utf8(piece).unwrap())
                .collect();
            assert_eq!(log(&pieces), whole, "pieces of {size}");
        }
    }
}
