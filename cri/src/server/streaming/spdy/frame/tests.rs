//! Frames there and back, and what no peer should send.

use bytes::{Bytes, BytesMut};
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use tokio_util::codec::{Decoder, Encoder};

use super::{CONTROL_LIMIT_BYTES, Frame, FrameCodec, FrameError, PIECE_LIMIT_BYTES};

fn bytes_of(frames: &[Frame]) -> BytesMut {
    let mut wire = BytesMut::new();
    for frame in frames {
        FrameCodec::default()
            .encode(frame.clone(), &mut wire)
            .unwrap();
    }
    wire
}

/// All frames of `wire`, which arrives in pieces of `step` bytes. Pieces of one
/// data frame are put together again.
fn frames_of(wire: &[u8], step: usize) -> Result<Vec<Frame>, FrameError> {
    let mut codec = FrameCodec::default();
    let mut buffer = BytesMut::new();
    let mut frames: Vec<Frame> = Vec::new();
    let mut open = false;
    for piece in wire.chunks(step.max(1)) {
        buffer.extend_from_slice(piece);
        while let Some(frame) = codec.decode(&mut buffer)? {
            match (frames.last_mut(), frame) {
                (
                    Some(Frame::Data { bytes, end, .. }),
                    Frame::Data {
                        bytes: more,
                        end: last,
                        ..
                    },
                ) if open => {
                    *bytes = [bytes.clone(), more].concat().into();
                    *end = last;
                }
                (_, frame) => frames.push(frame),
            }
            open = codec.open.is_some();
        }
    }
    Ok(frames)
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let stream = 1..=u32::MAX >> 1;
    let block = || proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
    prop_oneof![
        (stream.clone(), any::<bool>(), block()).prop_map(|(stream, end, bytes)| Frame::Data {
            stream,
            end,
            bytes
        }),
        (
            stream.clone(),
            0u8..8,
            any::<bool>(),
            any::<bool>(),
            block()
        )
            .prop_map(|(stream, priority, end, unidirectional, block)| {
                Frame::SynStream {
                    stream,
                    priority,
                    end,
                    unidirectional,
                    block,
                }
            }),
        (stream.clone(), any::<bool>(), block())
            .prop_map(|(stream, end, block)| { Frame::SynReply { stream, end, block } }),
        (stream.clone(), any::<bool>(), block())
            .prop_map(|(stream, end, block)| { Frame::Headers { stream, end, block } }),
        (stream.clone(), any::<u32>())
            .prop_map(|(stream, status)| Frame::RstStream { stream, status }),
        (stream.clone(), any::<u32>())
            .prop_map(|(last_good, status)| { Frame::GoAway { last_good, status } }),
        (stream.clone(), stream).prop_map(|(stream, delta)| Frame::WindowUpdate { stream, delta }),
        any::<u32>().prop_map(|id| Frame::Ping { id }),
        Just(Frame::Settings { count: 0 }),
        (10u16..).prop_map(|kind| Frame::Unknown { kind }),
    ]
}

proptest! {
    #[test]
    fn frames_survive_the_wire_however_it_is_cut(
        frames in proptest::collection::vec(any_frame(), 0..12),
        step in 1usize..300,
    ) {
        let wire = bytes_of(&frames);
        assert_eq!(frames_of(&wire, step).unwrap(), frames);
    }

    #[test]
    fn no_bytes_make_the_parser_panic(
        wire in proptest::collection::vec(any::<u8>(), 0..600),
        step in 1usize..100,
    ) {
        let _ = frames_of(&wire, step);
    }

    #[test]
    fn no_damage_to_a_sound_wire_makes_it_panic(
        frames in proptest::collection::vec(any_frame(), 1..8),
        at in any::<proptest::sample::Index>(),
        to in any::<u8>(),
    ) {
        let mut wire = bytes_of(&frames);
        let at = at.index(wire.len());
        wire[at] = to;
        let _ = frames_of(&wire, 50);
    }
}

#[test]
fn the_bytes_are_those_of_the_draft() {
    let wire = bytes_of(&[
        Frame::Ping { id: 1 },
        Frame::Data {
            stream: 3,
            end: true,
            bytes: Bytes::from_static(b"ab"),
        },
    ]);
    let expected = [
        0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1, // PING
        0, 0, 0, 3, 1, 0, 0, 2, b'a', b'b', // DATA with FIN
    ];
    assert_eq!(wire, expected[..]);
}

#[test]
fn a_long_data_frame_comes_in_pieces_and_only_the_last_ends_it() {
    let mut wire = BytesMut::from(&[0, 0, 0, 5, 1, 1, 0, 0][..]);
    wire.extend_from_slice(&[7; 1 << 16]);
    let mut codec = FrameCodec::default();
    let mut ends = Vec::new();
    while let Some(frame) = codec.decode(&mut wire).unwrap() {
        let Frame::Data { stream, end, bytes } = frame else {
            panic!("not data");
        };
        assert_eq!(stream, 5);
        assert!(bytes.len() <= PIECE_LIMIT_BYTES);
        ends.push(end);
    }
    assert_eq!(ends, [false, true]);
}

#[test]
fn what_no_peer_should_send_is_refused() {
    let version = [0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
    assert!(matches!(
        frames_of(&version, 99),
        Err(FrameError::Version(2))
    ));
    let short_reset = [0x80, 3, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1];
    assert!(matches!(
        frames_of(&short_reset, 99),
        Err(FrameError::Length { kind: 3, length: 4 })
    ));
    let nobody = [0, 0, 0, 0, 0, 0, 0, 1, 1];
    assert!(matches!(
        frames_of(&nobody, 99),
        Err(FrameError::StreamZero)
    ));
    // The length alone is enough: nothing waits for the bytes.
    let [_, a, b, c] = (CONTROL_LIMIT_BYTES as u32 + 1).to_be_bytes();
    let long = [0x80, 3, 0, 1, 0, a, b, c];
    assert!(matches!(
        frames_of(&long, 99),
        Err(FrameError::Length { kind: 1, .. })
    ));
    let settings = [0x80, 3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 1];
    assert!(frames_of(&settings, 99).is_err());
}
