//! What the monitor does when its children end, and how it ends itself.

use std::time::{Duration, Instant};

use rustix::process::{Signal, WaitOptions, WaitStatus, wait};

use super::connection::Role;
use super::container::{Container, Ending, pid_file};
use super::daemon::remove_empty_log;
use super::exits::write_exit;
use super::log_lines::Stream;
use super::oci_call::one_line;
use super::oom::OomWatch;
use super::protocol::{ContainerState, Event, ExitRecord, FailureKind, Reply, SOCKET_NAME};
use super::requests::failed;
use super::server::{PendingCall, Purpose, Server, Shutdown, attached_to};
use crate::causes::chain;
use crate::clock::now_nanoseconds;
use crate::sys::process::{HostPid, kill};

/// How long one run of the OCI runtime may hold up a shutdown.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);
/// Reads at a stream's end: more than a pipe of the largest size holds.
const LAST_READS: usize = 256;

impl Server {
    /// Reads the pending signals and acts on them.
    pub(super) fn take_signals(&mut self) {
        let mut terminate = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            terminate |= signal.ssi_signo != Signal::CHILD.as_raw().unsigned_abs();
        }
        // Several ends may be one signal: collect until there is none.
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if let Some(ending) = read_ending(status) {
                self.take_ending(pid.as_raw_nonzero().get(), ending);
            }
        }
        if terminate {
            self.begin_shutdown(None);
        }
    }

    fn take_ending(&mut self, pid: i32, ending: Ending) {
        let call = self.calls.iter().position(|found| found.call.pid == pid);
        if let Some(place) = call {
            let call = self.calls.remove(place);
            self.finish_call(call, ending);
            if !self.creates() {
                self.strays = Vec::new();
            }
        } else if let Some(place) = self.containers.iter().position(|found| found.pid == pid) {
            let starts = self.calls.iter().any(|call| {
                call.purpose == Purpose::Start && call.container == self.containers[place].id
            });
            if starts {
                self.containers[place].early_exit = Some(ending);
            } else {
                let id = self.containers[place].id.clone();
                self.finish_container(&id, ending);
                self.tidy(&id);
            }
        } else if self.pins.as_ref().and_then(|pins| pins.pod_init()) == Some(pid) {
            eprintln!("the pod's process 1 has ended ({ending:?}): its containers end too");
        } else if self.creates() {
            self.strays.push((pid, ending));
        }
        // Any other is an orphan of a container, a hook or a runtime.
    }

    fn creates(&self) -> bool {
        self.calls
            .iter()
            .any(|call| call.purpose == Purpose::Create)
    }

    fn finish_call(&mut self, mut call: PendingCall, ending: Ending) {
        if let Some(container) = self.container_mut(&call.container) {
            container.busy = false;
        }
        let succeeded = ending == Ending::Status(0);
        let reply = match call.purpose {
            Purpose::Create if succeeded => self.finish_create(&call.container),
            // Killed, it has undone nothing.
            Purpose::Create if matches!(ending, Ending::Signal(_)) => {
                self.reject_create(&call.container, &ending_text(ending))
            }
            Purpose::Create => self.undo_create(&call.container, &ending_text(ending)),
            Purpose::Start => self.finish_start(&mut call, ending),
            Purpose::Kill if succeeded => Reply::Done,
            Purpose::Delete if succeeded => self.finish_delete(&call.container),
            Purpose::Tidy if succeeded => {
                if let Some(container) = self.container_mut(&call.container) {
                    container.deleted = true;
                }
                Reply::Done
            }
            Purpose::Tidy => {
                // Whoever removes the container tries again, and is told.
                if let Reply::Failed { message, .. } = self.runtime_failure(&mut call, ending) {
                    eprintln!("{message}");
                }
                Reply::Done
            }
            Purpose::Kill | Purpose::Delete => self.runtime_failure(&mut call, ending),
        };
        match call.client {
            Some(client) => self.answer(client, &reply),
            None => self.note_failure(reply),
        }
        let nobody_retries = call.client.is_none() || self.shutdown.is_some();
        if call.purpose == Purpose::Delete && !succeeded && nobody_retries {
            self.abandon(&call.container);
        }
        // Its init may have ended while the call was under way.
        if !matches!(call.purpose, Purpose::Delete | Purpose::Tidy) {
            self.tidy(&call.container);
        }
    }

    fn finish_create(&mut self, id: &str) -> Reply {
        let path = pid_file(&self.pod_dir, id);
        let text = std::fs::read_to_string(&path);
        // Read or not, it is of no further use.
        let _ = std::fs::remove_file(&path);
        let pid = text.ok().and_then(|text| text.trim().parse::<i32>().ok());
        self.drain(id);
        let Some(pid) = pid.filter(|pid| *pid > 0) else {
            return self.reject_create(id, "it wrote no process id");
        };
        let Some(container) = self.container_mut(id) else {
            return Reply::Done;
        };
        if let Err(error) = container.streams.receive_terminal() {
            container.pid = pid;
            let reason = format!("it sent no terminal: {error}");
            return self.reject_create(id, &reason);
        }
        container.words = Vec::new();
        container.pid = pid;
        container.created_at = now_nanoseconds();
        match OomWatch::of_process(pid) {
            Ok(watch) => container.oom = watch,
            // The container is none the worse: only a kill would go unexplained.
            Err(error) => eprintln!("cannot watch the memory of {id}: {error}"),
        }
        let at = container.created_at;
        self.tell(&Event::Created {
            id: id.to_owned(),
            at,
        });
        if let Some(place) = self.strays.iter().position(|(stray, _)| *stray == pid) {
            let (_, ending) = self.strays.swap_remove(place);
            self.finish_container(id, ending);
        }
        Reply::Created { pid }
    }

    /// A container that came to nothing is forgotten; the runtime has undone
    /// its part.
    fn undo_create(&mut self, id: &str, reason: &str) -> Reply {
        self.drain(id);
        let _ = std::fs::remove_file(pid_file(&self.pod_dir, id));
        let Some(place) = self.containers.iter().position(|found| found.id == id) else {
            return Reply::Done;
        };
        let words = one_line(&self.containers.remove(place).undo());
        let message = format!("create {id}: {reason}{}", after_colon(&words));
        failed((FailureKind::Runtime, message))
    }

    /// The runtime has made a container that is of no use, or a part of one: it
    /// is deleted.
    fn reject_create(&mut self, id: &str, reason: &str) -> Reply {
        let mut message = format!("create {id}: {reason}");
        if let Err((_, error)) = self.call_delete(Purpose::Delete, id, None) {
            message = format!("{message}; it was not deleted: {error}");
            self.abandon(id);
        }
        failed((FailureKind::Runtime, message))
    }

    fn finish_start(&mut self, call: &mut PendingCall, ending: Ending) -> Reply {
        let succeeded = ending == Ending::Status(0);
        let Some(container) = self.container_mut(&call.container) else {
            return Reply::Done;
        };
        let early_exit = container.early_exit.take();
        if succeeded {
            container.state = ContainerState::Running;
            let event = Event::Started {
                id: call.container.clone(),
                at: container.started_at,
            };
            self.tell(&event);
        } else {
            container.started_at = 0;
        }
        let reply = if succeeded {
            Reply::Done
        } else {
            self.runtime_failure(call, ending)
        };
        if let Some(ending) = early_exit {
            self.finish_container(&call.container, ending);
        }
        reply
    }

    fn finish_delete(&mut self, id: &str) -> Reply {
        let Some(container) = self.container_mut(id) else {
            return Reply::Done;
        };
        if container.pid != 0 {
            // Killed by the runtime, but its end was not collected yet.
            let pid = container.pid;
            let _ = kill(HostPid(pid), Signal::KILL.as_raw());
            if let Some(ending) = collect(pid) {
                self.finish_container(id, ending);
            }
        }
        self.forget(id);
        Reply::Done
    }

    /// A container that the runtime has deleted is no more.
    pub(super) fn forget(&mut self, id: &str) {
        self.containers.retain(|found| found.id != id);
        self.tell(&Event::Deleted {
            id: id.to_owned(),
            at: now_nanoseconds(),
        });
    }

    /// Begins to take away what is left on the host of a container that has ended.
    fn tidy(&mut self, id: &str) {
        let is_due = |container: &Container| {
            container.state == ContainerState::Exited && !container.busy && !container.deleted
        };
        // A shutdown deletes every container.
        if self.shutdown.is_some() || !self.container(id).is_some_and(is_due) {
            return;
        }
        if let Err((_, message)) = self.call_delete(Purpose::Tidy, id, None) {
            eprintln!("{message}");
        }
    }

    /// A container's init has ended: log, record, then word of it.
    fn finish_container(&mut self, id: &str, ending: Ending) {
        self.drain(id);
        let Some(container) = self.container_mut(id) else {
            return;
        };
        let oom_grew = container.oom.as_mut().is_some_and(|oom| oom.look());
        let oom_killed = container.oom.as_ref().is_some_and(|oom| oom.has_killed());
        let (exit_code, signal) = match ending {
            Ending::Status(code) => (code, None),
            Ending::Signal(signal) => (128 + signal, Some(signal)),
        };
        let record = ExitRecord {
            id: id.to_owned(),
            exit_code,
            signal,
            oom_killed,
            started_at: container.started_at,
            finished_at: now_nanoseconds(),
        };
        container.pid = 0;
        container.state = ContainerState::Exited;
        container.exit = Some(record.clone());
        container.close();
        if let Err(error) = write_exit(&self.pod_dir, &record) {
            // Told all the same: a full disk must not make a pod immortal.
            eprintln!("{}", chain(&error));
        }
        if oom_grew {
            self.tell(&Event::OomKilled {
                id: id.to_owned(),
                at: record.finished_at,
            });
        }
        self.tell(&Event::Exited(record.clone()));
        for connection in attached_to(&mut self.connections, id) {
            connection.leave();
        }
        let waits = Role::Waits { id: id.to_owned() };
        let waiting: Vec<u64> = self
            .connections
            .iter()
            .filter(|connection| connection.role == waits)
            .map(|connection| connection.number)
            .collect();
        for client in waiting {
            self.answer(client, &Reply::Exited(record.clone()));
        }
    }

    /// Takes what is still in a container's streams.
    fn drain(&mut self, id: &str) {
        self.pump_output(id, Stream::Stdout, LAST_READS);
        self.pump_output(id, Stream::Stderr, LAST_READS);
    }

    fn runtime_failure(&mut self, call: &mut PendingCall, ending: Ending) -> Reply {
        let words = call.call.words();
        let message = format!(
            "{} {}: {}{}",
            call.call.verb,
            call.container,
            ending_text(ending),
            after_colon(&words)
        );
        failed((FailureKind::Runtime, message))
    }

    /// Begins to end; `client` is answered at the end.
    pub(super) fn begin_shutdown(&mut self, client: Option<u64>) {
        let shutdown = self.shutdown.get_or_insert_with(|| Shutdown {
            clients: Vec::new(),
            failures: Vec::new(),
            began: Instant::now(),
        });
        shutdown.clients.extend(client);
    }

    /// Deletes what is not busy, and ends when nothing is left.
    pub(super) fn advance_shutdown(&mut self) {
        let Some(shutdown) = &self.shutdown else {
            return;
        };
        for call in &self.calls {
            if shutdown.began.max(call.began).elapsed() > SHUTDOWN_PATIENCE {
                // Its end is collected like any other, as a failure.
                let _ = kill(HostPid(call.call.pid), Signal::KILL.as_raw());
            }
        }
        let idle: Vec<String> = self
            .containers
            .iter()
            .filter(|container| !container.busy)
            .map(|container| container.id.clone())
            .collect();
        for id in idle {
            if self
                .container(&id)
                .is_some_and(|container| container.deleted)
            {
                self.forget(&id);
                continue;
            }
            if let Err((kind, message)) = self.call_delete(Purpose::Delete, &id, None) {
                self.note_failure(Reply::Failed { kind, message });
                self.abandon(&id);
            }
        }
        if self.containers.is_empty() && self.calls.is_empty() {
            self.end();
        }
    }

    /// A failure during a shutdown is told at its end; it does not stop it.
    fn note_failure(&mut self, reply: Reply) {
        if let (Reply::Failed { message, .. }, Some(shutdown)) = (reply, &mut self.shutdown) {
            shutdown.failures.push(message);
        }
    }

    /// Kills and forgets a container that the runtime cannot delete.
    fn abandon(&mut self, id: &str) {
        if let Some(pid) = self.container(id).map(|container| container.pid)
            && pid != 0
        {
            let _ = kill(HostPid(pid), Signal::KILL.as_raw());
            if let Some(ending) = collect(pid) {
                self.finish_container(id, ending);
            }
        }
        self.containers.retain(|found| found.id != id);
    }

    /// Lets the pod's namespaces go and answers. The loop ends after this.
    fn end(&mut self) {
        let Some(pins) = self.pins.take() else {
            return;
        };
        let Some(shutdown) = self.shutdown.take() else {
            return;
        };
        let mut failures = shutdown.failures;
        failures.extend(pins.remove().iter().map(|error| chain(error)));
        if let Some(mut accounting) = self.accounting.take() {
            failures.extend(accounting.leave().iter().map(|error| chain(error)));
        }
        // Removed before the answer: whoever has it may make the pod anew.
        if failures.is_empty() {
            remove_empty_log(&self.pod_dir);
        }
        if let Err(error) = std::fs::remove_file(self.pod_dir.join(SOCKET_NAME)) {
            failures.push(format!("cannot remove the socket: {error}"));
        }
        let reply = if failures.is_empty() {
            Reply::Done
        } else {
            for failure in &failures {
                eprintln!("{failure}");
            }
            failed((FailureKind::Internal, failures.join("; ")))
        };
        for client in shutdown.clients {
            self.answer(client, &reply);
        }
    }

    /// Whether a shutdown is complete.
    pub(super) fn has_ended(&self) -> bool {
        self.pins.is_none()
    }
}

fn collect(pid: i32) -> Option<Ending> {
    let pid = rustix::process::Pid::from_raw(pid)?;
    let waited =
        rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(pid), WaitOptions::empty()));
    waited
        .ok()
        .flatten()
        .and_then(|(_, status)| read_ending(status))
}

fn read_ending(status: WaitStatus) -> Option<Ending> {
    if let Some(code) = status.exit_status() {
        return Some(Ending::Status(code));
    }
    status.terminating_signal().map(Ending::Signal)
}

fn ending_text(ending: Ending) -> String {
    match ending {
        Ending::Status(code) => format!("the OCI runtime exited with status {code}"),
        Ending::Signal(signal) => format!("the OCI runtime was killed by signal {signal}"),
    }
}

fn after_colon(words: &str) -> String {
    if words.is_empty() {
        String::new()
    } else {
        format!(": {words}")
    }
}
