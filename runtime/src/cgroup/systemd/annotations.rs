//! `org.systemd.property.NAME`: properties of the unit that the caller chooses.
//!
//! The value is GVariant's text form, as `uint64 5000000`, `'inactive'`, `true`
//! or `['a.service', 'b.service']`. What runc reads, we read: a bare number is
//! one of 32 bits, and a name that ends in `Sec` is turned into systemd's own
//! `USec`, with seconds as microseconds.

use std::collections::HashMap;

use super::Property;
use crate::cgroup::error::CgroupError;
use crate::dbus::Value;

const PREFIX: &str = "org.systemd.property.";

/// The properties in the annotations, by name.
///
/// # Errors
///
/// [`CgroupError::Invalid`] naming the annotation.
pub fn plan_annotations(
    annotations: Option<&HashMap<String, String>>,
) -> Result<Vec<Property>, CgroupError> {
    let mut all = Vec::new();
    for (key, text) in annotations.into_iter().flatten() {
        let Some(name) = key.strip_prefix(PREFIX) else {
            continue;
        };
        let invalid = |reason: String| CgroupError::invalid(format!("annotations.{key}"), reason);
        if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(invalid(format!(
                "invalid name of systemd property, expected letters only, found {name:?}"
            )));
        }
        let value = parse_value(text).ok_or_else(|| {
            invalid(format!(
                "expected a value in GVariant's text form, as \"uint64 5\" or \"'text'\", found {text:?}"
            ))
        })?;
        // `TimeoutStopSec` is a word of unit files; on the bus it is `TimeoutStopUSec`.
        match name.strip_suffix("Sec").filter(|stem| !stem.ends_with('U')) {
            Some(stem) => {
                let microseconds = microseconds(&value)
                    .ok_or_else(|| invalid(format!("expected seconds, found {text:?}")))?;
                all.push((format!("{stem}USec"), Value::Uint64(microseconds)));
            }
            None => all.push((name.to_owned(), value)),
        }
    }
    // A map's order is random, a plan's is not.
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(all)
}

fn microseconds(value: &Value) -> Option<u64> {
    let seconds = match value {
        Value::Byte(number) => f64::from(*number),
        Value::Int16(number) => f64::from(*number),
        Value::Uint16(number) => f64::from(*number),
        Value::Int32(number) => f64::from(*number),
        Value::Uint32(number) => f64::from(*number),
        Value::Int64(number) => *number as f64,
        Value::Uint64(number) => *number as f64,
        Value::Double(number) => *number,
        _ => return None,
    };
    // A conversion cuts off what does not fit, so the range is asked first.
    (0.0..1e12)
        .contains(&seconds)
        .then_some((seconds * 1e6) as u64)
}

/// The value of a whole text.
pub fn parse_value(text: &str) -> Option<Value> {
    let mut reader = Reader { rest: text.trim() };
    let value = reader.value(0)?;
    reader.skip_blanks();
    reader.rest.is_empty().then_some(value)
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Takes a letter if it is the next.
    fn take(&mut self, letter: char) -> bool {
        self.skip_blanks();
        match self.rest.strip_prefix(letter) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > 16 {
            return None;
        }
        self.skip_blanks();
        match self.rest.chars().next()? {
            '\'' | '"' => self.quoted().map(Value::Text),
            '[' => {
                let values = self.list('[', ']', depth)?;
                // An empty list would have no type.
                let items = values.first()?.signature();
                let alike = values.iter().all(|value| value.signature() == items);
                alike.then_some(Value::Array(items, values))
            }
            '(' => Some(Value::Struct(self.list('(', ')', depth)?)),
            '<' => {
                self.take('<');
                let inner = self.value(depth + 1)?;
                self.take('>').then(|| Value::variant(inner))
            }
            _ => self.word(depth),
        }
    }

    fn list(&mut self, open: char, close: char, depth: usize) -> Option<Vec<Value>> {
        self.take(open);
        let mut values = Vec::new();
        while !self.take(close) {
            values.push(self.value(depth + 1)?);
            // A comma may stand behind the last one, as in `('one',)`.
            if !self.take(',') {
                return self.take(close).then_some(values);
            }
        }
        Some(values)
    }

    fn quoted(&mut self) -> Option<String> {
        let mut letters = self.rest.char_indices();
        let (_, quote) = letters.next()?;
        let mut text = String::new();
        while let Some((position, letter)) = letters.next() {
            match letter {
                '\\' => text.push(match letters.next()?.1 {
                    'n' => '\n',
                    't' => '\t',
                    same => same,
                }),
                same if same == quote => {
                    self.rest = &self.rest[position + quote.len_utf8()..];
                    return Some(text);
                }
                same => text.push(same),
            }
        }
        None
    }

    /// `true`, a number, or a type and its value.
    fn word(&mut self, depth: usize) -> Option<Value> {
        let word = self.bare()?;
        match word {
            "true" => return Some(Value::Bool(true)),
            "false" => return Some(Value::Bool(false)),
            "boolean" | "string" => return self.value(depth + 1),
            "objectpath" => {
                self.skip_blanks();
                return self.quoted().map(Value::Path);
            }
            "signature" => {
                self.skip_blanks();
                return self.quoted().map(Value::Signature);
            }
            _ => {}
        }
        if let Some(number) = typed_number(word, || self.bare()) {
            return number;
        }
        match word.parse::<i32>() {
            Ok(number) => Some(Value::Int32(number)),
            Err(_) => word
                .parse::<f64>()
                .ok()
                .filter(|number| number.is_finite())
                .map(Value::Double),
        }
    }

    fn bare(&mut self) -> Option<&'a str> {
        self.skip_blanks();
        let end = self
            .rest
            .find(|letter: char| !(letter.is_ascii_alphanumeric() || "+-.".contains(letter)))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }
}

/// A number behind the name of its type; the outer `None`: that is no type.
fn typed_number<'a>(
    kind: &str,
    mut digits: impl FnMut() -> Option<&'a str>,
) -> Option<Option<Value>> {
    fn read<T: std::str::FromStr>(text: Option<&str>) -> Option<T> {
        text?.parse().ok()
    }
    Some(match kind {
        "byte" => read(digits()).map(Value::Byte),
        "int16" => read(digits()).map(Value::Int16),
        "uint16" => read(digits()).map(Value::Uint16),
        "int32" => read(digits()).map(Value::Int32),
        "uint32" => read(digits()).map(Value::Uint32),
        "int64" => read(digits()).map(Value::Int64),
        "uint64" => read(digits()).map(Value::Uint64),
        "double" => read(digits())
            .filter(|number: &f64| number.is_finite())
            .map(Value::Double),
        _ => return None,
    })
}
