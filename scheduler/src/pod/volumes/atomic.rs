//! Writing files so that a reader sees the old ones or the new ones.
//!
//! Several files cannot be replaced at once, but one symbolic link can:
//! rename(2) is atomic. So the files stand in a directory of their own, `..data`
//! points to it, and each name in the volume is a link through `..data`:
//!
//! ```text
//! NAME    ─▶ ..data/NAME
//! ..data  ─▶ ..2026_11_21_07_00_00.000000001      (replaced by rename)
//! ..2026_11_21_07_00_00.000000001/NAME            (the bytes)
//! ```
//!
//! This is the layout that programs in Kubernetes watch with inotify: they wait
//! for `..data` to be replaced.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs, io,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::files::{FileTree, ProjectedFile};

/// The link that decides which files are seen.
const CURRENT: &str = "..data";
/// The link before it takes its place.
const NEXT: &str = "..data_tmp";

/// Makes the volume at `root` hold exactly these files.
///
/// With a group, every file can be read by it whatever its mode says.
///
/// # Errors
///
/// Any of the file system's; the volume then still shows the files of before.
pub fn write_tree(root: &Path, tree: &FileTree, group: Option<u32>) -> io::Result<()> {
    let previous = read_current(root)?;
    if let Some(previous) = &previous
        && holds(&root.join(previous), tree, group)
    {
        // A writer may have died between the rename and the links.
        return link_names(root, tree);
    }
    let fresh = create_payload_directory(root)?;
    let written = write_payload(&root.join(&fresh), tree, group)
        .and_then(|()| swap_current(root, &fresh))
        .inspect_err(|_| {
            // Nothing points to it yet; the error that is told is the first.
            let _ = fs::remove_dir_all(root.join(&fresh));
        });
    written?;
    link_names(root, tree)?;
    if let Some(previous) = previous {
        fs::remove_dir_all(root.join(previous))?;
    }
    Ok(())
}

/// The directory that `..data` points to, if there is one.
fn read_current(root: &Path) -> io::Result<Option<PathBuf>> {
    match fs::read_link(root.join(CURRENT)) {
        Ok(target) => Ok(Some(target)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a payload already is what is asked for; an unreadable one is not.
fn holds(payload: &Path, tree: &FileTree, group: Option<u32>) -> bool {
    let mut found = BTreeMap::new();
    if read_payload(payload, Path::new(""), &mut found).is_err() {
        return false;
    }
    found.len() == tree.len()
        && tree.iter().all(|(path, file)| {
            found.get(path).is_some_and(|(content, mode)| {
                *content == file.content && *mode == effective_mode(file, group)
            })
        })
}

fn read_payload(
    directory: &Path,
    prefix: &Path,
    found: &mut BTreeMap<String, (Vec<u8>, u32)>,
) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = prefix.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            read_payload(&entry.path(), &path, found)?;
        } else {
            let mode = entry.metadata()?.permissions().mode() & 0o7777;
            let content = fs::read(entry.path())?;
            found.insert(path.to_string_lossy().into_owned(), (content, mode));
        }
    }
    Ok(())
}

/// A new directory whose name no other writer has.
fn create_payload_directory(root: &Path) -> io::Result<OsString> {
    loop {
        let now = Timestamp::now();
        let stamp = now.strftime("..%Y_%m_%d_%H_%M_%S").to_string();
        let name = OsString::from(format!("{stamp}.{:09}", now.subsec_nanosecond()));
        match fs::create_dir(root.join(&name)) {
            Ok(()) => {
                fs::set_permissions(root.join(&name), fs::Permissions::from_mode(0o755))?;
                return Ok(name);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

fn write_payload(payload: &Path, tree: &FileTree, group: Option<u32>) -> io::Result<()> {
    for (path, file) in tree {
        let target = payload.join(path);
        let parent = target.parent().unwrap_or(payload);
        fs::create_dir_all(parent)?;
        for directory in parent.ancestors().take_while(|above| *above != payload) {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
        }
        let mut out = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            // Closed to everybody until it has its owner and its mode.
            .mode(0o600)
            .open(&target)?;
        out.write_all(&file.content)?;
        if file.owner.is_some() || group.is_some() {
            std::os::unix::fs::fchown(&out, file.owner, group)?;
        }
        // After the owner: chown(2) clears the set-user-ID bit.
        out.set_permissions(fs::Permissions::from_mode(effective_mode(file, group)))?;
    }
    Ok(())
}

fn effective_mode(file: &ProjectedFile, group: Option<u32>) -> u32 {
    match group {
        Some(_) => file.mode | 0o440,
        None => file.mode,
    }
}

fn swap_current(root: &Path, payload: &OsString) -> io::Result<()> {
    let next = root.join(NEXT);
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(payload, &next)?;
    fs::rename(&next, root.join(CURRENT))
}

/// Links for the names that are there now; none for those that are gone.
fn link_names(root: &Path, tree: &FileTree) -> io::Result<()> {
    let names: BTreeSet<&str> = tree
        .keys()
        .filter_map(|path| path.split('/').next())
        .collect();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        let ours = name.to_string_lossy().starts_with("..");
        let wanted = name.to_str().is_some_and(|name| names.contains(name));
        if !ours && !wanted && entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    for name in names {
        match symlink(Path::new(CURRENT).join(name), root.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{FileTree, ProjectedFile, write_tree};
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};

    fn tree(files: &[(&str, &str, u32)]) -> FileTree {
        files
            .iter()
            .map(|(path, content, mode)| {
                let file = ProjectedFile {
                    content: content.as_bytes().to_vec(),
                    mode: *mode,
                    owner: None,
                };
                ((*path).to_owned(), file)
            })
            .collect()
    }

    fn names(root: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(root)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn files_appear_behind_one_link_and_are_replaced_together() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write_tree(root, &tree(&[("a", "1", 0o400), ("d/b", "2", 0o644)]), None).unwrap();
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(root.join("d/b")).unwrap(), "2");
        assert_eq!(
            fs::read_link(root.join("a")).unwrap(),
            Path::new("..data/a")
        );
        let mode = fs::metadata(root.join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o400);
        let before = fs::read_link(root.join("..data")).unwrap();

        write_tree(root, &tree(&[("a", "1", 0o400), ("d/b", "2", 0o644)]), None).unwrap();
        assert_eq!(fs::read_link(root.join("..data")).unwrap(), before);

        write_tree(root, &tree(&[("a", "one", 0o400), ("c", "3", 0o644)]), None).unwrap();
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "one");
        let after = fs::read_link(root.join("..data")).unwrap();
        assert_ne!(after, before);
        let expected = [after.to_str().unwrap(), "..data", "a", "c"];
        assert_eq!(names(root), expected);
    }

    #[test]
    fn a_group_can_read_whatever_the_mode() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write_tree(root, &tree(&[("a", "1", 0o400)]), Some(0)).unwrap();
        let mode = fs::metadata(root.join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o440);
    }

    #[test]
    fn what_a_dead_writer_left_is_no_obstacle() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        std::os::unix::fs::symlink("nowhere", root.join("..data_tmp")).unwrap();
        write_tree(root, &tree(&[("a", "1", 0o644)]), None).unwrap();
        fs::remove_file(root.join("a")).unwrap();
        write_tree(root, &tree(&[("a", "1", 0o644)]), None).unwrap();
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "1");
    }
}
