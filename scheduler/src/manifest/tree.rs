//! YAML as a tree in which each node knows its line and column.
//!
//! The parser hands out events; this file makes nodes of them, resolves plain
//! scalars and follows anchors. Two rules of YAML 1.1 are kept because every
//! manifest in the wild was written for a parser that has them: a leading zero
//! means octal (`defaultMode: 0644`), and `<<` merges a mapping.
//!
//! Aliases are copied, so a few lines can ask for a tree of any size (the
//! "billion laughs"). The number of nodes is limited for that reason, and so is
//! the depth, because later passes recurse.

use std::{collections::BTreeMap, fmt};

use granit_parser::{Event, Parser, ScalarStyle, Span};

use super::Problem;

/// More nodes than any manifest that fits the API server's 3 MiB limit.
const MAXIMUM_NODES: usize = 200_000;
/// Deeper than any Kubernetes type.
const MAXIMUM_DEPTH: usize = 64;

/// A place in a source; both numbers count from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.line, self.column)
    }
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub at: Position,
    pub value: Value,
}

/// A resolved YAML value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Boolean(bool),
    Integer(i64),
    /// The text is kept, because a quantity such as `0.5` must not pass through
    /// a binary fraction.
    Float(f64, String),
    String(String),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// One entry of a mapping. Duplicates are kept: the schema pass reports them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub key: String,
    pub key_at: Position,
    pub value: Node,
}

impl Value {
    /// What a reader would call this value in a message.
    pub(super) fn describe(&self) -> String {
        match self {
            Value::Null => "nothing".to_owned(),
            Value::Boolean(value) => format!("the boolean {value}"),
            Value::Integer(value) => format!("the number {value}"),
            Value::Float(_, text) => format!("the number {text}"),
            Value::String(text) if text.chars().count() <= 40 => format!("the string {text:?}"),
            Value::String(_) => "a string".to_owned(),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
        }
    }
}

impl Node {
    /// The entries, if this is a mapping.
    pub(super) fn entries(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Mapping(entries) => Some(entries),
            _ => None,
        }
    }

    /// The first value under `key`.
    pub(super) fn field(&self, key: &str) -> Option<&Entry> {
        self.entries()?.iter().find(|entry| entry.key == key)
    }
}

/// Reads every document of a stream; empty documents are left out.
pub(super) fn read_documents(text: &str) -> Result<Vec<Node>, Problem> {
    // A byte order mark is legal at the start of a stream and means nothing.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        anchors: BTreeMap::new(),
        nodes: 0,
    };
    let mut documents = Vec::new();
    while let Some((event, span)) = reader.next()? {
        match event {
            Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
            Event::StreamEnd => break,
            event => {
                let node = reader.node(event, span, 0)?;
                if node.value != Value::Null {
                    documents.push(node);
                }
            }
        }
    }
    Ok(documents)
}

struct Reader<'text> {
    parser: Parser<'text, granit_parser::StrInput<'text>>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
}

impl<'text> Reader<'text> {
    /// The next event that is not a comment.
    fn next(&mut self) -> Result<Option<(Event<'text>, Span)>, Problem> {
        loop {
            return match self.parser.next_event() {
                None => Ok(None),
                Some(Ok((Event::Comment(..), _))) => continue,
                Some(Ok(next)) => Ok(Some(next)),
                Some(Err(error)) => {
                    let at = error.marker();
                    Err(problem(
                        Position {
                            line: at.line(),
                            column: at.col() + 1,
                        },
                        format!("not YAML: {}", error.info()),
                    ))
                }
            };
        }
    }

    fn expect_next(&mut self, at: Position) -> Result<(Event<'text>, Span), Problem> {
        self.next()?
            .ok_or_else(|| problem(at, "not YAML: the text ends too early".to_owned()))
    }

    fn node(&mut self, event: Event<'text>, span: Span, depth: usize) -> Result<Node, Problem> {
        let at = position(&span);
        self.count(1, at)?;
        if depth > MAXIMUM_DEPTH {
            return Err(problem(
                at,
                format!("nested more than {MAXIMUM_DEPTH} levels deep"),
            ));
        }
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let forced = tag.as_ref().and_then(|tag| tag.core_suffix()) == Some("str");
                let plain = style == ScalarStyle::Plain && !forced;
                let value = if plain {
                    resolve_plain(&text)
                } else {
                    Value::String(text.into_owned())
                };
                (value, anchor)
            }
            Event::SequenceStart(_, anchor, _) => (self.sequence(at, depth)?, anchor),
            Event::MappingStart(_, anchor, _) => (self.mapping(at, depth)?, anchor),
            Event::Alias(anchor) => {
                let mut node = self
                    .anchors
                    .get(&anchor)
                    .cloned()
                    .ok_or_else(|| problem(at, "an alias inside its own anchor".to_owned()))?;
                self.count(size(&node), at)?;
                node.at = at;
                return Ok(node);
            }
            _ => {
                return Err(problem(
                    at,
                    "not YAML: a value was expected here".to_owned(),
                ));
            }
        };
        let node = Node { at, value };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn sequence(&mut self, at: Position, depth: usize) -> Result<Value, Problem> {
        let mut items = Vec::new();
        loop {
            match self.expect_next(at)? {
                (Event::SequenceEnd, _) => return Ok(Value::Sequence(items)),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, at: Position, depth: usize) -> Result<Value, Problem> {
        let mut entries = Vec::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.expect_next(at)?;
            let key_at = position(&span);
            let (key, plain) = match event {
                Event::MappingEnd => break,
                Event::Scalar(text, style, ..) => (text.into_owned(), style == ScalarStyle::Plain),
                _ => return Err(problem(key_at, "a key must be a single word".to_owned())),
            };
            let (event, span) = self.expect_next(key_at)?;
            let value = self.node(event, span, depth + 1)?;
            if plain && key == "<<" {
                merged.push(value);
            } else {
                entries.push(Entry { key, key_at, value });
            }
        }
        for value in merged {
            merge(&mut entries, value)?;
        }
        Ok(Value::Mapping(entries))
    }

    fn count(&mut self, nodes: usize, at: Position) -> Result<(), Problem> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAXIMUM_NODES {
            return Err(problem(
                at,
                format!("more than {MAXIMUM_NODES} values; too large"),
            ));
        }
        Ok(())
    }
}

/// Adds the entries of a `<<` value that the mapping does not have itself.
fn merge(entries: &mut Vec<Entry>, value: Node) -> Result<(), Problem> {
    match value.value {
        Value::Mapping(added) => {
            for entry in added {
                if !entries.iter().any(|present| present.key == entry.key) {
                    entries.push(entry);
                }
            }
            Ok(())
        }
        Value::Sequence(items) => items.into_iter().try_for_each(|item| merge(entries, item)),
        _ => Err(problem(
            value.at,
            "`<<` merges a mapping or a list of mappings".to_owned(),
        )),
    }
}

/// Gives a plain scalar its type, as YAML's core schema does, and octal besides.
fn resolve_plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Boolean(true),
        "false" | "False" | "FALSE" => return Value::Boolean(false),
        _ => {}
    }
    if let Some(integer) = resolve_integer(text) {
        return Value::Integer(integer);
    }
    let numeric = text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first))
        && text
            .chars()
            .all(|next| next.is_ascii_digit() || "+-.eE".contains(next))
        && text.contains(|next: char| next.is_ascii_digit());
    match text.parse::<f64>() {
        Ok(number) if numeric => Value::Float(number, text.to_owned()),
        _ => Value::String(text.to_owned()),
    }
}

fn resolve_integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x', ..] => (16, &digits[2..]),
        [b'0', b'o', ..] => (8, &digits[2..]),
        [b'0', next, ..] if next.is_ascii_digit() => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    i64::from_str_radix(digits, radix).ok()?.checked_mul(sign)
}

fn size(node: &Node) -> usize {
    1 + match &node.value {
        Value::Sequence(items) => items.iter().map(size).sum(),
        Value::Mapping(entries) => entries.iter().map(|entry| size(&entry.value)).sum(),
        _ => 0,
    }
}

fn position(span: &Span) -> Position {
    Position {
        line: span.start.line(),
        column: span.start.col() + 1,
    }
}

fn problem(position: Position, message: String) -> Problem {
    Problem {
        position,
        path: String::new(),
        message,
    }
}
