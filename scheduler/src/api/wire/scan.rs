//! The grammar of protocol buffers: a message is a row of keys, each followed by a content.
//!
//! ```text
//!  key = varint( number << 3 | type )        type 0: varint
//!                                                 1: eight bytes
//!  varint: seven bits a byte, the lowest          2: varint length, and as many bytes
//!  first; the high bit says "more"                3: fields, until a key of type 4 (a group)
//!                                                 5: four bytes
//! ```
//!
//! Read more: <https://protobuf.dev/programming-guides/encoding/>

use super::WireError;

/// How deep groups may nest. Kubernetes has none; whoever sends one is passed over.
const GROUPS_LIMIT: u32 = 32;

/// The content of one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// A number, a boolean.
    Number(u64),
    /// A text, bytes, a message, an entry of a map.
    Bytes(&'a [u8]),
    /// What no field of Kubernetes is: eight bytes, four bytes, a group.
    Other,
}

impl<'a> Content<'a> {
    /// What must be bytes.
    ///
    /// # Errors
    ///
    /// If it is something else.
    pub fn bytes(self) -> Result<&'a [u8], WireError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(WireError::new("a length and bytes were expected")),
        }
    }

    /// What must be a number.
    ///
    /// # Errors
    ///
    /// If it is something else.
    pub fn number(self) -> Result<u64, WireError> {
        match self {
            Self::Number(number) => Ok(number),
            _ => Err(WireError::new("a number was expected")),
        }
    }

    /// What must be a text. Bytes that are no UTF-8 become U+FFFD, as in Go's JSON: a kubelet
    /// cuts messages of events by bytes.
    ///
    /// # Errors
    ///
    /// If it is something else.
    pub fn text(self) -> Result<String, WireError> {
        Ok(String::from_utf8_lossy(self.bytes()?).into_owned())
    }
}

/// Goes along the fields of a message.
#[derive(Debug)]
pub struct Scanner<'a> {
    rest: &'a [u8],
}

impl<'a> Scanner<'a> {
    /// At a message's beginning.
    #[must_use]
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field's number and content; none at the message's end.
    ///
    /// # Errors
    ///
    /// If the message ends within a field, or a key is none.
    pub fn next_field(&mut self) -> Result<Option<(u32, Content<'a>)>, WireError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (number, wire_type) = self.key()?;
        let content = match wire_type {
            3 => self.group().map(|()| Content::Other),
            4 => Err(WireError::new("a group ends that did not begin")),
            wire_type => self.content(wire_type),
        };
        content
            .map(|content| Some((number, content)))
            .map_err(|error| error.within(format!("field {number}")))
    }

    /// The next varint, as elements of packed lists are.
    ///
    /// # Errors
    ///
    /// If the message ends within it, or it is longer than 64 bits.
    pub fn varint(&mut self) -> Result<u64, WireError> {
        let mut number = 0;
        for (place, byte) in self.rest.iter().enumerate().take(10) {
            // What the tenth byte has beyond 64 bits is lost, as everywhere.
            number |= u64::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[place + 1..];
                return Ok(number);
            }
        }
        Err(WireError::new(if self.rest.len() < 10 {
            "the message ends within a number"
        } else {
            "a number is longer than 64 bits"
        }))
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    fn key(&mut self) -> Result<(u32, u64), WireError> {
        let key = self.varint()?;
        // 29 bits, and none of them is refused as Go does it: zero is no number.
        match u32::try_from(key >> 3) {
            Ok(number @ 1..0x2000_0000) => Ok((number, key & 7)),
            _ => Err(WireError::new(format!("{} is no field's number", key >> 3))),
        }
    }

    fn content(&mut self, wire_type: u64) -> Result<Content<'a>, WireError> {
        match wire_type {
            0 => self.varint().map(Content::Number),
            1 => self.take(8).map(|_| Content::Other),
            2 => {
                let length = self.varint()?;
                self.take(length).map(Content::Bytes)
            }
            5 => self.take(4).map(|_| Content::Other),
            other => Err(WireError::new(format!("there is no wire type {other}"))),
        }
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], WireError> {
        let parts = usize::try_from(length)
            .ok()
            .and_then(|length| self.rest.split_at_checked(length));
        let Some((taken, rest)) = parts else {
            return Err(WireError::new(format!(
                "its {length} bytes lead beyond the message, which has {} left",
                self.rest.len()
            )));
        };
        self.rest = rest;
        Ok(taken)
    }

    /// Passes over a group, whose beginning was read.
    fn group(&mut self) -> Result<(), WireError> {
        let mut open = 1;
        while open > 0 {
            match self.key()?.1 {
                3 if open == GROUPS_LIMIT => {
                    return Err(WireError::new("groups are nested too deep"));
                }
                3 => open += 1,
                4 => open -= 1,
                wire_type => drop(self.content(wire_type)?),
            }
        }
        Ok(())
    }
}
