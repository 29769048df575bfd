//! One conversation with a bus: log in, call, wait for a signal.
//!
//! The login is SASL's EXTERNAL: we say nothing about who we are, and the other
//! side looks at the socket's own credentials (`SO_PEERCRED`). That also holds
//! where we are root of a user namespace and an ordinary user outside, for the
//! kernel translates them for whoever looks.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use super::wire::{self, FIXED_HEADER};
use super::{DbusError, Kind, Message, Value};

/// How long the other side may take for an answer, as runc waits for a unit.
const PATIENCE: Duration = Duration::from_secs(30);
/// A line of the login is short.
const LONGEST_LINE: usize = 4096;

/// Whether there is a bus in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A bus, which wants to be greeted and forwards.
    Bus,
    /// The service itself, on a socket of its own.
    Service,
}

/// An object of a service.
#[derive(Debug, Clone, Copy)]
pub struct Object<'a> {
    /// Who has it.
    pub service: &'a str,
    /// Its name.
    pub path: &'a str,
    /// Which of its sides.
    pub interface: &'a str,
}

/// The bus itself.
const BUS: Object<'_> = Object {
    service: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

/// A conversation.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    serial: u32,
    waiting: VecDeque<Message>,
}

impl Connection {
    /// Opens one of the addresses and logs in.
    ///
    /// # Errors
    ///
    /// The last address's failure.
    pub fn open(addresses: &str, peer: Peer) -> Result<Connection, DbusError> {
        let mut last = DbusError::Address(addresses.to_owned());
        for address in addresses.split(';') {
            match connect(address) {
                Ok(stream) => return Connection::log_in(stream, peer),
                Err(DbusError::Address(_)) => {}
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn log_in(stream: UnixStream, peer: Peer) -> Result<Connection, DbusError> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut connection = Connection {
            stream,
            serial: 0,
            waiting: VecDeque::new(),
        };
        // A zero byte first, for systems whose credentials travel with data.
        connection
            .stream
            .write_all(b"\0AUTH EXTERNAL\r\nDATA\r\n")?;
        loop {
            let line = connection.line()?;
            match line.split(' ').next() {
                // It asks for an identity, and the empty one is on its way.
                Some("DATA") => {}
                Some("OK") => break,
                _ => return Err(DbusError::Login(line)),
            }
        }
        connection.stream.write_all(b"BEGIN\r\n")?;
        if peer == Peer::Bus {
            connection.call(&BUS, "Hello", Vec::new())?;
        }
        Ok(connection)
    }

    /// Asks the bus for signals that match a rule.
    ///
    /// # Errors
    ///
    /// As [`Self::call`].
    pub fn add_match(&mut self, rule: &str) -> Result<(), DbusError> {
        self.call(&BUS, "AddMatch", vec![Value::text(rule)])
            .map(drop)
    }

    /// Asks the bus for a name, to be a service.
    ///
    /// # Errors
    ///
    /// As [`Self::call`].
    pub fn request_name(&mut self, name: &str) -> Result<(), DbusError> {
        let body = vec![Value::text(name), Value::Uint32(0)];
        self.call(&BUS, "RequestName", body).map(drop)
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    ///
    /// [`DbusError::Refused`] with the other side's words.
    pub fn call(
        &mut self,
        object: &Object,
        member: &str,
        body: Vec<Value>,
    ) -> Result<Vec<Value>, DbusError> {
        let mut call = Message::new(Kind::Call, 0);
        call.path = Some(object.path.to_owned());
        call.interface = Some(object.interface.to_owned());
        call.destination = Some(object.service.to_owned());
        call.member = Some(member.to_owned());
        call.body = body;
        let serial = self.send(call)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = self.read(deadline, member)?;
            if message.reply_to != Some(serial) {
                self.waiting.push_back(message);
                continue;
            }
            if message.kind == Kind::Reply {
                return Ok(message.body);
            }
            let text = message.body.first().and_then(Value::as_text);
            return Err(DbusError::Refused {
                member: member.to_owned(),
                name: message.error.clone().unwrap_or_default(),
                text: text.unwrap_or("no reason was given").to_owned(),
            });
        }
    }

    /// Waits for a signal of which `wanted` says something.
    ///
    /// # Errors
    ///
    /// [`DbusError::Timeout`].
    pub fn await_signal<T>(
        &mut self,
        member: &str,
        wanted: impl Fn(&[Value]) -> Option<T>,
    ) -> Result<T, DbusError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = match self.waiting.pop_front() {
                Some(message) => message,
                None => self.read(deadline, member)?,
            };
            if message.kind == Kind::Signal
                && message.member.as_deref() == Some(member)
                && let Some(found) = wanted(&message.body)
            {
                return Ok(found);
            }
        }
    }

    /// Sends a message under the next number, which is returned.
    ///
    /// # Errors
    ///
    /// The socket broke.
    pub fn send(&mut self, mut message: Message) -> Result<u32, DbusError> {
        self.serial += 1;
        message.serial = self.serial;
        self.stream.write_all(&wire::encode(&message))?;
        Ok(self.serial)
    }

    /// The next message, whatever it is.
    ///
    /// # Errors
    ///
    /// [`DbusError::Timeout`], naming what was waited for.
    pub fn read(&mut self, deadline: Instant, member: &str) -> Result<Message, DbusError> {
        let mut head = [0; FIXED_HEADER];
        self.fill(&mut head, deadline, member)?;
        let mut bytes = vec![0; wire::message_length(&head)?];
        bytes[..FIXED_HEADER].copy_from_slice(&head);
        self.fill(&mut bytes[FIXED_HEADER..], deadline, member)?;
        wire::decode(&bytes)
    }

    fn fill(&mut self, bytes: &mut [u8], deadline: Instant, member: &str) -> Result<(), DbusError> {
        let late = || DbusError::Timeout {
            member: member.to_owned(),
            seconds: PATIENCE.as_secs(),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late());
        }
        self.stream.set_read_timeout(Some(left))?;
        match self.stream.read_exact(bytes) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(late())
            }
            other => Ok(other?),
        }
    }

    /// A line of the login. Byte by byte: what follows it is no line.
    fn line(&mut self) -> Result<String, DbusError> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            line.push(byte[0]);
            if line.len() > LONGEST_LINE {
                return Err(DbusError::Malformed("a line of the login does not end"));
            }
        }
        line.truncate(line.len() - 2);
        Ok(String::from_utf8_lossy(&line).into_owned())
    }
}

/// `unix:path=/run/dbus/system_bus_socket,guid=…` and `unix:abstract=…`.
fn connect(address: &str) -> Result<UnixStream, DbusError> {
    let unknown = || DbusError::Address(address.to_owned());
    let options = address.strip_prefix("unix:").ok_or_else(unknown)?;
    let option = |name: &str| {
        let mut options = options.split(',');
        options.find_map(|option| option.strip_prefix(name)?.strip_prefix('=').map(unescape))
    };
    let place = match (option("path"), option("abstract")) {
        (Some(path), _) => SocketAddr::from_pathname(std::ffi::OsStr::new(&path)),
        (None, Some(name)) => SocketAddr::from_abstract_name(name.as_bytes()),
        (None, None) => return Err(unknown()),
    };
    let stream = place.and_then(|place| UnixStream::connect_addr(&place));
    stream.map_err(|source| DbusError::Connect {
        address: address.to_owned(),
        source,
    })
}

/// `%2d` and the like, for bytes that an address may not hold as they are.
fn unescape(text: &str) -> String {
    let mut plain = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = (byte == b'%')
            .then(|| std::str::from_utf8(tail.get(..2)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(value) => {
                plain.push(value);
                rest = &tail[2..];
            }
            None => {
                plain.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests;
