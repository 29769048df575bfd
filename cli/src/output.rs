//! What commands print: tables for people, JSON, YAML and names for programs.

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use crate::error::{Context, Error, Result};

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// A table for people.
    #[default]
    Table,
    /// A table with all columns.
    Wide,
    /// JSON, indented.
    Json,
    /// YAML.
    Yaml,
    /// Names alone, one a line.
    Name,
}

/// What every command that lists takes.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct ListArguments {
    /// Print names or ids alone
    #[arg(short, long)]
    pub quiet: bool,
    /// Print ids whole
    #[arg(long)]
    pub no_trunc: bool,
}

impl ListArguments {
    /// The form, with `--quiet` as the name form.
    pub fn form(&self, format: Format) -> Format {
        if self.quiet { Format::Name } else { format }
    }

    /// An id as long as the caller wants it.
    pub fn id(&self, id: &str) -> String {
        if self.no_trunc {
            id.to_owned()
        } else {
            short_id(id)
        }
    }
}

/// The first twelve digits of an id, which is enough to tell it from others.
pub fn short_id(id: &str) -> String {
    id.strip_prefix("sha256:")
        .unwrap_or(id)
        .chars()
        .take(12)
        .collect()
}

/// A table: its heads, its rows, and how many of the columns are for `wide` alone.
pub struct Rows {
    /// The heads of all columns.
    pub heads: Vec<&'static str>,
    /// The last columns that only `-o wide` shows.
    pub wide_columns: usize,
    /// As many cells as heads in each.
    pub rows: Vec<Vec<String>>,
}

impl Rows {
    /// Columns side by side with spaces between, no lines: `grep` and `awk` work on it.
    pub fn render(&self, format: Format) -> String {
        let hidden = if format == Format::Wide {
            0
        } else {
            self.wide_columns
        };
        let shown = self.heads.len() - hidden;
        let heads: Vec<String> = self.heads.iter().map(|head| (*head).to_owned()).collect();
        let lines: Vec<&[String]> = std::iter::once(&heads)
            .chain(&self.rows)
            .map(|line| &line[..shown])
            .collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
        let widths: Vec<usize> = (0..shown)
            .map(|column| width(column).unwrap_or(0))
            .collect();
        let lines: Vec<String> = lines
            .iter()
            .map(|line| {
                let cells = line.iter().zip(&widths);
                let text: String = cells
                    .map(|(cell, width)| format!("{cell:width$}  "))
                    .collect();
                text.trim_end().to_owned()
            })
            .collect();
        lines.join("\n")
    }
}

/// Prints a list in the form asked for; `name` names each value.
///
/// # Errors
///
/// Standard output is closed, or a value is no JSON.
pub fn print_list(
    format: Format,
    values: &[Value],
    name: impl Fn(&Value) -> String,
    rows: impl FnOnce() -> Rows,
) -> Result<()> {
    match format {
        Format::Json => print_json(&values),
        Format::Yaml => print_yaml(&values),
        Format::Name => values.iter().try_for_each(|value| print_line(&name(value))),
        Format::Wide | Format::Table => print_line(&rows().render(format)),
    }
}

/// Prints one value as indented JSON.
///
/// # Errors
///
/// Standard output is closed.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    print_line(&serde_json::to_string_pretty(value).context("write JSON")?)
}

/// Prints one value as YAML.
///
/// # Errors
///
/// Standard output is closed.
pub fn print_yaml(value: &impl Serialize) -> Result<()> {
    let text = serde_saphyr::to_string(value)
        .map_err(|error| Error::new(format!("write YAML: {error}")))?;
    print_line(text.trim_end())
}

/// Prints one value in the form asked for; a table is not one value, so YAML stands for it.
///
/// # Errors
///
/// Standard output is closed.
pub fn print_value(format: Format, value: &impl Serialize) -> Result<()> {
    match format {
        Format::Json => print_json(value),
        _ => print_yaml(value),
    }
}

/// Prints one line. Unlike `println!` this does not panic when `head` has read enough.
///
/// # Errors
///
/// Standard output is closed.
pub fn print_line(line: &str) -> Result<()> {
    use std::io::Write;
    writeln!(std::io::stdout().lock(), "{line}").context("write to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_their_heads_and_wide_shows_all() {
        let rows = Rows {
            heads: vec!["NAME", "STATE", "ID"],
            wide_columns: 1,
            rows: vec![vec!["a-long-name".into(), "Running".into(), "0123".into()]],
        };
        assert_eq!(
            rows.render(Format::Table),
            "NAME         STATE\na-long-name  Running"
        );
        assert_eq!(
            rows.render(Format::Wide),
            "NAME         STATE    ID\na-long-name  Running  0123"
        );
    }
}
