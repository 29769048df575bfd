//! Who is attached by plugins, on disk.
//!
//! ```text
//!   DATA/net/cni/POD.json     the attachment: written before the first ADD,
//!                             removed after the last DEL
//!   DATA/net/cni/POD.new      the next attachment, until it is whole
//!   DATA/net/cni/POD.call     lock of one pod's calls, and their input
//!   DATA/net/cni/store.lock   lock of the whole directory, and the input of GC
//! ```
//!
//! The network's configuration is part of the record, for DEL must be told what
//! ADD was told, whatever has become of the file. What plugins keep outlives a
//! reboot (`/var/lib/cni`), so these files do too.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::NetworkList;
use super::request::CniRequest;
use super::run::end_orphans;
use crate::error::{Error, ErrorKind};
use crate::files::{ensure_private_directory, remove_file, storage};
use crate::ledger::Maker;

/// The record's version.
const FORMAT: u32 = 1;
const STORE_LOCK: &str = "store.lock";
const RECORD: &str = ".json";
const CALL: &str = ".call";
const UNFINISHED: &str = ".new";
/// A pod's files, in the order of their removal.
const FILES: [&str; 3] = [UNFINISHED, RECORD, CALL];
/// How long a plugin may go on whose berth was killed.
const ORPHAN_GRACE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// One pod that plugins have attached, or are attaching.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The record's version.
    pub format: u32,
    /// The process that attached it.
    pub maker: Maker,
    /// The network as it was when the pod was attached.
    pub network: NetworkList,
    /// What was asked for.
    pub request: CniRequest,
    /// Where the plugins were.
    pub bin_dirs: Vec<PathBuf>,
    /// The result of the last plugin; none until all have done ADD.
    pub result: Option<Value>,
}

impl Attachment {
    /// A new one.
    pub fn begin(
        network: NetworkList,
        request: CniRequest,
        bin_dirs: Vec<PathBuf>,
    ) -> Result<Self, Error> {
        Ok(Self {
            format: FORMAT,
            maker: Maker::this_process()?,
            network,
            request,
            bin_dirs,
            result: None,
        })
    }

    /// The pod's id.
    pub fn pod_id(&self) -> &str {
        &self.request.attach.pod_id
    }
}

/// The directory of attachments.
#[derive(Debug, Clone)]
pub struct Attachments {
    directory: PathBuf,
}

/// The right to call plugins for one pod, or for the whole network.
#[derive(Debug)]
pub struct CallLock {
    file: File,
    plugin_runs: AtomicBool,
}

impl CallLock {
    /// The file, for a plugin that gets it as its standard input. Until that has
    /// ended (`plugin_ended`) the lock is the plugin's as well.
    pub fn input(&self) -> &File {
        self.plugin_runs.store(true, Ordering::Relaxed);
        &self.file
    }

    /// Nobody but the caller is at work any more.
    pub fn plugin_ended(&self) {
        self.plugin_runs.store(false, Ordering::Relaxed);
    }
}

impl Drop for CallLock {
    fn drop(&mut self) {
        // What a plugin that has ended left behind may have the file open still,
        // and would keep the lock for as long as it lives.
        if !self.plugin_runs.load(Ordering::Relaxed) {
            let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
        }
    }
}

impl Attachments {
    /// Makes the directory if need be.
    ///
    /// # Errors
    ///
    /// `Storage`.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        ensure_private_directory(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// The pods that have a record, also a damaged one.
    ///
    /// # Errors
    ///
    /// `Storage` when the directory cannot be read.
    pub fn pod_ids(&self) -> Result<BTreeSet<String>, Error> {
        self.names_without(&[RECORD])
    }

    /// Whether there is a file of a pod. Who is killed before the record is
    /// whole leaves the others.
    ///
    /// # Errors
    ///
    /// `Storage` when the directory cannot be read.
    pub fn has_files_of(&self, pod_id: &str) -> Result<bool, Error> {
        Ok(self.names_without(&FILES)?.contains(pod_id))
    }

    /// The names that end in one of these, without it.
    fn names_without(&self, suffixes: &[&str]) -> Result<BTreeSet<String>, Error> {
        let entries = fs::read_dir(&self.directory)
            .map_err(|error| storage("list", &self.directory, error))?;
        let names = entries.flatten().map(|entry| entry.file_name());
        Ok(names
            .filter_map(|name| {
                let name = name.to_str()?;
                let mut suffixes = suffixes.iter();
                let pod_id = suffixes.find_map(|suffix| name.strip_suffix(*suffix))?;
                Some(pod_id.to_owned())
            })
            .collect())
    }

    /// The record of a pod; none when plugins hold nothing for it.
    ///
    /// # Errors
    ///
    /// `Storage` when it is damaged or of another version.
    pub fn read(&self, pod_id: &str) -> Result<Option<Attachment>, Error> {
        let path = self.path(pod_id, RECORD);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(storage("read", &path, error)),
            Ok(bytes) => bytes,
        };
        let damaged = |error| {
            let text = format!("{}: not an attachment of this version", path.display());
            Error::caused(ErrorKind::Storage, text, error)
        };
        let attachment: Attachment = serde_json::from_slice(&bytes).map_err(damaged)?;
        match attachment.format {
            FORMAT => Ok(Some(attachment)),
            other => {
                let text = format!("{}: format {other}, expected {FORMAT}", path.display());
                Err(Error::new(ErrorKind::Storage, text))
            }
        }
    }

    /// Every record that can be read, and what is wrong with the others.
    ///
    /// # Errors
    ///
    /// `Storage` when the directory cannot be read.
    pub fn read_all(&self) -> Result<(Vec<Attachment>, Vec<Error>), Error> {
        let mut attachments = Vec::new();
        let mut damaged = Vec::new();
        for pod_id in self.pod_ids()? {
            match self.read(&pod_id) {
                Ok(found) => attachments.extend(found),
                Err(error) => damaged.push(error),
            }
        }
        Ok((attachments, damaged))
    }

    /// Writes a pod's record: a reader, or a power cut, sees the old or the new one.
    ///
    /// # Errors
    ///
    /// `Storage`.
    pub fn write(&self, attachment: &Attachment) -> Result<(), Error> {
        let path = self.path(attachment.pod_id(), RECORD);
        let unfinished = self.path(attachment.pod_id(), UNFINISHED);
        let bytes = serde_json::to_vec_pretty(attachment)
            .map_err(|error| Error::caused(ErrorKind::Storage, "encode an attachment", error))?;
        let written = private_file(&unfinished).and_then(|mut file| {
            file.set_len(0)?;
            file.write_all(&bytes)?;
            file.sync_all()
        });
        written.map_err(|error| storage("write", &unfinished, error))?;
        fs::rename(&unfinished, &path)
            .and_then(|()| File::open(&self.directory)?.sync_all())
            .map_err(|error| storage("rename to", &path, error))
    }

    /// Forgets a pod whose plugins have all done DEL.
    ///
    /// # Errors
    ///
    /// `Storage`.
    pub fn remove(&self, pod_id: &str, lock: CallLock) -> Result<(), Error> {
        // The lock goes last: while it is held, the record tells the truth.
        for suffix in FILES {
            remove_file(&self.path(pod_id, suffix))?;
        }
        drop(lock);
        Ok(())
    }

    /// Waits until nobody calls plugins for a pod. A plugin that a killed
    /// process left behind gets some seconds to end, then it is killed.
    ///
    /// # Errors
    ///
    /// `Storage`, also when the lock was not free within `patience`.
    pub async fn lock_pod(&self, pod_id: &str, patience: Duration) -> Result<CallLock, Error> {
        lock(&self.path(pod_id, CALL), patience).await
    }

    /// Waits until nobody writes a first record or calls GC.
    ///
    /// # Errors
    ///
    /// `Storage`, also when the lock was not free within `patience`.
    pub async fn lock_store(&self, patience: Duration) -> Result<CallLock, Error> {
        lock(&self.directory.join(STORE_LOCK), patience).await
    }

    fn path(&self, pod_id: &str, suffix: &str) -> PathBuf {
        self.directory.join(format!("{pod_id}{suffix}"))
    }
}

async fn lock(path: &Path, patience: Duration) -> Result<CallLock, Error> {
    let begin = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut orphans_may_run = true;
    loop {
        let file = private_file(path).map_err(|error| storage("open", path, error))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // It may have been removed between the two calls: then the lock is
            // that of a file which nobody else will find.
            Ok(()) if is_at(&file, path) => {
                return Ok(CallLock {
                    file,
                    plugin_runs: AtomicBool::new(false),
                });
            }
            Ok(()) => continue,
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(storage("flock", path, errno.into())),
        }
        if orphans_may_run && begin.elapsed() > ORPHAN_GRACE && holder_is_dead(&file) {
            orphans_may_run = false;
            end_orphans(&file);
        }
        if begin.elapsed() > patience {
            let text = format!(
                "{}: plugins have been at work for {} s; nothing was changed",
                path.display(),
                patience.as_secs()
            );
            return Err(Error::new(ErrorKind::Storage, text));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether the process that took a file's lock has gone, and only what it
/// started holds the lock still. The table of locks goes on showing its number,
/// or 0 in a namespace of processes (`locks_translate_pid`, fs/locks.c).
fn holder_is_dead(file: &File) -> bool {
    let Ok(found) = file.metadata() else {
        return false;
    };
    let (major, minor) = (
        rustix::fs::major(found.dev()),
        rustix::fs::minor(found.dev()),
    );
    let wanted = format!("{major:02x}:{minor:02x}:{}", found.ino());
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    locks.lines().any(|line| {
        // "1: FLOCK  ADVISORY  WRITE 9712 08:01:1234 0 EOF"
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            [_, "FLOCK", _, _, pid, inode, ..] if *inode == wanted => {
                !Path::new("/proc").join(pid).exists()
            }
            _ => false,
        }
    })
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(found)) => (held.dev(), held.ino()) == (found.dev(), found.ino()),
        _ => false,
    }
}

/// A configuration may hold a secret, so these are root's alone.
fn private_file(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests;
