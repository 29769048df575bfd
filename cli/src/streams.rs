//! A container's standard streams and this process's own, joined.
//!
//! ```text
//! keyboard ──▶ stdin frames  ──▶ ┌─────────┐
//! SIGWINCH ──▶ resize frames ──▶ │ monitor │ ◀──▶ the container's terminal or pipes
//! screen   ◀── stdout, stderr ◀──└─────────┘
//! ```

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use berth_runtime::monitor::client;
use berth_runtime::monitor::frames::{append_frames, read_frame, resize_payload};
use berth_runtime::monitor::protocol::{FrameKind, Reply, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, mpsc};

use crate::error::{Context, Error, Result};
use crate::terminal;

/// The keys that end an attachment and leave the container: Ctrl-P, Ctrl-Q.
const DETACH_KEYS: [u8; 2] = [0x10, 0x11];

/// What this process passes on of its own input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Nothing.
    None,
    /// What is read, to its end.
    Pipe,
    /// Keys, and the terminal's size.
    Terminal,
}

/// How an attachment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The container has ended.
    Container,
    /// The person left by the detach keys.
    Detached,
    /// Nobody reads standard output any more.
    Unread,
}

/// A connection to a container's streams.
#[derive(Debug)]
pub struct Attached {
    reader: OwnedReadHalf,
    writer: Arc<Mutex<OwnedWriteHalf>>,
}

/// Attaches to a container through the monitor of its pod.
///
/// # Errors
///
/// There is no monitor, or it knows no such container.
pub async fn attach(pod_dir: &Path, container_id: &str) -> Result<Attached> {
    let pod_dir = pod_dir.to_owned();
    let id = container_id.to_owned();
    let stream = tokio::task::spawn_blocking(move || {
        let mut client = client::connect(&pod_dir).context("attach")?;
        match client.call(&Request::Attach { id }).context("attach")? {
            Reply::Done => Ok(client.into_stream()),
            Reply::Failed { message, .. } => Err(Error::new(format!("attach: {message}"))),
            other => Err(Error::new(format!(
                "attach: the monitor answered {other:?}"
            ))),
        }
    })
    .await
    .context("attach")??;
    stream.set_nonblocking(true).context("attach")?;
    let (reader, writer) = UnixStream::from_std(stream).context("attach")?.into_split();
    Ok(Attached {
        reader,
        writer: Arc::new(Mutex::new(writer)),
    })
}

/// Gives a container's terminal its size, and returns when it has it.
///
/// # Errors
///
/// There is no monitor, or the container has no terminal.
pub async fn resize(pod_dir: &Path, container_id: &str, columns: u16, rows: u16) -> Result<()> {
    let pod_dir = pod_dir.to_owned();
    let request = Request::Resize {
        id: container_id.to_owned(),
        width: columns,
        height: rows,
    };
    tokio::task::spawn_blocking(move || {
        let mut client = client::connect(&pod_dir).context("resize")?;
        match client.call(&request).context("resize")? {
            Reply::Done => Ok(()),
            Reply::Failed { message, .. } => Err(Error::new(format!("resize: {message}"))),
            other => Err(Error::new(format!(
                "resize: the monitor answered {other:?}"
            ))),
        }
    })
    .await
    .context("resize")?
}

impl Attached {
    /// Joins the streams until the container ends or the person leaves.
    ///
    /// # Errors
    ///
    /// The connection broke.
    pub async fn join(self, input: Input) -> Result<Ended> {
        let mut helpers = tokio::task::JoinSet::new();
        let (detach, mut detached) = mpsc::channel::<()>(1);
        if input != Input::None {
            helpers.spawn(pass_input(Arc::clone(&self.writer), input, detach.clone()));
        }
        if input == Input::Terminal {
            helpers.spawn(pass_size(Arc::clone(&self.writer)));
        }
        let outcome = tokio::select! {
            outcome = print_frames(self.reader) => outcome,
            Some(()) = detached.recv() => Ok(Ended::Detached),
        };
        // The helpers end with the set.
        drop(detach);
        outcome
    }
}

async fn print_frames(mut reader: OwnedReadHalf) -> Result<Ended> {
    let mut buffer = Vec::new();
    let mut block = vec![0; 64 * 1024];
    loop {
        let count = match reader.read(&mut block).await {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            Err(error) => return Err(error).context("read from the container"),
        };
        if count == 0 {
            return Ok(Ended::Container);
        }
        buffer.extend_from_slice(&block[..count]);
        let mut used = 0;
        while let Some(frame) = read_frame(&buffer[used..]).context("read from the container")? {
            used += frame.wire_bytes();
            let printed = match frame.kind {
                FrameKind::Stderr => print(io::stderr().lock(), frame.payload),
                _ => print(io::stdout().lock(), frame.payload),
            };
            match printed {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(Ended::Unread);
                }
                Err(error) => return Err(error).context("print what the container wrote"),
            }
        }
        buffer.drain(..used);
    }
}

fn print(mut output: impl Write, bytes: &[u8]) -> io::Result<()> {
    output.write_all(bytes)?;
    output.flush()
}

async fn pass_input(writer: Arc<Mutex<OwnedWriteHalf>>, input: Input, detach: mpsc::Sender<()>) {
    let mut keys = read_input();
    let mut held = Vec::new();
    while let Some(mut bytes) = keys.recv().await {
        if input == Input::Terminal {
            let before = std::mem::take(&mut held);
            let (pass, rest, leave) = split_detach_keys([before, bytes].concat());
            if leave {
                let _ = detach.send(()).await;
                return;
            }
            (bytes, held) = (pass, rest);
        }
        if !bytes.is_empty()
            && write_frames(&writer, FrameKind::Stdin, &bytes)
                .await
                .is_err()
        {
            return;
        }
    }
    // An empty frame is the end of input.
    let _ = write_frames(&writer, FrameKind::Stdin, &[]).await;
}

/// Splits keys into those to pass on and a last one that may begin the detach
/// keys; says whether these were pressed.
fn split_detach_keys(mut keys: Vec<u8>) -> (Vec<u8>, Vec<u8>, bool) {
    if keys.windows(2).any(|pair| pair == DETACH_KEYS) {
        return (Vec::new(), Vec::new(), true);
    }
    match keys.last() {
        Some(last) if *last == DETACH_KEYS[0] => {
            keys.pop();
            (keys, vec![DETACH_KEYS[0]], false)
        }
        _ => (keys, Vec::new(), false),
    }
}

/// Reads standard input on a thread of its own: a read from a terminal cannot
/// be called back, and the program must be able to end while one waits.
pub fn read_input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        let stdin = io::stdin();
        let mut block = vec![0; 16 * 1024];
        loop {
            match rustix::io::retry_on_intr(|| rustix::io::read(stdin.as_fd(), &mut block[..])) {
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    if sender.blocking_send(block[..count].to_vec()).is_err() {
                        return;
                    }
                }
            }
        }
    });
    receiver
}

async fn pass_size(writer: Arc<Mutex<OwnedWriteHalf>>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else {
        return;
    };
    loop {
        if let Some((columns, rows)) = terminal::size() {
            let payload = resize_payload(columns, rows);
            if write_frames(&writer, FrameKind::Resize, &payload)
                .await
                .is_err()
            {
                return;
            }
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

async fn write_frames(
    writer: &Mutex<OwnedWriteHalf>,
    kind: FrameKind,
    payload: &[u8],
) -> io::Result<()> {
    let mut frames = Vec::new();
    append_frames(&mut frames, kind, payload);
    writer.lock().await.write_all(&frames).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_found_also_when_they_come_apart() {
        let split = |keys: &[u8]| split_detach_keys(keys.to_vec());
        assert_eq!(split(b"ls\r"), (b"ls\r".to_vec(), vec![], false));
        assert!(split(b"x\x10\x11").2);
        let (pass, held, leave) = split(b"x\x10");
        assert_eq!(
            (pass.as_slice(), held.as_slice(), leave),
            (&b"x"[..], &b"\x10"[..], false)
        );
        assert!(split(&[held.as_slice(), b"\x11"].concat()).2);
        assert_eq!(
            split(&[&held[..], b"p"].concat()),
            (b"\x10p".to_vec(), vec![], false)
        );
    }
}
