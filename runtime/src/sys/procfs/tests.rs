//! Each that mounts does so in a mount namespace of its own thread.

use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use rustix::fs::OFlags;

use super::{Procfs, is_root};
use crate::sys::{mount, path, process};

/// A thread may have a mount namespace of its own once it shares neither root
/// nor working directory with the others. `unshare(2)` of the one implies the other.
fn in_own_mounts(case: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        process::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("this test needs root");
        mount::set_root_propagation(libc::MS_PRIVATE | libc::MS_REC).expect("its own tree");
        case();
    });
    thread.join().expect("the case passes");
}

fn cover(what: &str, with: &Path) {
    let none = None::<&str>;
    let bind = nix::mount::MsFlags::MS_BIND;
    nix::mount::mount(Some(with), what, none, bind, none).expect("a bind mount");
}

#[test]
fn reads_what_the_kernel_says() {
    let procfs = Procfs::open().expect("a procfs");
    let status = procfs.read("self/status").expect("our own status");
    assert!(status.starts_with("Name:"), "{status}");
    assert!(is_root(procfs.root.as_fd()).expect("it can be looked at"));
}

#[test]
fn follows_no_magic_link_and_does_not_climb() {
    let procfs = Procfs::open().expect("a procfs");
    for file in [
        "self/exe",
        "self/cwd/x",
        "self/root/etc/passwd",
        "self/fd/0",
    ] {
        let error = procfs.open_file(file, OFlags::RDONLY).expect_err(file);
        assert_eq!(error.errno(), Errno::ELOOP, "{file}");
    }
    for file in ["../etc/passwd", "/etc/passwd"] {
        let error = procfs.open_file(file, OFlags::RDONLY).expect_err(file);
        assert_eq!(error.errno(), Errno::EXDEV, "{file}");
    }
}

#[test]
fn what_covers_a_file_is_not_written() {
    let folder = tempfile::tempdir().expect("a directory");
    let decoy = folder.path().join("decoy");
    std::fs::write(&decoy, "untouched").expect("a decoy");
    let place = decoy.clone();
    in_own_mounts(move || {
        let handle = Procfs::open().expect("a procfs");
        cover("/proc/sys/kernel/hostname", &place);
        let name = handle.read("sys/kernel/hostname").expect("the real one");
        assert_ne!(name, "untouched");
        process::unshare(nix::sched::CloneFlags::CLONE_NEWUTS).expect("a host name of our own");
        handle
            .write("sys/kernel/hostname", "procfs-test")
            .expect("the real one");
        let name = handle.read("sys/kernel/hostname").expect("the real one");
        assert_eq!(name, "procfs-test\n");
    });
    assert_eq!(
        std::fs::read_to_string(&decoy).expect("the decoy"),
        "untouched"
    );
}

#[test]
fn a_false_proc_is_not_used() {
    let folder = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(folder.path().join("self")).expect("a false self");
    std::fs::write(folder.path().join("self/status"), "a lie").expect("a false file");
    let place = folder.path().to_owned();
    in_own_mounts(move || {
        cover("/proc", &place);
        let procfs = Procfs::open().expect("a private one");
        let status = procfs.read("self/status").expect("our own status");
        assert!(status.starts_with("Name:"), "{status}");
    });
}

#[test]
fn a_part_of_a_procfs_is_not_its_root() {
    let part = path::open_host(Path::new("/proc/self")).expect("it opens");
    assert!(!is_root(part.as_fd()).expect("it can be looked at"));
}
