//! Lines of several containers on one output.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};

use berth_scheduler::pod::logs::{Stream, read_entry};
use jiff::Timestamp;

/// How lines look.
#[derive(Debug, Clone, Default)]
pub struct Style {
    /// Put the time before each line.
    pub timestamps: bool,
    /// Leave out what is older.
    pub since: Option<Timestamp>,
    /// The width of the longest name, when names stand before lines.
    pub name_width: Option<usize>,
    /// Names in colours.
    pub coloured: bool,
}

impl Style {
    /// Names before lines, in colours when a person reads.
    pub fn with_names<'a>(self, names: impl Iterator<Item = &'a str>) -> Style {
        Style {
            name_width: names.map(str::len).max(),
            coloured: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            ..self
        }
    }
}

/// Prints entries of log files as lines.
#[derive(Debug)]
pub struct Printer {
    style: Style,
    /// The beginnings of lines whose end has not come yet, by container and stream.
    begun: BTreeMap<(String, bool), Vec<u8>>,
    /// Colours in the order in which the containers spoke first.
    colours: Vec<String>,
}

impl Printer {
    /// Nothing has been printed yet.
    pub fn new(style: Style) -> Printer {
        Printer {
            style,
            begun: BTreeMap::new(),
            colours: Vec::new(),
        }
    }

    /// Prints entries of one container, to standard output or error as it wrote them.
    ///
    /// # Errors
    ///
    /// Nobody reads any more.
    pub fn print(&mut self, container: &str, entries: &[Vec<u8>]) -> io::Result<()> {
        let (mut stdout, mut stderr) = (io::stdout().lock(), io::stderr().lock());
        for line in entries {
            if let Some((stream, text)) = self.render(container, line) {
                match stream {
                    Stream::Stdout => stdout.write_all(&text)?,
                    Stream::Stderr => {
                        // What was said first is read first.
                        stdout.flush()?;
                        stderr.write_all(&text)?;
                    }
                }
            }
        }
        stdout.flush()
    }

    /// The bytes to print for one entry of a log file, if any.
    fn render(&mut self, container: &str, line: &[u8]) -> Option<(Stream, Vec<u8>)> {
        let Some(entry) = read_entry(line) else {
            // Not the monitor's: shown as it is rather than swallowed.
            return Some((Stream::Stdout, [line, b"\n"].concat()));
        };
        if self.style.since.is_some_and(|since| entry.at < since) {
            return None;
        }
        let key = (container.to_owned(), entry.stream == Stream::Stderr);
        let begun = self.begun.remove(&key);
        let continued = begun.is_some();
        let mut text = begun.unwrap_or_default();
        if !continued {
            text.extend(self.head(container, entry.at_text).into_bytes());
        }
        text.extend_from_slice(entry.content);
        if !entry.partial {
            text.push(b'\n');
            return Some((entry.stream, text));
        }
        // With names, parts of lines of several containers would mix; without,
        // a prompt should be seen before its line has ended.
        if self.style.name_width.is_some() {
            self.begun.insert(key, text);
            return None;
        }
        self.begun.insert(key, Vec::new());
        Some((entry.stream, text))
    }

    fn head(&mut self, container: &str, at: &str) -> String {
        let mut head = String::new();
        if let Some(width) = self.style.name_width {
            let name = format!("{container:width$} | ");
            head += &match self.style.coloured {
                true => format!("\x1b[{}m{name}\x1b[0m", self.colour(container)),
                false => name,
            };
        }
        if self.style.timestamps {
            head += at;
            head.push(' ');
        }
        head
    }

    fn colour(&mut self, container: &str) -> u8 {
        const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];
        let place = self.colours.iter().position(|known| known == container);
        let place = place.unwrap_or_else(|| {
            self.colours.push(container.to_owned());
            self.colours.len() - 1
        });
        COLOURS[place % COLOURS.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(style: Style, entries: &[(&str, &str)]) -> String {
        let mut printer = Printer::new(style);
        let mut text = Vec::new();
        for (container, entry) in entries {
            if let Some((_, bytes)) = printer.render(container, entry.as_bytes()) {
                text.extend(bytes);
            }
        }
        String::from_utf8(text).unwrap()
    }

    const LONG: [(&str, &str); 4] = [
        ("a", "2026-01-31T12:00:00Z stdout P lo"),
        ("bb", "2026-01-31T12:00:01Z stdout F short"),
        ("a", "2026-01-31T12:00:02Z stdout F ng"),
        ("a", "2026-01-31T12:00:03Z stderr F last"),
    ];

    #[test]
    fn names_stand_before_lines_which_stay_whole() {
        let style = Style {
            name_width: Some(2),
            ..Style::default()
        };
        assert_eq!(printed(style, &LONG), "bb | short\na  | long\na  | last\n");
    }

    #[test]
    fn one_container_is_printed_as_it_wrote() {
        let entries: Vec<_> = LONG.into_iter().filter(|(name, _)| *name == "a").collect();
        assert_eq!(printed(Style::default(), &entries), "long\nlast\n");
    }

    #[test]
    fn times_are_shown_and_compared() {
        let style = Style {
            timestamps: true,
            since: Some("2026-01-31T12:00:01Z".parse().unwrap()),
            ..Style::default()
        };
        let entries = [LONG[1], LONG[3]];
        let expected = "2026-01-31T12:00:01Z short\n2026-01-31T12:00:03Z last\n";
        assert_eq!(printed(style.clone(), &entries), expected);
        assert_eq!(printed(style, &LONG[..1]), "");
    }
}
