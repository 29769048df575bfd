//! The cgroup that a pod has to itself, once nobody is in it any more.
//!
//! Who asks a runtime for a sandbox names the group above its containers
//! (`cgroup_parent`). berth's runtime makes that group and removes it. Others (containerd
//! with runc) make it on the way to a container's group and leave it: to them it is
//! the asker's own. An empty group costs memory in the kernel for ever.
//!
//! Read more: cgroups(7), "Removing a cgroup".

use std::{
    io,
    path::{Path, PathBuf},
};

/// Where the hierarchies are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// Removes the group of a name from every hierarchy; fine if it is not there.
///
/// # Errors
///
/// Somebody is still in it, by its path.
pub fn remove_group(name: &Path) -> Result<(), (PathBuf, io::Error)> {
    remove_below(Path::new(ROOT), name)
}

fn remove_below(root: &Path, name: &Path) -> Result<(), (PathBuf, io::Error)> {
    let name = name.strip_prefix("/").unwrap_or(name);
    // In version 2 the root is the hierarchy; in version 1 each is a directory below it.
    let controllers = std::fs::read_dir(root).into_iter().flatten().flatten();
    let hierarchies = controllers.map(|entry| entry.path());
    for hierarchy in std::iter::once(root.to_owned()).chain(hierarchies) {
        let group = hierarchy.join(name);
        match std::fs::remove_dir(&group) {
            Ok(()) => {}
            // NotADirectory: the hierarchy's place was a file of version 2's root.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) => {}
            Err(error) => return Err((group, error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::remove_below;
    use std::path::Path;

    #[test]
    fn a_group_goes_from_every_hierarchy_and_its_parent_stays() {
        let root = tempfile::tempdir().unwrap();
        let name = Path::new("/pods/pod1");
        for hierarchy in ["cpu", "memory"] {
            std::fs::create_dir_all(root.path().join(hierarchy).join("pods/pod1")).unwrap();
        }
        std::fs::write(root.path().join("cgroup.procs"), "").unwrap();
        remove_below(root.path(), name).unwrap();
        remove_below(root.path(), name).unwrap();
        assert!(!root.path().join("cpu/pods/pod1").exists());
        assert!(root.path().join("memory/pods").exists());
        // One that is not empty is not removed by force.
        std::fs::create_dir_all(root.path().join("cpu/pods/pod1/container")).unwrap();
        let (path, _) = remove_below(root.path(), name).unwrap_err();
        assert!(path.ends_with("cpu/pods/pod1"));
    }
}
