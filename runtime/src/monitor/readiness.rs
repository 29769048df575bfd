//! What the monitor's loop waits for.
//!
//! The list is made anew for each `poll(2)`: a pod has a handful of
//! descriptors, and a list that is derived cannot disagree with the state.
//! What must not be acted on now is left out, which is how one side is held
//! back when the other does not take more: a container whose watcher's queue is
//! full is not read, a client whose container's input is full neither.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::connection::{Connection, Role};
use super::container::Container;
use super::log_lines::Stream;
use super::server::Server;

/// How often to look at what has no descriptor to wait for.
const TICK: Duration = Duration::from_millis(50);

/// What a descriptor in the poll is.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A new client.
    Listener,
    /// Children that ended, or a wish to end the monitor.
    Signals,
    /// A client, by its number.
    Connection(u64),
    /// Output of a container.
    Output(String, Stream),
    /// A container that may take more input.
    Stdin(String),
    /// The memory group of a container.
    Oom(String),
}

impl Server {
    /// Waits until something is to be done, or for a moment if something may be
    /// due without a descriptor; then nothing is returned.
    pub(super) fn wait(&self) -> io::Result<Vec<(Source, PollFlags)>> {
        let mut sources = Vec::new();
        let mut polled = Vec::new();
        let mut add = |source, descriptor, flags| {
            sources.push(source);
            polled.push(PollFd::from_borrowed_fd(descriptor, flags));
        };
        if self.accepts_again.is_none() {
            add(Source::Listener, self.listener.as_fd(), PollFlags::IN);
        }
        add(Source::Signals, self.signals.as_fd(), PollFlags::IN);
        for connection in &self.connections {
            if let Some(flags) = self.interest(connection) {
                let source = Source::Connection(connection.number);
                add(source, connection.stream.as_fd(), flags);
            }
        }
        for container in &self.containers {
            self.add_container(container, &mut add);
        }
        let timeout = self
            .needs_ticks()
            .then(|| Timespec::try_from(TICK).expect("fifty milliseconds fit into a timespec"));
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let events: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        let ready = sources.into_iter().zip(events);
        Ok(ready.filter(|(_, events)| !events.is_empty()).collect())
    }

    /// What to wait for on a connection. One that may not be read now, because
    /// its container does not take more, is left out: a hang-up that is not
    /// acted on would wake the loop without end.
    fn interest(&self, connection: &Connection) -> Option<PollFlags> {
        let mut flags = PollFlags::empty();
        if connection.has_output() {
            flags |= PollFlags::OUT;
        }
        let held = match &connection.role {
            Role::Attached { id } => self
                .container(id)
                .is_some_and(|container| !container.streams.takes_stdin()),
            _ => false,
        };
        if connection.takes_input() && !held {
            flags |= PollFlags::IN;
        }
        (!held || !flags.is_empty()).then_some(flags)
    }

    fn add_container<'a>(
        &'a self,
        container: &'a Container,
        add: &mut impl FnMut(Source, BorrowedFd<'a>, PollFlags),
    ) {
        let id = || container.id.clone();
        let streams = &container.streams;
        if !self.output_pauses(&container.id) {
            if let Some(stdout) = &streams.stdout {
                let source = Source::Output(id(), Stream::Stdout);
                add(source, stdout.as_fd(), PollFlags::IN);
            }
            if let Some(stderr) = &streams.stderr {
                let source = Source::Output(id(), Stream::Stderr);
                add(source, stderr.as_fd(), PollFlags::IN);
            }
        }
        if let Some(stdin) = streams.stdin.as_ref().and_then(|input| input.wanted()) {
            add(Source::Stdin(id()), stdin.as_fd(), PollFlags::OUT);
        }
        if let Some((wake, flags)) = container.oom.as_ref().and_then(|oom| oom.wake_source()) {
            add(Source::Oom(id()), wake, flags);
        }
    }

    fn output_pauses(&self, id: &str) -> bool {
        self.connections.iter().any(|connection| {
            connection.is_full()
                && matches!(&connection.role, Role::Attached { id: attached } if attached == id)
        })
    }

    fn needs_ticks(&self) -> bool {
        self.shutdown.is_some()
            || self.accepts_again.is_some()
            || self.connections.iter().any(Connection::is_full)
            || self
                .containers
                .iter()
                .filter_map(|container| container.oom.as_ref())
                .any(|oom| oom.looks_again())
            // One tick to notice that nothing happens.
            || !self.idle
    }
}
