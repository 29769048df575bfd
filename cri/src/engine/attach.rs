//! Standard input and output of a container that runs, for a client.
//!
//! The monitor holds the other ends of the container's pipes or its terminal.
//! After `Attach` its connection carries frames (protocol.rs):
//! kind, length, payload.

use berth_runtime::monitor::protocol::{FRAME_LIMIT_BYTES, FrameKind, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::error::{Error, ErrorKind};
use super::exec::TerminalSize;
use super::{Engine, monitor_link};

/// A client's place at a container.
#[derive(Debug)]
pub struct Attachment {
    /// Whether the container has a terminal: then there is no standard error.
    pub terminal: bool,
    /// What the container writes.
    pub output: AttachmentOutput,
    /// What the client writes.
    pub input: AttachmentInput,
}

/// What a container writes.
#[derive(Debug)]
pub struct AttachmentOutput {
    stream: BufReader<OwnedReadHalf>,
}

/// What a client writes.
#[derive(Debug)]
pub struct AttachmentInput {
    stream: OwnedWriteHalf,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Standard output, or the terminal's.
    Stdout(Vec<u8>),
    /// Standard error.
    Stderr(Vec<u8>),
}

impl Engine {
    /// Joins a container's input and output, from this moment on.
    ///
    /// # Errors
    ///
    /// `NotFound`, `WrongState` when it has ended, `Unavailable` when its
    /// monitor does not answer.
    pub async fn attach(&self, wanted: &str) -> Result<Attachment, Error> {
        let record = self.container(wanted)?;
        let pod_dir = self.paths().pod(&record.pod_id);
        let terminal = record.config.0.tty;
        let request = Request::Attach { id: record.id };
        let stream = monitor_link::take_over(&pod_dir, request).await?;
        let (read, write) = stream.into_split();
        Ok(Attachment {
            terminal,
            output: AttachmentOutput {
                stream: BufReader::new(read),
            },
            input: AttachmentInput { stream: write },
        })
    }

    /// Sets the size of a container's terminal.
    ///
    /// # Errors
    ///
    /// `NotFound`, `WrongState` when it has none.
    pub async fn resize(&self, wanted: &str, size: TerminalSize) -> Result<(), Error> {
        let record = self.container(wanted)?;
        let pod_dir = self.paths().pod(&record.pod_id);
        let request = Request::Resize {
            id: record.id,
            width: size.width,
            height: size.height,
        };
        monitor_link::call(&pod_dir, request).await?;
        Ok(())
    }
}

impl AttachmentOutput {
    /// The next piece; none once the container has ended.
    ///
    /// Not safe to drop in the middle: a frame would be lost.
    ///
    /// # Errors
    ///
    /// `Unavailable` when the monitor goes or speaks nonsense.
    pub async fn next(&mut self) -> Result<Option<Output>, Error> {
        let mut head = [0; 5];
        match self.stream.read_exact(&mut head).await {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(lost(error)),
        }
        let [kind, length @ ..] = head;
        let length = u32::from_be_bytes(length) as usize;
        if length > FRAME_LIMIT_BYTES {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("the pod's monitor sent a frame of {length} bytes"),
            ));
        }
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await.map_err(lost)?;
        match kind {
            kind if kind == FrameKind::Stdout as u8 => Ok(Some(Output::Stdout(payload))),
            kind if kind == FrameKind::Stderr as u8 => Ok(Some(Output::Stderr(payload))),
            kind => Err(Error::new(
                ErrorKind::Unavailable,
                format!("the pod's monitor sent a frame of the unknown kind {kind}"),
            )),
        }
    }
}

impl AttachmentInput {
    /// Writes to the container's standard input.
    ///
    /// # Errors
    ///
    /// `Unavailable` once the container has ended.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        for piece in bytes.chunks(FRAME_LIMIT_BYTES) {
            self.send(FrameKind::Stdin, piece).await?;
        }
        Ok(())
    }

    /// Closes the container's standard input.
    ///
    /// # Errors
    ///
    /// As [`AttachmentInput::write`].
    pub async fn close(&mut self) -> Result<(), Error> {
        self.send(FrameKind::Stdin, &[]).await
    }

    /// Sets the size of the container's terminal.
    ///
    /// # Errors
    ///
    /// As [`AttachmentInput::write`].
    pub async fn resize(&mut self, size: TerminalSize) -> Result<(), Error> {
        let [a, b] = size.width.to_be_bytes();
        let [c, d] = size.height.to_be_bytes();
        self.send(FrameKind::Resize, &[a, b, c, d]).await
    }

    async fn send(&mut self, kind: FrameKind, payload: &[u8]) -> Result<(), Error> {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut frame = vec![kind as u8];
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(payload);
        self.stream.write_all(&frame).await.map_err(lost)
    }
}

fn lost(error: std::io::Error) -> Error {
    Error::caused(ErrorKind::Unavailable, "lost the pod's monitor", error)
}
