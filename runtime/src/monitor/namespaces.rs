//! The namespaces that all containers of a pod share, made and pinned.
//!
//! A namespace lives while a process is in it or a file refers to it. There is
//! no pause container here: the files `POD_DIR/ns/{user,net,ipc,uts,pid}` keep the
//! namespaces, each a bind mount of `/proc/PID/ns/X` (`namespaces(7)`). The
//! process PID is a short-lived copy of the monitor, the *maker*, since a
//! process cannot leave a namespace that it has made for itself and the monitor
//! must stay where its starter was: the pins have to appear in the mount
//! namespace of the engine.
//!
//! ```text
//! monitor ─ fork ─▶ maker: unshare, hostname, sysctls ─ fork ─▶ process 1 (pid only)
//!    │ ◀────────── "ready", or why not ─────────┤
//!    │ bind /proc/MAKER/ns/X on ns/X            │ waits
//!    └─────────── closes the pipe ────────────▶ exits
//! ```
//!
//! A pod with a user namespace has that one first: whoever makes a namespace
//! makes it for the user namespace that they are in, and only who is root
//! *there* may set its addresses, its host name or its sysctls, or mount a
//! sysfs of it (`user_namespaces(7)`, "Interaction of user namespaces and other
//! types"). The monitor makes it and writes its maps, since that takes the
//! host's rights; the maker enters it, becomes its root, and makes the rest.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;

use super::daemon::reap;
use super::failure::{Context as _, MonitorError, named};
use super::pod_init::{HARMLESS, SealedProgram, execute};
use super::protocol::{MonitorConfig, NAMESPACES_FOLDER, PodNamespace};
use crate::causes::chain;
use crate::plan::mappings::Mappings;
use crate::sys::call::SyscallError;
use crate::sys::privilege::{set_group, set_groups, set_user};
use crate::sys::process::{HostPid, exit_now, kill, setns};
use crate::sys::process_copy::{Side, fork};
use crate::user_namespace;

/// What keeps a pod's namespaces alive.
#[derive(Debug)]
pub struct Pins {
    folder: PathBuf,
    pod_init: Option<PodInit>,
}

/// The process 1 of the pod's pid namespace.
#[derive(Debug)]
struct PodInit {
    pid: i32,
    /// Closed by the kernel when the monitor dies in whatever way.
    _lifeline: OwnedFd,
}

impl Pins {
    /// The process 1 of the pod's pid namespace, as the host sees it.
    pub fn pod_init(&self) -> Option<i32> {
        self.pod_init.as_ref().map(|init| init.pid)
    }

    /// Lets the namespaces go. All is tried; the failures are returned.
    pub fn remove(self) -> Vec<MonitorError> {
        if let Some(init) = self.pod_init {
            // Ends with it whoever is left in the namespace.
            let _ = kill(HostPid(init.pid), Signal::KILL.as_raw());
            reap(init.pid);
        }
        remove_pins(&self.folder)
    }
}

/// Makes the namespaces that `config` names, sets them up and pins them.
///
/// # Errors
///
/// Which step failed; then nothing is left of them.
pub fn create_pins(pod_dir: &Path, config: &MonitorConfig) -> Result<Pins, MonitorError> {
    let folder = pod_dir.join(NAMESPACES_FOLDER);
    let mut pins = Pins {
        folder,
        pod_init: None,
    };
    match fill(&mut pins, config) {
        Ok(()) => Ok(pins),
        Err(error) => {
            // The first failure is the one to tell; these are its echo.
            let _ = pins.remove();
            Err(error)
        }
    }
}

/// Unmounts and removes every pin in `folder`, which may be gone already.
pub fn remove_pins(folder: &Path) -> Vec<MonitorError> {
    let mut failures = Vec::new();
    for namespace in ALL {
        let pin = folder.join(file_name(namespace));
        if let Err(error) = remove_pin(&pin) {
            failures.push(error);
        }
    }
    match std::fs::remove_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            failures.extend(Err::<(), _>(error).during(|| named("remove", folder)).err());
        }
        _ => {}
    }
    failures
}

const ALL: [PodNamespace; 5] = [
    PodNamespace::User,
    PodNamespace::Net,
    PodNamespace::Ipc,
    PodNamespace::Uts,
    PodNamespace::Pid,
];

fn fill(pins: &mut Pins, config: &MonitorConfig) -> Result<(), MonitorError> {
    if config.namespaces.is_empty() {
        return Ok(());
    }
    std::fs::create_dir(&pins.folder).during(|| named("make", &pins.folder))?;
    let maker = start_maker(config)?;
    pins.pod_init = maker.pod_init;
    let pinned = config
        .namespaces
        .iter()
        .try_for_each(|namespace| create_pin(&pins.folder, maker.pid, *namespace));
    drop(maker.hold);
    reap(maker.pid);
    pinned
}

fn create_pin(folder: &Path, maker: i32, namespace: PodNamespace) -> Result<(), MonitorError> {
    let pin = folder.join(file_name(namespace));
    // A bind mount needs something of its kind to lie on.
    File::create_new(&pin).during(|| named("make", &pin))?;
    // The maker is not itself in the pid namespace: that holds for its children.
    let link = match namespace {
        PodNamespace::Pid => "pid_for_children",
        other => file_name(other),
    };
    let source = format!("/proc/{maker}/ns/{link}");
    mount_bind(&source, &pin).during(|| format!("bind {source} to {}", pin.display()))
}

fn remove_pin(pin: &Path) -> Result<(), MonitorError> {
    match unmount(pin, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // EINVAL: a file without a mount, left by a failure half-way.
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error).during(|| named("unmount", pin)),
    }
    match std::fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).during(|| named("remove", pin))
        }
        _ => Ok(()),
    }
}

/// What a maker brings along from the host, where it may still have it.
struct Luggage<'a> {
    config: &'a MonitorConfig,
    /// The user namespace that owns all others, with its maps.
    user: Option<(OwnedFd, &'a Mappings)>,
    /// The program of the pod's process 1, if there is to be one.
    program: Option<SealedProgram>,
}

impl Luggage<'_> {
    fn pack(config: &MonitorConfig) -> Result<Luggage<'_>, MonitorError> {
        let user = config.id_mappings.as_ref().map(|mappings| {
            let made = user_namespace::make_empty(mappings).map_err(io::Error::other);
            made.map(|namespace| (namespace, mappings))
        });
        let wants_init = config.namespaces.contains(&PodNamespace::Pid);
        Ok(Luggage {
            config,
            user: user
                .transpose()
                .during(|| "make the pod's user namespace".into())?,
            program: wants_init
                .then(SealedProgram::open)
                .transpose()
                .during(|| "open the program of the pod's process 1".into())?,
        })
    }
}

/// The process whose namespaces are pinned.
struct Maker {
    pid: i32,
    /// It exits when this is closed.
    hold: OwnedFd,
    pod_init: Option<PodInit>,
}

fn start_maker(config: &MonitorConfig) -> Result<Maker, MonitorError> {
    let luggage = Luggage::pack(config)?;
    let pipe = || pipe_with(PipeFlags::CLOEXEC).during(|| "make a pipe".into());
    let (report_reader, report_writer) = pipe()?;
    let (hold_reader, hold) = pipe()?;
    let (lifeline_reader, lifeline) = pipe()?;
    match fork().during(|| "fork".into())? {
        Side::Parent { child } => {
            drop((report_writer, hold_reader, lifeline_reader));
            match read_report(report_reader) {
                Ok(pod_init) => Ok(Maker {
                    pid: child,
                    hold,
                    pod_init: pod_init.map(|pid| PodInit {
                        pid,
                        _lifeline: lifeline,
                    }),
                }),
                Err(error) => {
                    drop((hold, lifeline));
                    reap(child);
                    Err(error)
                }
            }
        }
        Side::Child => {
            drop((report_reader, hold, lifeline));
            exit_now(make(&luggage, report_writer, hold_reader, lifeline_reader))
        }
    }
}

/// The maker's life.
fn make(
    luggage: &Luggage<'_>,
    report: OwnedFd,
    hold_reader: OwnedFd,
    lifeline_reader: OwnedFd,
) -> i32 {
    let made = set_up(luggage).and_then(|()| match &luggage.program {
        Some(program) => start_pod_init(program, &lifeline_reader),
        None => Ok(0),
    });
    let mut report = File::from(report);
    let written = match &made {
        Ok(pid) => write!(report, "{READY}{pid}"),
        Err(error) => report.write_all(chain(error).as_bytes()),
    };
    drop((report, lifeline_reader));
    if made.is_err() || written.is_err() {
        return 1;
    }
    // Nothing is ever written: this returns when the monitor has the pins, or
    // has died.
    let _ = File::from(hold_reader).read(&mut [0]);
    0
}

const READY: &str = "ready ";

fn read_report(reader: OwnedFd) -> Result<Option<i32>, MonitorError> {
    let mut text = String::new();
    File::from(reader)
        .read_to_string(&mut text)
        .during(|| "hear from the maker of namespaces".into())?;
    let pid = text.strip_prefix(READY).and_then(|pid| pid.parse().ok());
    match pid {
        Some(0) => Ok(None),
        Some(pid) => Ok(Some(pid)),
        None if text.is_empty() => Err(MonitorError::Reported(
            "the maker of namespaces was killed".into(),
        )),
        None => Err(MonitorError::Reported(text)),
    }
}

fn set_up(luggage: &Luggage<'_>) -> Result<(), MonitorError> {
    let config = luggage.config;
    if let Some((namespace, mappings)) = &luggage.user {
        become_root_of(namespace, mappings)
            .map_err(io::Error::other)
            .during(|| "become root of the pod's user namespace".into())?;
    }
    let flags = config
        .namespaces
        .iter()
        .filter(|namespace| **namespace != PodNamespace::User)
        .fold(CloneFlags::empty(), |flags, namespace| {
            flags | clone_flag(*namespace)
        });
    nix::sched::unshare(flags).during(|| format!("unshare {flags:?}"))?;
    if let Some(hostname) = &config.hostname {
        nix::unistd::sethostname(hostname).during(|| format!("set hostname {hostname:?}"))?;
    }
    config
        .sysctls
        .iter()
        .try_for_each(|(name, value)| write_sysctl(name, value))
}

/// The host's root, which the maker is until here, has rights over the pod's
/// namespaces; the pod's own root has them over nothing else.
fn become_root_of(namespace: &OwnedFd, mappings: &Mappings) -> Result<(), SyscallError> {
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWUSER)?;
    // Groups before the user, who alone may set them. Process 1 of the pod
    // keeps all three.
    set_groups(&[])?;
    set_group(mappings.root_gid())?;
    set_user(mappings.root_uid())
}

/// `/proc/sys` shows the namespaces of the process that opens it, so the maker
/// writes and not the monitor.
fn write_sysctl(name: &str, value: &str) -> Result<(), MonitorError> {
    let path = sysctl_path(name);
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .during(|| format!("set sysctl {name} to {value:?} ({})", path.display()))
}

/// The file of a sysctl. Dots separate, and a slash stands for a dot inside a
/// part: `net.ipv4.conf.eth0/7.forwarding`. A name whose first separator is a
/// slash has them the other way round (`sysctl.d(5)`).
fn sysctl_path(name: &str) -> PathBuf {
    let dots_separate = name
        .find(['.', '/'])
        .is_none_or(|at| name[at..].starts_with('.'));
    let relative: String = if dots_separate {
        let swap = |letter| match letter {
            '.' => '/',
            '/' => '.',
            other => other,
        };
        name.chars().map(swap).collect()
    } else {
        name.to_owned()
    };
    Path::new("/proc/sys").join(relative)
}

/// Forks the namespace's process 1 and waits until it is harmless.
fn start_pod_init(program: &SealedProgram, lifeline: &OwnedFd) -> Result<i32, MonitorError> {
    let (reader, prepared) = pipe_with(PipeFlags::CLOEXEC).during(|| "make a pipe".into())?;
    match fork().during(|| "fork the pod's process 1".into())? {
        Side::Child => {
            drop(reader);
            let error = execute(program, lifeline, &prepared);
            // The maker reads it as the reason, and collects the process.
            let _ = write!(File::from(prepared), "execute: {error}");
            exit_now(1)
        }
        Side::Parent { child } => {
            drop(prepared);
            let mut failure = String::new();
            File::from(reader)
                .read_to_string(&mut failure)
                .during(|| "hear from the pod's process 1".into())?;
            if failure == HARMLESS {
                return Ok(child);
            }
            reap(child);
            Err(MonitorError::Reported(format!(
                "cannot prepare the pod's process 1: {failure}"
            )))
        }
    }
}

fn clone_flag(namespace: PodNamespace) -> CloneFlags {
    match namespace {
        PodNamespace::User => CloneFlags::CLONE_NEWUSER,
        PodNamespace::Net => CloneFlags::CLONE_NEWNET,
        PodNamespace::Ipc => CloneFlags::CLONE_NEWIPC,
        PodNamespace::Uts => CloneFlags::CLONE_NEWUTS,
        PodNamespace::Pid => CloneFlags::CLONE_NEWPID,
    }
}

fn file_name(namespace: PodNamespace) -> &'static str {
    match namespace {
        PodNamespace::User => "user",
        PodNamespace::Net => "net",
        PodNamespace::Ipc => "ipc",
        PodNamespace::Uts => "uts",
        PodNamespace::Pid => "pid",
    }
}
