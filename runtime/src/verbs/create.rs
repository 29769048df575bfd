//! `create`: a container exists, and its program waits.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use oci_spec::runtime::Spec;

use crate::advice;
use crate::arguments::{CreateArguments, Global};
use crate::cgroup::plan::{CgroupManager, CgroupPlan, CgroupRequest, plan_cgroup};
use crate::cgroup::systemd::scope::{choose_bus, observe_systemd};
use crate::cgroup::tree::observe_tree;
use crate::creation::stops::{Stop, Walked};
use crate::creation::{Creation, Gate, Handed, Wishes};
use crate::error::{Error, ErrorKind};
use crate::hooks::open_outputs;
use crate::ids::ContainerId;
use crate::labels;
use crate::notify;
use crate::plan::{self, CreatePlan};
use crate::rootless;
use crate::stage::behind;
use crate::stages;
use crate::state::{Record, StateStore};

/// Runs the table of stages up to the gate.
///
/// # Errors
///
/// What was not made, and why; nothing is left of it.
pub fn create(global: &Global, arguments: &CreateArguments) -> Result<i32, Error> {
    let mut creation = prepare(global, arguments, Gate::Start)?;
    check_terminal(&creation)?;
    creation.run()?;
    Ok(0)
}

/// Reads, checks and plans; nothing is done yet.
///
/// # Errors
///
/// What is wrong with the bundle, its configuration or the call.
pub fn prepare(
    global: &Global,
    arguments: &CreateArguments,
    gate: Gate,
) -> Result<Creation, Error> {
    let id = ContainerId::parse(&arguments.id)?;
    if let Some(stage) = arguments
        .stop_before
        .as_deref()
        .filter(|name| !stages::is_known(name))
    {
        let text = format!("--stop-before: no stage {stage:?}; `berth-oci stages` lists them");
        return Err(Error::new(ErrorKind::BadInput, text));
    }
    if gate == Gate::Start
        && let Some(stage) = arguments
            .stop_before
            .as_deref()
            .filter(|name| stages::is_behind_gate(name))
    {
        let text = format!("--stop-before {stage}: `start` makes that stage; use it with `run`");
        return Err(Error::new(ErrorKind::BadInput, text));
    }
    let bundle = std::path::absolute(&arguments.bundle)
        .map_err(|error| Error::of_file(&arguments.bundle, &error))?;
    let file = arguments
        .config
        .clone()
        .unwrap_or_else(|| bundle.join("config.json"));
    let (config, spec) = read_config(&file)?;
    let mut plan = plan::plan_create(&id, &bundle, &spec)?;
    labels::check_labels(&plan)?;
    open_outputs(&plan.annotations)?;
    let root =
        std::path::absolute(&global.root).map_err(|error| Error::of_file(&global.root, &error))?;
    let notifies = notify::pass_socket(&mut plan, &root.join(id.as_str()));
    let sockets = listen_fds();
    plan.process.pass_sockets(sockets);
    if !plan.rootfs.as_path().is_dir() {
        let errno = match plan.rootfs.as_path().exists() {
            true => Errno::ENOTDIR,
            false => Errno::ENOENT,
        };
        let text = format!(
            "root.path: {} is not a directory{}",
            plan.rootfs.as_path().display(),
            behind(&advice::find("", "rootfs", errno))
        );
        return Err(Error::new(ErrorKind::BadInput, text));
    }
    let cgroup = plan_cgroups(global, &plan)?;
    let record = Record {
        id,
        oci_version: spec.version().clone(),
        init: None,
        bundle,
        rootfs: plan.rootfs.as_path().to_owned(),
        created: crate::clock::rfc3339(std::time::SystemTime::now()),
        owner: read_owner(),
        cgroup: cgroup.clone(),
        cache_group: None,
        no_new_keyring: arguments.no_new_keyring,
        shares_pids: !plan.namespaces.new.contains(CloneFlags::CLONE_NEWPID),
        annotations: plan.annotations.clone(),
    };
    Ok(Creation {
        plan: Rc::new(plan),
        config,
        wishes: wishes(arguments, gate, sockets, notifies),
        store: StateStore::new(&global.root),
        record,
        folder: None,
        cgroup,
        handed: Handed::default(),
        filter: None,
        init: None,
        channel: None,
        early: None,
        target: None,
        passage: None,
        moved: Vec::new(),
        moves: false,
        console: None::<OwnedFd>,
        table: stages::CREATE,
        undo: Vec::new(),
        walked: Walked::default(),
    })
}

fn wishes(arguments: &CreateArguments, gate: Gate, sockets: u32, notifies: bool) -> Wishes {
    Wishes {
        pid_file: arguments.pid_file.clone(),
        console_socket: arguments.console_socket.clone(),
        pidfd_socket: arguments.pidfd_socket.clone(),
        preserve_fds: arguments.preserve_fds + sockets,
        no_pivot: arguments.no_pivot,
        no_new_keyring: arguments.no_new_keyring,
        notifies,
        stop: match &arguments.stop_before {
            Some(stage) => Stop::Before(stage.clone()),
            None => Stop::Never,
        },
        gate,
        inner_group_is_named: false,
    }
}

/// Sockets that systemd hands over come after the standard streams (sd_listen_fds(3)).
fn listen_fds() -> u32 {
    let ours = std::env::var("LISTEN_PID")
        .ok()
        .and_then(|pid| pid.parse().ok());
    let count = std::env::var("LISTEN_FDS")
        .ok()
        .and_then(|count| count.parse().ok());
    if ours == Some(std::process::id()) {
        count.unwrap_or(0)
    } else {
        0
    }
}

/// Says now what would otherwise be found out in the middle.
///
/// # Errors
///
/// A terminal and nobody to have its other end, or the reverse.
fn check_terminal(creation: &Creation) -> Result<(), Error> {
    let text = match (
        creation.plan.process.terminal,
        &creation.wishes.console_socket,
    ) {
        (Some(_), None) => {
            "process.terminal is true: expected --console-socket, for who detaches cannot relay a terminal"
        }
        (None, Some(_)) => {
            "--console-socket: expected process.terminal to be true, for there is nothing to send"
        }
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::BadInput, text))
}

fn read_config(file: &Path) -> Result<(Vec<u8>, Spec), Error> {
    let bytes = std::fs::read(file).map_err(|error| Error::of_file(file, &error))?;
    let spec = plan::reading::read(&bytes)
        .map_err(|error| Error::new(ErrorKind::BadInput, format!("{}: {error}", file.display())))?;
    Ok((bytes, spec))
}

/// The cgroups of a container; `None` where the caller wants none.
///
/// # Errors
///
/// A limit that no controller of this machine can hold.
pub fn plan_cgroups(global: &Global, plan: &CreatePlan) -> Result<Option<CgroupPlan>, Error> {
    let manager = global.cgroups();
    if manager == CgroupManager::Disabled {
        return Ok(None);
    }
    let mut tree = observe_tree()?;
    if manager == CgroupManager::Systemd {
        tree.systemd = Some(observe_systemd(choose_bus())?);
    }
    let request = CgroupRequest {
        id: plan.id.as_str(),
        cgroups_path: plan.cgroups_path.as_deref(),
        resources: plan.resources.as_ref(),
        manager,
        annotations: Some(&plan.annotations),
    };
    // A user's systemd gives what it has; what it has not it refuses.
    if manager == CgroupManager::Cgroupfs && rootless::applies(global) {
        return Ok(rootless::plan_delegated(&request, tree)?);
    }
    Ok(Some(plan_cgroup(&request, &tree)?))
}

/// The caller's name, or its number where it has none.
fn read_owner() -> String {
    let uid = nix::unistd::getuid();
    if uid.is_root() {
        return "root".to_owned();
    }
    uid.to_string()
}
