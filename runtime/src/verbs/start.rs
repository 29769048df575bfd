//! `start`: a container's program begins.

use std::os::fd::AsFd;

use super::{Found, find};
use crate::arguments::Global;
use crate::error::{Error, ErrorKind};
use crate::hooks::{HookState, open_outputs, run_hooks};
use crate::init::Message;
use crate::listener;
use crate::notify::Relay;
use crate::plan;
use crate::stage::StageFailure;
use crate::state::{START_SOCKET, Status};
use crate::sys::channel;

/// Gives init its word and waits until the program has begun.
///
/// # Errors
///
/// [`ErrorKind::WrongState`] when it does not wait; the stage and cause when the
/// program cannot begin: the container is stopped then.
pub fn start(global: &Global, id: &str) -> Result<i32, Error> {
    let found = find(global, id)?;
    if found.status != Status::Created {
        return Err(wrong_state(found.status));
    }
    let connected = channel::connect_in(found.folder.directory(), START_SOCKET);
    // Another `start` was faster, or init has just ended.
    let socket = connected.map_err(|_| wrong_state(Status::Running))?;
    let relay = Relay::listen(found.folder.path())?;
    channel::send(socket.as_fd(), &[Message::Begin as u8])?;
    let mut answer = channel::receive(socket.as_fd())?;
    if let Some((Message::Listener, told)) = Message::read(&answer) {
        send_listener(&found, told)?;
        channel::send(socket.as_fd(), &[Message::GoOn as u8])?;
        answer = channel::receive(socket.as_fd())?;
    }
    if let Some((Message::Failed, told)) = Message::read(&answer) {
        let failure: StageFailure = serde_json::from_slice(told)
            .map_err(|_| Error::new(ErrorKind::Failed, "init could not say why it failed"))?;
        return Err(failure.into());
    }
    found.folder.remove_start_socket();
    // Opened while it is known to live: a manager is told of this process.
    let init = found.record.init.map(|init| (init.pid, init.open()));
    run_poststart(&found)?;
    if let (Some(relay), Some((pid, Ok(pidfd)))) = (relay, init) {
        relay.wait((pid, pidfd.as_fd()))?;
    }
    Ok(0)
}

/// Sends the listener of init's filter to the agent. When that fails init hears
/// of it by the end of the connection, and ends.
fn send_listener(found: &Found, told: &[u8]) -> Result<(), Error> {
    let init = found
        .record
        .init
        .ok_or_else(|| wrong_state(Status::Stopped))?;
    let pidfd = init.open()?;
    let spec = found.folder.read_config()?;
    let profile = plan::plan_profile(&spec);
    let agent = profile.as_ref().and_then(listener::plan_agent);
    let agent = agent.ok_or_else(|| {
        let text = "linux.seccomp.listenerPath: expected a path, for init names a listener";
        Error::new(ErrorKind::Failed, text)
    })?;
    let state = HookState {
        oci_version: &found.record.oci_version,
        id: &found.record.id,
        status: Status::Created,
        pid: Some(init.pid),
        bundle: &found.record.bundle,
        annotations: &found.record.annotations,
    };
    Ok(listener::hand_over(
        (init.pid, pidfd.as_fd()),
        told,
        &agent,
        &state,
    )?)
}

fn run_poststart(found: &Found) -> Result<(), Error> {
    open_outputs(&found.record.annotations)?;
    let spec = found.folder.read_config()?;
    let hooks = spec
        .hooks()
        .as_ref()
        .and_then(|hooks| hooks.poststart().as_deref());
    let state = HookState {
        oci_version: &found.record.oci_version,
        id: &found.record.id,
        status: Status::Running,
        pid: found.record.init.map(|init| init.pid),
        bundle: &found.record.bundle,
        annotations: &found.record.annotations,
    };
    Ok(run_hooks("poststart", hooks.unwrap_or(&[]), &state)?)
}

/// In runc's words.
fn wrong_state(status: Status) -> Error {
    let text = match status {
        Status::Stopped => "cannot start a container that has stopped".to_owned(),
        Status::Running => "cannot start an already running container".to_owned(),
        other => format!("cannot start a container in the {} state", other.word()),
    };
    Error::new(ErrorKind::WrongState, text)
}
