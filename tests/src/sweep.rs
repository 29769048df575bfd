//! What a test left behind.
//!
//! A container runtime changes six things that outlive a careless test:
//! processes, mounts, cgroups, links, nftables rules, files. A [`Sweep`] notes
//! them before a test and compares after it. It looks only at what carries the
//! mark of one [`Host`], so tests may run side by side.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::host::{Host, MARK};

/// How long things that are on their way out may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What belonged to a host at one moment, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    found: BTreeSet<String>,
}

impl Sweep {
    /// Notes what is there.
    ///
    /// # Errors
    ///
    /// `/proc` or the host's namespaces cannot be read.
    pub fn before(host: &Host) -> Result<Sweep> {
        Ok(Sweep {
            found: observe(host)?,
        })
    }

    /// Compares with what was there, and waits a few seconds for what is on its way out.
    ///
    /// # Errors
    ///
    /// Something is left; the message lists it.
    pub fn assert_clean(&self, host: &Host) -> Result<()> {
        let deadline = Instant::now() + crate::patience::stretched(PATIENCE);
        loop {
            let found = observe(host)?;
            let left: Vec<&String> = found.difference(&self.found).collect();
            let lost: Vec<&String> = self
                .found
                .difference(&found)
                .filter(|line| !is_of_another(line))
                .collect();
            if left.is_empty() && lost.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let mut lines = String::new();
                left.iter()
                    .for_each(|line| lines += &format!("  left behind: {line}\n"));
                lost.iter()
                    .for_each(|line| lines += &format!("  taken away: {line}\n"));
                bail!("the host is not as it was:\n{lines}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A host begins as a copy of the machine's mounts. When somebody else removes
/// the folder that one of those stands on, the kernel detaches it everywhere.
fn is_of_another(line: &str) -> bool {
    let point = line
        .strip_prefix("mount ")
        .and_then(|rest| rest.strip_suffix(" in the host"));
    point.is_some_and(|point| !Path::new(point).exists())
}

/// Ends what a failed test left running and removes its groups, so that it takes
/// no time from the tests after it. What cannot be ended is left: the test has
/// failed already.
pub fn end_remains(host: &Host) {
    let Ok(found) = processes(host) else { return };
    for line in found {
        let pid = line.split(' ').next().and_then(|word| word.parse().ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    // Groups can be removed once their processes are gone, children first.
    std::thread::sleep(Duration::from_millis(200));
    let mut groups = cgroups(host.name());
    groups.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for group in groups {
        let _ = fs::remove_dir(group);
    }
}

fn observe(host: &Host) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    found.extend(
        processes(host)?
            .into_iter()
            .map(|line| format!("process {line}")),
    );
    found.extend(
        mounts(host)?
            .into_iter()
            .map(|line| format!("mount {line}")),
    );
    found.extend(
        cgroups(host.name())
            .into_iter()
            .map(|path| format!("cgroup {}", path.display())),
    );
    found.extend(
        links(host.pid())?
            .into_iter()
            .map(|name| format!("link {name}")),
    );
    found.extend(
        nftables(host)?
            .into_iter()
            .map(|line| format!("nft {line}")),
    );
    found.extend(
        files(host)
            .into_iter()
            .map(|path| format!("file {}", path.display())),
    );
    Ok(found)
}

/// Processes in the host's namespaces or cgroups, with its mark in the
/// environment or its directory on the command line.
///
/// # Errors
///
/// `/proc` cannot be read.
pub fn processes(host: &Host) -> Result<Vec<String>> {
    let own_namespace = fs::read_link(format!("/proc/{}/ns/net", host.pid()))?;
    let own_mounts = fs::read_link(format!("/proc/{}/ns/mnt", host.pid()))?;
    let mark = format!("{MARK}={}", host.name());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let directory = entry?.path();
        let Some(pid) = directory
            .file_name()
            .and_then(|name| name.to_str()?.parse::<u32>().ok())
        else {
            continue;
        };
        // The keeper and this test itself are no remains. A process that ends
        // while it is looked at reads as empty everywhere.
        if pid == host.pid() || pid == std::process::id() {
            continue;
        }
        let read = |name: &str| fs::read(directory.join(name)).unwrap_or_default();
        let link = |name: &str| fs::read_link(directory.join(name)).unwrap_or_default();
        let belongs = link("ns/net") == own_namespace
            || link("ns/mnt") == own_mounts
            || contains(&read("environ"), mark.as_bytes())
            || contains(&read("cmdline"), host.name().as_bytes())
            || contains(&read("cgroup"), host.name().as_bytes());
        if belongs {
            let words = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            let name = String::from_utf8_lossy(&read("comm")).trim().to_owned();
            found.push(format!("{pid} {name}: {}", words.trim()));
        }
    }
    Ok(found)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

/// Every mount point of the host, and those of this process below the host's directory.
fn mounts(host: &Host) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for line in fs::read_to_string(format!("/proc/{}/mountinfo", host.pid()))?.lines() {
        found.push(format!("{} in the host", mount_point(line)));
    }
    let directory = host.directory().to_string_lossy().into_owned();
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
        if mount_point(line).starts_with(&directory) {
            found.push(format!("{} outside the host", mount_point(line)));
        }
    }
    Ok(found)
}

/// The fifth field of a line of `mountinfo` (`proc_pid_mountinfo(5)`).
fn mount_point(line: &str) -> &str {
    line.split(' ').nth(4).unwrap_or(line)
}

/// Groups of any hierarchy whose path holds a name.
pub fn cgroups(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = waiting.pop() {
        // A group that goes while it is looked at is no remains.
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.path().to_string_lossy().contains(name) {
                    found.push(entry.path());
                }
                waiting.push(entry.path());
            }
        }
    }
    found
}

/// The interfaces of a process's network namespace, from `/proc/PID/net/dev`.
fn links(pid: u32) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev"))?;
    let names = text
        .lines()
        .skip(2)
        .filter_map(|line| line.split(':').next());
    Ok(names.map(|name| name.trim().to_owned()).collect())
}

fn nftables(host: &Host) -> Result<Vec<String>> {
    let output = host.command("nft").args(["list", "tables"]).output()?;
    ensure!(
        output.status.success(),
        "nft: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect())
}

/// What a pod leaves on disk when it should not. Images, their layers, the lock
/// files of whole stores and the empty directories above them stay on purpose.
fn files(host: &Host) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let kept = [
        host.data_dir().join("images"),
        host.run_dir().join("oci/.seccomp-cache"),
        // What a kubelet said of the node, not of a pod.
        host.data_dir().join("pod-cidr.json"),
    ];
    for root in [host.run_dir(), host.data_dir()] {
        collect(&root, &kept, &mut found);
    }
    found
}

fn collect(directory: &Path, kept: &[PathBuf], found: &mut Vec<PathBuf>) {
    if kept.iter().any(|path| path == directory) {
        return;
    }
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        // A pod's own lock goes with the pod.
        let of_pod = directory.ends_with("workers");
        let lock = !of_pod && path.extension().is_some_and(|end| end == "lock");
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&path, kept, found),
            Ok(_) if !lock && !kept.contains(&path) => found.push(path),
            _ => {}
        }
    }
}
