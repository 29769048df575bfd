//! One stream of a connection, as something to read or to write.
//!
//! SPDY and WebSocket both carry several streams over one connection. Towards
//! the engine each is a plain reader or writer; towards the connection it is a
//! queue of pieces:
//!
//! ```text
//! socket ─▶ reading task ─▶ [8 pieces] ─▶ ChannelReader          one queue a stream
//! socket ◀─ writing task ◀─ [8 pieces] ◀─ ChannelWriter, others  one queue for all
//! ```
//!
//! The queues are short and their senders wait. That is all the flow control
//! there is: who reads slowly fills a queue, then the socket, then the other
//! end's memory. SPDY's own windows cannot be used, because the clients there
//! are never widen them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;
use tokio_util::sync::PollSender;

/// The largest piece that is written at once.
pub const PIECE_LIMIT_BYTES: usize = 32 << 10;
/// Pieces that wait in a queue.
pub const QUEUE_PIECES: usize = 8;

/// Bytes that arrive on a stream, in their order.
pub type ChannelReader = StreamReader<ReceiverStream<io::Result<Bytes>>, Bytes>;

/// Where the reading task puts what arrives on a stream.
pub type ChannelQueue = mpsc::Sender<io::Result<Bytes>>;

/// What the writing task is to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// A piece of a stream; after `end` nothing more of it is sent.
    Piece {
        /// The stream.
        channel: u32,
        /// The bytes.
        bytes: Bytes,
        /// Nothing follows.
        end: bool,
    },
    /// The stream is given up in both directions.
    Reset {
        /// The stream.
        channel: u32,
    },
    /// All has been said: end the connection once it has been sent.
    Close,
}

/// A queue for what arrives, and its reader.
pub fn inbound() -> (ChannelQueue, ChannelReader) {
    let (sender, receiver) = mpsc::channel(QUEUE_PIECES);
    (sender, StreamReader::new(ReceiverStream::new(receiver)))
}

/// Writes a stream. Dropping it does not end the stream; shutting it down does.
#[derive(Debug)]
pub struct ChannelWriter {
    channel: u32,
    sender: PollSender<Outgoing>,
    ended: bool,
}

impl ChannelWriter {
    /// Of one stream of a connection.
    pub fn new(channel: u32, sender: mpsc::Sender<Outgoing>) -> Self {
        Self {
            channel,
            sender: PollSender::new(sender),
            ended: false,
        }
    }

    /// The stream's number.
    pub fn channel(&self) -> u32 {
        self.channel
    }
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.sender.poll_reserve(context)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        let count = bytes.len().min(PIECE_LIMIT_BYTES);
        let piece = Outgoing::Piece {
            channel: self.channel,
            bytes: Bytes::copy_from_slice(&bytes[..count]),
            end: false,
        };
        self.sender
            .send_item(piece)
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        Poll::Ready(Ok(count))
    }

    /// The writing task sends at once whatever it gets.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        ready!(self.sender.poll_reserve(context)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        let piece = Outgoing::Piece {
            channel: self.channel,
            bytes: Bytes::new(),
            end: true,
        };
        self.ended = true;
        self.sender
            .send_item(piece)
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        Poll::Ready(Ok(()))
    }
}
