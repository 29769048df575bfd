//! D-Bus, as far as a service manager is asked for a cgroup: call, reply, signal.
//!
//! D-Bus is a stream socket on which two sides exchange messages: a header of
//! fields, and a body of typed values. The types are written as letters, the
//! *signature*: `s` is a text, `u` an unsigned number of 32 bits, `a(sv)` a list
//! of pairs of a text and a value that brings its own signature.
//!
//! ```text
//! we                              bus                         systemd
//!  │ \0 AUTH EXTERNAL … BEGIN      │                             │
//!  │──────────────────────────────▶│ (who we are: the socket's own credentials)
//!  │ Hello ───────────────────────▶│                             │
//!  │ StartTransientUnit ──────────▶│────────────────────────────▶│
//!  │◀────────────────── the job's path ──────────────────────────│
//!  │◀────────────────── signal JobRemoved(job, "done") ──────────│
//! ```
//!
//! The crates that speak all of D-Bus bring an event loop or more code than the
//! rest of this runtime's cgroups. What is needed here is one blocking
//! conversation of five messages, so it is written out: [`wire`] turns values
//! into bytes and back, [`connection`] holds the conversation.
//!
//! See the D-Bus Specification, chapters "Type System", "Message Protocol" and
//! "Authentication Protocol"; `busctl monitor` shows the messages.

/// Opening a bus, calling, waiting for a signal.
pub mod connection;
/// Values and messages as bytes.
pub mod wire;

/// One value of D-Bus.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `y`
    Byte(u8),
    /// `b`
    Bool(bool),
    /// `n`
    Int16(i16),
    /// `q`
    Uint16(u16),
    /// `i`
    Int32(i32),
    /// `u`
    Uint32(u32),
    /// `x`
    Int64(i64),
    /// `t`
    Uint64(u64),
    /// `d`
    Double(f64),
    /// `s`
    Text(String),
    /// `o`: the name of an object.
    Path(String),
    /// `g`
    Signature(String),
    /// `a`: the signature of the items, and the items.
    Array(String, Vec<Value>),
    /// `(…)`
    Struct(Vec<Value>),
    /// `{kv}`, which stands in arrays only.
    Entry(Box<(Value, Value)>),
    /// `v`: a value that brings its signature along.
    Variant(Box<Value>),
}

impl Value {
    /// A text.
    pub fn text(text: impl Into<String>) -> Value {
        Value::Text(text.into())
    }

    /// A value with its signature, as lists of properties have it.
    pub fn variant(inner: Value) -> Value {
        Value::Variant(Box::new(inner))
    }

    /// A list of texts.
    pub fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Value {
        Value::Array("s".to_owned(), texts.into_iter().map(Value::text).collect())
    }

    /// The type, in letters.
    pub fn signature(&self) -> String {
        match self {
            Value::Byte(_) => "y".to_owned(),
            Value::Bool(_) => "b".to_owned(),
            Value::Int16(_) => "n".to_owned(),
            Value::Uint16(_) => "q".to_owned(),
            Value::Int32(_) => "i".to_owned(),
            Value::Uint32(_) => "u".to_owned(),
            Value::Int64(_) => "x".to_owned(),
            Value::Uint64(_) => "t".to_owned(),
            Value::Double(_) => "d".to_owned(),
            Value::Text(_) => "s".to_owned(),
            Value::Path(_) => "o".to_owned(),
            Value::Signature(_) => "g".to_owned(),
            Value::Array(items, _) => format!("a{items}"),
            Value::Struct(fields) => {
                let inner: String = fields.iter().map(Value::signature).collect();
                format!("({inner})")
            }
            Value::Entry(pair) => format!("{{{}{}}}", pair.0.signature(), pair.1.signature()),
            Value::Variant(_) => "v".to_owned(),
        }
    }

    /// The text of a text or a path.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) | Value::Path(text) | Value::Signature(text) => Some(text),
            Value::Variant(inner) => inner.as_text(),
            _ => None,
        }
    }
}

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A question or an order.
    Call,
    /// The answer.
    Reply,
    /// The answer that it went wrong.
    Error,
    /// News for whoever wants them.
    Signal,
}

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// What it is for.
    pub kind: Kind,
    /// Its number, given by who sends it.
    pub serial: u32,
    /// The number of the call that it answers.
    pub reply_to: Option<u32>,
    /// The object.
    pub path: Option<String>,
    /// The object's interface.
    pub interface: Option<String>,
    /// The method or the signal.
    pub member: Option<String>,
    /// The error's name.
    pub error: Option<String>,
    /// Who is to get it.
    pub destination: Option<String>,
    /// Who has sent it; the bus fills it in.
    pub sender: Option<String>,
    /// The arguments.
    pub body: Vec<Value>,
}

impl Message {
    /// An empty message of a kind.
    pub fn new(kind: Kind, serial: u32) -> Message {
        Message {
            kind,
            serial,
            reply_to: None,
            path: None,
            interface: None,
            member: None,
            error: None,
            destination: None,
            sender: None,
            body: Vec::new(),
        }
    }
}

/// Why a conversation failed.
#[derive(Debug, thiserror::Error)]
pub enum DbusError {
    /// An address of a form that is not known.
    #[error("the bus address {0:?} has no part \"unix:path=\" or \"unix:abstract=\"")]
    Address(String),
    /// Nobody listens.
    #[error("no bus at {address}")]
    Connect {
        /// Where.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The bus does not take us for who we are.
    #[error("the bus refused the login: {0:?}")]
    Login(String),
    /// The socket broke.
    #[error("the conversation with the bus broke off")]
    Socket(#[from] std::io::Error),
    /// The other side does not answer.
    #[error("no answer to {member} within {seconds} s")]
    Timeout {
        /// The method or the signal that was waited for.
        member: String,
        /// How long.
        seconds: u64,
    },
    /// Bytes that are no message.
    #[error("a message of the bus cannot be read: {0}")]
    Malformed(&'static str),
    /// The other side says no.
    #[error("{member}: {text} ({name})")]
    Refused {
        /// The method.
        member: String,
        /// The error's name.
        name: String,
        /// Its words.
        text: String,
    },
}

impl DbusError {
    /// Whether the other side refused with an error of this name.
    pub fn is_named(&self, wanted: &str) -> bool {
        matches!(self, DbusError::Refused { name, .. } if name == wanted)
    }
}
