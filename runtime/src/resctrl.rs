//! Classes of cache and memory bandwidth: the kernel's resctrl filesystem.
//!
//! ```text
//! ROOT/schemata, tasks            the default class, of all who have no other
//! ROOT/CLASS/schemata             what the class may use:  L3:0=7f0;1=1f
//! ROOT/CLASS/tasks                who is in it; a child is in its parent's
//! ROOT/CLASS/mon_groups/ID/tasks  who of them is counted apart
//! ROOT/info/last_cmd_status       why the last write was refused
//! ```
//!
//! `ROOT` is a parameter, so that all of it is tried out on a plain directory.
//! See `Documentation/filesystems/resctrl.rst` and OCI config-linux.md#intelrdt.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::plan::cache_group::CacheGroupPlan;
use crate::sys::call::narrated;
use crate::sys::process::HostPid;
use crate::sys::{mount, path};

/// Where it is mounted by custom.
const DEFAULT_ROOT: &str = "/sys/fs/resctrl";
/// `RDTGROUP_SUPER_MAGIC` of `<linux/magic.h>`.
const MAGIC: i64 = 0x0765_5821;

/// Where a container's processes are, and what was made for it. Kept in state.json.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheGroup {
    /// The class' directory.
    pub class: PathBuf,
    /// It was made for this container.
    pub made: bool,
    /// It is the container's own: if it was made, it goes with the container.
    pub own: bool,
    /// The container's own monitoring group.
    pub monitor: Option<PathBuf>,
}

/// A class that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ResctrlError {
    /// There is no such filesystem.
    #[error(
        "linux.intelRdt: no resctrl filesystem is mounted (mount -t resctrl resctrl /sys/fs/resctrl; the processor and the kernel must have it); nothing was changed"
    )]
    NotMounted,
    /// A class that the operator was to make.
    #[error(
        "linux.intelRdt.closID: expected the class {0:?} to be there, for nothing is said of what it may use"
    )]
    NoClass(PathBuf),
    /// A class that exists with other limits.
    #[error(
        "linux.intelRdt: the class {class:?} exists without {line:?}, and others may be in it; nothing was changed"
    )]
    Differs {
        /// Its directory.
        class: PathBuf,
        /// What was asked for.
        line: String,
    },
    /// The kernel refused.
    #[error("linux.intelRdt: {what} {path:?}{hint}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the filesystem says of it.
        hint: String,
        /// Why not.
        source: std::io::Error,
    },
}

/// Finds the mounted filesystem.
///
/// # Errors
///
/// [`ResctrlError::NotMounted`].
pub fn find_root() -> Result<PathBuf, ResctrlError> {
    let default = Path::new(DEFAULT_ROOT);
    let mounted = path::open_host(default).and_then(|root| mount::filesystem_magic(&root));
    if mounted.is_ok_and(|magic| magic == MAGIC) {
        return Ok(default.to_owned());
    }
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut lines = table.lines().map(|line| line.split(' '));
    let place = lines.find_map(|mut fields| {
        let place = fields.nth(1)?;
        (fields.next() == Some("resctrl")).then_some(place)
    });
    place.map(PathBuf::from).ok_or(ResctrlError::NotMounted)
}

/// Whether the filesystem parts a resource: `L3`, `L2`, `MB`.
#[must_use]
pub fn has_resource(root: &Path, resource: &str) -> bool {
    root.join("info").join(resource).is_dir()
}

/// Has the class and the monitoring group as planned, and makes what is missing
/// of them; after a failure nothing of it is left.
///
/// # Errors
///
/// As the specification lists them: a class without limits that is not there, a
/// class with other limits, and whatever the kernel refuses.
pub fn ensure_group(root: &Path, plan: &CacheGroupPlan) -> Result<CacheGroup, ResctrlError> {
    let class = root.join(&plan.class);
    let exists = class.is_dir();
    let says_nothing = plan.schemas.is_empty() && plan.schemata.is_empty();
    if !exists && !plan.own && says_nothing {
        return Err(ResctrlError::NoClass(class));
    }
    if exists {
        compare(&class, &plan.schemas)?;
    } else {
        create(root, &class)?;
    }
    let mut group = CacheGroup {
        class,
        made: !exists,
        own: plan.own,
        monitor: None,
    };
    let filled = fill(root, plan, &mut group);
    if let Err(error) = filled {
        // What cannot be taken back either is told by the first error.
        let _ = group.take_back();
        return Err(error);
    }
    Ok(group)
}

fn fill(root: &Path, plan: &CacheGroupPlan, group: &mut CacheGroup) -> Result<(), ResctrlError> {
    // A class that was there has its schemas already: `compare` said so.
    let schemas = plan.schemas.iter().filter(|_| group.made);
    for line in schemas.chain(&plan.schemata) {
        write(root, &group.class.join("schemata"), &format!("{line}\n"))?;
    }
    if let Some(name) = &plan.monitor {
        let monitor = group.class.join("mon_groups").join(name);
        create(root, &monitor)?;
        group.monitor = Some(monitor);
    }
    Ok(())
}

impl CacheGroup {
    /// Puts a process in; its children will be in too.
    ///
    /// # Errors
    ///
    /// `ESRCH`: it is gone.
    pub fn add(&self, root: &Path, pid: HostPid) -> Result<(), ResctrlError> {
        let directories = std::iter::once(&self.class).chain(&self.monitor);
        for directory in directories {
            write(root, &directory.join("tasks"), &format!("{}\n", pid.0))?;
        }
        Ok(())
    }

    /// Gives the class other limits: all of these lines, or none. Returns the lines that
    /// held until now, for who has to go back.
    ///
    /// # Errors
    ///
    /// The line that the kernel refused.
    pub fn set(&self, root: &Path, lines: &[String]) -> Result<Vec<String>, ResctrlError> {
        let file = self.class.join("schemata");
        let held = read_schemata(&file)?;
        let resource = |line: &str| Schema::parse(line).resource.to_owned();
        let asked: Vec<String> = lines.iter().map(|line| resource(line)).collect();
        let held: Vec<String> = held
            .lines()
            .filter(|line| asked.contains(&resource(line)))
            .map(|line| line.trim().to_owned())
            .collect();
        let put = |line: &String| write(root, &file, &format!("{line}\n"));
        lines.iter().try_for_each(put).inspect_err(|_| {
            // What cannot be put back either is told by the first error.
            let _ = held.iter().try_for_each(put);
        })?;
        Ok(held)
    }

    /// Takes away what is the container's own; what is gone already is fine. A
    /// class that the caller named stays for others, though we may have made it.
    ///
    /// # Errors
    ///
    /// Those of `rmdir(2)`.
    pub fn remove(&self) -> Result<(), ResctrlError> {
        self.remove_with((self.made && self.own).then_some(&self.class))
    }

    /// Takes away all that was made, for a container that did not come to be:
    /// nobody else has had the time to use a named class.
    ///
    /// # Errors
    ///
    /// As [`CacheGroup::remove`].
    pub fn take_back(&self) -> Result<(), ResctrlError> {
        self.remove_with(self.made.then_some(&self.class))
    }

    fn remove_with(&self, class: Option<&PathBuf>) -> Result<(), ResctrlError> {
        // The monitoring group first: it lies in the class.
        for directory in self.monitor.iter().chain(class) {
            let removed = std::fs::remove_dir(directory);
            match narrated(removed, || format!("rmdir({directory:?})")) {
                Err(source) if source.kind() != ErrorKind::NotFound => {
                    return Err(ResctrlError::File {
                        what: "rmdir",
                        path: directory.clone(),
                        hint: String::new(),
                        source,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether a class has every line that is asked for.
fn compare(class: &Path, lines: &[String]) -> Result<(), ResctrlError> {
    if lines.is_empty() {
        return Ok(());
    }
    let found = read_schemata(&class.join("schemata"))?;
    let found: Vec<Schema<'_>> = found.lines().map(Schema::parse).collect();
    let holds = |line: &&String| found.iter().any(|other| other.holds(&Schema::parse(line)));
    match lines.iter().find(|line| !holds(line)) {
        Some(line) => Err(ResctrlError::Differs {
            class: class.to_owned(),
            line: line.clone(),
        }),
        None => Ok(()),
    }
}

fn read_schemata(file: &Path) -> Result<String, ResctrlError> {
    std::fs::read_to_string(file).map_err(|source| ResctrlError::File {
        what: "read",
        path: file.to_owned(),
        hint: String::new(),
        source,
    })
}

/// A line: a resource, and what of it in each of its domains.
struct Schema<'a> {
    resource: &'a str,
    domains: Vec<(&'a str, String)>,
}

impl<'a> Schema<'a> {
    /// The kernel pads names and writes masks in its own width: `    L3:0=007f0`.
    fn parse(line: &'a str) -> Schema<'a> {
        let (resource, values) = line.split_once(':').unwrap_or((line, ""));
        let domains = values.split(';').map(|value| {
            let (domain, value) = value.split_once('=').unwrap_or((value, ""));
            let value = value.trim().trim_start_matches('0').to_lowercase();
            (domain.trim(), value)
        });
        Schema {
            resource: resource.trim(),
            domains: domains.collect(),
        }
    }

    /// Whether the other asks for nothing that is not so here; it may be silent
    /// about domains.
    fn holds(&self, other: &Schema<'_>) -> bool {
        let domains = &mut other.domains.iter();
        self.resource == other.resource && domains.all(|domain| self.domains.contains(domain))
    }
}

fn create(root: &Path, directory: &Path) -> Result<(), ResctrlError> {
    let made = narrated(std::fs::create_dir(directory), || {
        format!("mkdir({directory:?}, 0755)")
    });
    made.map_err(|source| failed("mkdir", root, directory, source))
}

fn write(root: &Path, file: &Path, text: &str) -> Result<(), ResctrlError> {
    use std::io::Write;
    let opened = std::fs::OpenOptions::new().append(true).open(file);
    // One call for the whole text: the kernel takes a command a write.
    let written = opened.and_then(|mut opened| opened.write_all(text.as_bytes()));
    narrated(written, || format!("write({file:?}, {text:?})"))
        .map_err(|source| failed("write", root, file, source))
}

/// With the filesystem's own words, which say more than an errno.
fn failed(what: &'static str, root: &Path, path: &Path, source: std::io::Error) -> ResctrlError {
    let status = std::fs::read_to_string(root.join("info/last_cmd_status")).unwrap_or_default();
    let hint = match status.trim() {
        "" | "ok" => String::new(),
        words => format!(" ({words})"),
    };
    ResctrlError::File {
        what,
        path: path.to_owned(),
        hint,
        source,
    }
}

#[cfg(test)]
mod tests;
