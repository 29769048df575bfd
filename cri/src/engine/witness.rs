//! What this process knows of pods without asking their monitors each time.
//!
//! A monitor whose connection is open has not ended, and a container that has begun runs
//! until its init ends, which a pidfd tells (`pidfd_open(2)`). So a kubelet, which asks for
//! everything every second, gets most answers by one `poll(2)` that does not wait.
//!
//! ```text
//!  monitor's word          here
//!  init is 42         ─▶   pidfd of 42, which may be another's by now
//!  init is 42         ─▶   it was 42 all the while: trusted
//!  42 runs            ─▶   running, until the pidfd tells its end
//! ```
//!
//! Nothing here is the truth. What is not known, has ended, or was heard too long ago is
//! asked of the monitor.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use berth_runtime::monitor::protocol::{ContainerRecord, ContainerState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Resource, getrlimit, pidfd_open};

/// How long a monitor is taken to be well because its connection is open: one that hangs
/// is found out after that.
const TRUST: Duration = Duration::from_secs(10);

/// The part of this process's descriptors that may be spent here.
const SHARE: u64 = 4;

/// Descriptors, where there is no limit of them.
const MANY: usize = 16 << 10;

/// The pods whose monitors have answered.
#[derive(Debug)]
pub(super) struct Witnesses {
    pods: Mutex<HashMap<String, Pod>>,
    /// The most descriptors.
    limit: usize,
}

#[derive(Debug)]
struct Pod {
    monitor: UnixStream,
    /// When the monitor has said something.
    heard: Instant,
    inits: HashMap<String, Init>,
}

/// The first process of a container.
#[derive(Debug)]
struct Init {
    pidfd: OwnedFd,
    /// Whether the pidfd is known to be of the process that was told.
    trusted: bool,
    told: ContainerRecord,
}

impl Default for Witnesses {
    fn default() -> Self {
        let descriptors = getrlimit(Resource::Nofile).current;
        let share = descriptors.map(|descriptors| descriptors / SHARE);
        Self::of(
            share
                .and_then(|share| share.try_into().ok())
                .unwrap_or(MANY),
        )
    }
}

impl Witnesses {
    fn of(limit: usize) -> Self {
        Self {
            pods: Mutex::default(),
            limit,
        }
    }

    /// Keeps a connection on which the monitor has just told of these containers of its.
    pub(super) fn note(&self, pod_id: &str, monitor: UnixStream, told: &[ContainerRecord]) {
        let mut pods = self.pods();
        if !pods.contains_key(pod_id) {
            // Who has gone without our doing is forgotten when somebody comes.
            pods.retain(|_, pod| is_open(&pod.monitor));
        }
        let mut room = self.limit.saturating_sub(spent(&pods));
        let pod = match pods.get_mut(pod_id) {
            Some(pod) => {
                pod.monitor = monitor;
                pod.heard = Instant::now();
                pod
            }
            None if room == 0 => return,
            None => {
                room -= 1;
                pods.entry(pod_id.to_owned()).or_insert(Pod {
                    monitor,
                    heard: Instant::now(),
                    inits: HashMap::new(),
                })
            }
        };
        pod.inits.retain(|_, init| is_silent(&init.pidfd));
        for told in told {
            pod.note(told, &mut room);
        }
    }

    /// Whether a pod's monitor has answered a short time ago and not ended since.
    pub(super) fn sees_monitor(&self, pod_id: &str) -> bool {
        let pods = self.pods();
        let pod = pods.get(pod_id);
        pod.is_some_and(|pod| pod.is_fresh() && is_open(&pod.monitor))
    }

    /// What a pod's monitor has told of containers that all ran then and run still, while
    /// the monitor lives too.
    pub(super) fn running<'a>(
        &self,
        pod_id: &str,
        ids: impl Iterator<Item = &'a str>,
    ) -> Option<Vec<ContainerRecord>> {
        let pods = self.pods();
        let pod = pods.get(pod_id).filter(|pod| pod.is_fresh())?;
        let inits: Vec<&Init> = ids
            .map(|id| pod.inits.get(id).filter(|init| init.is_running()))
            .collect::<Option<_>>()?;
        let pidfds = inits.iter().map(|init| init.pidfd.as_fd());
        let mut polled: Vec<PollFd<'_>> = std::iter::once(pod.monitor.as_fd())
            .chain(pidfds)
            .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN))
            .collect();
        none_is_ready(&mut polled).then(|| inits.iter().map(|init| init.told.clone()).collect())
    }

    /// Gives up what is kept of a pod that ends.
    pub(super) fn forget(&self, pod_id: &str) {
        self.pods().remove(pod_id);
    }

    fn pods(&self) -> MutexGuard<'_, HashMap<String, Pod>> {
        // Each change leaves a whole value, whatever panics between two of them.
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pod {
    fn is_fresh(&self) -> bool {
        self.heard.elapsed() < TRUST
    }

    fn note(&mut self, told: &ContainerRecord, room: &mut usize) {
        let known = self.inits.get_mut(&told.id);
        if let Some(init) = known
            && init.told.pid == told.pid
        {
            // The process was there before the pidfd and is there now.
            init.trusted = true;
            init.told = told.clone();
            return;
        }
        self.inits.remove(&told.id);
        let pidfd = Pid::from_raw(told.pid)
            .filter(|_| *room > 0)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        if let Some(pidfd) = pidfd {
            *room -= 1;
            let init = Init {
                pidfd,
                trusted: false,
                told: told.clone(),
            };
            self.inits.insert(told.id.clone(), init);
        }
    }
}

impl Init {
    fn is_running(&self) -> bool {
        self.trusted && self.told.state == ContainerState::Running
    }
}

/// How many descriptors are kept.
fn spent(pods: &HashMap<String, Pod>) -> usize {
    pods.values().map(|pod| 1 + pod.inits.len()).sum()
}

/// Nothing arrives on a connection whose every call was answered, but its end.
fn is_open(monitor: &UnixStream) -> bool {
    none_is_ready(&mut [PollFd::new(monitor, PollFlags::IN)])
}

/// Whether a process has not ended.
fn is_silent(pidfd: &OwnedFd) -> bool {
    none_is_ready(&mut [PollFd::new(pidfd, PollFlags::IN)])
}

fn none_is_ready(descriptors: &mut [PollFd<'_>]) -> bool {
    // A call that was interrupted has found nothing out.
    poll(descriptors, Some(&Timespec::default())) == Ok(0)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// A process to be taken for a container's init; ended when dropped.
    struct Program(Child);

    impl Program {
        fn start() -> Program {
            Program(Command::new("sleep").arg("60").spawn().unwrap())
        }

        fn told(&self, state: ContainerState) -> ContainerRecord {
            ContainerRecord {
                id: "c".to_owned(),
                pid: i32::try_from(self.0.id()).unwrap(),
                state,
                created_at: 1,
                started_at: 2,
                exit: None,
            }
        }

        fn end(&mut self) {
            // Not waited for: a monitor may be slow to collect it.
            self.0.kill().unwrap();
            for _ in 0..1000 {
                let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()));
                if stat.unwrap().contains(") Z ") {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            panic!("process {} does not end", self.0.id());
        }
    }

    impl Drop for Program {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn running(witnesses: &Witnesses, pod: &str, id: &str) -> Option<ContainerRecord> {
        let told = witnesses.running(pod, [id].into_iter())?;
        told.into_iter().next()
    }

    #[test]
    fn a_container_is_trusted_to_run_once_its_init_was_told_twice() {
        let (witnesses, mut program) = (Witnesses::of(8), Program::start());
        let mut monitors = Vec::new();
        let mut tell = |state| {
            let (theirs, ours) = UnixStream::pair().unwrap();
            monitors.push(theirs);
            witnesses.note("p", ours, &[program.told(state)]);
        };
        assert!(!witnesses.sees_monitor("p"));
        tell(ContainerState::Created);
        assert!(witnesses.sees_monitor("p"));
        assert_eq!(running(&witnesses, "p", "c"), None);
        tell(ContainerState::Running);
        let told = program.told(ContainerState::Running);
        assert_eq!(running(&witnesses, "p", "c"), Some(told));
        assert_eq!(running(&witnesses, "p", "d"), None);
        assert_eq!(running(&witnesses, "q", "c"), None);
        // One that is not known to run makes all of them a question.
        assert_eq!(witnesses.running("p", ["c", "d"].into_iter()), None);
        assert_eq!(
            witnesses
                .running("p", ["c", "c"].into_iter())
                .unwrap()
                .len(),
            2
        );
        program.end();
        assert_eq!(running(&witnesses, "p", "c"), None);
        assert!(witnesses.sees_monitor("p"));
        monitors.clear();
        assert!(!witnesses.sees_monitor("p"));
    }

    #[test]
    fn without_its_monitor_a_container_is_not_told_to_run() {
        let (witnesses, program) = (Witnesses::of(8), Program::start());
        let told = [program.told(ContainerState::Running)];
        let mut monitor = None;
        for _ in 0..2 {
            let (theirs, ours) = UnixStream::pair().unwrap();
            witnesses.note("p", ours, &told);
            monitor = Some(theirs);
        }
        assert!(running(&witnesses, "p", "c").is_some());
        drop(monitor);
        assert_eq!(running(&witnesses, "p", "c"), None);
    }

    #[test]
    fn a_process_that_took_the_place_of_the_init_is_another() {
        let witnesses = Witnesses::of(8);
        let (first, second) = (Program::start(), Program::start());
        let mut monitors = Vec::new();
        for program in [&first, &second] {
            let (theirs, ours) = UnixStream::pair().unwrap();
            monitors.push(theirs);
            let told = [program.told(ContainerState::Running)];
            witnesses.note("p", ours, &told);
        }
        assert_eq!(running(&witnesses, "p", "c"), None);
    }

    #[test]
    fn no_more_descriptors_are_kept_than_may_be_and_those_of_the_gone_are_given_back() {
        let (witnesses, program) = (Witnesses::of(3), Program::start());
        let told = [program.told(ContainerState::Running)];
        let mut monitors = Vec::new();
        for pod in ["a", "b", "c"] {
            let (theirs, ours) = UnixStream::pair().unwrap();
            monitors.push(theirs);
            witnesses.note(pod, ours, &told);
        }
        assert_eq!(spent(&witnesses.pods()), 3);
        assert!(!witnesses.sees_monitor("c"));
        monitors.clear();
        let (_theirs, ours) = UnixStream::pair().unwrap();
        witnesses.note("d", ours, &told);
        assert_eq!(spent(&witnesses.pods()), 2);
        assert!(witnesses.sees_monitor("d"));
        witnesses.forget("d");
        assert_eq!(spent(&witnesses.pods()), 0);
    }
}
