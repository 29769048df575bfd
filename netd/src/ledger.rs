//! Who holds what: addresses, host ports and interfaces, on disk.
//!
//! The ledger is written *before* the kernel is asked for anything, so that
//! whoever comes next can undo what a killed process began. It describes
//! kernel objects, and those die with the machine: the file is therefore named
//! by the boot id and never synced. After a reboot the old file is an
//! unrelated one and is deleted; within a boot the page cache survives every
//! `kill -9`.
//!
//! ```text
//!   DATA/net/ledger.lock              held (flock) for a whole attach or detach
//!   DATA/net/ledger-BOOTID.json       replaced by rename, never edited in place,
//!                                     and gone while there is nothing to say
//! ```
//!
//! The lock belongs to an open file, not to a process, so the kernel drops it
//! when its holder dies (flock(2)). Whoever holds it and finds a record still
//! `attaching` knows that its maker is dead.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};
use crate::files::{remove_file, storage};
use crate::request::HostPort;

/// Everything on record, of all networks of this state directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// By network name.
    pub networks: BTreeMap<String, NetworkRecord>,
    /// By network name, then pod id.
    pub pods: BTreeMap<String, BTreeMap<String, PodRecord>>,
}

/// What a network holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkRecord {
    /// The bridge's name.
    pub bridge: String,
    /// Whether the bridge is ours to remove.
    pub bridge_origin: BridgeOrigin,
    /// Its subnets, to tell overlaps between networks.
    pub subnets: Vec<IpNet>,
    /// The address of each family that was given last.
    pub last_given: Vec<IpAddr>,
}

/// Where a bridge came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BridgeOrigin {
    /// We made it, or are about to.
    Ours,
    /// It stood before us, and stays.
    Found,
}

/// What a pod holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodRecord {
    /// How far its attach got.
    pub state: PodState,
    /// The process that attached it.
    pub maker: Maker,
    /// Its network namespace.
    pub netns: PathBuf,
    /// The interface in it.
    pub interface: String,
    /// The other end, on the host.
    pub host_interface: String,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Its host ports.
    pub host_ports: Vec<HostPort>,
}

/// How far an attach got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodState {
    /// Begun. Seen by the holder of the lock, it was abandoned.
    Attaching,
    /// Complete.
    Attached,
}

/// A process, told apart from a later one of the same pid by its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maker {
    /// The pid.
    pub pid: u32,
    /// Clock ticks after boot (`/proc/PID/stat`, field 22).
    pub start_ticks: u64,
}

/// The extension of a ledger that is being written.
const UNFINISHED: &str = "new";

/// The ledger, with the lock that gives the right to change it.
#[derive(Debug)]
pub struct LockedLedger {
    path: PathBuf,
    ledger: Ledger,
    _lock: Flock<File>,
}

impl Ledger {
    /// Every pod on record: network, pod id, record.
    pub fn all_pods(&self) -> impl Iterator<Item = (&str, &str, &PodRecord)> {
        self.pods.iter().flat_map(|(network, pods)| {
            pods.iter()
                .map(move |(id, pod)| (network.as_str(), id.as_str(), pod))
        })
    }

    /// The pods of one network.
    pub fn pods_of(&self, network: &str) -> impl Iterator<Item = (&str, &PodRecord)> {
        self.pods
            .get(network)
            .into_iter()
            .flatten()
            .map(|(id, pod)| (id.as_str(), pod))
    }

    /// The record of one pod.
    pub fn pod(&self, network: &str, pod_id: &str) -> Option<&PodRecord> {
        self.pods.get(network)?.get(pod_id)
    }

    /// The addresses that pods of a network hold, and who.
    pub fn holders(&self, network: &str) -> BTreeMap<IpAddr, String> {
        self.pods_of(network)
            .flat_map(|(id, pod)| {
                pod.addresses
                    .iter()
                    .map(move |address| (*address, id.to_owned()))
            })
            .collect()
    }
}

impl LockedLedger {
    /// Waits for the lock, then reads the ledger.
    ///
    /// # Errors
    ///
    /// `Storage`: the directory cannot be used, the file is damaged, or the lock
    /// was not free within `patience`.
    pub async fn open(directory: &Path, patience: Duration) -> Result<Self, Error> {
        let directory = directory.to_owned();
        let owned = directory.clone();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        // flock(2) blocks its thread, so it has one of its own. Not one of the
        // runtime's: the runtime would wait for it before it lets the process end.
        std::thread::Builder::new()
            .name("b:lock-ledger".to_owned())
            .spawn(move || {
                // Without a receiver the caller has given up: the lock is dropped.
                let _ = sender.send(Self::open_blocking(&owned));
            })
            .map_err(|error| Error::caused(ErrorKind::Storage, "start a thread", error))?;
        match tokio::time::timeout(patience, receiver).await {
            Ok(Ok(result)) => result,
            Ok(Err(gone)) => Err(Error::caused(
                ErrorKind::Storage,
                "the thread that waits for the ledger's lock ended early",
                gone,
            )),
            Err(_) => Err(Error::new(
                ErrorKind::Storage,
                format!(
                    "{}: another process has held the lock for {} s; nothing was changed",
                    directory.join("ledger.lock").display(),
                    patience.as_secs()
                ),
            )),
        }
    }

    fn open_blocking(directory: &Path) -> Result<Self, Error> {
        let lock_path = directory.join("ledger.lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|error| storage("open", &lock_path, error))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| storage("flock", &lock_path, errno.into()))?;
        let path = directory.join(format!("ledger-{}.json", boot_id()?));
        // Whoever wrote it was killed before the rename.
        remove_file(&path.with_extension(UNFINISHED))?;
        let ledger = read_ledger(&path)?;
        Ok(Self {
            path,
            ledger,
            _lock: lock,
        })
    }

    /// What is on record.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Changes the ledger and writes it, whole, before returning.
    ///
    /// # Errors
    ///
    /// `Storage`; the file is then as it was.
    pub fn update(&mut self, change: impl FnOnce(&mut Ledger)) -> Result<(), Error> {
        let mut next = self.ledger.clone();
        change(&mut next);
        next.pods.retain(|_, pods| !pods.is_empty());
        write_ledger(&self.path, &next)?;
        self.ledger = next;
        Ok(())
    }
}

impl Maker {
    /// This process.
    ///
    /// # Errors
    ///
    /// `Storage` if `/proc` is not mounted.
    pub fn this_process() -> Result<Self, Error> {
        let pid = std::process::id();
        let start_ticks = start_ticks(pid)
            .ok_or_else(|| Error::new(ErrorKind::Storage, "/proc/self/stat cannot be read"))?;
        Ok(Self { pid, start_ticks })
    }

    /// Whether the process still runs.
    pub fn is_alive(&self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }
}

/// Removes the ledgers of earlier boots.
///
/// # Errors
///
/// `Storage`.
pub fn remove_ledgers_of_other_boots(directory: &Path) -> Result<(), Error> {
    let current = format!("ledger-{}.json", boot_id()?);
    let entries = fs::read_dir(directory).map_err(|error| storage("read", directory, error))?;
    let stale: BTreeSet<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("ledger-") && name.ends_with(".json") && *name != *current
        })
        .map(|entry| entry.path())
        .collect();
    for path in stale {
        remove_file(&path)?;
    }
    Ok(())
}

fn read_ledger(path: &Path) -> Result<Ledger, Error> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ledger::default()),
        Err(error) => Err(storage("read", path, error)),
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
            Error::caused(
                ErrorKind::Storage,
                format!(
                    "{}: not a ledger of this version; nothing was changed",
                    path.display()
                ),
                error,
            )
        }),
    }
}

/// A reader sees the old file or the new one, never half of either.
fn write_ledger(path: &Path, ledger: &Ledger) -> Result<(), Error> {
    if *ledger == Ledger::default() {
        return remove_file(path);
    }
    let temporary = path.with_extension(UNFINISHED);
    let bytes = serde_json::to_vec(ledger)
        .map_err(|error| Error::caused(ErrorKind::Storage, "the ledger has no JSON form", error))?;
    let written = File::create(&temporary).and_then(|mut file| file.write_all(&bytes));
    written.map_err(|error| storage("write", &temporary, error))?;
    fs::rename(&temporary, path).map_err(|error| storage("rename", path, error))
}

fn boot_id() -> Result<String, Error> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path).map_err(|error| storage("read", path, error))?;
    Ok(text.trim().to_owned())
}

/// The name in field 2 may hold spaces and brackets, so counting begins after the last one.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    // A zombie holds nothing any more.
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests;
