//! A client of the streaming endpoint: SPDY by the codec's other side.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use berth_cri::server::streaming::spdy::frame::{Frame, FrameCodec};
use berth_cri::server::streaming::spdy::headers::{Deflater, Headers};
use berth_tests::host::Host;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::codec::Framed;

type Frames = Framed<TcpStream, FrameCodec>;

/// The client's end of a connection.
pub struct Client {
    pub sink: SplitSink<Frames, Frame>,
    pub stream: SplitStream<Frames>,
    deflater: Deflater,
    next: u32,
}

/// What came over all streams until the connection's end.
#[derive(Debug, Default)]
pub struct Heard {
    streams: HashMap<u32, Vec<u8>>,
}

impl Heard {
    /// What came over one stream.
    pub fn bytes(&self, stream: u32) -> &[u8] {
        self.streams.get(&stream).map_or(&[], Vec::as_slice)
    }

    /// The same as text.
    pub fn text(&self, stream: u32) -> String {
        String::from_utf8_lossy(self.bytes(stream)).into_owned()
    }
}

/// The path of a URL and a connection to its server, made inside the host.
fn connect(host: &Host, url: &str) -> Result<(TcpStream, String)> {
    let rest = url.strip_prefix("http://").context("an absolute URL")?;
    let (address, path) = rest.split_once('/').context("a URL with a path")?;
    let stream = host.connect(address.parse()?)?;
    stream.set_nonblocking(true)?;
    Ok((TcpStream::from_std(stream)?, format!("/{path}")))
}

/// Sends the head of a request; the stream and the head of the response.
pub async fn request(host: &Host, url: &str, head: &str) -> Result<(TcpStream, String)> {
    let (mut stream, path) = connect(host, url)?;
    let head = head.replace("PATH", &path);
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await.context("the response's head")?;
        answer.push(byte);
    }
    Ok((stream, String::from_utf8(answer)?))
}

impl Client {
    /// Upgrades a connection to SPDY.
    pub async fn spdy(host: &Host, url: &str, protocol: &str) -> Result<Client> {
        let head = format!(
            "POST PATH HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             X-Stream-Protocol-Version: {protocol}\r\nContent-Length: 0\r\n\r\n"
        );
        let (stream, answer) = request(host, url, &head).await?;
        ensure!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        let (sink, stream) = Framed::new(stream, FrameCodec::default()).split();
        Ok(Client {
            sink,
            stream,
            deflater: Deflater::new()?,
            next: 1,
        })
    }

    /// Opens a stream; answers are read by whoever listens.
    pub async fn open(&mut self, pairs: &[(&str, &str)]) -> Result<u32> {
        let stream = self.next;
        self.next += 2;
        let block = self.deflater.write(&Headers::new(pairs))?;
        let frame = Frame::SynStream {
            stream,
            priority: 0,
            end: false,
            unidirectional: false,
            block,
        };
        self.sink.send(frame).await?;
        Ok(stream)
    }

    /// Sends bytes, the last ones if `end`.
    pub async fn data(&mut self, stream: u32, bytes: &[u8], end: bool) -> Result<()> {
        let bytes = bytes.to_vec().into();
        self.sink.send(Frame::Data { stream, end, bytes }).await?;
        Ok(())
    }

    /// Reads until one stream has ended.
    pub async fn hear_until(&mut self, wanted: u32) -> Result<Heard> {
        hear(&mut self.stream, Some(wanted)).await
    }

    /// Reads until a stream, which may go on, has said a line.
    pub async fn hear_line(&mut self, wanted: u32, line: &str) -> Result<()> {
        let mut heard = Vec::new();
        while !heard.ends_with(line.as_bytes()) {
            let next = tokio::time::timeout(Duration::from_secs(60), self.stream.next());
            match next
                .await
                .with_context(|| format!("never {line:?}: {heard:?}"))?
            {
                Some(Ok(Frame::Data { stream, bytes, .. })) if stream == wanted => {
                    heard.extend(bytes);
                }
                Some(Ok(_)) => {}
                other => bail!("the connection ended early: {other:?}"),
            }
        }
        Ok(())
    }

    /// Reads until the server has ended the connection.
    pub async fn hear(&mut self) -> Result<Heard> {
        hear(&mut self.stream, None).await
    }
}

/// Reads until a stream, or the connection, has ended.
pub async fn hear(frames: &mut SplitStream<Frames>, until: Option<u32>) -> Result<Heard> {
    let mut heard = Heard::default();
    loop {
        let next = tokio::time::timeout(Duration::from_secs(120), frames.next());
        match next.await.context("the server says nothing")? {
            Some(Ok(Frame::Data { stream, end, bytes })) => {
                heard.streams.entry(stream).or_default().extend(bytes);
                if end && until == Some(stream) {
                    return Ok(heard);
                }
            }
            Some(Ok(Frame::RstStream { stream, .. })) if until == Some(stream) => return Ok(heard),
            Some(Ok(_)) => {}
            Some(Err(error)) => bail!("a broken frame: {error}"),
            None if until.is_some() => bail!("the connection ended early: {heard:?}"),
            None => return Ok(heard),
        }
    }
}
