//! Who is the pod's worker: a lock that the kernel drops with its holder.
//!
//! A lock belongs to the open file, not to its name (flock(2)), so that a lock
//! file can be unlinked by the one who holds it. Whoever opened it before then
//! waits for a file that has no name any more: after each locking the name is
//! looked up again, and a file of another inode means another try.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::{Context, Error, Result};

/// How often, and with which pauses, one looks again at what lasts for a moment only.
const LOOKS: usize = 20;
/// How often one looks for the number of a worker that has the lock: on a loaded machine it can
/// be kept from writing it for long, and whoever gives up says that nobody is there.
const LOOKS_FOR_NUMBER: usize = 600;
const MOMENT: Duration = Duration::from_millis(5);
/// Every number of a process has room in it.
const NUMBER_WIDTH: usize = 10;

/// While this lives, the process that holds it is the pod's worker.
#[derive(Debug)]
pub struct Claim {
    file: File,
    path: PathBuf,
}

/// Whose the remains of a pod are.
#[derive(Debug)]
pub enum Remains {
    /// A process that lives.
    OfAnother,
    /// This process, which holds the claim elsewhere.
    Own,
    /// Nobody's, and now the caller's.
    Free(Claim),
}

impl Claim {
    /// Takes the lock of that name.
    ///
    /// # Errors
    ///
    /// Another process holds it, or the file cannot be made.
    pub fn take(path: &Path) -> Result<Claim> {
        let claim = match Claim::lock(path)? {
            Ok(claim) => claim,
            Err(mut held) => {
                let holder = read_pid(&mut held).map_or(String::new(), |pid| format!(" {pid}"));
                return Err(Error::new(format!(
                    "process{holder} looks after it already"
                )));
            }
        };
        claim
            .write_own_number()
            .context(format!("write {}", path.display()))?;
        Ok(claim)
    }

    /// In one call and over what a killed one left: cutting the file short first can wait for
    /// the file system's journal, and who looks meanwhile would find a lock and no number.
    fn write_own_number(&self) -> io::Result<()> {
        let line = format!("{:<NUMBER_WIDTH$}\n", std::process::id());
        self.file.write_all_at(line.as_bytes(), 0)
    }

    /// Takes the lock to clear up behind a worker that is gone, if it is.
    ///
    /// # Errors
    ///
    /// The file cannot be opened or locked.
    pub fn of_remains(path: &Path) -> Result<Remains> {
        // With no directory there is nothing to clear up, and nobody in it.
        if path.parent().is_some_and(|parent| !parent.exists()) {
            return Ok(Remains::Own);
        }
        Ok(match Claim::lock(path)? {
            Ok(claim) => Remains::Free(claim),
            Err(mut held) => {
                let own = Pid::from_raw(std::process::id().cast_signed());
                match read_pid(&mut held) == own {
                    true => Remains::Own,
                    false => Remains::OfAnother,
                }
            }
        })
    }

    /// The lock, or the file that another holds.
    fn lock(path: &Path) -> Result<std::result::Result<Claim, File>> {
        let attempt = || format!("lock {}", path.display());
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
                .context(attempt())?;
            match lock_patiently(&file) {
                Ok(()) if is_named(&file, path).context(attempt())? => {
                    let path = path.to_owned();
                    return Ok(Ok(Claim { file, path }));
                }
                // Its holder unlinked it between the two calls.
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(Err(file)),
                Err(error) => return Err(error).context(attempt()),
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // The lock is still held: nobody can have taken the name in between. A
        // file that stays is no harm, for the kernel drops the lock.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether an open file is the one of that name.
fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((open.dev(), open.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A worker that was alive a moment ago.
#[derive(Debug)]
pub struct LiveWorker {
    pid: Pid,
    descriptor: OwnedFd,
    lock: File,
}

impl LiveWorker {
    /// The holder of the lock of that name.
    pub fn find(path: &Path) -> Option<LiveWorker> {
        for _ in 0..LOOKS_FOR_NUMBER {
            let lock = File::open(path).ok()?;
            if is_free(&lock) {
                return None;
            }
            let worker = LiveWorker::that_holds(lock);
            if worker.is_some() {
                return worker;
            }
            // It has the lock, and its number is not written yet.
            std::thread::sleep(MOMENT);
        }
        None
    }

    fn that_holds(mut lock: File) -> Option<LiveWorker> {
        let pid = read_pid(&mut lock)?;
        let descriptor = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Of one that was killed and that nobody has waited for: the next has not written yet.
        if has_ended(&descriptor) {
            return None;
        }
        // Had it ended between the two, the pid could be another's; the lock
        // would then be free.
        (!is_free(&lock)).then_some(LiveWorker {
            pid,
            descriptor,
            lock,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends a signal; SIGTERM asks for a stop in order. Succeeds when it has ended.
    ///
    /// # Errors
    ///
    /// `EPERM`: it belongs to another user.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.descriptor, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error).context(format!("signal process {}", self.pid())),
        }
    }

    /// Waits until it has ended, that is until its lock is free.
    pub async fn ended(&self) {
        while !is_free(&self.lock) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Those who look hold the lock for a moment; that is no worker.
fn lock_patiently(lock: &File) -> rustix::io::Result<()> {
    let mut tries = 0;
    loop {
        match rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if tries < LOOKS => {
                tries += 1;
                std::thread::sleep(MOMENT);
            }
            outcome => return outcome,
        }
    }
}

/// Whether nobody holds the lock. A shared lock, taken for a moment, does not
/// hinder others who look.
fn is_free(lock: &File) -> bool {
    match rustix::fs::flock(lock, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            let _ = rustix::fs::flock(lock, FlockOperation::Unlock);
            true
        }
        Err(_) => false,
    }
}

fn read_pid(lock: &mut File) -> Option<Pid> {
    let mut text = String::new();
    lock.rewind().ok()?;
    lock.read_to_string(&mut text).ok()?;
    Pid::from_raw(text.lines().next()?.trim().parse().ok()?)
}

/// Whether a process has ended, waited for or not: its descriptor is then readable (pidfd_open(2)).
fn has_ended(descriptor: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(descriptor, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_goes_with_the_lock_and_many_who_want_it_get_it_in_turn() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.lock");
        let inside = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let Ok(claim) = Claim::take(&path) else {
                            continue;
                        };
                        let others = inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        assert_eq!(others, 0, "two hold one claim");
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(claim);
                    }
                });
            }
        });
        assert!(!path.exists());
    }

    #[test]
    fn a_worker_that_has_not_written_its_number_yet_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.lock");
        // What a killed one left, and nobody has waited for it.
        let mut killed = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_raw(killed.id().cast_signed()).unwrap();
        let descriptor = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], None).unwrap();
        fs::write(&path, format!("{}\n", killed.id())).unwrap();
        let claim = Claim::lock(&path).unwrap().unwrap();
        std::thread::scope(|scope| {
            let found = scope.spawn(|| LiveWorker::find(&path).map(|worker| worker.pid()));
            std::thread::sleep(2 * MOMENT);
            claim.write_own_number().unwrap();
            let own = std::process::id().cast_signed();
            assert_eq!(found.join().unwrap(), Some(own));
        });
        killed.wait().unwrap();
    }

    #[test]
    fn what_a_killed_worker_left_is_taken_and_what_lives_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.lock");
        fs::write(&path, "4194303\n").unwrap();
        assert!(matches!(
            Claim::of_remains(&path).unwrap(),
            Remains::Free(_)
        ));
        assert!(!path.exists());
        let claim = Claim::take(&path).unwrap();
        assert!(matches!(Claim::of_remains(&path).unwrap(), Remains::Own));
        fs::write(&path, "1\n").unwrap();
        assert!(matches!(
            Claim::of_remains(&path).unwrap(),
            Remains::OfAnother
        ));
        drop(claim);
    }
}
