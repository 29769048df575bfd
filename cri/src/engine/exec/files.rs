//! The files of one exec, and what becomes of them when its client is killed.
//!
//! ```text
//! RUN/pods/POD/exec-N.json   the program; locked while its client lives
//! RUN/pods/POD/exec-N.pid    its number on the host, written by the OCI runtime
//! RUN/pods/POD/exec-N.sock   where its terminal arrives
//! ```
//!
//! A client that ends in order, or is cancelled, ends its program. One that gets
//! `SIGKILL` cannot, and its program would run on with nobody to read it. But
//! the kernel drops a flock(2) with its process: a file whose lock can be had is
//! a dead client's, and the next engine ends what that file stands for.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::engine::Engine;
use crate::engine::error::{Error, Failures};
use crate::engine::id::random_id;
use crate::engine::monitor_link::blocking;
use crate::engine::records::files as record_files;

const PREFIX: &str = "exec-";
const PROCESS: &str = ".json";
/// Characters of the number; the socket's path has little room (unix(7)).
const NUMBER_LENGTH: usize = 8;
/// How long an OCI runtime whose caller was killed may take to write the pid file.
const PATIENCE: Duration = Duration::from_secs(5);

/// The paths of one exec. The files go when this is dropped.
#[derive(Debug)]
pub(super) struct ExecFiles {
    place: Place,
    /// Held, not read.
    _lock: File,
}

/// Where the files of one exec are.
#[derive(Debug, Clone)]
struct Place {
    pod_dir: PathBuf,
    number: String,
}

impl Place {
    fn file(&self, end: &str) -> PathBuf {
        self.pod_dir.join(format!("{PREFIX}{}{end}", self.number))
    }

    fn remove(&self) {
        // The pod's directory goes with the pod in any case. The one that says
        // that the others are there goes last.
        for end in [".sock", ".pid", PROCESS] {
            let _ = fs::remove_file(self.file(end));
        }
    }
}

impl ExecFiles {
    /// Writes the program's description and locks it.
    ///
    /// # Errors
    ///
    /// `Storage`; nothing is left then.
    pub(super) fn create(pod_dir: &Path, process: &[u8]) -> Result<ExecFiles, Error> {
        let place = Place {
            pod_dir: pod_dir.to_path_buf(),
            number: random_id()[..NUMBER_LENGTH].to_owned(),
        };
        let path = place.file(PROCESS);
        // Under its name it is locked from the first moment on.
        let draft = place.file(".draft");
        let written = File::create_new(&draft).and_then(|mut file| {
            file.write_all(process)?;
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            fs::rename(&draft, &path)?;
            Ok(file)
        });
        match written {
            Ok(lock) => Ok(ExecFiles { place, _lock: lock }),
            Err(error) => {
                // The failure above is the one to tell.
                let _ = fs::remove_file(&draft);
                Err(record_files::storage("write", &path, error))
            }
        }
    }

    /// What the OCI runtime is to run.
    pub(super) fn process(&self) -> PathBuf {
        self.place.file(PROCESS)
    }

    /// Where the OCI runtime writes the program's number.
    pub(super) fn pid(&self) -> PathBuf {
        self.place.file(".pid")
    }

    /// Where the OCI runtime sends the program's terminal.
    pub(super) fn console(&self) -> PathBuf {
        self.place.file(".sock")
    }
}

impl Drop for ExecFiles {
    fn drop(&mut self) {
        self.place.remove();
    }
}

impl Engine {
    /// Ends the programs of clients that were killed.
    ///
    /// # Errors
    ///
    /// `Storage` when the directories cannot be read.
    pub(in crate::engine) async fn end_abandoned_programs(&self) -> Result<(), Error> {
        let engine = self.clone();
        blocking(move || {
            let mut failures = Failures::default();
            for pod_id in record_files::names_in(&engine.paths().pods(), "")? {
                let Some(pod) = engine.records().read_pod(&pod_id).ok().flatten() else {
                    continue;
                };
                let pod_dir = engine.paths().pod(&pod_id);
                failures.note(end_abandoned(&pod_dir, &pod.cgroup));
            }
            failures.into_result("programs of dead clients")
        })
        .await
    }
}

fn end_abandoned(pod_dir: &Path, cgroup: &str) -> Result<(), Error> {
    let entries = match fs::read_dir(pod_dir) {
        Ok(entries) => entries,
        // The pod was removed meanwhile.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(record_files::storage("list directory", pod_dir, error)),
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(PROCESS));
        let Some(number) = number else { continue };
        let place = Place {
            pod_dir: pod_dir.to_path_buf(),
            number: number.to_owned(),
        };
        // One that is gone has ended well.
        let Ok(file) = File::open(place.file(PROCESS)) else {
            continue;
        };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        if let Some(pid) = await_pid(&place)
            && kill_in_group(pid, cgroup)
        {
            tracing::info!(
                pid = pid.as_raw_nonzero(),
                "ended a program whose client was killed"
            );
        }
        place.remove();
    }
    Ok(())
}

/// The program's number; waited for while the OCI runtime, which nobody waits
/// for any more, still makes the program.
fn await_pid(place: &Place) -> Option<Pid> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // The runtime is looked for first: it writes the file before it ends.
        let at_work = runs_with_argument(&place.file(PROCESS));
        let text = fs::read_to_string(place.file(".pid")).unwrap_or_default();
        let pid = text.trim().parse::<i32>().ok().and_then(Pid::from_raw);
        if pid.is_some() || !at_work || Instant::now() > deadline {
            return pid;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process has a path on its command line.
fn runs_with_argument(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let wanted = path.as_os_str().as_bytes();
    let Ok(entries) = fs::read_dir("/proc") else {
        return false;
    };
    entries.flatten().any(|entry| {
        fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == wanted))
    })
}

/// Sends `SIGKILL` to a process if it is in a group of the pod: its number may
/// have passed to another since the file was written.
fn kill_in_group(pid: Pid, cgroup: &str) -> bool {
    // Opened first: from here on the number stands for one process only.
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return false;
    };
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero()));
    let below = format!("{cgroup}/");
    groups.is_ok_and(|groups| groups.lines().any(|line| line.contains(&below)))
        && pidfd_send_signal(&process, Signal::KILL).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_with_their_client_and_stay_while_it_lives() {
        let directory = tempfile::tempdir().unwrap();
        let left = || fs::read_dir(directory.path()).unwrap().count();
        let files = ExecFiles::create(directory.path(), b"{}").unwrap();
        fs::write(files.pid(), "0").unwrap();
        // The client lives: nothing is touched.
        end_abandoned(directory.path(), "/group").unwrap();
        assert_eq!(left(), 2);
        drop(files);
        assert_eq!(left(), 0);
    }

    #[test]
    fn what_a_dead_client_left_goes_but_no_stranger_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let mut stranger = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        fs::write(directory.path().join("exec-1.json"), "{}").unwrap();
        fs::write(
            directory.path().join("exec-1.pid"),
            stranger.id().to_string(),
        )
        .unwrap();
        fs::write(directory.path().join("hosts"), "").unwrap();
        end_abandoned(directory.path(), "/no/such/group").unwrap();
        let left: Vec<_> = fs::read_dir(directory.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        assert!(stranger.try_wait().unwrap().is_none(), "it lives");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
