//! Frames on an attached connection, as drawn at
//! [`FrameKind`](super::protocol::FrameKind).
//!
//! Pure: bytes in, frames out. The monitor decodes what clients send and a
//! client decodes what the monitor sends with the same reader, which accepts
//! input cut at any place.

use super::protocol::{FRAME_LIMIT_BYTES, FrameKind};

const HEADER_BYTES: usize = 5;

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first byte names no [`FrameKind`].
    #[error("unknown frame kind {0}, expected 0 to 3")]
    UnknownKind(u8),
    /// The length is above [`FRAME_LIMIT_BYTES`].
    #[error("frame of {0} bytes, at most {FRAME_LIMIT_BYTES} are allowed")]
    TooLong(usize),
}

/// One frame inside a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload is.
    pub kind: FrameKind,
    /// At most [`FRAME_LIMIT_BYTES`] bytes.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// The bytes that the frame takes on the wire.
    pub fn wire_bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }
}

/// The frame at the start of `buffer`; `None` while it is incomplete.
///
/// # Errors
///
/// When no amount of further bytes can make it a frame.
pub fn read_frame(buffer: &[u8]) -> Result<Option<Frame<'_>>, FrameError> {
    let Some((header, rest)) = buffer.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let [kind, length @ ..] = *header;
    let kind = match kind {
        0 => FrameKind::Stdin,
        1 => FrameKind::Stdout,
        2 => FrameKind::Stderr,
        3 => FrameKind::Resize,
        unknown => return Err(FrameError::UnknownKind(unknown)),
    };
    let length = u32::from_be_bytes(length) as usize;
    if length > FRAME_LIMIT_BYTES {
        return Err(FrameError::TooLong(length));
    }
    Ok(rest.get(..length).map(|payload| Frame { kind, payload }))
}

/// Appends `payload` as frames of one kind; an empty payload is one empty frame.
pub fn append_frames(out: &mut impl Extend<u8>, kind: FrameKind, payload: &[u8]) {
    if payload.is_empty() {
        append_frame(out, kind, payload);
    }
    for piece in payload.chunks(FRAME_LIMIT_BYTES) {
        append_frame(out, kind, piece);
    }
}

/// The payload of a [`FrameKind::Resize`] frame.
pub fn resize_payload(width: u16, height: u16) -> [u8; 4] {
    let [a, b] = width.to_be_bytes();
    let [c, d] = height.to_be_bytes();
    [a, b, c, d]
}

/// Columns and rows of a [`FrameKind::Resize`] payload; `None` when it has not
/// four bytes.
pub fn read_resize(payload: &[u8]) -> Option<(u16, u16)> {
    let [a, b, c, d] = *payload.first_chunk::<4>()?;
    (payload.len() == 4).then(|| (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

fn append_frame(out: &mut impl Extend<u8>, kind: FrameKind, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a frame is at most 64 KiB");
    out.extend([kind as u8]);
    out.extend(length.to_be_bytes());
    out.extend(payload.iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_wire_cut_at_any_place() {
        let mut wire = Vec::new();
        append_frames(&mut wire, FrameKind::Stdout, b"hello");
        append_frames(&mut wire, FrameKind::Stdin, b"");
        append_frames(&mut wire, FrameKind::Resize, &resize_payload(80, 24));
        for cut in 0..10 {
            assert_eq!(read_frame(&wire[..cut]).unwrap(), None);
        }
        let first = read_frame(&wire).unwrap().unwrap();
        assert_eq!(
            (first.kind, first.payload),
            (FrameKind::Stdout, &b"hello"[..])
        );
        let rest = &wire[first.wire_bytes()..];
        let second = read_frame(rest).unwrap().unwrap();
        assert_eq!((second.kind, second.payload), (FrameKind::Stdin, &b""[..]));
        let third = read_frame(&rest[second.wire_bytes()..]).unwrap().unwrap();
        assert_eq!(read_resize(third.payload), Some((80, 24)));
    }

    #[test]
    fn a_long_payload_becomes_several_frames() {
        let mut wire = Vec::new();
        append_frames(
            &mut wire,
            FrameKind::Stderr,
            &vec![7; FRAME_LIMIT_BYTES + 1],
        );
        let first = read_frame(&wire).unwrap().unwrap();
        assert_eq!(first.payload.len(), FRAME_LIMIT_BYTES);
        let second = read_frame(&wire[first.wire_bytes()..]).unwrap().unwrap();
        assert_eq!(second.payload, [7]);
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        assert_eq!(
            read_frame(&[9, 0, 0, 0, 0]),
            Err(FrameError::UnknownKind(9))
        );
        assert_eq!(
            read_frame(&[0, 0, 1, 0, 1]),
            Err(FrameError::TooLong(FRAME_LIMIT_BYTES + 1))
        );
    }
}
