//! A file against the table of keys: every mistake, with its line.

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::keys::{HANDLER_KEYS, HANDLERS, Key, SECTIONS, section};
use super::nearest::nearest;

/// A mistake in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub text: String,
}

/// Everything that is wrong with a text; its values when nothing is.
pub(super) fn check(text: &str) -> Result<Table, Vec<Complaint>> {
    let unreadable = |error: toml::de::Error| {
        let begin = error.span().map_or(0, |span| span.start);
        vec![Complaint {
            line: line_of(text, begin),
            text: error.message().to_owned(),
        }]
    };
    let places = DeTable::parse(text).map_err(unreadable)?;
    let values: Table = text.parse().map_err(unreadable)?;
    let mut complaints = Vec::new();
    for (name, place) in places.get_ref() {
        let line = line_of(text, name.span().start);
        let name: &str = name.get_ref();
        let value = &values[name];
        let found = match (name, section(name)) {
            (HANDLERS, _) => check_handlers(text, place, value),
            (_, Some(section)) => check_table(text, name, section.keys, place, value),
            (_, None) => {
                let known = SECTIONS.iter().map(|one| one.name).chain([HANDLERS]);
                vec![Complaint {
                    line,
                    text: unknown("section", &format!("[{name}]"), name, known),
                }]
            }
        };
        complaints.extend(found);
    }
    complaints.sort_by_key(|complaint| complaint.line);
    match complaints.is_empty() {
        true => Ok(values),
        false => Err(complaints),
    }
}

fn check_handlers(text: &str, place: &Spanned<DeValue<'_>>, value: &Value) -> Vec<Complaint> {
    let Some(handlers) = place.get_ref().as_table() else {
        return not_a_table(text, HANDLERS, place, value);
    };
    let mut complaints = Vec::new();
    for (name, place) in handlers {
        let line = line_of(text, name.span().start);
        let name: &str = name.get_ref();
        let path = format!("{HANDLERS}.{name}");
        let complain = |text| Complaint { line, text };
        // The name becomes part of a directory's.
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        if name.is_empty() || name.len() > 63 || name.starts_with('.') || !name.chars().all(plain) {
            complaints.push(complain(format!(
                "[{path}]: expected a name of 1 to 63 letters, digits, '-', '_' or '.'"
            )));
        }
        let value = &value[name];
        complaints.extend(check_table(text, &path, HANDLER_KEYS, place, value));
        if value.is_table() && value.get("path").is_none() {
            complaints.push(complain(format!("[{path}]: path is missing")));
        }
    }
    complaints
}

fn check_table(
    text: &str,
    section: &str,
    keys: &[Key],
    place: &Spanned<DeValue<'_>>,
    value: &Value,
) -> Vec<Complaint> {
    let Some(table) = place.get_ref().as_table() else {
        return not_a_table(text, section, place, value);
    };
    let mut complaints = Vec::new();
    for (name, _) in table {
        let line = line_of(text, name.span().start);
        let name: &str = name.get_ref();
        let path = format!("{section}.{name}");
        let problem = match keys.iter().find(|key| key.name == name) {
            Some(key) => match key.kind.check(&value[name]) {
                Ok(()) => continue,
                Err(problem) => format!("{path}: {problem}"),
            },
            None => unknown("key", &path, name, keys.iter().map(|key| key.name)),
        };
        complaints.push(Complaint {
            line,
            text: problem,
        });
    }
    complaints
}

fn not_a_table(
    text: &str,
    name: &str,
    place: &Spanned<DeValue<'_>>,
    value: &Value,
) -> Vec<Complaint> {
    vec![Complaint {
        line: line_of(text, place.span().start),
        text: format!("{name}: expected the section [{name}], found {value}"),
    }]
}

fn unknown<'a>(
    what: &str,
    shown: &str,
    name: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> String {
    match nearest(name, known.clone()) {
        Some(meant) => format!("{shown}: no such {what}; did you mean {meant}?"),
        None => {
            let known: Vec<&str> = known.collect();
            format!("{shown}: no such {what}; there are {}", known.join(", "))
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}
