//! The table of types: `fields.txt`, read when first asked for.
//!
//! Go's programs have this table in their types' tags; the text's head tells its grammar. It is
//! kept as text because it is data: some 240 types and 1,000 fields that nobody writes by hand.
//! The suite `cluster_api` prints it anew from Go's types and compares.

use std::{collections::HashMap, sync::OnceLock};

/// A place in [`Table`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageId(usize);

/// All types that a body can reach.
#[derive(Debug)]
pub struct Table {
    messages: Vec<Message>,
    by_name: HashMap<String, MessageId>,
}

/// A type.
#[derive(Debug, Default)]
pub struct Message {
    /// As in OpenAPI, without `io.k8s.`.
    pub name: String,
    /// Its fields by number.
    pub fields: Vec<Field>,
}

/// A field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// On the wire.
    pub number: u32,
    /// In JSON; empty where [`Presence::Inlined`].
    pub name: String,
    /// What becomes of it in JSON when it is empty.
    pub presence: Presence,
    /// Its type.
    pub shape: Shape,
}

/// What becomes of a field in JSON when it is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is there.
    Always,
    /// It is left out.
    Filled,
    /// It is there if the bytes have it.
    Given,
    /// The same, and null if they do not.
    GivenOrNull,
    /// It has no name: its own fields stand in its place.
    Inlined,
}

/// The type of a field's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// A string.
    Text,
    /// True or false.
    Boolean,
    /// A whole number of 32 bits.
    Narrow,
    /// A whole number of 64 bits.
    Wide,
    /// Bytes, in base64.
    Bytes,
    /// `500m`, `64Mi`.
    Quantity,
    /// A moment, to the second.
    Time,
    /// A moment, to the millionth of one.
    MicroTime,
    /// A whole number or a string.
    IntOrString,
    /// JSON, as bytes.
    Raw,
    /// An object of the table.
    Message(MessageId),
    /// Several of them.
    List(Box<Shape>),
    /// Several of them, each under a key that is a text.
    Map(Box<Shape>),
}

impl Table {
    /// The type at a place.
    #[must_use]
    pub fn at(&self, id: MessageId) -> &Message {
        &self.messages[id.0]
    }

    /// The type with a name such as `api.core.v1.PodSpec`.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<MessageId> {
        self.by_name.get(name).copied()
    }

    /// All types.
    #[must_use]
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Reads the table's text.
    ///
    /// # Errors
    ///
    /// The line that cannot be read.
    fn parse(text: &str) -> Result<Table, String> {
        let lines = || text.lines().filter(|line| !line.starts_with('#'));
        let named = |line: &&str| !line.is_empty() && !line.starts_with(' ');
        let by_name = lines()
            .filter(named)
            .enumerate()
            .map(|(place, name)| (name.to_owned(), MessageId(place)))
            .collect();
        let mut table = Table {
            messages: Vec::new(),
            by_name,
        };
        for line in lines().filter(|line| !line.is_empty()) {
            if named(&line) {
                table.messages.push(Message {
                    name: line.to_owned(),
                    fields: Vec::new(),
                });
                continue;
            }
            let field = table.field(line).ok_or_else(|| line.to_owned())?;
            let message = table.messages.last_mut().ok_or_else(|| line.to_owned())?;
            message.fields.push(field);
        }
        for message in &mut table.messages {
            message.fields.sort_by_key(|field| field.number);
        }
        Ok(table)
    }

    fn field(&self, line: &str) -> Option<Field> {
        let mut words = line.split_whitespace();
        let (number, name, shape) = (words.next()?, words.next()?, words.next()?);
        let (name, presence) = match name.as_bytes().last()? {
            b'-' => ("", Presence::Inlined),
            b'~' => (&name[..name.len() - 1], Presence::Filled),
            b'?' => (&name[..name.len() - 1], Presence::Given),
            b'!' => (&name[..name.len() - 1], Presence::GivenOrNull),
            _ => (name, Presence::Always),
        };
        Some(Field {
            number: number.parse().ok()?,
            name: name.to_owned(),
            presence,
            shape: self.shape(shape)?,
        })
    }

    fn shape(&self, word: &str) -> Option<Shape> {
        if let Some(item) = word.strip_prefix("[]") {
            return Some(Shape::List(Box::new(self.shape(item)?)));
        }
        if let Some(value) = word.strip_prefix("{}") {
            return Some(Shape::Map(Box::new(self.shape(value)?)));
        }
        Some(match word {
            "string" => Shape::Text,
            "bool" => Shape::Boolean,
            "int32" => Shape::Narrow,
            "int64" => Shape::Wide,
            "bytes" => Shape::Bytes,
            "Quantity" => Shape::Quantity,
            "Time" => Shape::Time,
            "MicroTime" => Shape::MicroTime,
            "IntOrString" => Shape::IntOrString,
            "Raw" => Shape::Raw,
            name => Shape::Message(self.named(name)?),
        })
    }
}

impl Message {
    /// The field with a number.
    #[must_use]
    pub fn field(&self, number: u32) -> Option<&Field> {
        let place = self
            .fields
            .binary_search_by_key(&number, |field| field.number)
            .ok()?;
        self.fields.get(place)
    }
}

/// The table.
///
/// # Panics
///
/// Never: the text is part of the program, and a test reads it.
#[must_use]
pub fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        Table::parse(include_str!("fields.txt"))
            .unwrap_or_else(|line| panic!("the table of types has a line that is none: {line}"))
    })
}

#[cfg(test)]
mod tests {
    use super::{Presence, Shape, Table, table};
    use crate::api::{
        kind::KINDS,
        schema::{self, definition},
    };

    /// Names of the type's fields in JSON, with those that stand among them.
    fn names(table: &Table, name: &str) -> Vec<String> {
        let message = table.at(table.named(name).unwrap());
        let mut found = Vec::new();
        for field in &message.fields {
            match (&field.presence, &field.shape) {
                (Presence::Inlined, Shape::Message(inner)) => {
                    found.extend(names(table, &table.at(*inner).name));
                }
                _ => found.push(field.name.clone()),
            }
        }
        found
    }

    /// The map beside the JSON and this table speak of the same fields.
    #[test]
    fn the_table_and_the_schema_have_the_same_fields() {
        for kind in KINDS {
            assert!(table().named(&definition(kind)).is_some(), "{}", kind.kind);
        }
        let mut compared = 0;
        for message in table().messages() {
            let Some(id) = schema::types().named(&message.name) else {
                continue;
            };
            let mut known: Vec<&str> = schema::types()
                .at(id)
                .fields
                .keys()
                .map(String::as_str)
                .filter(|name| !["apiVersion", "kind"].contains(name))
                .collect();
            let mut found = names(table(), &message.name);
            found.retain(|name| !["apiVersion", "kind"].contains(&name.as_str()));
            known.sort_unstable();
            found.sort_unstable();
            assert_eq!(found, known, "{}", message.name);
            compared += 1;
        }
        assert!(compared > 200, "{compared}");
    }

    /// The reader's depth is bounded by this, and so is what it fills in.
    #[test]
    fn no_type_is_within_itself() {
        fn walk(table: &Table, shape: &Shape, above: &mut Vec<usize>) {
            match shape {
                Shape::List(inner) | Shape::Map(inner) => walk(table, inner, above),
                Shape::Message(id) => {
                    assert!(!above.contains(&id.0), "{}", table.at(*id).name);
                    above.push(id.0);
                    for field in &table.at(*id).fields {
                        walk(table, &field.shape, above);
                    }
                    above.pop();
                }
                _ => {}
            }
        }
        for kind in KINDS {
            let id = table().named(&definition(kind)).unwrap();
            walk(table(), &Shape::Message(id), &mut Vec::new());
        }
    }

    #[test]
    fn a_line_that_is_none_is_told() {
        for text in ["a\n  x y string", "a\n  1 y", "a\n  1 y b", "  1 y string"] {
            assert!(Table::parse(text).is_err(), "{text}");
        }
        let table = Table::parse("# remark\n\na\n  2 y? []a\n  1 x~ {}bytes").unwrap();
        let message = table.at(table.named("a").unwrap());
        assert_eq!(message.field(1).unwrap().presence, Presence::Filled);
        assert_eq!(message.field(2).unwrap().name, "y");
        assert_eq!(message.field(3), None);
    }
}
