//! One container as its monitor keeps it: descriptors, log, state.
//!
//! ```text
//!             create            start             its init ends
//! (nothing) ─────────▶ Created ───────▶ Running ───────────────▶ Exited
//!                         └──────────────────────────────────────▶┘
//! ```
//!
//! One that has ended is deleted from the OCI runtime at once: in a shared process
//! namespace the children of its init would go on without it, and its cgroup hold
//! memory. What is left is how it ended, until somebody removes that.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};

use super::connection::is_transient;
use super::console::ConsoleSocket;
use super::log_file::LogFile;
use super::log_lines::Stream;
use super::oci_call::ContainerStdio;
use super::oom::OomWatch;
use super::protocol::{ContainerRecord, ContainerState, CreateContainer, ExitRecord};
use crate::clock::now_nanoseconds;

/// The most of standard input that waits for the container to read it.
pub const STDIN_LIMIT_BYTES: usize = 64 * 1024;
/// The most of the OCI runtime's words that is kept during `create`.
const WORDS_LIMIT_BYTES: usize = 4096;

/// A container.
#[derive(Debug)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its init; 0 before it is known and after it has ended.
    pub pid: i32,
    /// Where it is in its life; `Created` also while `create` runs.
    pub state: ContainerState,
    /// A run of the OCI runtime is under way; other calls wait for its end.
    pub busy: bool,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Nanoseconds since the epoch; 0 while it was not started.
    pub started_at: i64,
    /// How it ended.
    pub exit: Option<ExitRecord>,
    /// The OCI runtime has deleted it.
    pub deleted: bool,
    /// Its init has ended while `start` was under way: told after that.
    pub early_exit: Option<Ending>,
    /// Its streams.
    pub streams: Streams,
    /// Closes standard input when the first who attached has gone.
    pub stdin_once: bool,
    /// The first client that attached.
    pub first_attached: Option<u64>,
    /// The watch on its memory.
    pub oom: Option<OomWatch>,
    /// What the OCI runtime said during `create`.
    pub words: Vec<u8>,
    log: Option<LogFile>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By itself.
    Status(i32),
    /// By a signal.
    Signal(i32),
}

/// The monitor's ends of a container's streams.
#[derive(Debug, Default)]
pub struct Streams {
    /// Pipe or terminal.
    pub stdout: Option<OwnedFd>,
    /// Pipe; during `create` of a container with a terminal, the OCI runtime's.
    pub stderr: Option<OwnedFd>,
    /// Pipe or terminal.
    pub stdin: Option<Input>,
    /// The terminal, for its size.
    pub terminal: Option<OwnedFd>,
    /// Where the terminal will come from.
    pub console: Option<ConsoleSocket>,
    /// Standard input is wanted; with a terminal it opens when that arrives.
    wants_stdin: bool,
}

/// Standard input with what was not taken yet.
#[derive(Debug)]
pub struct Input {
    descriptor: OwnedFd,
    queue: VecDeque<u8>,
    closes: bool,
}

impl Container {
    /// Prepares log and streams; returns also what `create` gets as its own.
    ///
    /// # Errors
    ///
    /// Which thing could not be opened; then nothing is left of the others.
    pub fn prepare(
        request: &CreateContainer,
        console: PathBuf,
    ) -> Result<(Container, ContainerStdio), (String, io::Error)> {
        let log = request
            .log_path
            .as_deref()
            .map(|path| {
                LogFile::open(path).map_err(|error| (format!("open log {}", path.display()), error))
            })
            .transpose()?;
        let (streams, stdio) = if request.terminal {
            prepare_terminal(request, console)
        } else {
            prepare_pipes(request)
        }
        .map_err(|error| ("make the container's streams".to_owned(), error))?;
        let container = Container {
            id: request.id.clone(),
            pid: 0,
            state: ContainerState::Created,
            busy: true,
            created_at: now_nanoseconds(),
            started_at: 0,
            exit: None,
            deleted: false,
            early_exit: None,
            streams,
            stdin_once: request.stdin_once,
            first_attached: None,
            oom: None,
            words: Vec::new(),
            log,
        };
        Ok((container, stdio))
    }

    /// What the protocol shows of it.
    pub fn record(&self) -> ContainerRecord {
        ContainerRecord {
            id: self.id.clone(),
            pid: self.pid,
            state: self.state,
            created_at: self.created_at,
            started_at: self.started_at,
            exit: self.exit.clone(),
        }
    }

    /// Reads one piece of a stream. The container's program cannot have
    /// written anything before its init is known: until then these are the
    /// words of the OCI runtime, and go neither to the log nor to clients.
    ///
    /// `None` when there is nothing now, or nothing ever again.
    pub fn read<'a>(&mut self, stream: Stream, scratch: &'a mut [u8]) -> Option<&'a [u8]> {
        let slot = match stream {
            Stream::Stdout => &mut self.streams.stdout,
            Stream::Stderr => &mut self.streams.stderr,
        };
        let descriptor = slot.as_ref()?;
        let read = rustix::io::retry_on_intr(|| rustix::io::read(descriptor, &mut *scratch));
        let length = match read {
            Err(rustix::io::Errno::AGAIN) => return None,
            // EIO is how a terminal says that its other end was closed.
            Ok(0) | Err(_) => {
                *slot = None;
                if self.is_made() {
                    self.finish_log(stream);
                }
                return None;
            }
            Ok(length) => length,
        };
        let bytes = &scratch[..length];
        if !self.is_made() {
            let room = WORDS_LIMIT_BYTES.saturating_sub(self.words.len());
            self.words.extend_from_slice(&bytes[..length.min(room)]);
            return Some(&[]);
        }
        if let Some(log) = &mut self.log {
            log.take(stream, bytes, now_nanoseconds());
        }
        Some(bytes)
    }

    /// Writes what waits for the end of its line, at a stream's end.
    pub fn finish_log(&mut self, stream: Stream) {
        if let Some(log) = &mut self.log {
            log.finish(stream, now_nanoseconds());
        }
    }

    /// Lets go of streams and log. Who is left of the container's processes
    /// gets SIGPIPE.
    pub fn close(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.finish_log(stream);
        }
        self.streams = Streams::default();
        self.log = None;
        self.oom = None;
    }

    /// Undoes [`Container::prepare`] and returns what the OCI runtime said.
    pub fn undo(self) -> Vec<u8> {
        if let Some(log) = self.log {
            log.discard();
        }
        self.words
    }

    /// Whether its `create` has succeeded.
    pub fn is_made(&self) -> bool {
        self.pid != 0 || self.exit.is_some()
    }

    /// Opens the log again. `None` when there is none.
    pub fn reopen_log(&mut self) -> Option<io::Result<()>> {
        self.log.as_mut().map(LogFile::reopen)
    }
}

impl Streams {
    /// Takes the terminal that `create` has sent.
    ///
    /// # Errors
    ///
    /// When none came.
    pub fn receive_terminal(&mut self) -> io::Result<()> {
        let Some(console) = self.console.take() else {
            return Ok(());
        };
        let terminal = console.receive()?;
        set_nonblocking(&terminal)?;
        if self.wants_stdin {
            self.stdin = Some(Input::new(terminal.try_clone()?));
        }
        self.stdout = Some(terminal.try_clone()?);
        self.terminal = Some(terminal);
        // What the OCI runtime wrote to; the container does not have it.
        self.stderr = None;
        Ok(())
    }

    /// Whether standard input would take more.
    pub fn takes_stdin(&self) -> bool {
        self.stdin
            .as_ref()
            .is_none_or(|input| input.queue.len() < STDIN_LIMIT_BYTES)
    }

    /// Queues standard input; nobody reads it when it is closed.
    pub fn queue_stdin(&mut self, bytes: &[u8]) {
        if let Some(input) = &mut self.stdin
            && !input.closes
        {
            input.queue.extend(bytes);
        }
        self.flush_stdin();
    }

    /// Closes standard input behind what is queued. A terminal has no end to
    /// close: it is sent its end-of-file character, control-D.
    pub fn close_stdin(&mut self) {
        if self.terminal.is_some() {
            self.queue_stdin(&[0x04]);
        } else if let Some(input) = &mut self.stdin {
            input.closes = true;
        }
        self.flush_stdin();
    }

    /// Writes what the container takes now.
    pub fn flush_stdin(&mut self) {
        if let Some(input) = &mut self.stdin
            && input.flush().is_break()
        {
            self.stdin = None;
        }
    }
}

impl Input {
    fn new(descriptor: OwnedFd) -> Input {
        Input {
            descriptor,
            queue: VecDeque::new(),
            closes: false,
        }
    }

    /// What to wait for, while something waits to be written.
    pub fn wanted(&self) -> Option<&OwnedFd> {
        (!self.queue.is_empty()).then_some(&self.descriptor)
    }

    fn flush(&mut self) -> std::ops::ControlFlow<()> {
        while !self.queue.is_empty() {
            let (front, _) = self.queue.as_slices();
            match rustix::io::write(&self.descriptor, front).map_err(io::Error::from) {
                Ok(length) => {
                    self.queue.drain(..length);
                }
                Err(error) if is_transient(&error) => return std::ops::ControlFlow::Continue(()),
                // EPIPE: the container has closed its end.
                Err(_) => return std::ops::ControlFlow::Break(()),
            }
        }
        self.queue = VecDeque::new();
        if self.closes {
            return std::ops::ControlFlow::Break(());
        }
        std::ops::ControlFlow::Continue(())
    }
}

/// Where `create` is to write the init's number.
pub fn pid_file(pod_dir: &Path, id: &str) -> PathBuf {
    pod_dir.join(format!(".{id}.pid"))
}

fn prepare_pipes(request: &CreateContainer) -> io::Result<(Streams, ContainerStdio)> {
    let (stdout, stdout_writer) = output_pipe()?;
    let (stderr, stderr_writer) = output_pipe()?;
    let mut streams = Streams {
        stdout: Some(stdout),
        stderr: Some(stderr),
        wants_stdin: request.stdin,
        ..Streams::default()
    };
    let stdin = if request.stdin {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        set_nonblocking(&writer)?;
        streams.stdin = Some(Input::new(writer));
        Stdio::from(reader)
    } else {
        let null = OpenOptions::new().read(true).open("/dev/null")?;
        Stdio::from(null)
    };
    let stdio = ContainerStdio {
        stdin,
        stdout: stdout_writer.into(),
        stderr: stderr_writer.into(),
    };
    Ok((streams, stdio))
}

fn prepare_terminal(
    request: &CreateContainer,
    console: PathBuf,
) -> io::Result<(Streams, ContainerStdio)> {
    let (stderr, stderr_writer) = output_pipe()?;
    let streams = Streams {
        stderr: Some(stderr),
        console: Some(ConsoleSocket::create(console)?),
        wants_stdin: request.stdin,
        ..Streams::default()
    };
    let stdio = ContainerStdio {
        stdin: Stdio::null(),
        stdout: Stdio::null(),
        stderr: stderr_writer.into(),
    };
    Ok((streams, stdio))
}

/// A pipe whose reading end does not block. The ends have flags of their own,
/// so that the container's end blocks, as programs expect.
fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    set_nonblocking(&reader)?;
    Ok((reader, writer))
}

fn set_nonblocking(descriptor: impl AsFd) -> io::Result<()> {
    let flags = fcntl_getfl(&descriptor)?;
    Ok(fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK)?)
}
