//! The runtime's side of a container's making: it runs its stages, and takes
//! everything back when one of them, or one of init's, fails.

/// Pauses in front of stages.
pub mod stops;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use nix::sched::CloneFlags;
use stops::{Stop, Walked};

use crate::cgroup::attach::Entrance;
use crate::cgroup::error::CgroupError;
use crate::cgroup::plan::CgroupPlan;
use crate::init::Message;
use crate::links::{MovedLink, Passage};
use crate::plan::CreatePlan;
use crate::stage::{Run, Stage, StageError, StageFailure, announce, pass_over};
use crate::state::{Folder, Record, StateStore};
use crate::sys::process::{self, HostPid};
use crate::sys::seccomp::BpfProgram;
use crate::sys::{call::SyscallError, channel};

/// How init learns that its program may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// By a call of `start` later: init listens on a socket in its folder.
    Start,
    /// By the runtime that made it, at once.
    Now,
}

/// What the caller asks for besides the configuration.
#[derive(Debug, Clone)]
pub struct Wishes {
    /// Where the number of init is written.
    pub pid_file: Option<PathBuf>,
    /// Where the master of init's terminal is sent.
    pub console_socket: Option<PathBuf>,
    /// Where a descriptor of init is sent.
    pub pidfd_socket: Option<PathBuf>,
    /// Descriptors from 3 on that the program keeps.
    pub preserve_fds: u32,
    /// `MS_MOVE` and `chroot(2)` for machines whose root is a ramfs.
    pub no_pivot: bool,
    /// The caller's session keyring stays.
    pub no_new_keyring: bool,
    /// A service manager waits to hear of the program.
    pub notifies: bool,
    /// Where to pause.
    pub stop: Stop,
    /// How the program is let go.
    pub gate: Gate,
    /// The caller has named a group inside the container's; another will not do.
    pub inner_group_is_named: bool,
}

/// A container that is being made.
pub struct Creation {
    /// What is to be done; init has it too.
    pub plan: Rc<CreatePlan>,
    /// The configuration as it was read, to be kept.
    pub config: Vec<u8>,
    /// What else the caller wants.
    pub wishes: Wishes,
    /// Where the state goes.
    pub store: StateStore,
    /// The state as far as it is known.
    pub record: Record,
    /// The container's folder, once its id is taken.
    pub folder: Option<Folder>,
    /// The cgroups that are to be made, if any.
    pub cgroup: Option<CgroupPlan>,
    /// What init gets because it could not open it itself.
    pub handed: Handed,
    /// The filter, compiled.
    pub filter: Option<BpfProgram>,
    /// Init, once it exists.
    pub init: Option<(HostPid, OwnedFd)>,
    /// Messages from and to init.
    pub channel: Option<OwnedFd>,
    /// What init said while something else was waited for.
    pub early: Option<Message>,
    /// The process whose namespaces are joined, and which of them; for `exec`.
    pub target: Option<(OwnedFd, CloneFlags)>,
    /// The way to the container's network namespace, once a device took it.
    pub passage: Option<Passage>,
    /// The devices that took it.
    pub moved: Vec<MovedLink>,
    /// Whether init goes on as another process once it is harmless, in the pid
    /// namespace that it joins; see `enter-pids`.
    pub moves: bool,
    /// The other end of the terminal's socket, where the runtime itself relays.
    pub console: Option<OwnedFd>,
    /// The table that both sides run.
    pub table: &'static [Stage],
    /// What is to be taken back on failure.
    pub undo: Vec<Undo>,
    /// How far init has come, where its maker walks with it.
    pub walked: Walked,
}

/// What the runtime opens for an init that will lack the rights, in a user namespace.
#[derive(Debug, Default)]
pub struct Handed {
    /// A copy of the rootfs's mount.
    pub root: Option<OwnedFd>,
    /// Copies of the mounts to bind, by their number in the plan.
    pub trees: Vec<(usize, OwnedFd)>,
    /// Doors into the version 1 cgroups.
    pub entrances: Vec<Entrance>,
}

impl Handed {
    /// The copy that was made for a mount of the plan.
    pub fn take_tree(&mut self, index: usize) -> Option<OwnedFd> {
        let at = self.trees.iter().position(|(of, _)| *of == index)?;
        Some(self.trees.swap_remove(at).1)
    }
}

/// Something that was done to the host, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undo {
    /// Give the id back.
    ReleaseId,
    /// Take the cgroups away.
    RemoveCgroup,
    /// Take away what was made of a class of cache.
    LeaveCacheGroup,
    /// Move network devices back.
    ReturnLinks,
    /// End init.
    EndInit,
}

impl Creation {
    /// Runs the runtime's stages; afterwards init waits at its gate.
    ///
    /// # Errors
    ///
    /// The first stage that fails, of either process. Nothing of the container
    /// is left then.
    pub fn run(&mut self) -> Result<(), StageFailure> {
        let outcome = self.run_stages();
        if outcome.is_err() {
            self.take_back();
        }
        outcome
    }

    fn run_stages(&mut self) -> Result<(), StageFailure> {
        for (index, stage) in self.table.iter().enumerate() {
            let stops = self.wishes.stop.is_before(stage.name);
            let run = match stage.run {
                Run::Runtime(run) => run,
                Run::RuntimeIf(asked, run) if stops || asked(self) => run,
                Run::RuntimeIf(..) => {
                    pass_over(stage);
                    continue;
                }
                _ => continue,
            };
            let failed = |error| StageFailure::new(stage.name, &error);
            self.keep_company(index)?;
            announce(stage);
            if stops {
                self.pause(stage.name).map_err(failed)?;
            }
            run(self).map_err(failed)?;
        }
        Ok(())
    }

    /// Undoes what was done, the newest first. It goes on after a failure:
    /// what is left is told by the first error anyway.
    pub fn take_back(&mut self) {
        // With init's end its network namespace may go, and what is in it.
        self.return_links();
        // Init first: a group with a process in it cannot be removed.
        if self.undo.contains(&Undo::EndInit) {
            self.end_init();
        }
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::EndInit => self.end_init(),
                Undo::RemoveCgroup => {
                    if let Some(cgroup) = &self.cgroup {
                        let _ = cgroup.remove();
                    }
                }
                Undo::ReturnLinks => self.return_links(),
                Undo::LeaveCacheGroup => {
                    if let Some(group) = &self.record.cache_group {
                        let _ = group.take_back();
                    }
                }
                Undo::ReleaseId => {
                    if let Some(folder) = &self.folder {
                        let _ = folder.remove();
                    }
                }
            }
        }
    }

    fn return_links(&mut self) {
        if let Some(passage) = self.passage.take() {
            self.moved
                .iter()
                .rev()
                .for_each(|link| passage.take_back(link));
            self.moved.clear();
        }
    }

    /// Whether the container has a user namespace.
    pub fn is_isolated(&self) -> bool {
        self.plan.mappings.is_some()
    }

    fn end_init(&mut self) {
        if let Some((pid, pidfd)) = self.init.take() {
            let _ = process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            let _ = process::wait_for(pid);
        }
    }

    /// The version 2 group in which the container's init is, for a program of
    /// `exec` that the container's own group does not take. A service manager
    /// inside moves itself further down and hands controllers on, and then its
    /// old group must stay empty (cgroups(7)). None where that is the same, or the
    /// caller has named a group.
    ///
    /// # Errors
    ///
    /// It cannot be opened.
    pub fn open_group_of_container_init(&mut self) -> Result<Option<OwnedFd>, CgroupError> {
        let (Some(cgroup), Some(init)) = (&self.cgroup, self.record.init) else {
            return Ok(None);
        };
        if self.wishes.inner_group_is_named {
            return Ok(None);
        }
        let Some(inner) = cgroup.with_group_of(init.pid)? else {
            return Ok(None);
        };
        let opened = inner.open_directory();
        self.cgroup = Some(inner);
        opened
    }

    /// Waits for init to say something in particular.
    ///
    /// # Errors
    ///
    /// Init's own failure, or its end.
    pub fn await_message(&mut self, wanted: Message) -> Result<(), StageError> {
        if self.early == Some(wanted) {
            self.early = None;
            return Ok(());
        }
        self.await_told(wanted).map(drop)
    }

    /// Waits until init has gone on as another process, and knows that one from then on.
    ///
    /// # Errors
    ///
    /// As [`Creation::await_message`].
    pub fn await_move(&mut self) -> Result<(), StageError> {
        let told = self.await_told(Message::Moved)?;
        let number = told.try_into().map(i32::from_le_bytes);
        let number = number
            .map_err(|_| StageError::Refused("init moved and could not say where".to_owned()))?;
        // It is our child and not waited for, so the number is its own.
        let moved = HostPid(number);
        let pidfd = process::pidfd_open(moved)?;
        if let Some((before, _)) = self.init.replace((moved, pidfd)) {
            process::wait_for(before)?;
        }
        Ok(())
    }

    fn await_told(&mut self, wanted: Message) -> Result<Vec<u8>, StageError> {
        self.let_in()?;
        loop {
            let channel = self.channel.as_ref().expect("clone-init made the channel");
            let received = channel::receive(channel.as_fd())?;
            match Message::read(&received) {
                Some((message, told)) if message == wanted => return Ok(told.to_vec()),
                Some((Message::Stopped, name)) => {
                    let name = String::from_utf8_lossy(name).into_owned();
                    self.pause_for_init(&name)?;
                }
                // The one that goes on may be at its gate before the one that
                // made it could say so: nothing orders the two.
                Some((Message::Ready, _)) if wanted == Message::Moved => {
                    self.early = Some(Message::Ready);
                }
                _ => return Err(self.understand(&received)),
            }
        }
    }

    /// What init's words mean when nothing of the kind was awaited.
    pub fn understand(&mut self, received: &[u8]) -> StageError {
        match Message::read(received) {
            Some((Message::Failed, told)) => {
                let told = serde_json::from_slice::<StageFailure>(told);
                told.map_or_else(
                    |_| StageError::Refused("init failed and could not say why".to_owned()),
                    StageError::Init,
                )
            }
            Some((message, _)) => StageError::Refused(format!("init said {message:?} out of turn")),
            None => self.how_init_ended(),
        }
    }

    /// Says something to init.
    ///
    /// # Errors
    ///
    /// `EPIPE`: it is gone.
    pub fn tell(&self, message: Message) -> Result<(), SyscallError> {
        let channel = self.channel.as_ref().expect("clone-init made the channel");
        channel::send(channel.as_fd(), &[message as u8])
    }

    fn how_init_ended(&mut self) -> StageError {
        let Some((pid, _)) = self.init.take() else {
            return StageError::Refused("init is gone".to_owned());
        };
        let how = match process::wait_for(pid) {
            Ok(process::Ended::Exited(status)) => format!("with status {status}"),
            Ok(process::Ended::Signaled(libc::SIGKILL)) => self.who_killed_init(),
            Ok(process::Ended::Signaled(signal)) => format!("by signal {signal}"),
            Err(error) => error.to_string(),
        };
        StageError::Refused(format!("init ended {how}"))
    }
}

impl Creation {
    /// The kernel's count of its own kills tells a limit that is too small from
    /// somebody's signal.
    fn who_killed_init(&self) -> String {
        let kills = self.cgroup.as_ref().map(CgroupPlan::oom_kills);
        let limit = self
            .plan
            .resources
            .as_ref()
            .and_then(|all| all.memory().as_ref());
        match (kills, limit.and_then(|memory| memory.limit())) {
            (Some(Ok(1..)), Some(limit)) => format!(
                "by SIGKILL: {limit} bytes of memory do not suffice to make the container; raise linux.resources.memory.limit"
            ),
            _ => "by SIGKILL: somebody sent it, or the machine ran out of memory (dmesg tells)"
                .to_owned(),
        }
    }
}
