//! The monitor's loop: one thread, one `poll(2)`, no call that waits.
//!
//! ```text
//!  listener ─┐                    ┌─▶ requests.rs    calls of clients
//!  clients  ─┤                    ├─▶ attachment.rs  their frames
//!  signals  ─┼─▶ wait ─▶ serve ───┼─▶ lifecycle.rs   children that ended
//!  streams  ─┤                    │
//!  OOM      ─┘                    └─▶ here           output of containers
//! ```
//!
//! Children are known by SIGCHLD. The monitor is a *subreaper*
//! (`PR_SET_CHILD_SUBREAPER`): when `create` ends, its child, the container's
//! init, becomes a child of the monitor, which alone can then learn its exit
//! status.

use std::collections::VecDeque;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signalfd::SignalFd;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::accounting::Accounting;
use super::connection::{Connection, Role};
use super::container::{Container, Ending};
use super::failure::{Context as _, MonitorError};
use super::frames::append_frames;
use super::log_lines::Stream;
use super::namespaces::Pins;
use super::oci_call::OciCall;
use super::protocol::{Event, FrameKind, MonitorConfig, Reply, Request};
use super::readiness::Source;
use crate::clock::now_nanoseconds;
use crate::sys::residence::{ProgramText, malloc_trim};

/// The size of one read. A pipe holds 64 KiB, so a busy one takes a few.
const READ_BYTES: usize = 16 * 1024;
/// How many reads a stream gets before the others have their turn.
const READS_A_TURN: usize = 4;
/// How long to accept nobody when no descriptor was left.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// All that a monitor knows.
pub struct Server {
    pub(super) config: MonitorConfig,
    pub(super) pod_dir: PathBuf,
    pub(super) pins: Option<Pins>,
    pub(super) accounting: Option<Accounting>,
    pub(super) listener: UnixListener,
    pub(super) signals: SignalFd,
    pub(super) connections: Vec<Connection>,
    pub(super) next_connection: u64,
    /// In order of creation.
    pub(super) containers: Vec<Container>,
    /// Runs of the OCI runtime that have not ended.
    pub(super) calls: Vec<PendingCall>,
    /// Requests for a container that was busy.
    pub(super) parked: VecDeque<(u64, Request)>,
    /// Children that ended while a `create` was under way: its init may be
    /// among them.
    pub(super) strays: Vec<(i32, Ending)>,
    pub(super) shutdown: Option<Shutdown>,
    scratch: Vec<u8>,
    text: Option<ProgramText>,
    pub(super) idle: bool,
    /// No descriptor was left for another client: they wait until then.
    pub(super) accepts_again: Option<Instant>,
}

/// A run of the OCI runtime and what it is for.
pub struct PendingCall {
    pub(super) call: OciCall,
    pub(super) container: String,
    /// The client to answer; none when the monitor itself wants it.
    pub(super) client: Option<u64>,
    pub(super) purpose: Purpose,
    pub(super) began: Instant,
}

/// What a run of the OCI runtime is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Make the container.
    Create,
    /// Start its program.
    Start,
    /// Signal all its processes.
    Kill,
    /// Remove it.
    Delete,
    /// Take away what is left on the host of one that has ended.
    Tidy,
}

/// A shutdown under way.
#[derive(Debug)]
pub struct Shutdown {
    pub(super) clients: Vec<u64>,
    pub(super) failures: Vec<String>,
    pub(super) began: Instant,
}

/// What the loop starts with.
pub struct Beginning {
    pub(super) config: MonitorConfig,
    pub(super) pod_dir: PathBuf,
    pub(super) pins: Pins,
    pub(super) accounting: Option<Accounting>,
    pub(super) listener: UnixListener,
    pub(super) signals: SignalFd,
}

/// Serves until a shutdown is complete.
///
/// # Errors
///
/// When the loop itself cannot go on.
pub fn serve(beginning: Beginning) -> Result<(), MonitorError> {
    let mut server = Server {
        config: beginning.config,
        pod_dir: beginning.pod_dir,
        pins: Some(beginning.pins),
        accounting: beginning.accounting,
        listener: beginning.listener,
        signals: beginning.signals,
        connections: Vec::new(),
        next_connection: 1,
        containers: Vec::new(),
        calls: Vec::new(),
        parked: VecDeque::new(),
        strays: Vec::new(),
        shutdown: None,
        scratch: vec![0; READ_BYTES],
        text: ProgramText::find(),
        idle: false,
        accepts_again: None,
    };
    while !server.has_ended() {
        let ready = server.wait().during(|| "wait for events".into())?;
        server.trim_when_idle(&ready);
        for (source, events) in ready {
            server.serve(source, events);
        }
        server.settle();
    }
    Ok(())
}

impl Server {
    /// A monitor sleeps nearly always: once it begins to, it gives back the
    /// memory of what it has just done.
    fn trim_when_idle(&mut self, ready: &[(Source, PollFlags)]) {
        if !ready.is_empty() {
            self.idle = false;
        } else if !self.idle {
            self.idle = true;
            self.connections.shrink_to_fit();
            malloc_trim();
            if let Some(text) = &self.text {
                text.release();
            }
        }
    }

    fn serve(&mut self, source: Source, events: PollFlags) {
        match source {
            Source::Listener => self.accept(),
            Source::Signals => self.take_signals(),
            Source::Connection(number) => self.serve_connection(number, events),
            Source::Output(id, stream) => self.pump_output(&id, stream, READS_A_TURN),
            Source::Stdin(id) => {
                if let Some(container) = self.container_mut(&id) {
                    container.streams.flush_stdin();
                }
                self.feed_stdin(&id);
            }
            Source::Oom(id) => {
                if let Some(oom) = self
                    .container_mut(&id)
                    .and_then(|container| container.oom.as_mut())
                {
                    oom.take_wake();
                }
                self.look_for_oom(&id);
            }
        }
    }

    /// What is due without a descriptor having become ready.
    fn settle(&mut self) {
        let watched: Vec<String> = self
            .containers
            .iter()
            .filter(|container| container.oom.as_ref().is_some_and(|oom| oom.looks_again()))
            .map(|container| container.id.clone())
            .collect();
        for id in watched {
            self.look_for_oom(&id);
        }
        if self.accepts_again.is_some_and(|at| at <= Instant::now()) {
            self.accepts_again = None;
        }
        self.drop_stalled();
        self.unpark();
        self.take_waiting_requests();
        self.advance_shutdown();
        let gone =
            |connection: &Connection| connection.role == Role::Leaving && !connection.has_output();
        self.connections.retain(|connection| !gone(connection));
    }

    /// Clients may send the next request before the last is answered.
    fn take_waiting_requests(&mut self) {
        let waiting = self.connections.iter().filter(|found| found.has_request());
        let waiting: Vec<u64> = waiting.map(|connection| connection.number).collect();
        for client in waiting {
            self.take_input(client);
        }
    }

    fn accept(&mut self) {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match accept_with(&self.listener, flags) {
                Ok(stream) => {
                    let number = self.next_connection;
                    self.next_connection += 1;
                    self.connections
                        .push(Connection::new(number, stream.into()));
                    // Most clients have said what they want by now.
                    self.serve_connection(number, PollFlags::IN);
                }
                Err(Errno::WOULDBLOCK) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    // EMFILE: the client stays in the kernel's queue. Polled, it
                    // would wake the loop without end.
                    eprintln!("cannot accept a client: {error}");
                    self.accepts_again = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn serve_connection(&mut self, number: u64, events: PollFlags) {
        let scratch = &mut self.scratch;
        let Some(connection) = self
            .connections
            .iter_mut()
            .find(|connection| connection.number == number)
        else {
            return;
        };
        if events.contains(PollFlags::OUT) {
            connection.flush();
        }
        let alive = if events.contains(PollFlags::IN) {
            connection.fill(scratch)
        } else {
            !events.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)
        };
        self.take_input(number);
        if !alive {
            self.hang_up(number);
        }
    }

    /// Acts on a client's input, as far as it is complete and may be taken.
    pub(super) fn take_input(&mut self, number: u64) {
        loop {
            let Some(connection) = self.connection_mut(number) else {
                return;
            };
            match connection.role.clone() {
                Role::Calls => {
                    let flooded = connection.is_flooded();
                    match connection.take_line() {
                        Some(line) => self.take_request(number, &line),
                        None if flooded => return self.refuse_flood(number),
                        None => return,
                    }
                }
                Role::Attached { id } => return self.take_frames(number, &id),
                Role::Subscribed => {
                    // A subscriber has nothing to say.
                    let length = connection.input().len();
                    return connection.consume(length);
                }
                Role::Pending | Role::Waits { .. } | Role::Leaving => return,
            }
        }
    }

    /// Reads a stream of a container and hands it to log and clients.
    pub(super) fn pump_output(&mut self, id: &str, stream: Stream, turns: usize) {
        for _ in 0..turns {
            let Some(container) = self.containers.iter_mut().find(|found| found.id == id) else {
                return;
            };
            let Some(bytes) = container.read(stream, &mut self.scratch) else {
                return;
            };
            if bytes.is_empty() {
                continue;
            }
            let kind = match stream {
                Stream::Stdout => FrameKind::Stdout,
                Stream::Stderr => FrameKind::Stderr,
            };
            for connection in attached_to(&mut self.connections, id) {
                connection.queue(|out| append_frames(out, kind, bytes));
            }
        }
    }

    fn look_for_oom(&mut self, id: &str) {
        let Some(container) = self.container_mut(id) else {
            return;
        };
        if container.oom.as_mut().is_some_and(|oom| oom.look()) {
            self.tell(&Event::OomKilled {
                id: id.to_owned(),
                at: now_nanoseconds(),
            });
        }
    }

    fn drop_stalled(&mut self) {
        let now = Instant::now();
        let mut detached = Vec::new();
        for connection in &mut self.connections {
            if !connection.has_stalled(now) {
                continue;
            }
            if let Role::Attached { id } = connection.role.clone() {
                let message = b"\nberth: detached, since output was not read for too long\n";
                connection.queue(|out| append_frames(out, FrameKind::Stderr, message));
                detached.push((connection.number, id));
            }
            connection.leave();
        }
        for (client, id) in detached {
            self.detach(client, &id);
        }
    }

    /// Tells every subscriber.
    pub(super) fn tell(&mut self, event: &Event) {
        for connection in &mut self.connections {
            if connection.role == Role::Subscribed {
                connection.queue_line(event);
            }
        }
    }

    /// Answers a client and lets it call again.
    pub(super) fn answer(&mut self, client: u64, reply: &Reply) {
        let Some(connection) = self.connection_mut(client) else {
            // It hung up meanwhile.
            return;
        };
        connection.role = Role::Calls;
        connection.queue_line(reply);
    }

    pub(super) fn connection_mut(&mut self, number: u64) -> Option<&mut Connection> {
        self.connections
            .iter_mut()
            .find(|connection| connection.number == number)
    }

    pub(super) fn container(&self, id: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.id == id)
    }

    pub(super) fn container_mut(&mut self, id: &str) -> Option<&mut Container> {
        self.containers
            .iter_mut()
            .find(|container| container.id == id)
    }
}

/// The clients attached to a container.
pub(super) fn attached_to<'a>(
    connections: &'a mut [Connection],
    id: &'a str,
) -> impl Iterator<Item = &'a mut Connection> {
    connections.iter_mut().filter(
        move |connection| matches!(&connection.role, Role::Attached { id: attached } if attached == id),
    )
}
