//! Values and messages as bytes, and back.
//!
//! Everything stands at an offset that is a multiple of its own size, counted
//! from the beginning of the message, with zeros in between. A text is its
//! length, its bytes and a zero; a list is its length in bytes and its items; a
//! variant is its signature and the value. A message:
//!
//! ```text
//!  0        1      2       3         4             8        12           (pad to 8)
//! ┌────────┬──────┬───────┬─────────┬─────────────┬────────┬────────────┬──────┐
//! │'l' 'B' │ kind │ flags │ version │ body length │ serial │ a(yv)      │ body │
//! └────────┴──────┴───────┴─────────┴─────────────┴────────┴────────────┴──────┘
//! ```

use super::{DbusError, Kind, Message, Value};

/// What the specification allows; a peer that claims more is broken or hostile.
const LARGEST_MESSAGE: usize = 128 << 20;
/// Deeper values nobody sends, and reading them must not exhaust the stack.
const DEEPEST: usize = 32;
/// The fixed part of a header, up to and with the length of the list of fields.
pub const FIXED_HEADER: usize = 16;

/// The bytes of a message.
pub fn encode(message: &Message) -> Vec<u8> {
    let mut body = Writer::default();
    for value in &message.body {
        body.value(value);
    }
    let kind = match message.kind {
        Kind::Call => 1,
        Kind::Reply => 2,
        Kind::Error => 3,
        Kind::Signal => 4,
    };
    let mut all = Writer::default();
    // 'l': the lowest byte of a number first. No flags; version 1.
    all.bytes.extend([b'l', kind, 0, 1]);
    all.value(&Value::Uint32(body.bytes.len() as u32));
    all.value(&Value::Uint32(message.serial));
    all.value(&Value::Array("(yv)".to_owned(), header_fields(message)));
    all.align(8);
    all.bytes.extend(body.bytes);
    all.bytes
}

fn header_fields(message: &Message) -> Vec<Value> {
    let signature: String = message.body.iter().map(Value::signature).collect();
    let text = |text: &Option<String>| text.clone().map(Value::Text);
    let fields = [
        (1, message.path.clone().map(Value::Path)),
        (2, text(&message.interface)),
        (3, text(&message.member)),
        (4, text(&message.error)),
        (5, message.reply_to.map(Value::Uint32)),
        (6, text(&message.destination)),
        (
            8,
            (!signature.is_empty()).then_some(Value::Signature(signature)),
        ),
    ];
    let field = |(number, value): (u8, Option<Value>)| {
        Some(Value::Struct(vec![
            Value::Byte(number),
            Value::variant(value?),
        ]))
    };
    fields.into_iter().filter_map(field).collect()
}

/// How long a whole message is, out of its first [`FIXED_HEADER`] bytes.
///
/// # Errors
///
/// They do not begin a message.
pub fn message_length(head: &[u8; FIXED_HEADER]) -> Result<usize, DbusError> {
    let mut reader = Reader::new(head)?;
    reader.at = 4;
    let body = reader.uint32()? as usize;
    reader.at = 12;
    let fields = reader.uint32()? as usize;
    if body > LARGEST_MESSAGE || fields > LARGEST_MESSAGE {
        return Err(DbusError::Malformed("it claims to be too long"));
    }
    Ok((FIXED_HEADER + fields).next_multiple_of(8) + body)
}

/// The message in the bytes.
///
/// # Errors
///
/// [`DbusError::Malformed`].
pub fn decode(bytes: &[u8]) -> Result<Message, DbusError> {
    let mut reader = Reader::new(bytes)?;
    let kind = match bytes.get(1) {
        Some(1) => Kind::Call,
        Some(2) => Kind::Reply,
        Some(3) => Kind::Error,
        Some(4) => Kind::Signal,
        _ => return Err(DbusError::Malformed("it is of no known kind")),
    };
    reader.at = 8;
    let mut message = Message::new(kind, reader.uint32()?);
    let Value::Array(_, fields) = reader.one("a(yv)")? else {
        return Err(DbusError::Malformed("its header has no fields"));
    };
    let mut signature = String::new();
    for field in fields {
        let Value::Struct(pair) = field else { continue };
        let [Value::Byte(number), Value::Variant(value)] = pair.as_slice() else {
            continue;
        };
        let text = value.as_text().map(str::to_owned);
        match (*number, &**value) {
            (1, _) => message.path = text,
            (2, _) => message.interface = text,
            (3, _) => message.member = text,
            (4, _) => message.error = text,
            (5, Value::Uint32(serial)) => message.reply_to = Some(*serial),
            (6, _) => message.destination = text,
            (7, _) => message.sender = text,
            (8, _) => signature = text.unwrap_or_default(),
            _ => {}
        }
    }
    reader.align(8)?;
    let mut rest = signature.as_str();
    while !rest.is_empty() {
        let (first, others) = split_signature(rest)?;
        message.body.push(reader.one(first)?);
        rest = others;
    }
    Ok(message)
}

/// Where bytes are added.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn number<const N: usize>(&mut self, bytes: [u8; N]) {
        self.align(N);
        self.bytes.extend(bytes);
    }

    fn text(&mut self, text: &str) {
        self.number((text.len() as u32).to_le_bytes());
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    fn signature(&mut self, text: &str) {
        // At most 255 letters; ours have a dozen.
        self.bytes.push(text.len() as u8);
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Byte(number) => self.bytes.push(*number),
            Value::Bool(truth) => self.number(u32::from(*truth).to_le_bytes()),
            Value::Int16(number) => self.number(number.to_le_bytes()),
            Value::Uint16(number) => self.number(number.to_le_bytes()),
            Value::Int32(number) => self.number(number.to_le_bytes()),
            Value::Uint32(number) => self.number(number.to_le_bytes()),
            Value::Int64(number) => self.number(number.to_le_bytes()),
            Value::Uint64(number) => self.number(number.to_le_bytes()),
            Value::Double(number) => self.number(number.to_le_bytes()),
            Value::Text(text) | Value::Path(text) => self.text(text),
            Value::Signature(text) => self.signature(text),
            Value::Array(items, values) => self.array(items, values),
            Value::Struct(fields) => {
                self.align(8);
                fields.iter().for_each(|field| self.value(field));
            }
            Value::Entry(pair) => {
                self.align(8);
                self.value(&pair.0);
                self.value(&pair.1);
            }
            Value::Variant(inner) => {
                self.signature(&inner.signature());
                self.value(inner);
            }
        }
    }

    fn array(&mut self, items: &str, values: &[Value]) {
        self.number(0_u32.to_le_bytes());
        let length_at = self.bytes.len() - 4;
        // The gap up to the first item does not count, and is there also when
        // there is no item.
        self.align(alignment(items));
        let begin = self.bytes.len();
        values.iter().for_each(|value| self.value(value));
        let length = (self.bytes.len() - begin) as u32;
        self.bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }
}

fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'y' | b'g' | b'v') => 1,
        Some(b'n' | b'q') => 2,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 4,
    }
}

/// Where bytes are taken from.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
    depth: usize,
}

impl<'a> Reader<'a> {
    /// At the beginning of a message, which tells the order of the bytes.
    fn new(bytes: &'a [u8]) -> Result<Reader<'a>, DbusError> {
        let big_endian = match bytes.first() {
            Some(b'l') => false,
            Some(b'B') => true,
            _ => return Err(DbusError::Malformed("its order of bytes is not known")),
        };
        Ok(Reader {
            bytes,
            at: 0,
            big_endian,
            depth: 0,
        })
    }

    fn align(&mut self, to: usize) -> Result<(), DbusError> {
        self.at = self.at.next_multiple_of(to);
        if self.at > self.bytes.len() {
            return Err(DbusError::Malformed("it ends too early"));
        }
        Ok(())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DbusError> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or(DbusError::Malformed("it ends too early"))?;
        self.at += count;
        Ok(taken)
    }

    /// A number's bytes, the lowest first.
    fn number<const N: usize>(&mut self) -> Result<[u8; N], DbusError> {
        self.align(N)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        if self.big_endian {
            bytes.reverse();
        }
        Ok(bytes)
    }

    fn uint32(&mut self) -> Result<u32, DbusError> {
        Ok(u32::from_le_bytes(self.number()?))
    }

    /// So many bytes of text and a zero.
    fn text(&mut self, length: usize) -> Result<String, DbusError> {
        let bytes = self.take(length)?.to_vec();
        self.take(1)?;
        String::from_utf8(bytes).map_err(|_| DbusError::Malformed("a text is not UTF-8"))
    }

    fn signature(&mut self) -> Result<String, DbusError> {
        let length = usize::from(self.take(1)?[0]);
        self.text(length)
    }

    /// One value, by its whole signature.
    fn one(&mut self, signature: &str) -> Result<Value, DbusError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(DbusError::Malformed("its values are nested too deeply"));
        }
        let value = self.one_of(signature);
        self.depth -= 1;
        value
    }

    fn one_of(&mut self, signature: &str) -> Result<Value, DbusError> {
        Ok(match signature.as_bytes().first() {
            Some(b'y') => Value::Byte(self.take(1)?[0]),
            Some(b'b') => Value::Bool(self.uint32()? != 0),
            Some(b'n') => Value::Int16(i16::from_le_bytes(self.number()?)),
            Some(b'q') => Value::Uint16(u16::from_le_bytes(self.number()?)),
            Some(b'i') => Value::Int32(i32::from_le_bytes(self.number()?)),
            // `h` is the number of a descriptor that came along.
            Some(b'u' | b'h') => Value::Uint32(self.uint32()?),
            Some(b'x') => Value::Int64(i64::from_le_bytes(self.number()?)),
            Some(b't') => Value::Uint64(u64::from_le_bytes(self.number()?)),
            Some(b'd') => Value::Double(f64::from_le_bytes(self.number()?)),
            Some(b's') => {
                let length = self.uint32()? as usize;
                Value::Text(self.text(length)?)
            }
            Some(b'o') => {
                let length = self.uint32()? as usize;
                Value::Path(self.text(length)?)
            }
            Some(b'g') => Value::Signature(self.signature()?),
            Some(b'v') => {
                let inner = self.signature()?;
                Value::variant(self.one(&inner)?)
            }
            Some(b'a') => self.array(&signature[1..])?,
            Some(b'(') => {
                self.align(8)?;
                Value::Struct(self.several(&signature[1..signature.len() - 1])?)
            }
            Some(b'{') => {
                self.align(8)?;
                let mut pair = self.several(&signature[1..signature.len() - 1])?;
                match (pair.pop(), pair.pop()) {
                    (Some(value), Some(key)) => Value::Entry(Box::new((key, value))),
                    _ => return Err(DbusError::Malformed("an entry is no pair")),
                }
            }
            _ => return Err(DbusError::Malformed("a type is not known")),
        })
    }

    fn several(&mut self, mut signature: &str) -> Result<Vec<Value>, DbusError> {
        let mut values = Vec::new();
        while !signature.is_empty() {
            let (first, rest) = split_signature(signature)?;
            values.push(self.one(first)?);
            signature = rest;
        }
        Ok(values)
    }

    fn array(&mut self, items: &str) -> Result<Value, DbusError> {
        let length = self.uint32()? as usize;
        self.align(alignment(items))?;
        let end = self.at.saturating_add(length);
        if end > self.bytes.len() {
            return Err(DbusError::Malformed("a list is longer than its message"));
        }
        let mut values = Vec::new();
        while self.at < end {
            values.push(self.one(items)?);
        }
        Ok(Value::Array(items.to_owned(), values))
    }
}

/// The first whole type of a signature, and the rest.
fn split_signature(signature: &str) -> Result<(&str, &str), DbusError> {
    const WRONG: DbusError = DbusError::Malformed("a signature is wrong");
    if !signature.is_ascii() {
        return Err(WRONG);
    }
    let bytes = signature.as_bytes();
    let mut at = 0;
    while bytes.get(at) == Some(&b'a') {
        at += 1;
    }
    let mut open = 0_u32;
    loop {
        match bytes.get(at) {
            Some(b'(' | b'{') => open += 1,
            Some(b')' | b'}') => open = open.checked_sub(1).ok_or(WRONG)?,
            Some(_) => {}
            None => return Err(WRONG),
        }
        at += 1;
        if open == 0 {
            return Ok(signature.split_at(at));
        }
    }
}

#[cfg(test)]
mod tests;
