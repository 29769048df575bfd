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

use std::io::Write as _;

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
    out.extend_from_slice(&stamp.text);
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

/// RFC 3339 with nine digits of a second, in UTC. The kubelet accepts no fewer.
struct Timestamp {
    text: [u8; 30],
}

impl Timestamp {
    fn at(nanoseconds: i64) -> Timestamp {
        let seconds = nanoseconds.div_euclid(1_000_000_000);
        let fraction = nanoseconds.rem_euclid(1_000_000_000);
        let (year, month, day) = civil_date(seconds.div_euclid(86_400));
        let second_of_day = seconds.rem_euclid(86_400);
        let (hour, minute, second) = (
            second_of_day / 3600,
            second_of_day / 60 % 60,
            second_of_day % 60,
        );
        let mut text = [0; 30];
        write!(
            &mut text[..],
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:09}Z"
        )
        .expect("64 bits of nanoseconds end in the year 2262, so the text has 30 bytes");
        Timestamp { text }
    }
}

/// Year, month and day of a number of days since 1970-01-01.
///
/// Years are counted from March, so that the leap day is the last of its year
/// and the lengths of months repeat every five: 153 days. A 400-year era has
/// 146 097 days.
fn civil_date(days_since_epoch: i64) -> (i64, i64, i64) {
    // Days from 0000-03-01 to 1970-01-01.
    let days = days_since_epoch + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
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
    fn dates_are_right_around_leap_days_and_the_epoch() {
        assert_eq!(civil_date(0), (1970, 1, 1));
        assert_eq!(civil_date(-1), (1969, 12, 31));
        assert_eq!(civil_date(11_016), (2000, 2, 29));
        assert_eq!(civil_date(11_017), (2000, 3, 1));
        assert_eq!(civil_date(47_541), (2100, 3, 1));
        assert_eq!(civil_date(47_540), (2100, 2, 28));
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
