//! One connection: a task that reads messages, one that writes them.
//!
//! The client's pings are answered by the WebSocket library while messages are
//! read. A program that does not take its input stops the reading, and after a
//! minute without answers a client gives up: one queue for all channels is the
//! nature of this protocol, and dropping input would be worse.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};
use tokio_util::sync::CancellationToken;

use crate::server::streaming::channel::{
    ChannelQueue, ChannelReader, ChannelWriter, Outgoing, QUEUE_PIECES, inbound,
};
use crate::server::streaming::idle::Idle;

/// The largest message that is read. Clients send 32 KiB at a time, simple ones
/// all they have.
pub const MESSAGE_LIMIT_BYTES: usize = 4 << 20;
/// How long a client that has got everything may take to close.
const DRAIN: Duration = Duration::from_secs(30);
/// The channel whose messages end others.
const END_OF_CHANNEL: u8 = 255;

/// How channels are put in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// A byte with the number, then the bytes.
    Binary,
    /// A digit, then base64, for clients that can only send text.
    Base64,
}

/// Whether a client can end a channel and go on with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HalfClose {
    /// By a message on channel 255 (v5).
    Signalled,
    /// It can only close the connection.
    Never,
}

/// How a connection is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framing {
    /// How channels are put in messages.
    pub encoding: Encoding,
    /// Whether the client can end a channel.
    pub half_close: HalfClose,
    /// How long it may be silent in both directions.
    pub idle: Duration,
}

/// The server's end of a connection.
#[derive(Debug)]
pub struct Connection {
    outgoing: mpsc::Sender<Outgoing>,
    gone: CancellationToken,
    reading: JoinHandle<()>,
    writing: JoinHandle<()>,
}

/// A WebSocket over a transport whose handshake is done.
pub async fn over<T>(transport: T) -> WebSocketStream<T>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_LIMIT_BYTES))
        .max_frame_size(Some(MESSAGE_LIMIT_BYTES))
        .read_buffer_size(64 << 10);
    WebSocketStream::from_raw_socket(transport, Role::Server, Some(config)).await
}

impl Connection {
    /// Begins to serve a transport; the readers are of the channels `from_client`,
    /// in that order.
    pub async fn start<T>(
        transport: T,
        framing: Framing,
        from_client: &[u8],
    ) -> (Self, Vec<ChannelReader>)
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let encoding = framing.encoding;
        let (sink, stream) = over(transport).await.split();
        let (outgoing, to_send) = mpsc::channel(QUEUE_PIECES);
        let mut queues = HashMap::new();
        let mut readers = Vec::new();
        for number in from_client {
            let (queue, reader) = inbound();
            queues.insert(*number, queue);
            readers.push(reader);
        }
        let gone = CancellationToken::new();
        let idle = Arc::new(Idle::new(framing.idle));
        let reader = Reader {
            stream,
            encoding,
            half_close: framing.half_close,
            queues,
            idle: idle.clone(),
        };
        let connection = Self {
            outgoing,
            gone: gone.clone(),
            reading: tokio::spawn(reader.run(gone.clone())),
            writing: tokio::spawn(write_messages(sink, encoding, to_send, (idle, gone))),
        };
        (connection, readers)
    }

    /// Set when the client has gone.
    pub fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    /// Where pieces go.
    pub fn outgoing(&self) -> mpsc::Sender<Outgoing> {
        self.outgoing.clone()
    }

    /// Writes one channel.
    pub fn writer(&self, channel: u8) -> ChannelWriter {
        ChannelWriter::new(u32::from(channel), self.outgoing.clone())
    }

    /// Sends what is queued, says farewell, and waits until the client has closed.
    pub async fn close(mut self) {
        let _ = self.outgoing.send(Outgoing::Close).await;
        let _ = self.writing.await;
        if tokio::time::timeout(DRAIN, &mut self.reading)
            .await
            .is_err()
        {
            self.reading.abort();
        }
    }
}

struct Reader<T> {
    stream: SplitStream<WebSocketStream<T>>,
    encoding: Encoding,
    half_close: HalfClose,
    queues: HashMap<u8, ChannelQueue>,
    idle: Arc<Idle>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Reader<T> {
    async fn run(mut self, gone: CancellationToken) {
        let idle = self.idle.clone();
        let reason = tokio::select! {
            reason = self.read() => reason,
            () = idle.expired() => "nothing was heard for too long".to_owned(),
        };
        tracing::debug!("a WebSocket ends: {reason}");
        gone.cancel();
        // Cut off is not ended: who still reads is to see the difference.
        for queue in self.queues.values() {
            let _ = queue.try_send(Err(io::ErrorKind::ConnectionReset.into()));
        }
    }

    /// Why there is nothing more to read.
    async fn read(&mut self) -> String {
        while let Some(message) = self.stream.next().await {
            self.idle.touch();
            let taken = match message {
                Ok(Message::Binary(bytes)) => self.take(bytes).await,
                Ok(Message::Text(text)) => self.take(text.into()).await,
                Ok(Message::Close(_)) => return "the client closed it".to_owned(),
                // The library answers pings.
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => Ok(()),
                Err(error) => return error.to_string(),
            };
            if let Err(reason) = taken {
                return reason.to_owned();
            }
        }
        "the client went".to_owned()
    }

    /// The agreed form counts, not whether the message says text or binary.
    async fn take(&mut self, message: Bytes) -> Result<(), &'static str> {
        let Some((channel, bytes)) = read_message(self.encoding, message)? else {
            return Ok(());
        };
        if channel == END_OF_CHANNEL && self.half_close == HalfClose::Signalled {
            let ended = bytes.first().ok_or("an end without a channel")?;
            self.queues.remove(ended);
            return Ok(());
        }
        if let Some(queue) = self.queues.get(&channel)
            && !bytes.is_empty()
        {
            // Nobody may listen any more: the bytes are of no use then.
            let _ = queue.send(Ok(bytes)).await;
        }
        Ok(())
    }
}

/// The channel and the bytes of a message; none for an empty one. Pure.
fn read_message(
    encoding: Encoding,
    mut message: Bytes,
) -> Result<Option<(u8, Bytes)>, &'static str> {
    if message.is_empty() {
        return Ok(None);
    }
    let rest = message.split_off(1);
    let number = message[0];
    match encoding {
        Encoding::Binary => Ok(Some((number, rest))),
        Encoding::Base64 => {
            let number = number
                .checked_sub(b'0')
                .ok_or("a message that does not begin with a digit")?;
            let bytes = STANDARD
                .decode(rest)
                .map_err(|_| "a message that is no base64")?;
            Ok(Some((number, bytes.into())))
        }
    }
}

/// A message with a piece of a channel. Pure.
fn plan_message(encoding: Encoding, channel: u8, bytes: &[u8]) -> Message {
    match encoding {
        Encoding::Binary => {
            let mut message = BytesMut::with_capacity(1 + bytes.len());
            message.put_u8(channel);
            message.put_slice(bytes);
            Message::Binary(message.freeze())
        }
        Encoding::Base64 => {
            let mut message = String::from(char::from(b'0'.wrapping_add(channel)));
            STANDARD.encode_string(bytes, &mut message);
            Message::Text(message.into())
        }
    }
}

async fn write_messages<T>(
    mut sink: SplitSink<WebSocketStream<T>, Message>,
    encoding: Encoding,
    mut to_send: mpsc::Receiver<Outgoing>,
    (idle, gone): (Arc<Idle>, CancellationToken),
) where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let writing = async {
        while let Some(outgoing) = to_send.recv().await {
            match outgoing {
                Outgoing::Piece { bytes, end, .. } if end && bytes.is_empty() => {}
                Outgoing::Piece { channel, bytes, .. } => {
                    let channel = u8::try_from(channel).unwrap_or(END_OF_CHANNEL);
                    sink.send(plan_message(encoding, channel, &bytes)).await?;
                }
                Outgoing::Reset { .. } => {}
                Outgoing::Close => {
                    let farewell = CloseFrame {
                        code: CloseCode::Normal,
                        reason: "".into(),
                    };
                    sink.send(Message::Close(Some(farewell))).await?;
                    break;
                }
            }
            idle.touch();
        }
        Ok::<(), WebSocketError>(())
    };
    tokio::select! {
        outcome = writing => {
            if outcome.is_err() {
                gone.cancel();
            }
        }
        () = gone.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_both_forms_are_read_as_written() {
        for encoding in [Encoding::Binary, Encoding::Base64] {
            let message = plan_message(encoding, 3, b"\0\xff text");
            let read = read_message(encoding, message.into_data()).unwrap();
            assert_eq!(read, Some((3, Bytes::from_static(b"\0\xff text"))));
        }
        let text = plan_message(Encoding::Base64, 1, b"ab");
        assert_eq!(text, Message::Text("1YWI=".into()));
        assert_eq!(read_message(Encoding::Binary, Bytes::new()), Ok(None));
        assert!(read_message(Encoding::Base64, Bytes::from_static(b"0*")).is_err());
        assert!(read_message(Encoding::Base64, Bytes::from_static(b"\0YWI=")).is_err());
    }
}
