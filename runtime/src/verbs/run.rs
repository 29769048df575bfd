//! `run`: create, start, wait and delete in one call.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Found, delete};
use crate::arguments::{Global, RunArguments};
use crate::creation::stops::Stop;
use crate::creation::{Creation, Gate};
use crate::error::{Error, ErrorKind};
use crate::hooks::{HookState, run_hooks};
use crate::init::Message;
use crate::listener;
use crate::notify::Relay;
use crate::relay;
use crate::stage::StageFailure;
use crate::state::Status;
use crate::sys::channel;
use crate::sys::process::HostPid;

/// Runs a container; its exit status becomes ours.
///
/// # Errors
///
/// What was not made, and why; nothing is left of it.
pub fn run(global: &Global, arguments: &RunArguments) -> Result<i32, Error> {
    let creation = super::create::prepare(global, &arguments.create, Gate::Now)?;
    run_planned(creation, arguments)
}

/// Runs a container that was planned already.
///
/// # Errors
///
/// As [`run`].
pub fn run_planned(mut creation: Creation, arguments: &RunArguments) -> Result<i32, Error> {
    let terminal = plan_terminal(&mut creation, arguments.detach)?;
    creation.run()?;
    let master = terminal
        .map(|socket| channel::receive_descriptor(socket.as_fd()))
        .transpose()?;
    // Who walks answers questions until the program begins, and Ctrl-C is one of
    // the answers; else a signal from here on is the program's.
    let walks = creation.wishes.stop == Stop::Each;
    let early = (!walks).then(relay::watch_signals).transpose()?;
    let begun = listen(&creation).and_then(|manager| {
        let_go(&mut creation)?;
        Ok(manager)
    });
    let manager = match begun {
        Ok(manager) => manager,
        Err(error) => {
            creation.take_back();
            return Err(error);
        }
    };
    let signals = early.map_or_else(relay::watch_signals, Ok)?;
    run_poststart(&creation)?;
    if arguments.detach {
        if let Some(manager) = manager {
            manager.wait(init_of(&creation))?;
        }
        return Ok(0);
    }
    let code = relay::wait_for_end(&init_of(&creation), master, &signals, manager.as_ref())?;
    if !arguments.keep {
        remove(creation)?;
    }
    Ok(code)
}

/// Who has the other end of the terminal, if there is one: a socket of the
/// caller's, or this process, which then relays.
fn plan_terminal(creation: &mut Creation, detach: bool) -> Result<Option<OwnedFd>, Error> {
    let wanted = creation.plan.process.terminal.is_some();
    match (wanted, &creation.wishes.console_socket) {
        (true, None) if detach => Err(Error::new(
            ErrorKind::BadInput,
            "process.terminal is true: expected --console-socket, for who detaches cannot relay a terminal",
        )),
        (false, Some(_)) => Err(Error::new(
            ErrorKind::BadInput,
            "--console-socket: expected process.terminal to be true, for there is nothing to send",
        )),
        (true, None) => {
            let (ours, theirs) = channel::pair()?;
            creation.console = Some(theirs);
            Ok(Some(ours))
        }
        _ => Ok(None),
    }
}

/// Listens to the program for a service manager, if one waits.
fn listen(creation: &Creation) -> Result<Option<Relay>, Error> {
    let folder = creation.folder.as_ref().expect("reserve-id made it");
    Relay::listen(folder.path())
}

/// Init and a descriptor of it.
fn init_of(creation: &Creation) -> (HostPid, BorrowedFd<'_>) {
    let (pid, pidfd) = creation.init.as_ref().expect("clone-init made it");
    (*pid, pidfd.as_fd())
}

/// Gives init its word and waits until the exec has closed the connection.
///
/// # Errors
///
/// Why the program could not begin.
pub fn let_go(creation: &mut Creation) -> Result<(), Error> {
    creation.let_in()?;
    creation.tell(Message::Begin)?;
    loop {
        let answer = await_answer(creation)?;
        match Message::read(&answer) {
            None => return Ok(()),
            Some((Message::Listener, told)) => {
                send_listener(creation, told)?;
                creation.tell(Message::GoOn)?;
            }
            Some((Message::Stopped, name)) => {
                let name = String::from_utf8_lossy(name).into_owned();
                let failed = |error| StageFailure::new(&name, &error);
                creation.pause_for_init(&name).map_err(failed)?;
            }
            Some((Message::Failed, told)) => {
                let failure: StageFailure = serde_json::from_slice(told).map_err(|_| {
                    Error::new(ErrorKind::Failed, "init could not say why it failed")
                })?;
                return Err(failure.into());
            }
            Some((message, _)) => {
                let text = format!("init said {message:?} out of turn");
                return Err(Error::new(ErrorKind::Failed, text));
            }
        }
    }
}

fn await_answer(creation: &Creation) -> Result<Vec<u8>, Error> {
    let channel = creation.channel.as_ref().expect("clone-init made it");
    Ok(channel::receive(channel.as_fd())?)
}

/// Sends the listener of init's filter to the agent.
fn send_listener(creation: &Creation, told: &[u8]) -> Result<(), Error> {
    let (pid, pidfd) = init_of(creation);
    let container = creation.record.init.map(|init| init.pid);
    let state = HookState {
        oci_version: &creation.record.oci_version,
        id: &creation.plan.id,
        // What `exec` adds comes to a container whose own program runs.
        status: match container == Some(pid) {
            true => Status::Created,
            false => Status::Running,
        },
        pid: container,
        bundle: creation.plan.bundle.as_path(),
        annotations: &creation.plan.annotations,
    };
    let agent = creation
        .plan
        .seccomp
        .as_ref()
        .and_then(listener::plan_agent);
    let agent = agent.expect("make-filter refuses a listener without a path");
    Ok(listener::hand_over((pid, pidfd), told, &agent, &state)?)
}

fn run_poststart(creation: &Creation) -> Result<(), Error> {
    let state = HookState {
        oci_version: &creation.record.oci_version,
        id: &creation.plan.id,
        status: Status::Running,
        pid: creation.init.as_ref().map(|(pid, _)| *pid),
        bundle: creation.plan.bundle.as_path(),
        annotations: &creation.plan.annotations,
    };
    let hooks = creation.plan.hooks.poststart().as_deref().unwrap_or(&[]);
    Ok(run_hooks("poststart", hooks, &state)?)
}

fn remove(creation: Creation) -> Result<(), Error> {
    let folder = creation.folder.expect("reserve-id made it");
    delete::destroy(&Found {
        folder,
        record: creation.record,
        status: Status::Stopped,
    })
}
