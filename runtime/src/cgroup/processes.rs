//! The processes inside: who they are, and how to stop all of them at once.
//!
//! A container can fork faster than anybody can read a list and send signals.
//! So the group is what gets stopped: version 2 has `cgroup.kill` (Linux 5.14),
//! which the kernel carries out in one step even against a fork bomb. Without
//! it the group is frozen first, and then its list stands still.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::CgroupError;
use super::files;
use super::plan::{CgroupPlan, HierarchyPlan};
use super::tree::CgroupVersion;
use crate::sys::call::finish;

/// How long the kernel may take to stop or end every process of a group.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first wait between two looks; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

impl CgroupPlan {
    /// The processes of the container and of groups that it made inside its own,
    /// as pids of the caller's namespace, ascending. Empty when the groups are gone.
    ///
    /// # Errors
    ///
    /// A list that cannot be read.
    pub fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        match self.unified().or_else(|| self.hierarchies.first()) {
            Some(hierarchy) => pids_below(&hierarchy.directory()),
            None => Ok(Vec::new()),
        }
    }

    /// Stops every process where it stands, and returns when all have stopped.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Timeout`]; the group is thawed again then.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        let Some(home) = self.freezer() else {
            return Err(CgroupError::NoController {
                field: "pause".to_owned(),
                controller: "freezer".to_owned(),
            });
        };
        let frozen = match home.version {
            CgroupVersion::V1 => freeze_v1(home),
            CgroupVersion::V2 => freeze_v2(home),
        };
        if frozen.is_err() {
            // The first error says why; a container must not stay half frozen.
            let _ = self.thaw();
        }
        frozen
    }

    /// Lets every process run on.
    ///
    /// # Errors
    ///
    /// `ENOENT`: the group is gone.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        let Some(home) = self.freezer() else {
            return Ok(());
        };
        let (file, value) = match home.version {
            CgroupVersion::V1 => ("freezer.state", "THAWED"),
            CgroupVersion::V2 => ("cgroup.freeze", "0"),
        };
        files::write(&home.directory().join(file), value)?;
        Ok(())
    }

    /// Whether the group is frozen. A group that is gone is not.
    ///
    /// # Errors
    ///
    /// A state that cannot be read.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        let Some(home) = self.freezer() else {
            return Ok(false);
        };
        let (file, frozen) = match home.version {
            CgroupVersion::V1 => ("freezer.state", "FROZEN"),
            CgroupVersion::V2 => ("cgroup.freeze", "1"),
        };
        let state = files::read_text_if_there(&home.directory().join(file))?;
        Ok(state.is_some_and(|state| state.trim() == frozen))
    }

    /// Kills every process, also frozen ones, and returns when none is left.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Timeout`]: a process hangs in the kernel.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        if self.hierarchies.is_empty() {
            return Ok(());
        }
        let killed_by_kernel = match self.unified() {
            Some(unified) => files::write(&unified.directory().join("cgroup.kill"), "1").is_ok(),
            None => false,
        };
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let pids = self.pids()?;
            if pids.is_empty() {
                return Ok(());
            }
            if !killed_by_kernel {
                self.signal_all(Signal::SIGKILL)?;
            }
            // Version 1 delivers even SIGKILL only after thawing. A group that
            // is gone needs no thawing.
            let _ = self.thaw();
            if begun.elapsed() > PATIENCE {
                return Err(self.timeout("empty"));
            }
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Sends a signal to every process that is there now.
    ///
    /// # Errors
    ///
    /// A refusal of `kill(2)` other than "no such process".
    pub fn signal_all(&self, signal: Signal) -> Result<(), CgroupError> {
        // While the group stands still no pid can be given to somebody else
        // between reading it and using it, and nobody can fork away. A group
        // that was frozen before stays so.
        let was_frozen = self.is_frozen()?;
        let frozen = was_frozen || self.freeze().is_ok();
        let mut outcome = Ok(());
        for pid in self.pids()? {
            let sent = finish(kill(Pid::from_raw(pid), signal), || {
                format!("kill({pid}, {signal})")
            });
            if let Err(error) = sent
                && error.errno() != Errno::ESRCH
            {
                outcome = Err(error.into());
            }
        }
        if frozen && !was_frozen {
            self.thaw()?;
        }
        outcome
    }

    /// Where this container is frozen: version 1's controller, or version 2,
    /// which needs none.
    fn freezer(&self) -> Option<&HierarchyPlan> {
        self.hierarchies
            .iter()
            .find(|plan| plan.version == CgroupVersion::V1 && plan.has("freezer"))
            .or_else(|| self.unified())
    }

    fn timeout(&self, state: &'static str) -> CgroupError {
        let home = self.freezer().or_else(|| self.hierarchies.first());
        CgroupError::Timeout {
            path: home.map(HierarchyPlan::directory).unwrap_or_default(),
            state,
            waited_ms: PATIENCE.as_millis() as u64,
        }
    }
}

/// Version 1 freezes what it finds; a process that forks at that moment leaves
/// the state at `FREEZING`, and only writing again catches the child.
fn freeze_v1(home: &HierarchyPlan) -> Result<(), CgroupError> {
    let file = home.directory().join("freezer.state");
    wait_until(home, || {
        files::write(&file, "FROZEN")?;
        Ok(files::read_text(&file)?.trim() == "FROZEN")
    })
}

fn freeze_v2(home: &HierarchyPlan) -> Result<(), CgroupError> {
    let directory = home.directory();
    files::write(&directory.join("cgroup.freeze"), "1")?;
    let events = directory.join("cgroup.events");
    wait_until(home, || {
        Ok(files::read_text(&events)?
            .lines()
            .any(|line| line == "frozen 1"))
    })
}

fn wait_until(
    home: &HierarchyPlan,
    mut reached: impl FnMut() -> Result<bool, CgroupError>,
) -> Result<(), CgroupError> {
    let begun = Instant::now();
    let mut pause = FIRST_PAUSE;
    while !reached()? {
        if begun.elapsed() > PATIENCE {
            return Err(CgroupError::Timeout {
                path: home.directory(),
                state: "frozen",
                waited_ms: PATIENCE.as_millis() as u64,
            });
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Ok(())
}

/// The processes of a group and of all groups inside it, ascending.
pub(crate) fn pids_below(group: &Path) -> Result<Vec<i32>, CgroupError> {
    let mut pids = Vec::new();
    for directory in files::descendants(group) {
        let list = match files::read_text_if_there(&directory.join("cgroup.procs")) {
            Ok(list) => list,
            // A threaded group of version 2: its processes stand in the group above.
            Err(error) if error.errno() == Errno::EOPNOTSUPP => None,
            Err(error) => return Err(error.into()),
        };
        pids.extend(
            list.iter()
                .flat_map(|list| list.lines())
                .filter_map(|pid| pid.parse::<i32>().ok()),
        );
    }
    // Version 1 promises neither order nor uniqueness. Zero stands for a
    // process that the caller's pid namespace cannot name.
    pids.retain(|pid| *pid > 0);
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}
