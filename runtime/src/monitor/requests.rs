//! What clients ask for.

use std::time::Instant;

use super::connection::Role;
use super::console::resize;
use super::container::{Container, pid_file};
use super::oci_call::{CreateArguments, OciCall};
use super::protocol::{ContainerState, CreateContainer, FailureKind, Reply, Request};
use super::server::{PendingCall, Purpose, Server};
use crate::sys::process::{HostPid, kill};

/// Why a call is not carried out.
type Refusal = (FailureKind, String);

/// What becomes of a call at once.
enum Outcome {
    /// It is answered.
    Answer(Reply),
    /// The answer comes later.
    Later,
}

/// A verb of the OCI runtime with its arguments.
pub(super) struct Verb<'a> {
    name: &'static str,
    arguments: &'a [&'a str],
    purpose: Purpose,
}

impl Server {
    /// Carries out one line of a client.
    pub(super) fn take_request(&mut self, client: u64, line: &[u8]) {
        match serde_json::from_slice::<Request>(line) {
            Ok(request) => self.carry_out(client, request),
            Err(error) => {
                let message = format!("cannot read the request: {error}; nothing was done");
                self.answer(client, &failed((FailureKind::BadRequest, message)));
            }
        }
    }

    pub(super) fn refuse_flood(&mut self, client: u64) {
        let message = "the request has no end; the connection is closed".to_owned();
        self.answer(client, &failed((FailureKind::BadRequest, message)));
        if let Some(connection) = self.connection_mut(client) {
            connection.leave();
        }
    }

    pub(super) fn carry_out(&mut self, client: u64, request: Request) {
        if self.must_wait(&request) {
            if let Some(connection) = self.connection_mut(client) {
                connection.role = Role::Pending;
                self.parked.push_back((client, request));
            }
            return;
        }
        let outcome = match request {
            // Who only asks is told to the end, as `berth ps` beside a `berth stop`.
            Request::Status { id } => self.status(id.as_deref()),
            _ if self.shutdown.is_some() && request != Request::Shutdown => {
                let message = "the monitor is shutting down; nothing was done".to_owned();
                Err((FailureKind::WrongState, message))
            }
            Request::Create(create) => self.create(client, &create),
            Request::Start { id } => self.start(client, &id),
            Request::Kill { id, signal, all } => self.kill(client, &id, signal, all),
            Request::Delete { id } => self.delete(client, &id),
            Request::ReopenLog { id } => self.reopen_log(&id),
            Request::Resize { id, width, height } => self.resize(&id, width, height),
            Request::Attach { id } => self.attach(client, &id),
            Request::Wait { id } => self.wait_for_exit(client, &id),
            // Whoever must wait has waited already.
            Request::Settle { .. } => Ok(Outcome::Answer(Reply::Done)),
            Request::Subscribe => self.subscribe(client),
            Request::Shutdown => {
                self.begin_shutdown(Some(client));
                Ok(Outcome::Later)
            }
        };
        match outcome {
            Ok(Outcome::Answer(reply)) => self.answer(client, &reply),
            Ok(Outcome::Later) => {
                if let Some(connection) = self.connection_mut(client)
                    && connection.role == Role::Calls
                {
                    connection.role = Role::Pending;
                }
            }
            Err(refusal) => self.answer(client, &failed(refusal)),
        }
    }

    /// Gives parked requests another chance.
    pub(super) fn unpark(&mut self) {
        for _ in 0..self.parked.len() {
            let Some((client, request)) = self.parked.pop_front() else {
                return;
            };
            // Whoever hung up no longer wants it.
            if let Some(connection) = self.connection_mut(client) {
                connection.role = Role::Calls;
                self.carry_out(client, request);
                self.take_input(client);
            }
        }
    }

    /// A run of the OCI runtime for the container is under way and the call
    /// needs its outcome. A start may hang in a hook: then a signal must get
    /// through.
    fn must_wait(&self, request: &Request) -> bool {
        let (id, needs_init_only) = match request {
            Request::Start { id } | Request::Delete { id } | Request::Settle { id } => (id, false),
            Request::Kill { id, all, .. } => (id, !all),
            Request::Attach { id } | Request::Wait { id } => (id, true),
            _ => return false,
        };
        self.shutdown.is_none()
            && self.container(id).is_some_and(|container| {
                container.busy && !(needs_init_only && container.is_made())
            })
    }

    fn create(&mut self, client: u64, request: &CreateContainer) -> Result<Outcome, Refusal> {
        check_id(&request.id)?;
        if self.container(&request.id).is_some() {
            let message = format!("{}: this pod has such a container already", request.id);
            return Err((FailureKind::WrongState, message));
        }
        // The number makes room for a second one while the first still ends.
        let console = self.pod_dir.join(format!("tty{client}"));
        let (container, stdio) =
            Container::prepare(request, console).map_err(|(step, error)| {
                let message = format!("cannot {step}: {error}; {} was not created", request.id);
                (FailureKind::Internal, message)
            })?;
        let arguments = CreateArguments {
            id: &request.id,
            bundle: &request.bundle,
            pid_file: &pid_file(&self.pod_dir, &request.id),
            console_socket: container
                .streams
                .console
                .as_ref()
                .map(|socket| socket.path()),
        };
        let call = match OciCall::create(&self.config, arguments, stdio) {
            Ok(call) => call,
            Err(error) => {
                container.undo();
                return Err(self.no_runtime(&error));
            }
        };
        self.calls.push(PendingCall {
            call,
            container: request.id.clone(),
            client: Some(client),
            purpose: Purpose::Create,
            began: Instant::now(),
        });
        self.containers.push(container);
        Ok(Outcome::Later)
    }

    fn start(&mut self, client: u64, id: &str) -> Result<Outcome, Refusal> {
        let container = self.known(id)?;
        if container.state != ContainerState::Created {
            return Err(wrong_state(container, "created"));
        }
        let verb = Verb {
            name: "start",
            arguments: &[id],
            purpose: Purpose::Start,
        };
        self.call_runtime(id, verb, Some(client))?;
        // The program may end before `start` returns, and its record needs this.
        let container = self.known(id)?;
        container.started_at = crate::clock::now_nanoseconds();
        Ok(Outcome::Later)
    }

    fn kill(&mut self, client: u64, id: &str, signal: i32, all: bool) -> Result<Outcome, Refusal> {
        if !(1..=64).contains(&signal) {
            let message = format!("signal: expected 1 to 64, found {signal}; nothing was sent");
            return Err((FailureKind::BadRequest, message));
        }
        let container = self.known(id)?;
        if all && container.deleted {
            return Ok(Outcome::Answer(Reply::Done));
        }
        if all {
            let verb = Verb {
                name: "kill",
                arguments: &["--all", id, &signal.to_string()],
                purpose: Purpose::Kill,
            };
            self.call_runtime(id, verb, Some(client))?;
            return Ok(Outcome::Later);
        }
        if container.pid == 0 {
            return Err(wrong_state(container, "created or running"));
        }
        // The init is a child that was not collected yet, so its number is
        // still its own.
        kill(HostPid(container.pid), signal).map_err(|error| {
            let message = format!("cannot send signal {signal} to {id}: {error}");
            (FailureKind::Internal, message)
        })?;
        Ok(Outcome::Answer(Reply::Done))
    }

    fn delete(&mut self, client: u64, id: &str) -> Result<Outcome, Refusal> {
        match self.container(id) {
            None => return Ok(Outcome::Answer(Reply::Done)),
            Some(container) if container.deleted => {
                self.forget(id);
                return Ok(Outcome::Answer(Reply::Done));
            }
            Some(_) => {}
        }
        self.call_delete(Purpose::Delete, id, Some(client))?;
        Ok(Outcome::Later)
    }

    /// Runs `delete` of the OCI runtime, for [`Purpose::Delete`] or [`Purpose::Tidy`].
    pub(super) fn call_delete(
        &mut self,
        purpose: Purpose,
        id: &str,
        client: Option<u64>,
    ) -> Result<(), Refusal> {
        let verb = Verb {
            name: "delete",
            arguments: &["--force", id],
            purpose,
        };
        self.call_runtime(id, verb, client)
    }

    fn status(&mut self, id: Option<&str>) -> Result<Outcome, Refusal> {
        let containers = match id {
            Some(id) => vec![self.known(id)?.record()],
            None => self.containers.iter().map(Container::record).collect(),
        };
        Ok(Outcome::Answer(Reply::Containers { containers }))
    }

    fn reopen_log(&mut self, id: &str) -> Result<Outcome, Refusal> {
        let container = self.known(id)?;
        match container.reopen_log() {
            Some(Ok(())) => Ok(Outcome::Answer(Reply::Done)),
            Some(Err(error)) => {
                let message = format!("cannot open the log of {id}: {error}; the old one is kept");
                Err((FailureKind::Internal, message))
            }
            None => {
                let message = format!("{id} has no open log");
                Err((FailureKind::WrongState, message))
            }
        }
    }

    fn resize(&mut self, id: &str, width: u16, height: u16) -> Result<Outcome, Refusal> {
        let container = self.known(id)?;
        let Some(terminal) = &container.streams.terminal else {
            let message = format!("{id} has no terminal, or no longer");
            return Err((FailureKind::WrongState, message));
        };
        resize(terminal, width, height).map_err(|error| {
            let message = format!("cannot resize the terminal of {id}: {error}");
            (FailureKind::Internal, message)
        })?;
        Ok(Outcome::Answer(Reply::Done))
    }

    fn attach(&mut self, client: u64, id: &str) -> Result<Outcome, Refusal> {
        let container = self.known(id)?;
        if container.state == ContainerState::Exited {
            return Err(wrong_state(container, "created or running"));
        }
        container.first_attached.get_or_insert(client);
        self.answer(client, &Reply::Done);
        self.take_over(client, Role::Attached { id: id.to_owned() });
        Ok(Outcome::Later)
    }

    fn wait_for_exit(&mut self, client: u64, id: &str) -> Result<Outcome, Refusal> {
        if let Some(exit) = &self.known(id)?.exit {
            return Ok(Outcome::Answer(Reply::Exited(exit.clone())));
        }
        self.take_over(client, Role::Waits { id: id.to_owned() });
        Ok(Outcome::Later)
    }

    fn subscribe(&mut self, client: u64) -> Result<Outcome, Refusal> {
        self.answer(client, &Reply::Done);
        self.take_over(client, Role::Subscribed);
        Ok(Outcome::Later)
    }

    /// Unless the client hung up while it was answered.
    fn take_over(&mut self, client: u64, role: Role) {
        if let Some(connection) = self.connection_mut(client)
            && connection.role == Role::Calls
        {
            connection.role = role;
        }
    }

    /// Starts a verb of the OCI runtime; the container is busy until its end.
    pub(super) fn call_runtime(
        &mut self,
        id: &str,
        verb: Verb<'_>,
        client: Option<u64>,
    ) -> Result<(), Refusal> {
        let call = OciCall::verb(&self.config, verb.name, verb.arguments)
            .map_err(|error| self.no_runtime(&error))?;
        self.known(id)?.busy = true;
        self.calls.push(PendingCall {
            call,
            container: id.to_owned(),
            client,
            purpose: verb.purpose,
            began: Instant::now(),
        });
        Ok(())
    }

    fn known(&mut self, id: &str) -> Result<&mut Container, Refusal> {
        self.container_mut(id).ok_or_else(|| {
            let message = format!("{id}: this pod has no such container");
            (FailureKind::NotFound, message)
        })
    }

    fn no_runtime(&self, error: &std::io::Error) -> Refusal {
        let runtime = self.config.oci_runtime.display();
        let message = format!("cannot run {runtime}: {error}; nothing was done");
        (FailureKind::Runtime, message)
    }
}

/// The reply of a call that is not carried out.
pub(super) fn failed((kind, message): Refusal) -> Reply {
    Reply::Failed { kind, message }
}

/// An id becomes the name of files, so it must not lead out of a folder.
fn check_id(id: &str) -> Result<(), Refusal> {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "_+-.".contains(letter);
    let sound =
        !id.is_empty() && id.len() <= 200 && !id.starts_with('.') && id.chars().all(allowed);
    if sound {
        return Ok(());
    }
    let message = format!(
        "id: expected 1 to 200 of A-Z a-z 0-9 _ + - . and no leading dot, found {id:?}; \
         nothing was created"
    );
    Err((FailureKind::BadRequest, message))
}

fn wrong_state(container: &Container, expected: &str) -> Refusal {
    let state = match container.state {
        ContainerState::Created => "created",
        ContainerState::Running => "running",
        ContainerState::Exited => "exited",
    };
    let message = format!("{} is {state}, expected {expected}", container.id);
    (FailureKind::WrongState, message)
}
