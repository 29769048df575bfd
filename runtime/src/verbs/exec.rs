//! `exec`: one more program in a container that runs.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use nix::sched::CloneFlags;
use oci_spec::runtime::{Process, Spec};

use super::{Found, find};
use crate::arguments::{ExecArguments, Global};
use crate::cgroup::inner::{InnerGroups, parse_inner_groups};
use crate::creation::stops::{Stop, Walked};
use crate::creation::{Creation, Gate, Handed, Wishes};
use crate::error::{Error, ErrorKind};
use crate::init::Message;
use crate::labels;
use crate::plan::namespaces::NamespacePlan;
use crate::plan::process::{ProcessPlan, c_strings, plan_process};
use crate::plan::{self, CreatePlan, reading};
use crate::stages::{self, publish_state::write_pid_file};
use crate::state::{StateStore, Status};
use crate::sys::process::{self, HostPid};
use crate::sys::{channel, path};
use crate::{relay, verbs::run::let_go};

/// Runs a program; its exit status becomes ours, unless it is detached.
///
/// # Errors
///
/// [`ErrorKind::WrongState`] when the container does not run; else the stage
/// and cause.
pub fn exec(global: &Global, arguments: &ExecArguments) -> Result<i32, Error> {
    let found = find(global, &arguments.id)?;
    check_status(found.status, arguments.ignore_paused)?;
    let mut creation = prepare(global, arguments, found)?;
    let wants_terminal = creation.plan.process.terminal.is_some();
    let relayed = wants_terminal && arguments.console_socket.is_none();
    if relayed && arguments.detach {
        let text = "--tty with --detach: expected --console-socket, for who detaches cannot relay a terminal";
        return Err(Error::new(ErrorKind::BadInput, text));
    }
    let mut socket = None;
    if relayed {
        let (ours, theirs) = channel::pair()?;
        creation.console = Some(theirs);
        socket = Some(ours);
    }
    creation.run()?;
    let master = socket
        .map(|socket| channel::receive_descriptor(socket.as_fd()))
        .transpose()?;
    let signals = relay::watch_signals()?;
    if let Err(error) = begin(&mut creation) {
        creation.take_back();
        return Err(error);
    }
    if arguments.detach {
        return Ok(0);
    }
    let (pid, pidfd) = creation.init.as_ref().expect("clone-init made it");
    relay::wait_for_end(&(*pid, pidfd.as_fd()), master, &signals, None)
}

/// The pid file is there before the program runs, so that it cannot end unseen.
fn begin(creation: &mut Creation) -> Result<(), Error> {
    if let (Some(file), Some((pid, _))) = (&creation.wishes.pid_file, &creation.init) {
        write_pid_file(file, *pid)?;
    }
    creation.tell(Message::Published)?;
    let_go(creation)
}

fn check_status(status: Status, ignore_paused: bool) -> Result<(), Error> {
    let text = match status {
        Status::Running | Status::Created => return Ok(()),
        Status::Paused if ignore_paused => return Ok(()),
        Status::Paused => "cannot exec in a paused container (use --ignore-paused to override)",
        Status::Stopped => "cannot exec in a stopped container",
        Status::Creating => "cannot exec in a container that is being created",
    };
    Err(Error::new(ErrorKind::WrongState, text))
}

fn prepare(global: &Global, arguments: &ExecArguments, found: Found) -> Result<Creation, Error> {
    let init = found
        .record
        .init
        .expect("a container that runs has an init");
    let pidfd = init
        .open()
        .map_err(|_| Error::new(ErrorKind::WrongState, "cannot exec in a stopped container"))?;
    let spec = found.folder.read_config()?;
    let mut plan = plan::plan_create(&found.record.id, &found.record.bundle, &spec)?;
    plan.process = plan_program(arguments, &spec, &plan)?;
    labels::check_labels(&plan)?;
    let inner = parse_inner_groups(&arguments.cgroup)?;
    let cgroup = match &found.record.cgroup {
        Some(cgroup) => Some(cgroup.with_inner_groups(&inner)?),
        None => None,
    };
    let mut handed = Handed::default();
    if plan.namespaces.shares_mounts() {
        handed.root = Some(open_root(init.pid)?);
        // The number may have changed hands before it was looked up.
        if process::wait_until_ended(pidfd.as_fd(), Duration::ZERO)? {
            return Err(Error::new(
                ErrorKind::WrongState,
                "cannot exec in a stopped container",
            ));
        }
    }
    let target = Some((pidfd, joined_kinds(&plan.namespaces)));
    plan.namespaces = NamespacePlan {
        new: CloneFlags::empty(),
        joined: Vec::new(),
    };
    Ok(Creation {
        plan: Rc::new(plan),
        config: Vec::new(),
        wishes: Wishes {
            pid_file: arguments.pid_file.clone(),
            console_socket: arguments.console_socket.clone(),
            pidfd_socket: arguments.pidfd_socket.clone(),
            preserve_fds: arguments.preserve_fds,
            no_pivot: false,
            // The container's session keyring is not ours to join by name: a new
            // one of the same name is.
            no_new_keyring: found.record.no_new_keyring,
            notifies: false,
            stop: Stop::Never,
            gate: Gate::Now,
            inner_group_is_named: inner != InnerGroups::Own,
        },
        store: StateStore::new(&global.root),
        cgroup,
        record: found.record,
        folder: None,
        handed,
        filter: None,
        init: None,
        channel: None,
        early: None,
        target,
        passage: None,
        moved: Vec::new(),
        moves: false,
        console: None,
        table: stages::EXEC,
        undo: Vec::new(),
        walked: Walked::default(),
    })
}

/// The root of a process that no mount namespace leads to.
fn open_root(pid: HostPid) -> Result<OwnedFd, Error> {
    Ok(path::open_host(Path::new(&format!(
        "/proc/{}/root",
        pid.0
    )))?)
}

/// Every kind that the container has of its own, new or joined.
fn joined_kinds(namespaces: &NamespacePlan) -> CloneFlags {
    let joined = namespaces.joined.iter();
    joined.fold(namespaces.new, |kinds, namespace| kinds | namespace.kind)
}

/// The program: from a file, or the container's own with what the call changes.
fn plan_program(
    arguments: &ExecArguments,
    spec: &Spec,
    plan: &CreatePlan,
) -> Result<ProcessPlan, Error> {
    let mut program = match &arguments.process {
        Some(file) => {
            let bytes = std::fs::read(file).map_err(|error| Error::of_file(file, &error))?;
            let mut process: Process = reading::read(&bytes).map_err(|error| {
                Error::new(ErrorKind::BadInput, format!("{}: {error}", file.display()))
            })?;
            if let Some(own) = spec.process() {
                inherit(&mut process, own);
            }
            plan_process(&process)?
        }
        None => plan_command(arguments, spec, plan)?,
    };
    let label = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    program.selinux_label = label(&arguments.process_label).or(program.selinux_label);
    program.apparmor_profile = label(&arguments.apparmor).or(program.apparmor_profile);
    if arguments.tty && program.terminal.is_none() {
        program.terminal = Some(None);
    }
    if arguments.console_socket.is_some() && program.terminal.is_none() {
        let text = "--console-socket: expected a terminal (--tty, or process.terminal)";
        return Err(Error::new(ErrorKind::BadInput, text));
    }
    Ok(program)
}

/// What a program that says nothing of it has from the container, as under runc:
/// its labels, and when and where it runs.
fn inherit(process: &mut Process, own: &Process) {
    if process.selinux_label().is_none() {
        process.set_selinux_label(own.selinux_label().clone());
    }
    if process.apparmor_profile().is_none() {
        process.set_apparmor_profile(own.apparmor_profile().clone());
    }
    if process.scheduler().is_none() {
        process.set_scheduler(own.scheduler().clone());
    }
    if process.io_priority().is_none() {
        process.set_io_priority(*own.io_priority());
    }
    if process.exec_cpu_affinity().is_none() {
        process.set_exec_cpu_affinity(own.exec_cpu_affinity().clone());
    }
}

fn plan_command(
    arguments: &ExecArguments,
    spec: &Spec,
    plan: &CreatePlan,
) -> Result<ProcessPlan, Error> {
    if arguments.command.is_empty() {
        let text = "expected a program after the container's id, or --process";
        return Err(Error::new(ErrorKind::BadInput, text));
    }
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(Some(arguments.command.clone()));
    process.set_terminal(Some(false));
    let mut variables = process.env().clone().unwrap_or_default();
    variables.extend(arguments.env.iter().cloned());
    process.set_env(Some(variables));
    if let Some(cwd) = &arguments.cwd {
        process.set_cwd(cwd.clone());
    }
    let mut program = plan_process(&process)?;
    program.limits.clone_from(&plan.process.limits);
    if let Some(user) = &arguments.user {
        (program.uid, program.gid) = parse_user(user)?;
    }
    program.groups.extend(&arguments.additional_gids);
    program.no_new_privileges |= arguments.no_new_privs;
    for word in &arguments.cap {
        let capability = word.parse().map_err(|_| {
            let text = format!("--cap: expected a name such as CAP_NET_RAW, found {word:?}");
            Error::new(ErrorKind::BadInput, text)
        })?;
        program.capabilities.grant(capability);
    }
    // Checked once more: a variable of the call may hold a zero byte.
    c_strings("--env", &arguments.env)?;
    Ok(program)
}

fn parse_user(text: &str) -> Result<(u32, u32), Error> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, "0"));
    match (uid.parse(), gid.parse()) {
        (Ok(uid), Ok(gid)) => Ok((uid, gid)),
        _ => {
            let text = format!("--user: expected UID or UID:GID in numbers, found {text:?}");
            Err(Error::new(ErrorKind::BadInput, text))
        }
    }
}
