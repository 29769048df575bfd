//! Compiled filters on disk.
//!
//! A filter is a wall, so whoever can write into this cache can open a gate in
//! every later container. A directory that is not ours alone is therefore not
//! used at all, and each file is checked before it is believed:
//!
//! ```text
//! NAME   hex of sha256(plan, libseccomp version, architecture, revision of compiler)
//! FILE   "berth-seccomp-1\n" ─ sha256 of the program (32 bytes) ─ the program
//! ```
//!
//! The checksum is against torn and rotten files; the owner and the mode are
//! against people. Both are asked of the open descriptor, never of a path that
//! somebody could exchange in between. A file comes to be under another name
//! and is renamed, so that no reader ever sees half of one.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use sha2::{Digest, Sha256};

use super::plan::FilterPlan;

const MAGIC: &[u8; 16] = b"berth-seccomp-1\n";
const HEADER: usize = MAGIC.len() + 32;
/// A program of the kernel's greatest length, with the header.
const LARGEST: u64 = (HEADER + 4096 * 8) as u64;

/// The name under which the plan's program is kept.
pub(crate) fn file_name(plan: &FilterPlan, library_version: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(plan.digest());
    // The revision changes with `compile.rs` and `newer.rs`: raise it when the
    // same plan becomes another program.
    hash.update(format!(
        "{library_version} {} revision 1",
        std::env::consts::ARCH
    ));
    let mut name = String::with_capacity(64);
    for byte in hash.finalize() {
        // Writing into a String cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// A program from the cache, or none if there is no trustworthy one.
pub(crate) fn read(directory: &Path, name: &str) -> Option<Vec<u8>> {
    let directory = open_directory(directory)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::openat(&directory, name, flags, Mode::empty()).ok()?;
    if !is_ours(file.as_fd(), libc::S_IFREG, 0o022) {
        return None;
    }
    let mut bytes = Vec::with_capacity(16 * 1024);
    File::from(file)
        .take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .ok()?;
    check(&bytes).map(<[u8]>::to_vec)
}

/// The program in a file's bytes, if they are whole.
fn check(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (digest, program) = rest.split_at_checked(32)?;
    let sound = !program.is_empty()
        && program.len() % 8 == 0
        && bytes.len() as u64 <= LARGEST
        && Sha256::digest(program).as_slice() == digest;
    sound.then_some(program)
}

/// Keeps a program. That it fails is no error of the container's.
pub(crate) fn write(directory: &Path, name: &str, program: &[u8]) {
    // Ours alone from the first moment on; one that exists is checked below.
    let _ = rustix::fs::mkdir(directory, Mode::RWXU);
    let Some(directory) = open_directory(directory) else {
        return;
    };
    let temporary = format!(".{name}.{}", std::process::id());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // A leftover of a crashed process that had our pid.
    let _ = rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty());
    let Ok(file) = rustix::fs::openat(&directory, &temporary, flags, Mode::RUSR | Mode::WUSR)
    else {
        return;
    };
    let whole = [
        MAGIC.as_slice(),
        Sha256::digest(program).as_slice(),
        program,
    ]
    .concat();
    let kept = File::from(file).write_all(&whole).is_ok()
        && rustix::fs::renameat(&directory, &temporary, &directory, name).is_ok();
    if !kept {
        let _ = rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty());
    }
}

/// The directory, if nobody else can change what is in it.
fn open_directory(path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    is_ours(directory.as_fd(), libc::S_IFDIR, 0o077).then_some(directory)
}

/// Whether an open file is of a kind, owned by us, and without the given rights.
fn is_ours(file: BorrowedFd<'_>, kind: libc::mode_t, forbidden: libc::mode_t) -> bool {
    rustix::fs::fstat(file).is_ok_and(|status| {
        status.st_mode & libc::S_IFMT == kind
            && status.st_uid == rustix::process::geteuid().as_raw()
            && status.st_mode & forbidden == 0
    })
}

#[cfg(test)]
mod tests;
