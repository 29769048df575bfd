//! The connection against a client made of the codec's other side.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_util::codec::Framed;

use super::{Connection, STREAM_LIMIT};
use crate::server::streaming::spdy::frame::{Frame, FrameCodec, goaway, reset};
use crate::server::streaming::spdy::headers::{Deflater, Headers, Inflater};

const LIMIT: Duration = Duration::from_secs(3600);

struct Client {
    frames: Framed<DuplexStream, FrameCodec>,
    deflater: Deflater,
    inflater: Inflater,
    next: u32,
}

impl Client {
    fn new(transport: DuplexStream) -> Self {
        Self {
            frames: Framed::new(transport, FrameCodec::default()),
            deflater: Deflater::new().unwrap(),
            inflater: Inflater::default(),
            next: 1,
        }
    }

    async fn send(&mut self, frame: Frame) {
        self.frames.send(frame).await.unwrap();
    }

    async fn receive(&mut self) -> Option<Frame> {
        self.frames.next().await.map(Result::unwrap)
    }

    /// Opens a stream without waiting for the answer.
    async fn ask(&mut self, pairs: &[(&str, &str)]) -> u32 {
        let stream = self.next;
        self.next += 2;
        let block = self.deflater.write(&Headers::new(pairs)).unwrap();
        self.send(Frame::SynStream {
            stream,
            priority: 0,
            end: false,
            unidirectional: false,
            block,
        })
        .await;
        stream
    }

    async fn open(&mut self, kind: &str) -> u32 {
        let stream = self.ask(&[("streamtype", kind)]).await;
        match self.receive().await {
            Some(Frame::SynReply {
                stream: answered,
                block,
                ..
            }) => {
                assert_eq!(answered, stream);
                self.inflater.read(&block).unwrap();
            }
            other => panic!("{other:?}"),
        }
        stream
    }

    async fn data(&mut self, stream: u32, bytes: &[u8], end: bool) {
        let bytes = Bytes::copy_from_slice(bytes);
        self.send(Frame::Data { stream, end, bytes }).await;
    }
}

fn pair(buffer: usize) -> (Client, Connection) {
    let (near, far) = duplex(buffer);
    (Client::new(far), Connection::start(near, LIMIT))
}

#[tokio::test]
async fn streams_carry_both_directions_and_each_ends_by_itself() {
    let (mut client, mut connection) = pair(64 << 10);
    let id = client.open("stdin").await;
    let mut stream = connection.accept().await.unwrap();
    assert_eq!(stream.id, id);
    assert_eq!(stream.headers.value("streamtype"), Some("stdin"));
    client.data(id, b"hello ", false).await;
    client.data(id, b"world", true).await;
    let mut heard = String::new();
    stream.reader.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "hello world");
    stream.writer.write_all(b"bye").await.unwrap();
    stream.writer.shutdown().await.unwrap();
    let mut said = Vec::new();
    loop {
        match client.receive().await.unwrap() {
            Frame::Data { stream, end, bytes } => {
                assert_eq!(stream, id);
                said.extend_from_slice(&bytes);
                if end {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(said, b"bye");
    client.send(Frame::Ping { id: 7 }).await;
    assert_eq!(client.receive().await, Some(Frame::Ping { id: 7 }));
}

#[tokio::test]
async fn a_slow_reader_stops_the_sender_and_nothing_is_lost() {
    const TOTAL: usize = 4 << 20;
    let (mut client, mut connection) = pair(4 << 10);
    let id = client.open("stdin").await;
    let mut stream = connection.accept().await.unwrap();
    let sending = tokio::spawn(async move {
        for piece in 0..TOTAL / 4096 {
            client.data(id, &[piece as u8; 4096], false).await;
        }
        client.data(id, b"", true).await;
        client
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!sending.is_finished(), "4 MiB were taken by nobody");
    let mut all = Vec::new();
    stream.reader.read_to_end(&mut all).await.unwrap();
    assert_eq!(all.len(), TOTAL);
    let sound = |(place, byte): (usize, &u8)| *byte == (place / 4096) as u8;
    assert!(all.iter().enumerate().all(sound));
    sending.await.unwrap();
}

#[tokio::test]
async fn closing_sends_all_that_was_written_and_waits_for_the_client() {
    let (mut client, mut connection) = pair(1 << 10);
    let id = client.open("stdout").await;
    let mut stream = connection.accept().await.unwrap();
    let session = tokio::spawn(async move {
        stream.writer.write_all(&[1; 100_000]).await.unwrap();
        stream.writer.shutdown().await.unwrap();
        connection.close().await;
    });
    let (mut total, mut last) = (0, None);
    while let Some(frame) = client.receive().await {
        if let Frame::Data { stream, bytes, .. } = &frame {
            assert_eq!(*stream, id);
            total += bytes.len();
        }
        last = Some(frame);
    }
    assert_eq!(total, 100_000);
    let farewell = Frame::GoAway {
        last_good: 0,
        status: goaway::OK,
    };
    assert_eq!(last, Some(farewell));
    // Bytes that the server has no use for do not disturb it.
    client.send(Frame::Ping { id: 9 }).await;
    client.data(id, b"too late", false).await;
    assert!(!session.is_finished());
    drop(client);
    session.await.unwrap();
}

#[tokio::test]
async fn a_reset_is_seen_by_reader_and_writer() {
    let (mut client, mut connection) = pair(64 << 10);
    let id = client.open("data").await;
    let mut stream = connection.accept().await.unwrap();
    client
        .send(Frame::RstStream {
            stream: id,
            status: reset::CANCEL,
        })
        .await;
    stream.reset.cancelled().await;
    let mut rest = Vec::new();
    let error = stream.reader.read_to_end(&mut rest).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    // What is written to it goes nowhere; the connection goes on.
    stream.writer.write_all(b"x").await.unwrap();
    client.send(Frame::Ping { id: 1 }).await;
    assert_eq!(client.receive().await, Some(Frame::Ping { id: 1 }));
}

#[tokio::test]
async fn who_breaks_the_protocol_gets_a_goaway() {
    let version_two = [0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
    let garbage = Frame::SynStream {
        stream: 1,
        priority: 0,
        end: false,
        unidirectional: false,
        block: Bytes::from_static(b"no zlib"),
    };
    for bad in [None, Some(garbage)] {
        let (mut client, connection) = pair(64 << 10);
        match bad {
            Some(frame) => client.send(frame).await,
            None => client
                .frames
                .get_mut()
                .write_all(&version_two)
                .await
                .unwrap(),
        }
        connection.gone().cancelled().await;
        let broken = Frame::GoAway {
            last_good: 0,
            status: goaway::PROTOCOL_ERROR,
        };
        assert_eq!(client.receive().await, Some(broken));
        assert_eq!(client.receive().await, None);
    }
}

#[tokio::test]
async fn even_and_repeated_numbers_end_the_connection() {
    for number in [2, 1] {
        let (mut client, connection) = pair(64 << 10);
        client.open("error").await;
        client.next = number;
        client.ask(&[("streamtype", "stdin")]).await;
        connection.gone().cancelled().await;
    }
}

#[tokio::test]
async fn too_many_streams_are_refused_one_by_one() {
    let (mut client, mut connection) = pair(1 << 20);
    let accepting = tokio::spawn(async move {
        let mut streams = Vec::new();
        while let Some(stream) = connection.accept().await {
            streams.push(stream);
        }
        streams.len()
    });
    for _ in 0..STREAM_LIMIT {
        client.open("data").await;
    }
    let stream = client.ask(&[]).await;
    let refused = Frame::RstStream {
        stream,
        status: reset::REFUSED_STREAM,
    };
    assert_eq!(client.receive().await, Some(refused));
    drop(client);
    assert_eq!(accepting.await.unwrap(), STREAM_LIMIT);
}

#[tokio::test]
async fn a_client_that_asks_and_does_not_read_is_sent_away() {
    let (mut client, connection) = pair(1 << 10);
    let flood = async {
        for number in 0..100_000u32 {
            let ping = Frame::Ping { id: number * 2 + 1 };
            if client.frames.send(ping).await.is_err() {
                return;
            }
        }
    };
    let gone = connection.gone();
    tokio::select! {
        () = flood => {}
        () = gone.cancelled() => {}
    }
    assert!(gone.is_cancelled());
}

#[tokio::test]
async fn silence_ends_a_connection_and_pings_are_no_silence() {
    for _ in 0..10 {
        let (near, far) = duplex(1 << 10);
        let connection = Connection::start(near, Duration::from_secs(3));
        let stayed = stays_while_it_is_pinged(&mut Client::new(far), &connection).await;
        tokio::time::timeout(Duration::from_secs(60), connection.gone().cancelled())
            .await
            .unwrap();
        if stayed {
            return;
        }
    }
    panic!("ten times nothing ran for three seconds");
}

/// Whether it could be seen: on a machine that lets the test stand still for
/// longer than the limit, it was silent.
async fn stays_while_it_is_pinged(client: &mut Client, connection: &Connection) -> bool {
    let mut heard = Instant::now();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let sent = Instant::now();
        let ping = Frame::Ping { id: 1 };
        let answered = client.frames.send(ping).await.is_ok() && client.receive().await.is_some();
        if heard.elapsed() >= Duration::from_secs(3) {
            return false;
        }
        assert!(answered && !connection.gone().is_cancelled());
        heard = sent;
    }
    true
}
