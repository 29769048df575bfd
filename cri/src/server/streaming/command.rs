//! Exec and attach, whatever the streams came over.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Limits;
use super::channel::{ChannelReader, ChannelWriter};
use super::status::{Wording, plan_report};
use crate::engine::Engine;
use crate::engine::attach::{AttachmentInput, AttachmentOutput, Output};
use crate::engine::error::Error;
use crate::engine::exec::{ExecIo, ExecRequest, TerminalSize};

/// The longest text of one size that is read; a longer one is none.
const SIZE_LIMIT_BYTES: usize = 1024;

/// What is to be joined to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The container.
    pub container: String,
    /// What is done there.
    pub what: What,
    /// The streams that the client asked for.
    pub streams: Wanted,
    /// How long the client may take.
    pub limits: Limits,
}

/// Exec or attach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// One more program.
    Exec(ExecRequest),
    /// The container's own.
    Attach {
        /// Whether the end of the client's input is the end of the container's.
        stdin_once: bool,
    },
}

/// Which streams there are to be, beside the one for errors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Standard input.
    pub stdin: bool,
    /// Standard output, or a terminal's.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Sizes of the client's terminal.
    pub terminal: bool,
}

/// The streams of one client.
#[derive(Debug)]
pub struct Channels {
    /// Standard input.
    pub stdin: Option<ChannelReader>,
    /// Standard output.
    pub stdout: Option<ChannelWriter>,
    /// Standard error.
    pub stderr: Option<ChannelWriter>,
    /// How it went.
    pub error: ChannelWriter,
    /// Sizes of the client's terminal, as JSON.
    pub resize: Option<ChannelReader>,
    /// What else writes to the same connection, to end all streams.
    pub outgoing: mpsc::Sender<super::channel::Outgoing>,
    /// Set when the client has gone.
    pub gone: CancellationToken,
}

/// Joins a client to a program until either ends, and tells the client how.
///
/// When the client goes first, the program of an exec is ended, because nobody
/// is left to whom it matters; a container that was attached to runs on.
pub async fn run(engine: &Engine, command: &Command, wording: Wording, channels: Channels) {
    let Channels {
        stdin,
        stdout,
        stderr,
        mut error,
        resize,
        outgoing,
        gone,
    } = channels;
    let outputs: Vec<u32> = [&stdout, &stderr]
        .into_iter()
        .flatten()
        .map(ChannelWriter::channel)
        .collect();
    let joined = async {
        match &command.what {
            What::Exec(request) => {
                let io = ExecIo {
                    stdin: stdin.map(|stdin| Box::new(stdin) as _),
                    stdout: or_nowhere(stdout),
                    stderr: or_nowhere(stderr),
                    resize: resize.map(read_sizes),
                };
                engine.exec(&command.container, request, io).await
            }
            What::Attach { stdin_once } => {
                let client = Client {
                    stdin,
                    stdout,
                    stderr,
                    resize,
                    stdin_once: *stdin_once,
                };
                attach(engine, &command.container, client).await
            }
        }
    };
    let outcome = tokio::select! {
        outcome = joined => outcome,
        () = gone.cancelled() => return,
    };
    for channel in outputs {
        let end = super::channel::Outgoing::Piece {
            channel,
            bytes: bytes::Bytes::new(),
            end: true,
        };
        // A client that has gone meanwhile needs no end.
        let _ = outgoing.send(end).await;
    }
    let report = plan_report(wording, &outcome);
    let _ = error.write_all(&report).await;
    let _ = error.shutdown().await;
}

fn or_nowhere(writer: Option<ChannelWriter>) -> Box<dyn AsyncWrite + Send + Unpin> {
    match writer {
        Some(writer) => Box::new(writer),
        None => Box::new(tokio::io::sink()),
    }
}

struct Client {
    stdin: Option<ChannelReader>,
    stdout: Option<ChannelWriter>,
    stderr: Option<ChannelWriter>,
    resize: Option<ChannelReader>,
    stdin_once: bool,
}

async fn attach(engine: &Engine, container: &str, client: Client) -> Result<i32, Error> {
    let attachment = engine.attach(container).await?;
    let sizes = async {
        if let Some(resize) = client.resize {
            let mut sizes = read_sizes(resize);
            while let Some(size) = sizes.recv().await {
                // Its own call: a container that does not read its input holds
                // up the frames of the attachment.
                if let Err(error) = engine.resize(container, size).await {
                    tracing::debug!("resize {container}: {}", error.chain());
                }
            }
        }
        std::future::pending::<()>().await;
    };
    let input = async {
        let mut input = attachment.input;
        if let Some(stdin) = client.stdin
            && feed(stdin, &mut input).await.is_ok()
            && client.stdin_once
        {
            let _ = input.close().await;
        }
        // The container may well write on. `input` stays open until then: its
        // end would detach us.
        std::future::pending::<()>().await;
    };
    let output = copy_output(attachment.output, client.stdout, client.stderr);
    tokio::select! {
        outcome = output => outcome.map(|()| 0),
        () = input => Ok(0),
        () = sizes => Ok(0),
    }
}

/// Until the client ends its input. A client that went away is no such end.
async fn feed(mut stdin: ChannelReader, input: &mut AttachmentInput) -> io::Result<()> {
    let mut buffer = vec![0; 32 << 10];
    loop {
        let count = stdin.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        input
            .write(&buffer[..count])
            .await
            .map_err(|error| io::Error::other(error.chain()))?;
    }
}

async fn copy_output(
    mut output: AttachmentOutput,
    mut stdout: Option<ChannelWriter>,
    mut stderr: Option<ChannelWriter>,
) -> Result<(), Error> {
    while let Some(piece) = output.next().await? {
        let (writer, bytes) = match piece {
            Output::Stdout(bytes) => (&mut stdout, bytes),
            Output::Stderr(bytes) => (&mut stderr, bytes),
        };
        if let Some(writer) = writer
            && writer.write_all(&bytes).await.is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

/// Sizes as they arrive; the queue ends with the stream.
fn read_sizes(mut resize: ChannelReader) -> mpsc::Receiver<TerminalSize> {
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut waiting = Vec::new();
        let mut buffer = [0; 256];
        while let Ok(count @ 1..) = resize.read(&mut buffer).await {
            waiting.extend_from_slice(&buffer[..count]);
            let Some(sizes) = take_sizes(&mut waiting) else {
                tracing::debug!("a client sent a terminal's size that is none");
                break;
            };
            for size in sizes {
                if sender.send(size).await.is_err() {
                    return;
                }
            }
        }
        // Whoever sends on is not to be stopped by a full queue.
        let _ = tokio::io::copy(&mut resize, &mut tokio::io::sink()).await;
    });
    receiver
}

/// All whole sizes at the beginning of `waiting`, which keeps the rest. None
/// when what waits can never become a size. Pure.
fn take_sizes(waiting: &mut Vec<u8>) -> Option<Vec<TerminalSize>> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Size {
        width: u16,
        height: u16,
    }
    let mut sizes = Vec::new();
    let mut stream = serde_json::Deserializer::from_slice(waiting).into_iter::<Size>();
    loop {
        match stream.next() {
            Some(Ok(size)) => sizes.push(TerminalSize {
                width: size.width,
                height: size.height,
            }),
            Some(Err(error)) if error.is_eof() => break,
            Some(Err(_)) => return None,
            None => break,
        }
    }
    let used = stream.byte_offset();
    waiting.drain(..used);
    (waiting.len() <= SIZE_LIMIT_BYTES).then_some(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_however_they_are_cut() {
        let text = b"{\"Width\":80,\"Height\":24}\n{\"Width\":100,\"Height\":30}\n";
        for cut in 0..text.len() {
            let mut waiting = text[..cut].to_vec();
            let mut sizes = take_sizes(&mut waiting).unwrap();
            waiting.extend_from_slice(&text[cut..]);
            sizes.extend(take_sizes(&mut waiting).unwrap());
            let expected =
                [(80, 24), (100, 30)].map(|(width, height)| TerminalSize { width, height });
            assert_eq!(sizes, expected, "cut at {cut}");
        }
        assert_eq!(take_sizes(&mut b"{\"Width\":-1".to_vec()), None);
        assert_eq!(take_sizes(&mut b"hello".to_vec()), None);
    }
}
