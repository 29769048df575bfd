//! One connection: a task that reads frames, one that writes them, and streams.
//!
//! What must never happen, and what is done about it:
//!
//! - A byte is lost. Queues are bounded and their senders wait; the reading task
//!   waits for the slowest stream.
//! - The tail of the output is lost. Closing a socket in which unread bytes wait
//!   makes TCP send a reset, and a reset throws away what the peer has not read
//!   yet. A client's PINGs are such bytes. So after the last frame only our
//!   direction is shut, and we go on reading until the client has closed.
//! - A peer makes us keep much. Streams, frames, header blocks and answers that
//!   wait all have limits; who breaks one gets a GOAWAY.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::codec::{Encoder, FramedRead};
use tokio_util::sync::CancellationToken;

use super::frame::{Frame, FrameCodec, FrameError, StreamId, goaway, reset};
use super::headers::{Deflater, HeaderError, Headers, Inflater};
use crate::server::streaming::channel::{
    ChannelQueue, ChannelReader, ChannelWriter, Outgoing, QUEUE_PIECES, inbound,
};
use crate::server::streaming::idle::Idle;

/// Streams that may be open at once.
pub const STREAM_LIMIT: usize = 1024;
/// Answers (to PINGs, to new streams) that may wait for a peer that does not read.
const ANSWER_LIMIT: usize = 256;
/// Streams that wait to be accepted.
const BACKLOG: usize = 16;
/// How much is gathered before it is written.
const WRITE_BATCH_BYTES: usize = 64 << 10;
/// How long a peer that broke the protocol may take to read that it did.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long a peer that has got everything may take to close.
const DRAIN: Duration = Duration::from_secs(30);

/// A stream that the client has opened.
#[derive(Debug)]
pub struct SpdyStream {
    /// Its number.
    pub id: StreamId,
    /// What the client says of it.
    pub headers: Headers,
    /// What the client sends.
    pub reader: ChannelReader,
    /// What the client gets.
    pub writer: ChannelWriter,
    /// Set when either end gave the stream up.
    pub reset: CancellationToken,
}

/// The server's end of a connection.
#[derive(Debug)]
pub struct Connection {
    incoming: mpsc::Receiver<SpdyStream>,
    outgoing: mpsc::Sender<Outgoing>,
    gone: CancellationToken,
    reading: JoinHandle<()>,
    writing: JoinHandle<()>,
}

/// What both tasks look at.
#[derive(Debug)]
struct Shared {
    streams: Mutex<HashMap<StreamId, Open>>,
    idle: Idle,
    /// The session should end: the peer has gone or broke the protocol.
    gone: CancellationToken,
    /// The tasks should end.
    stop: CancellationToken,
}

/// A stream that is open in one direction at least.
#[derive(Debug)]
struct Open {
    /// None once the peer has ended its direction.
    queue: Option<ChannelQueue>,
    /// We have ended ours.
    ended: bool,
    reset: CancellationToken,
}

/// What the reading task has to say to the peer.
#[derive(Debug)]
enum Answer {
    Reply(StreamId),
    Reset(StreamId, u32),
    Pong(u32),
    /// The last word.
    GoAway(StreamId),
}

/// Why reading ended.
#[derive(Debug)]
enum End {
    /// The peer closed, or the connection broke.
    Closed,
    /// It broke the protocol; the last stream we took.
    Broken(StreamId, String),
}

impl Connection {
    /// Begins to serve a transport on which SPDY was agreed.
    pub fn start<T>(transport: T, idle_limit: Duration) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(transport);
        let shared = Arc::new(Shared {
            streams: Mutex::new(HashMap::new()),
            idle: Idle::new(idle_limit),
            gone: CancellationToken::new(),
            stop: CancellationToken::new(),
        });
        let (answers, to_answer) = mpsc::channel(ANSWER_LIMIT);
        let (outgoing, to_send) = mpsc::channel(QUEUE_PIECES);
        let (accepted, incoming) = mpsc::channel(BACKLOG);
        let writing = tokio::spawn(write_frames(shared.clone(), write, to_answer, to_send));
        let reader = Reader {
            shared: shared.clone(),
            frames: FramedRead::with_capacity(read, FrameCodec::default(), WRITE_BATCH_BYTES),
            inflater: Inflater::default(),
            last: 0,
            answers,
            accepted,
            outgoing: outgoing.clone(),
        };
        Self {
            incoming,
            outgoing,
            gone: shared.gone.clone(),
            reading: tokio::spawn(reader.run()),
            writing,
        }
    }

    /// The next stream that the client opens; none when the connection ends.
    pub async fn accept(&mut self) -> Option<SpdyStream> {
        self.incoming.recv().await
    }

    /// Set when the client has gone.
    pub fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    /// Gives up a stream in both directions.
    pub async fn reset(outgoing: &mpsc::Sender<Outgoing>, stream: StreamId) {
        // A connection that is over needs no reset.
        let _ = outgoing.send(Outgoing::Reset { channel: stream }).await;
    }

    /// Where pieces and resets go.
    pub fn outgoing(&self) -> mpsc::Sender<Outgoing> {
        self.outgoing.clone()
    }

    /// Sends what is queued, says farewell, and waits until the client has
    /// closed. It has read everything then, if it wanted to.
    pub async fn close(self) {
        let Self {
            incoming,
            outgoing,
            mut reading,
            writing,
            ..
        } = self;
        // New streams are refused from here on.
        drop(incoming);
        let _ = outgoing.send(Outgoing::Close).await;
        let _ = writing.await;
        if tokio::time::timeout(DRAIN, &mut reading).await.is_err() {
            reading.abort();
        }
    }
}

impl Shared {
    fn streams(&self) -> MutexGuard<'_, HashMap<StreamId, Open>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// We have sent the last piece of a stream, unless we had before.
    fn end_ours(&self, stream: StreamId) {
        let mut streams = self.streams();
        if let Some(open) = streams.get_mut(&stream) {
            open.ended = true;
            if open.queue.is_none() {
                streams.remove(&stream);
            }
        }
    }

    fn may_send(&self, stream: StreamId) -> bool {
        self.streams().get(&stream).is_some_and(|open| !open.ended)
    }

    /// The peer has sent the last piece of a stream.
    fn end_theirs(&self, stream: StreamId) {
        let mut streams = self.streams();
        if let Some(open) = streams.get_mut(&stream) {
            open.queue = None;
            if open.ended {
                streams.remove(&stream);
            }
        }
    }

    fn queue(&self, stream: StreamId) -> Option<ChannelQueue> {
        self.streams().get(&stream)?.queue.clone()
    }

    fn forget(&self, stream: StreamId) -> Option<Open> {
        let open = self.streams().remove(&stream)?;
        open.reset.cancel();
        Some(open)
    }
}

struct Reader<R> {
    shared: Arc<Shared>,
    frames: FramedRead<ReadHalf<R>, FrameCodec>,
    inflater: Inflater,
    /// The last stream that the client opened.
    last: StreamId,
    answers: mpsc::Sender<Answer>,
    accepted: mpsc::Sender<SpdyStream>,
    outgoing: mpsc::Sender<Outgoing>,
}

impl<R: AsyncRead> Reader<R> {
    async fn run(mut self) {
        let shared = self.shared.clone();
        let end = tokio::select! {
            end = self.read() => end,
            () = shared.stop.cancelled() => End::Closed,
            () = shared.idle.expired() => End::Broken(0, "nothing was heard for too long".into()),
        };
        shared.gone.cancel();
        if let End::Broken(last, reason) = end {
            tracing::debug!("a SPDY connection ends: {reason}");
            if self.answers.try_send(Answer::GoAway(last)).is_ok() {
                // The writing task stops by itself after this answer.
                let _ = tokio::time::timeout(FAREWELL, shared.stop.cancelled()).await;
            }
        }
        shared.stop.cancel();
        // Dropping the queues ends the readers of all streams; a stream that was
        // cut off must not look as if it had ended well.
        let open: Vec<Open> = shared.streams().drain().map(|(_, open)| open).collect();
        for open in open {
            open.reset.cancel();
            if let Some(queue) = open.queue {
                let _ = queue.try_send(Err(io::ErrorKind::ConnectionReset.into()));
            }
        }
    }

    async fn read(&mut self) -> End {
        while let Some(frame) = self.frames.next().await {
            self.shared.idle.touch();
            let outcome = match frame {
                Ok(frame) => self.take(frame).await,
                Err(FrameError::Io(_)) => return End::Closed,
                Err(error) => Err(error.to_string()),
            };
            if let Err(reason) = outcome {
                return End::Broken(self.last, reason);
            }
        }
        End::Closed
    }

    async fn take(&mut self, frame: Frame) -> Result<(), String> {
        match frame {
            Frame::Data { stream, end, bytes } => {
                if stream > self.last {
                    return self.answer(Answer::Reset(stream, reset::INVALID_STREAM));
                }
                if let Some(queue) = self.shared.queue(stream)
                    && !bytes.is_empty()
                {
                    // Nobody may listen any more: the bytes are of no use then.
                    let _ = queue.send(Ok(bytes)).await;
                }
                if end {
                    self.shared.end_theirs(stream);
                }
                Ok(())
            }
            Frame::SynStream {
                stream, end, block, ..
            } => {
                let headers = self.inflater.read(&block).map_err(told)?;
                self.open(stream, end, headers).await
            }
            Frame::SynReply { block, .. } => {
                self.inflater.read(&block).map_err(told)?;
                Err("the answer to a stream that was not asked for".to_owned())
            }
            Frame::Headers { stream, end, block } => {
                self.inflater.read(&block).map_err(told)?;
                if end {
                    self.shared.end_theirs(stream);
                }
                Ok(())
            }
            Frame::RstStream { stream, .. } => {
                let queue = self.shared.forget(stream).and_then(|open| open.queue);
                if let Some(queue) = queue {
                    let _ = queue.try_send(Err(io::ErrorKind::ConnectionReset.into()));
                }
                Ok(())
            }
            // An even number would be one of ours, and we send none.
            Frame::Ping { id } if id % 2 == 1 => self.answer(Answer::Pong(id)),
            Frame::Ping { .. }
            | Frame::Settings { .. }
            | Frame::GoAway { .. }
            | Frame::WindowUpdate { .. }
            | Frame::Unknown { .. } => Ok(()),
        }
    }

    async fn open(&mut self, stream: StreamId, end: bool, headers: Headers) -> Result<(), String> {
        if stream.is_multiple_of(2) || stream <= self.last {
            return Err(format!("stream {stream} opened after {}", self.last));
        }
        self.last = stream;
        if self.shared.streams().len() >= STREAM_LIMIT || self.accepted.is_closed() {
            return self.answer(Answer::Reset(stream, reset::REFUSED_STREAM));
        }
        let (queue, reader) = inbound();
        let given_up = CancellationToken::new();
        let open = Open {
            queue: (!end).then_some(queue),
            ended: false,
            reset: given_up.clone(),
        };
        self.shared.streams().insert(stream, open);
        self.answer(Answer::Reply(stream))?;
        let accepted = SpdyStream {
            id: stream,
            headers,
            reader,
            writer: ChannelWriter::new(stream, self.outgoing.clone()),
            reset: given_up,
        };
        if self.accepted.send(accepted).await.is_err() {
            self.shared.forget(stream);
            return self.answer(Answer::Reset(stream, reset::REFUSED_STREAM));
        }
        Ok(())
    }

    /// Waiting here could wait for ever: for a peer that waits for us to read.
    fn answer(&self, answer: Answer) -> Result<(), String> {
        self.answers
            .try_send(answer)
            .map_err(|_| "the peer asks on and does not read the answers".to_owned())
    }
}

fn told(error: HeaderError) -> String {
    error.to_string()
}

async fn write_frames<W: AsyncWrite>(
    shared: Arc<Shared>,
    write: WriteHalf<W>,
    answers: mpsc::Receiver<Answer>,
    outgoing: mpsc::Receiver<Outgoing>,
) {
    let mut writer = Writer {
        shared: shared.clone(),
        write,
        answers,
        outgoing,
        codec: FrameCodec::default(),
        batch: BytesMut::with_capacity(WRITE_BATCH_BYTES),
    };
    let outcome = tokio::select! {
        outcome = writer.run() => outcome,
        () = shared.stop.cancelled() => Ok(Last::Broken),
    };
    match outcome {
        // The reading task waits for the peer to close.
        Ok(Last::Close) => {}
        Ok(Last::Broken) | Err(_) => {
            shared.gone.cancel();
            shared.stop.cancel();
        }
    }
}

/// How writing ended.
enum Last {
    /// All was sent.
    Close,
    /// The peer was told that it broke the protocol.
    Broken,
}

struct Writer<W> {
    shared: Arc<Shared>,
    write: WriteHalf<W>,
    answers: mpsc::Receiver<Answer>,
    outgoing: mpsc::Receiver<Outgoing>,
    codec: FrameCodec,
    batch: BytesMut,
}

impl<W: AsyncWrite> Writer<W> {
    async fn run(&mut self) -> Result<Last, FrameError> {
        let mut deflater = Deflater::new().map_err(|_| io::ErrorKind::Unsupported)?;
        loop {
            let last = tokio::select! {
                biased;
                Some(answer) = self.answers.recv() => self.put_answer(answer, &mut deflater)?,
                Some(outgoing) = self.outgoing.recv() => self.put(outgoing)?,
                else => Some(Last::Close),
            };
            let last = match last {
                Some(last) => Some(last),
                None => self.gather()?,
            };
            self.write.write_all(&self.batch).await?;
            self.write.flush().await?;
            self.batch.clear();
            self.shared.idle.touch();
            if let Some(last) = last {
                self.write.shutdown().await?;
                return Ok(last);
            }
        }
    }

    /// Takes what is queued already, so that small pieces share a write.
    fn gather(&mut self) -> Result<Option<Last>, FrameError> {
        while self.batch.len() < WRITE_BATCH_BYTES {
            let Ok(outgoing) = self.outgoing.try_recv() else {
                break;
            };
            let last = self.put(outgoing)?;
            if last.is_some() {
                return Ok(last);
            }
        }
        Ok(None)
    }

    fn put(&mut self, outgoing: Outgoing) -> Result<Option<Last>, FrameError> {
        let frame = match outgoing {
            Outgoing::Piece {
                channel,
                bytes,
                end,
            } => {
                // The peer may have given the stream up, or it has ended.
                if !self.shared.may_send(channel) {
                    return Ok(None);
                }
                if end {
                    self.shared.end_ours(channel);
                }
                Frame::Data {
                    stream: channel,
                    end,
                    bytes,
                }
            }
            Outgoing::Reset { channel } => {
                if self.shared.forget(channel).is_none() {
                    return Ok(None);
                }
                Frame::RstStream {
                    stream: channel,
                    status: reset::CANCEL,
                }
            }
            Outgoing::Close => {
                let frame = Frame::GoAway {
                    last_good: 0,
                    status: goaway::OK,
                };
                self.codec.encode(frame, &mut self.batch)?;
                return Ok(Some(Last::Close));
            }
        };
        self.codec.encode(frame, &mut self.batch)?;
        Ok(None)
    }

    fn put_answer(
        &mut self,
        answer: Answer,
        deflater: &mut Deflater,
    ) -> Result<Option<Last>, FrameError> {
        let (frame, last) = match answer {
            Answer::Reply(stream) => {
                let block = deflater
                    .write(&Headers::default())
                    .map_err(|_| io::ErrorKind::InvalidData)?;
                let reply = Frame::SynReply {
                    stream,
                    end: false,
                    block,
                };
                (reply, None)
            }
            Answer::Reset(stream, status) => (Frame::RstStream { stream, status }, None),
            Answer::Pong(id) => (Frame::Ping { id }, None),
            Answer::GoAway(last_good) => {
                let frame = Frame::GoAway {
                    last_good,
                    status: goaway::PROTOCOL_ERROR,
                };
                (frame, Some(Last::Broken))
            }
        };
        self.codec.encode(frame, &mut self.batch)?;
        Ok(last)
    }
}

impl From<io::ErrorKind> for FrameError {
    fn from(kind: io::ErrorKind) -> Self {
        FrameError::Io(kind.into())
    }
}

#[cfg(test)]
mod tests;
