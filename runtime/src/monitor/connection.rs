//! One client of the monitor: bytes in, bytes out, never waiting for it.
//!
//! What a client does not read yet is queued up to [`QUEUE_LIMIT_BYTES`]. A
//! client that watches a container's output and falls behind further makes the
//! monitor pause that output for at most [`PATIENCE`]; then the client is
//! dropped, since a container must never stop because somebody looks at it.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::Serialize;

/// The most that waits for a client.
pub const QUEUE_LIMIT_BYTES: usize = 256 * 1024;
/// How far the queue must fall for the client to count as reading again.
const QUEUE_RELIEF_BYTES: usize = 192 * 1024;
/// How long the queue may stay full.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// The longest request, and the most that is read ahead of one.
pub const REQUEST_LIMIT_BYTES: usize = 128 * 1024;

/// What a connection is used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It asks calls.
    Calls,
    /// It asked a call that is not answered yet; it is not read meanwhile.
    Pending,
    /// It waits for a container's end.
    Waits {
        /// The container.
        id: String,
    },
    /// It carries the streams of a container.
    Attached {
        /// The container.
        id: String,
    },
    /// It is told events.
    Subscribed,
    /// It gets what is queued, and is then closed.
    Leaving,
}

/// A client.
#[derive(Debug)]
pub struct Connection {
    /// Names the client among all there ever were.
    pub number: u64,
    /// Nonblocking.
    pub stream: UnixStream,
    /// What it is used for now.
    pub role: Role,
    input: Vec<u8>,
    output: VecDeque<u8>,
    full_since: Option<Instant>,
}

impl Connection {
    /// A new client. `stream` is nonblocking.
    pub fn new(number: u64, stream: UnixStream) -> Connection {
        Connection {
            number,
            stream,
            role: Role::Calls,
            input: Vec::new(),
            output: VecDeque::new(),
            full_since: None,
        }
    }

    /// Whether there is room for more input.
    pub fn takes_input(&self) -> bool {
        matches!(
            self.role,
            Role::Calls | Role::Attached { .. } | Role::Subscribed
        ) && self.input.len() < REQUEST_LIMIT_BYTES
    }

    /// Whether something waits to be written.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether the queue is full: its container's output should pause.
    pub fn is_full(&self) -> bool {
        self.full_since.is_some()
    }

    /// Whether the queue has been full for longer than a container may pause.
    pub fn has_stalled(&self, now: Instant) -> bool {
        self.full_since
            .is_some_and(|since| now.duration_since(since) > PATIENCE)
    }

    /// Reads what has arrived; false when the client has hung up.
    pub fn fill(&mut self, scratch: &mut [u8]) -> bool {
        match self.stream.read(scratch) {
            Ok(0) => false,
            Ok(length) => {
                self.input.extend_from_slice(&scratch[..length]);
                true
            }
            Err(error) => is_transient(&error),
        }
    }

    /// The next whole line of input, without its end.
    pub fn take_line(&mut self) -> Option<Vec<u8>> {
        let end = self.input.iter().position(|byte| *byte == b'\n')?;
        let mut line: Vec<u8> = self.input.drain(..=end).collect();
        line.pop();
        Some(line)
    }

    /// Whether a request has arrived that was not taken.
    pub fn has_request(&self) -> bool {
        self.role == Role::Calls && self.input.contains(&b'\n')
    }

    /// Whether the input is longer than a request may be and has no end.
    pub fn is_flooded(&self) -> bool {
        self.input.len() >= REQUEST_LIMIT_BYTES
    }

    /// The input so far.
    pub fn input(&self) -> &[u8] {
        &self.input
    }

    /// Forgets the first bytes of the input.
    pub fn consume(&mut self, length: usize) {
        self.input.drain(..length);
        if self.input.is_empty() {
            self.input = Vec::new();
        }
    }

    /// Queues a value as one line of JSON.
    pub fn queue_line(&mut self, value: &impl Serialize) {
        match serde_json::to_vec(value) {
            Ok(text) => {
                self.output.extend(text);
                self.output.push_back(b'\n');
            }
            // Of all values only a path that is not UTF-8 has no JSON, and no
            // reply or event holds a path.
            Err(error) => eprintln!("cannot write down a reply: {error}"),
        }
        self.flush();
    }

    /// Queues bytes, and sends what the socket takes at once.
    pub fn queue(&mut self, write: impl FnOnce(&mut VecDeque<u8>)) {
        write(&mut self.output);
        self.flush();
    }

    /// Closes the connection once what is queued is sent.
    pub fn leave(&mut self) {
        self.role = Role::Leaving;
        self.full_since = None;
    }

    /// Sends what the socket takes; a client that is gone has an empty queue.
    pub fn flush(&mut self) {
        while !self.output.is_empty() {
            let (front, _) = self.output.as_slices();
            match self.stream.write(front) {
                Ok(length) => {
                    self.output.drain(..length);
                }
                Err(error) if is_transient(&error) => break,
                Err(_) => {
                    // EPIPE: it reads no more; its hang-up is seen when polled.
                    self.output.clear();
                }
            }
        }
        if self.output.is_empty() && self.output.capacity() > 4096 {
            self.output = VecDeque::new();
        }
        self.note_fullness();
    }

    fn note_fullness(&mut self) {
        if self.role == Role::Leaving {
            self.full_since = None;
        } else if self.output.len() > QUEUE_LIMIT_BYTES {
            self.full_since.get_or_insert_with(Instant::now);
        } else if self.output.len() < QUEUE_RELIEF_BYTES {
            self.full_since = None;
        }
    }
}

/// Whether a call on a nonblocking descriptor may be tried again later.
pub fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Connection::new(1, ours), theirs)
    }

    #[test]
    fn lines_are_taken_whole_and_the_rest_stays() {
        let (mut connection, mut client) = pair();
        client.write_all(b"one\ntw").unwrap();
        assert!(connection.fill(&mut [0; 64]));
        assert_eq!(connection.take_line().unwrap(), b"one");
        assert_eq!(connection.take_line(), None);
        assert_eq!(connection.input(), b"tw");
        drop(client);
        assert!(!connection.fill(&mut [0; 64]));
    }

    #[test]
    fn a_client_that_does_not_read_fills_its_queue_and_one_that_does_empties_it() {
        let (mut connection, mut client) = pair();
        while !connection.is_full() {
            connection.queue(|out| out.extend([0; 4096]));
        }
        assert!(!connection.has_stalled(Instant::now()));
        assert!(connection.has_stalled(Instant::now() + PATIENCE * 2));
        let mut piece = vec![0; 64 * 1024];
        while connection.has_output() {
            client.read_exact(&mut piece[..4096]).unwrap();
            connection.flush();
        }
        assert!(!connection.is_full());
    }
}
