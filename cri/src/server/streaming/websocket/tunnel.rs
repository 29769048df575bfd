//! SPDY's frames in binary messages: where proxies on the way know WebSocket but
//! have forgotten SPDY.
//!
//! The borders of the messages mean nothing; their bytes are one stream in each
//! direction.

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::tungstenite::Message;

use super::connection::over;

/// The largest message that is written, and what waits in each direction.
const BUFFER_BYTES: usize = 64 << 10;

/// The bytes in a WebSocket's messages, as a transport.
pub async fn open<T>(transport: T) -> DuplexStream
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sink, mut stream) = over(transport).await.split();
    let (near, far) = tokio::io::duplex(BUFFER_BYTES);
    let (mut from_us, mut to_us) = tokio::io::split(far);
    tokio::spawn(async move {
        let up = async {
            while let Some(Ok(message)) = stream.next().await {
                let bytes = match message {
                    Message::Binary(bytes) => bytes,
                    Message::Close(_) => break,
                    _ => continue,
                };
                if to_us.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            let _ = to_us.shutdown().await;
        };
        let down = async {
            let mut buffer = bytes::BytesMut::with_capacity(BUFFER_BYTES);
            while let Ok(1..) = from_us.read_buf(&mut buffer).await {
                let message = Message::Binary(buffer.split().freeze());
                if sink.send(message).await.is_err() {
                    return;
                }
                buffer.reserve(BUFFER_BYTES);
            }
            // Our end of the stream is our end of the WebSocket.
            let _ = sink.send(Message::Close(None)).await;
        };
        tokio::join!(up, down);
    });
    near
}
