//! SPDY/3.1 frames: bytes to values and back.
//!
//! ```text
//! control frame                            data frame
//! +----------------------------------+     +----------------------------------+
//! |1| Version(15bits) | Type(16bits) |     |0|       Stream-ID (31bits)       |
//! +----------------------------------+     +----------------------------------+
//! | Flags (8)  |  Length (24 bits)   |     | Flags (8)  |  Length (24 bits)   |
//! +----------------------------------+     +----------------------------------+
//! |               Data               |     |               Data               |
//! +----------------------------------+     +----------------------------------+
//! ```
//!
//! A data frame may hold 16 MiB. It is handed on in pieces as it arrives, so no
//! peer can make us hold one. Control frames are short, and a longer one ends the
//! connection before it is read.
//!
//! Read more: draft-mbelshe-httpbis-spdy-00 section 2.2 and 2.6.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

/// A stream's number: odd for those that the client opens.
pub type StreamId = u32;

/// The largest control frame that is read.
pub const CONTROL_LIMIT_BYTES: usize = 64 << 10;
/// The largest piece of a data frame that is handed on or written.
pub const PIECE_LIMIT_BYTES: usize = 32 << 10;

const HEAD_BYTES: usize = 8;
const VERSION: u16 = 3;
const CONTROL: u32 = 1 << 31;
const STREAM_MASK: u32 = CONTROL - 1;
const FLAG_FIN: u8 = 1;
const FLAG_UNIDIRECTIONAL: u8 = 2;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Why a stream was reset (2.6.3).
pub mod reset {
    /// A generic error.
    pub const PROTOCOL_ERROR: u32 = 1;
    /// For a stream that is not open.
    pub const INVALID_STREAM: u32 = 2;
    /// Before anything was done.
    pub const REFUSED_STREAM: u32 = 3;
    /// Its maker no longer wants it.
    pub const CANCEL: u32 = 5;
}

/// Why a connection ends (2.6.6).
pub mod goaway {
    /// All is well.
    pub const OK: u32 = 0;
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: u32 = 1;
}

/// A frame. Header blocks are still compressed: what they mean depends on all
/// blocks before them (see [`super::headers`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A piece of a stream.
    Data {
        /// Of this stream.
        stream: StreamId,
        /// Nothing follows.
        end: bool,
        /// The bytes.
        bytes: Bytes,
    },
    /// Opens a stream.
    SynStream {
        /// The new stream.
        stream: StreamId,
        /// 0 is the most urgent, 7 the least.
        priority: u8,
        /// The sender will send no data.
        end: bool,
        /// The receiver must send none.
        unidirectional: bool,
        /// Names and values.
        block: Bytes,
    },
    /// Accepts a stream.
    SynReply {
        /// The stream.
        stream: StreamId,
        /// The sender will send no data.
        end: bool,
        /// Names and values.
        block: Bytes,
    },
    /// Ends a stream at once, in both directions.
    RstStream {
        /// The stream.
        stream: StreamId,
        /// One of [`reset`].
        status: u32,
    },
    /// Wishes for the connection; how many.
    Settings {
        /// Pairs in it.
        count: u32,
    },
    /// Is to be sent back as it is.
    Ping {
        /// Odd from the client.
        id: u32,
    },
    /// No further streams are accepted.
    GoAway {
        /// The last stream that was.
        last_good: StreamId,
        /// One of [`goaway`].
        status: u32,
    },
    /// More headers for a stream.
    Headers {
        /// The stream.
        stream: StreamId,
        /// The sender will send nothing more.
        end: bool,
        /// Names and values.
        block: Bytes,
    },
    /// The sender has taken that many bytes.
    WindowUpdate {
        /// The stream; 0 is the connection.
        stream: StreamId,
        /// Bytes.
        delta: u32,
    },
    /// Of a type that is not in the draft: to be ignored (2.2.1).
    Unknown {
        /// The type.
        kind: u16,
    },
}

/// What is wrong with a frame. The connection cannot go on after it.
#[derive(Debug)]
pub enum FrameError {
    /// Another version of SPDY.
    Version(u16),
    /// Too long, too short, or not what the type asks for.
    Length {
        /// The frame's type.
        kind: u16,
        /// Its length.
        length: usize,
    },
    /// Data, or an open, for stream 0.
    StreamZero,
    /// The connection broke.
    Io(std::io::Error),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Version(version) => write!(f, "a SPDY frame of version {version}, not 3"),
            FrameError::Length { kind, length } => {
                write!(f, "a SPDY frame of type {kind} with {length} bytes")
            }
            FrameError::StreamZero => f.write_str("a SPDY frame for stream 0"),
            FrameError::Io(error) => write!(f, "the connection broke: {error}"),
        }
    }
}

impl std::error::Error for FrameError {}

impl From<std::io::Error> for FrameError {
    fn from(error: std::io::Error) -> Self {
        FrameError::Io(error)
    }
}

/// Both directions of the codec.
#[derive(Debug, Default)]
pub struct FrameCodec {
    /// The rest of a data frame whose head has been read.
    open: Option<OpenData>,
}

#[derive(Debug, Clone, Copy)]
struct OpenData {
    stream: StreamId,
    end: bool,
    left: usize,
}

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if let Some(open) = self.open {
            return Ok(self.take_piece(open, source));
        }
        let Some(head) = source.get(..HEAD_BYTES) else {
            return Ok(None);
        };
        let mut head = head;
        let word = head.get_u32();
        let flags_and_length = head.get_u32();
        let flags = (flags_and_length >> 24) as u8;
        let length = (flags_and_length & 0x00ff_ffff) as usize;
        if word & CONTROL == 0 {
            if word == 0 {
                return Err(FrameError::StreamZero);
            }
            source.advance(HEAD_BYTES);
            let open = OpenData {
                stream: word,
                end: flags & FLAG_FIN != 0,
                left: length,
            };
            return Ok(self.take_piece(open, source));
        }
        let version = (word >> 16 & 0x7fff) as u16;
        let kind = word as u16;
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if length > CONTROL_LIMIT_BYTES {
            return Err(FrameError::Length { kind, length });
        }
        if source.len() < HEAD_BYTES + length {
            source.reserve(HEAD_BYTES + length - source.len());
            return Ok(None);
        }
        source.advance(HEAD_BYTES);
        let payload = source.split_to(length).freeze();
        read_control(kind, flags, payload).map(Some)
    }

    /// The connection may end after any whole frame, and in the middle of one
    /// when the peer died: that is the same to us.
    fn decode_eof(&mut self, source: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let frame = self.decode(source)?;
        if frame.is_none() {
            source.clear();
        }
        Ok(frame)
    }
}

impl FrameCodec {
    fn take_piece(&mut self, open: OpenData, source: &mut BytesMut) -> Option<Frame> {
        let count = open.left.min(source.len()).min(PIECE_LIMIT_BYTES);
        let left = open.left - count;
        self.open = (left > 0).then_some(OpenData { left, ..open });
        if count == 0 && left > 0 {
            source.reserve(left.min(PIECE_LIMIT_BYTES));
            return None;
        }
        Some(Frame::Data {
            stream: open.stream,
            end: open.end && left == 0,
            bytes: source.split_to(count).freeze(),
        })
    }
}

fn read_control(kind: u16, flags: u8, mut payload: Bytes) -> Result<Frame, FrameError> {
    let length = payload.len();
    let wrong = FrameError::Length { kind, length };
    let (least, exact) = match kind {
        SYN_STREAM => (10, false),
        SYN_REPLY | HEADERS | SETTINGS => (4, false),
        RST_STREAM | GOAWAY | WINDOW_UPDATE => (8, true),
        PING => (4, true),
        kind => return Ok(Frame::Unknown { kind }),
    };
    if length < least || (exact && length != least) {
        return Err(wrong);
    }
    let end = flags & FLAG_FIN != 0;
    let first = payload.get_u32();
    let stream = first & STREAM_MASK;
    if stream == 0 && matches!(kind, SYN_STREAM | SYN_REPLY | RST_STREAM | HEADERS) {
        return Err(FrameError::StreamZero);
    }
    Ok(match kind {
        SYN_STREAM => {
            let _associated_to = payload.get_u32();
            let priority = payload.get_u8() >> 5;
            let _credential_slot = payload.get_u8();
            Frame::SynStream {
                stream,
                priority,
                end,
                unidirectional: flags & FLAG_UNIDIRECTIONAL != 0,
                block: payload,
            }
        }
        SYN_REPLY => Frame::SynReply {
            stream,
            end,
            block: payload,
        },
        HEADERS => Frame::Headers {
            stream,
            end,
            block: payload,
        },
        RST_STREAM => Frame::RstStream {
            stream,
            status: payload.get_u32(),
        },
        GOAWAY => Frame::GoAway {
            last_good: stream,
            status: payload.get_u32(),
        },
        WINDOW_UPDATE => Frame::WindowUpdate {
            stream,
            delta: payload.get_u32() & STREAM_MASK,
        },
        PING => Frame::Ping { id: first },
        // SETTINGS: as many pairs of eight bytes as it says.
        _ if payload.len() as u64 == u64::from(first) * 8 => Frame::Settings { count: first },
        _ => return Err(wrong),
    })
}

impl Encoder<Frame> for FrameCodec {
    type Error = FrameError;

    fn encode(&mut self, frame: Frame, into: &mut BytesMut) -> Result<(), FrameError> {
        match frame {
            Frame::Data { stream, end, bytes } => {
                into.reserve(HEAD_BYTES + bytes.len());
                into.put_u32(stream & STREAM_MASK);
                into.put_u32(u32::from(flag(end)) << 24 | bytes.len() as u32 & 0x00ff_ffff);
                into.put_slice(&bytes);
            }
            Frame::SynStream {
                stream,
                priority,
                end,
                unidirectional,
                block,
            } => {
                let direction = if unidirectional {
                    FLAG_UNIDIRECTIONAL
                } else {
                    0
                };
                put_head(into, SYN_STREAM, flag(end) | direction, 10 + block.len());
                into.put_u32(stream);
                into.put_u32(0);
                into.put_u8(priority << 5);
                into.put_u8(0);
                into.put_slice(&block);
            }
            Frame::SynReply { stream, end, block } => {
                put_head(into, SYN_REPLY, flag(end), 4 + block.len());
                into.put_u32(stream);
                into.put_slice(&block);
            }
            Frame::Headers { stream, end, block } => {
                put_head(into, HEADERS, flag(end), 4 + block.len());
                into.put_u32(stream);
                into.put_slice(&block);
            }
            Frame::RstStream { stream, status } => put_pair(into, RST_STREAM, (stream, status)),
            Frame::GoAway { last_good, status } => put_pair(into, GOAWAY, (last_good, status)),
            Frame::WindowUpdate { stream, delta } => put_pair(into, WINDOW_UPDATE, (stream, delta)),
            Frame::Ping { id } => {
                put_head(into, PING, 0, 4);
                into.put_u32(id);
            }
            // Nothing of ours has settings to send.
            Frame::Settings { .. } => {
                put_head(into, SETTINGS, 0, 4);
                into.put_u32(0);
            }
            Frame::Unknown { kind } => put_head(into, kind, 0, 0),
        }
        Ok(())
    }
}

fn flag(end: bool) -> u8 {
    if end { FLAG_FIN } else { 0 }
}

fn put_head(into: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    into.put_u32(CONTROL | u32::from(VERSION) << 16 | u32::from(kind));
    into.put_u32(u32::from(flags) << 24 | length as u32 & 0x00ff_ffff);
}

fn put_pair(into: &mut BytesMut, kind: u16, (first, second): (u32, u32)) {
    put_head(into, kind, 0, 8);
    into.put_u32(first);
    into.put_u32(second);
}

#[cfg(test)]
mod tests;
