//! Init's side of a container's making.
//!
//! Init is a copy of the runtime in new namespaces: what the runtime had read
//! and planned is in its memory, so nothing needs to be told or read again, and
//! no program is started in between. It has one thread, and it leaves by
//! `execve(2)` or `_exit(2)` only.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use nix::sched::CloneFlags;

use crate::cgroup::plan::CgroupPlan;
use crate::creation::{Creation, Gate, Handed, Wishes};
use crate::plan::CreatePlan;
use crate::stage::{Run, Stage, StageError, StageFailure, announce, pass_over};
use crate::sys;
use crate::sys::procfs::Procfs;
use crate::sys::seccomp::BpfProgram;
use crate::sys::{channel, process};

/// What the two processes say to each other, one byte each.
///
/// ```text
/// runtime                          init
///    │ ── Mapped ───────────────────▶ │  own-ids  (only with a new user namespace)
///    │ ── CgroupMade ───────────────▶ │  await-cgroup
///    │ ◀───────────────── Mounted ── │  hooks-inside  (only with hooks)
///    │ ── HooksDone ────────────────▶ │
///    │ ◀─────────────────── Ready ── │  await-start
///    │ ── Published ────────────────▶ │
///    │ ── Begin ────────────────────▶ │  (run: the runtime; else `start`, by socket)
///    │ ◀──────────────── Listener ── │  filter-calls  (only with SCMP_ACT_NOTIFY)
///    │ ── GoOn ─────────────────────▶ │  (both by that socket in `start`)
///    │ ◀───── Failed, or the end ─── │  the end: its program runs
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Message {
    /// The user namespace has its ids.
    Mapped = b'i',
    /// The cgroups are there to be joined.
    CgroupMade = b'c',
    /// The mounts are made; hooks of the runtime may run.
    Mounted = b'm',
    /// Hooks of the runtime have run.
    HooksDone = b'h',
    /// Init waits at its gate.
    Ready = b'r',
    /// The state is on disk; from now on init does not end with the runtime.
    Published = b'p',
    /// The program may begin.
    Begin = b'b',
    /// A stage failed; JSON follows.
    Failed = b'f',
    /// Init stands before a stage; its name follows.
    Stopped = b's',
    /// Go on after that.
    GoOn = b'g',
    /// The filter holds, and somebody is to be asked about calls; the number of
    /// the descriptor follows, 4 bytes. Answered by `GoOn` once it was sent.
    Listener = b'l',
    /// Another process goes on in init's place; its number follows, 4 bytes.
    Moved = b'v',
}

impl Message {
    /// Takes a message apart; `None` when the other side has gone or talks nonsense.
    pub fn read(bytes: &[u8]) -> Option<(Message, &[u8])> {
        const ALL: [Message; 12] = [
            Message::Mapped,
            Message::CgroupMade,
            Message::Mounted,
            Message::HooksDone,
            Message::Ready,
            Message::Published,
            Message::Begin,
            Message::Failed,
            Message::Stopped,
            Message::GoOn,
            Message::Listener,
            Message::Moved,
        ];
        let (first, rest) = bytes.split_first()?;
        let message = ALL.into_iter().find(|message| *message as u8 == *first)?;
        Some((message, rest))
    }
}

/// A container that makes itself.
pub struct Init {
    /// What is to be done.
    pub plan: Rc<CreatePlan>,
    /// What else the caller wants.
    pub wishes: Wishes,
    /// The runtime spec that the configuration was written for, for hooks.
    pub oci_version: String,
    /// Messages from and to the runtime; closed by the exec.
    pub channel: OwnedFd,
    /// Where `start` will call, if it is not the runtime that does.
    pub gate: Option<OwnedFd>,
    /// Where the terminal's master goes.
    pub console: Option<OwnedFd>,
    /// The process whose namespaces are joined, and which of them; for `exec`.
    pub target: Option<(OwnedFd, CloneFlags)>,
    /// The pid namespace that is joined by its path, where `enter-pids` enters it.
    pub pid_namespace: Option<OwnedFd>,
    /// Whether this process makes place for another; see `enter-pids`.
    pub moves: bool,
    /// The cgroups to be in.
    pub cgroup: Option<CgroupPlan>,
    /// Name below `/sys/fs/cgroup`, and the host's directory, of each own cgroup.
    pub cgroups: Vec<(PathBuf, PathBuf)>,
    /// What the runtime opened for it.
    pub handed: Handed,
    /// The container's root, once it is a mount.
    pub root: Option<OwnedFd>,
    /// What was mounted at `/proc` and `/sys`, by the path below the root: masks are
    /// looked up below these, wherever somebody renames the folders to.
    pub kernel_mounts: Vec<(PathBuf, OwnedFd)>,
    /// The program's path inside, once it is found.
    pub program: Option<CString>,
    /// `HOME=` where the plan's environment does not have it, once it is known.
    pub home: Option<CString>,
    /// The filter, compiled.
    pub filter: Option<BpfProgram>,
    /// What init says when the exec fails: to whoever called `start`.
    pub caller: Option<OwnedFd>,
    /// The machine's procfs, opened before a namespace of others is entered, where a
    /// later stage writes to it.
    pub procfs: Option<Procfs>,
    /// The table that both sides run.
    pub table: &'static [Stage],
    /// What the runtime said while something else was waited for.
    pub early: Vec<Message>,
}

impl Init {
    /// Takes over what the runtime had prepared, in the copy of it that init is: moved,
    /// for each page that a copy writes to is one that the kernel copies. The runtime's
    /// locks and sockets are not init's to hold, so what is not moved here is closed by
    /// the exec at latest.
    pub fn new(creation: &mut Creation, channel: OwnedFd) -> Init {
        Init {
            plan: Rc::clone(&creation.plan),
            wishes: creation.wishes.clone(),
            oci_version: std::mem::take(&mut creation.record.oci_version),
            channel,
            gate: None,
            console: None,
            target: creation.target.take(),
            pid_namespace: None,
            moves: creation.moves,
            cgroups: creation
                .cgroup
                .as_ref()
                .map(own_cgroups)
                .unwrap_or_default(),
            cgroup: creation.cgroup.take(),
            handed: std::mem::take(&mut creation.handed),
            root: None,
            kernel_mounts: Vec::new(),
            program: None,
            home: None,
            filter: creation.filter.take(),
            caller: None,
            procfs: None,
            table: creation.table,
            early: Vec::new(),
        }
    }

    /// Runs init's stages. The last of them is the exec, so this returns never.
    pub fn run(mut self) -> ! {
        let table = self.table;
        for stage in table {
            let stops = self.wishes.stop.is_before(stage.name);
            let run = match stage.run {
                Run::Init(run) => run,
                Run::InitIf(asked, run) if stops || asked(&self) => run,
                Run::InitIf(..) => {
                    pass_over(stage);
                    continue;
                }
                _ => continue,
            };
            // Nothing more is announced once the filter may forbid it; and the name
            // of a thread that is a program in a moment is not worth a call.
            let is_last = stage.name == "exec-program";
            if !is_last || self.filter.is_none() && sys::call::narrating() {
                announce(stage);
            }
            if stops {
                self.stop(stage.name);
            }
            if let Err(error) = run(&mut self) {
                self.fail(stage.name, &error);
            }
        }
        process::exit_now(0)
    }

    /// Waits for the runtime to say something in particular.
    ///
    /// # Errors
    ///
    /// When it has gone: then nobody wants this container any more.
    pub fn await_message(&mut self, wanted: Message) -> Result<(), StageError> {
        if let Some(at) = self.early.iter().position(|message| *message == wanted) {
            self.early.remove(at);
            return Ok(());
        }
        loop {
            let received = channel::receive(self.channel.as_fd())?;
            match Message::read(&received) {
                Some((message, _)) if message == wanted => return Ok(()),
                // The words that come while init may stand before a stage.
                Some((message @ (Message::CgroupMade | Message::Mapped), _)) => {
                    self.early.push(message);
                }
                // Nobody is left to tell.
                _ => process::exit_now(1),
            }
        }
    }

    /// Says something to the runtime.
    ///
    /// # Errors
    ///
    /// `EPIPE`: it is gone.
    pub fn tell(&self, message: Message) -> Result<(), StageError> {
        Ok(channel::send(self.channel.as_fd(), &[message as u8])?)
    }

    /// Whether some stage after `join-spaces` writes to procfs.
    pub fn writes_to_procfs(&self) -> bool {
        let process = &self.plan.process;
        // In a user namespace init has its score from its birth.
        (process.oom_score_adj.is_some() && self.plan.mappings.is_none())
            || process.selinux_label.is_some()
            || process.apparmor_profile.is_some()
    }

    /// Whether the container has a user namespace.
    pub fn is_isolated(&self) -> bool {
        self.plan.mappings.is_some()
    }

    /// Whether this is a program that `exec` adds: it has no namespaces to make.
    pub fn joins_container(&self) -> bool {
        let namespaces = &self.plan.namespaces;
        namespaces.new.is_empty() && namespaces.joined.is_empty()
    }

    /// Whether `start` comes from another process than the one that made us.
    pub fn waits_for_start(&self) -> bool {
        self.wishes.gate == Gate::Start
    }

    /// Goes on as another process, in new namespaces and in the pid namespace that
    /// this one has joined for its children; the runtime is told its number.
    ///
    /// # Errors
    ///
    /// Those of `clone3(2)`.
    pub fn move_to_child(&self, namespaces: CloneFlags) -> Result<(), StageError> {
        match process::clone_sibling(namespaces)? {
            None => Ok(()),
            Some(pid) => {
                let mut message = vec![Message::Moved as u8];
                message.extend(pid.0.to_le_bytes());
                let sent = channel::send(self.channel.as_fd(), &message);
                process::exit_now(i32::from(sent.is_err()))
            }
        }
    }

    fn stop(&mut self, stage: &str) {
        let mut message = vec![Message::Stopped as u8];
        message.extend_from_slice(stage.as_bytes());
        if channel::send(self.channel.as_fd(), &message).is_ok() {
            let _ = self.await_message(Message::GoOn);
        }
    }

    fn fail(&self, stage: &str, error: &StageError) -> ! {
        let failure = StageFailure::new(stage, error);
        let mut message = vec![Message::Failed as u8];
        message.extend(serde_json::to_vec(&failure).unwrap_or_default());
        message.truncate(channel::MESSAGE_LIMIT_BYTES);
        let listener = self.caller.as_ref().unwrap_or(&self.channel);
        let _ = channel::send(listener.as_fd(), &message);
        process::exit_now(1)
    }
}

/// What a `cgroup` mount shows: each hierarchy under the name that it has on the host.
fn own_cgroups(plan: &CgroupPlan) -> Vec<(PathBuf, PathBuf)> {
    let hierarchies = plan.hierarchies.iter();
    hierarchies
        .map(|hierarchy| {
            let name = hierarchy.mount_point.file_name().unwrap_or_default();
            (PathBuf::from(name), hierarchy.directory())
        })
        .collect()
}
