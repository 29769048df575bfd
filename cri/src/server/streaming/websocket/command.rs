//! Exec and attach over WebSocket: the channels are there from the beginning.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Connection, Encoding, Framing, HalfClose};
use crate::engine::Engine;
use crate::server::streaming::channel::Outgoing;
use crate::server::streaming::command::{self, Channels, Command};
use crate::server::streaming::status::Wording;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// What a version of the protocol can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// How channels are put in messages.
    pub encoding: Encoding,
    /// Whether the client can end a channel.
    pub half_close: HalfClose,
    /// How it is told of the end.
    pub wording: Wording,
}

/// Serves one client to its end.
pub async fn serve<T>(engine: &Engine, transport: T, form: Form, command: &Command)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let wanted = command.streams;
    let framing = Framing {
        encoding: form.encoding,
        half_close: form.half_close,
        idle: command.limits.idle,
    };
    let (connection, readers) = Connection::start(transport, framing, &[STDIN, RESIZE]).await;
    let mut readers = readers.into_iter();
    let (stdin, resize) = (readers.next(), readers.next());
    // Clients wait for a first message to know that the streams are there.
    let first = match (wanted.stdout, wanted.stderr) {
        (true, _) => STDOUT,
        (false, true) => STDERR,
        (false, false) => ERROR,
    };
    let outgoing = connection.outgoing();
    let empty = Outgoing::Piece {
        channel: u32::from(first),
        bytes: Bytes::new(),
        end: false,
    };
    // A client that has gone already shows as such below.
    let _ = outgoing.send(empty).await;
    let channels = Channels {
        stdin: stdin.filter(|_| wanted.stdin),
        stdout: wanted.stdout.then(|| connection.writer(STDOUT)),
        stderr: wanted.stderr.then(|| connection.writer(STDERR)),
        error: connection.writer(ERROR),
        resize: resize.filter(|_| wanted.terminal),
        outgoing,
        gone: connection.gone(),
    };
    command::run(engine, command, form.wording, channels).await;
    connection.close().await;
}
