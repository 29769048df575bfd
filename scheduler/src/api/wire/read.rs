//! From a message to an object, along the table.
//!
//! What the encoding's rules ask for: a field that stands there twice has its last value, an
//! object its fields of both; a list grows by every occurrence, and numbers of a list may also
//! stand packed in one; numbers that the table does not have are passed over, since they belong
//! to a newer Kubernetes.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use super::{
    WireError,
    fields::{Field, Message, MessageId, Presence, Shape, Table},
    leaves,
    scan::{Content, Scanner},
};

/// One body on its way to JSON.
#[derive(Debug)]
pub struct Reading<'t> {
    table: &'t Table,
    /// How many more values it may become.
    values_left: usize,
}

impl<'t> Reading<'t> {
    /// A reading that may make so many values.
    #[must_use]
    pub fn new(table: &'t Table, values_limit: usize) -> Self {
        Self {
            table,
            values_left: values_limit,
        }
    }

    /// The object of a message.
    ///
    /// # Errors
    ///
    /// If the bytes break the grammar or the table, with the field's path.
    pub fn object(&mut self, of: MessageId, bytes: &[u8]) -> Result<Map<String, Value>, WireError> {
        let message = self.table.at(of);
        let mut object = Map::new();
        self.read_fields(message, bytes, &mut object)?;
        self.show_empty(message, &mut object)?;
        Ok(object)
    }

    fn count(&mut self) -> Result<(), WireError> {
        match self.values_left.checked_sub(1) {
            Some(left) => self.values_left = left,
            None => return Err(WireError::new("the body has too many values")),
        }
        Ok(())
    }

    fn read_fields(
        &mut self,
        message: &'t Message,
        bytes: &[u8],
        object: &mut Map<String, Value>,
    ) -> Result<(), WireError> {
        let mut scanner = Scanner::new(bytes);
        while let Some((number, content)) = scanner.next_field()? {
            let Some(field) = message.field(number) else {
                continue;
            };
            match (field.presence, &field.shape) {
                (Presence::Inlined, Shape::Message(inner)) => {
                    self.read_fields(self.table.at(*inner), content.bytes()?, object)?;
                }
                _ => self
                    .read_field(field, content, object)
                    .map_err(|error| error.within(field.name.clone()))?,
            }
        }
        Ok(())
    }

    fn read_field(
        &mut self,
        field: &'t Field,
        content: Content<'_>,
        object: &mut Map<String, Value>,
    ) -> Result<(), WireError> {
        let value = match (&field.shape, object.remove(&field.name)) {
            (Shape::List(item), before) => {
                let mut items = match before {
                    Some(Value::Array(items)) => items,
                    _ => Vec::new(),
                };
                self.read_items(item, content, &mut items)?;
                Value::Array(items)
            }
            (Shape::Map(of), before) => {
                let mut entries = match before {
                    Some(Value::Object(entries)) => entries,
                    _ => Map::new(),
                };
                self.read_entry(of, content.bytes()?, &mut entries)?;
                Value::Object(entries)
            }
            (Shape::Message(inner), Some(Value::Object(mut before))) => {
                self.read_fields(self.table.at(*inner), content.bytes()?, &mut before)?;
                Value::Object(before)
            }
            (shape, _) => self.read_value(shape, content)?,
        };
        if field.presence != Presence::Filled || !is_empty(&value) {
            object.insert(field.name.clone(), value);
        }
        Ok(())
    }

    /// One occurrence of a list: an item, or several that are packed.
    fn read_items(
        &mut self,
        item: &'t Shape,
        content: Content<'_>,
        items: &mut Vec<Value>,
    ) -> Result<(), WireError> {
        let is_number = matches!(item, Shape::Narrow | Shape::Wide | Shape::Boolean);
        let at = |place: usize| move |error: WireError| error.within(format!("[{place}]"));
        match content {
            Content::Bytes(packed) if is_number => {
                let mut numbers = Scanner::new(packed);
                while !numbers.is_at_end() {
                    let number = Content::Number(numbers.varint().map_err(at(items.len()))?);
                    items.push(self.read_value(item, number).map_err(at(items.len()))?);
                }
            }
            content => items.push(self.read_value(item, content).map_err(at(items.len()))?),
        }
        Ok(())
    }

    /// One entry of a map: `{ 1 key, 2 value }`.
    fn read_entry(
        &mut self,
        of: &'t Shape,
        entry: &[u8],
        entries: &mut Map<String, Value>,
    ) -> Result<(), WireError> {
        let (mut key, mut value) = (String::new(), None);
        let mut scanner = Scanner::new(entry);
        while let Some((number, content)) = scanner.next_field()? {
            match number {
                1 => key = content.text()?,
                2 => value = Some(content),
                _ => {}
            }
        }
        let value = match (value, of) {
            (Some(content), of) => self.read_value(of, content),
            (None, Shape::Bytes) => self.read_value(of, Content::Bytes(&[])),
            (None, of) => self.empty(of),
        };
        let value = value.map_err(|error| error.within(format!("[{key}]")))?;
        entries.insert(key, value);
        Ok(())
    }

    fn read_value(&mut self, shape: &'t Shape, content: Content<'_>) -> Result<Value, WireError> {
        self.count()?;
        Ok(match shape {
            Shape::Text => Value::String(content.text()?),
            Shape::Boolean => Value::Bool(content.number()? != 0),
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a negative number of 32 bits is sent with 64 of them"
            )]
            Shape::Narrow => Value::from(content.number()? as i32),
            #[expect(
                clippy::cast_possible_wrap,
                reason = "negative numbers are sent in two's complement"
            )]
            Shape::Wide => Value::from(content.number()? as i64),
            Shape::Bytes => Value::String(STANDARD.encode(content.bytes()?)),
            Shape::Quantity => leaves::quantity(content.bytes()?)?,
            Shape::Time => leaves::time(content.bytes()?)?,
            Shape::MicroTime => leaves::micro_time(content.bytes()?)?,
            Shape::IntOrString => leaves::int_or_string(content.bytes()?)?,
            Shape::Raw => leaves::raw(content.bytes()?)?,
            Shape::Message(inner) => Value::Object(self.object(*inner, content.bytes()?)?),
            Shape::List(_) | Shape::Map(_) => {
                return Err(WireError::new("a list of lists is in no type"));
            }
        })
    }

    /// Puts in what JSON shows though the bytes do not have it.
    fn show_empty(
        &mut self,
        message: &'t Message,
        object: &mut Map<String, Value>,
    ) -> Result<(), WireError> {
        for field in &message.fields {
            match (field.presence, &field.shape) {
                (Presence::Inlined, Shape::Message(inner)) => {
                    self.show_empty(self.table.at(*inner), object)?;
                }
                (Presence::Always, shape) if !object.contains_key(&field.name) => {
                    let empty = self.empty(shape)?;
                    object.insert(field.name.clone(), empty);
                }
                (Presence::GivenOrNull, _) if !object.contains_key(&field.name) => {
                    self.count()?;
                    object.insert(field.name.clone(), Value::Null);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A value that the bytes do not have.
    fn empty(&mut self, shape: &'t Shape) -> Result<Value, WireError> {
        self.count()?;
        Ok(match shape {
            Shape::Text => Value::String(String::new()),
            Shape::Boolean => Value::Bool(false),
            Shape::Narrow | Shape::Wide | Shape::IntOrString => Value::from(0),
            Shape::Quantity => Value::from("0"),
            Shape::Message(inner) => Value::Object(self.object(*inner, &[])?),
            Shape::Bytes
            | Shape::Time
            | Shape::MicroTime
            | Shape::Raw
            | Shape::List(_)
            | Shape::Map(_) => Value::Null,
        })
    }
}

/// Whether Go's JSON leaves a value out.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}
