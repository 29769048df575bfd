//! Signals by the names and numbers that people write.
//!
//! Names and numbers are those of signal(7), which are the same on x86 and Arm.
//! The C library keeps the first two of the kernel's 32 real-time signals for
//! its threads, so `RTMIN` is 34 and not 32; a program in a container is not
//! asked for its C library, and this is what kill(1) sends everywhere.

/// The first and the last real-time signal.
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

/// `15`, `TERM`, `SIGTERM`, `SIGRTMIN+3`, in any case; 0 asks whether a process is there.
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (0..=SIGRTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = if let Some(offset) = name.strip_prefix("RTMIN") {
        Some((SIGRTMIN, '+', offset))
    } else {
        name.strip_prefix("RTMAX")
            .map(|offset| (SIGRTMAX, '-', offset))
    };
    match real_time {
        Some((base, _, "")) => Some(base),
        Some((base, sign, offset)) if offset.starts_with(sign) => offset
            .parse::<i32>()
            .ok()
            .map(|offset| base.saturating_add(offset))
            .filter(|number| (SIGRTMIN..=SIGRTMAX).contains(number)),
        Some(_) => None,
        None => SIGNALS
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, number)| *number),
    }
}

const SIGNALS: [(&str, i32); 35] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("UNUSED", 31),
];

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn signals_are_read_in_every_spelling() {
        for (text, number) in [
            ("15", 15),
            ("0", 0),
            ("term", 15),
            ("KILL", 9),
            ("SIGCLD", 17),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("rtmax-1", 63),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for text in [
            "",
            "SIG",
            "65",
            "-1",
            "SIGNOTHING",
            "RTMIN+31",
            "RTMIN-1",
            "RTMIN3",
            "RTMAX+1",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
