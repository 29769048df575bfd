//! Writes the tables: to the terminal, and between two marks of
//! `docs/performance.md`, so that words around them stay.

use std::fmt::{self, Display};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::measure::Times;

/// What one benchmark found.
pub struct Section {
    name: &'static str,
    what: &'static str,
    lines: Vec<String>,
}

impl Section {
    /// An empty one.
    pub fn new(name: &'static str, what: &'static str) -> Self {
        Section {
            name,
            what,
            lines: Vec::new(),
        }
    }

    /// A sentence between tables.
    pub fn say(&mut self, sentence: impl Into<String>) {
        self.lines.push(String::new());
        self.lines.push(sentence.into());
    }

    /// A table of times; the ratio of each row is its median over that of the
    /// row named `against`.
    pub fn table(&mut self, title: &str, times: &[Times], against: &str) {
        let reference = times
            .iter()
            .find(|times| times.name == against)
            .map(Times::median);
        self.say(format!("**{title}**"));
        self.lines.push(String::new());
        self.lines
            .push(format!("| | median | min | max | ratio to {against} |"));
        self.lines.push("|---|---:|---:|---:|---:|".to_owned());
        for row in times {
            let ratio = ratio(row.median(), reference);
            self.lines.push(format!(
                "| {} | {} | {} | {} | {ratio} |",
                row.name,
                in_milliseconds(row.median()),
                in_milliseconds(row.min()),
                in_milliseconds(row.max()),
            ));
        }
    }

    /// A table of whatever figures; each row begins with its name.
    pub fn rows(&mut self, title: &str, columns: &[&str], rows: Vec<Vec<String>>) {
        self.say(format!("**{title}**"));
        self.lines.push(String::new());
        self.lines.push(format!("| | {} |", columns.join(" | ")));
        self.lines
            .push(format!("|---|{}", "---:|".repeat(columns.len())));
        for row in rows {
            self.lines.push(format!("| {} |", row.join(" | ")));
        }
    }

    /// Puts this section where its marks are, or at the page's end.
    ///
    /// # Errors
    ///
    /// The page cannot be read or written.
    pub fn write_into_page(&self) -> Result<()> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
        let page = std::fs::read_to_string(&path).context("reading the page")?;
        std::fs::write(&path, self.placed_into(&page)).context("writing the page")
    }

    fn placed_into(&self, page: &str) -> String {
        let begin = format!("<!-- bench:{} -->\n", self.name);
        let end = format!("<!-- /bench:{} -->\n", self.name);
        let section = format!("{begin}{self}{end}");
        match (page.find(&begin), page.find(&end)) {
            (Some(from), Some(to)) if from < to => {
                format!("{}{section}{}", &page[..from], &page[to + end.len()..])
            }
            _ => format!("{}\n\n{section}", page.trim_end()),
        }
    }
}

impl Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}: {}\n", self.name, self.what)?;
        writeln!(f, "Measured on {}.", machine())?;
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

/// A time as the tables show it.
pub fn in_milliseconds(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}

/// One time over another as the tables show it.
pub fn ratio(time: Duration, reference: Option<Duration>) -> String {
    reference
        .map(|reference| time.as_secs_f64() / reference.as_secs_f64())
        .map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"))
}

/// The machine in one line: what a reader needs to compare it with another.
fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = field(&cpus, "model name").unwrap_or_else(|| "an unnamed processor".to_owned());
    let count = cpus
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let gib = field(&memory, "MemTotal")
        .and_then(|kib| kib.split(' ').next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib.div_ceil(1024 * 1024));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let day = first_line("date", &["-u", "+%Y-%m-%d"]);
    format!(
        "{model}, {count} cores, {gib} GiB, Linux {}, {day}",
        kernel.trim()
    )
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The first line that a program prints, for its version; empty when it cannot run.
pub fn first_line(program: &str, arguments: &[&str]) -> String {
    Command::new(program)
        .args(arguments)
        .output()
        .ok()
        .and_then(|output| {
            Some(
                String::from_utf8(output.stdout)
                    .ok()?
                    .lines()
                    .next()?
                    .to_owned(),
            )
        })
        .unwrap_or_default()
}
