//! The program of this process, as nobody in a container can write to it.
//!
//! Between `clone3(2)` and `execve(2)` a container's init runs this program, and
//! `/proc/PID/exe` leads to its file: not to a path but to the file itself, in
//! whatever mount namespace. Who gets hold of it there with `O_PATH` waits until
//! nobody executes it (until then the kernel answers `ETXTBSY`), opens it anew
//! through `/proc/self/fd/N` for writing, and the next container is made by their
//! program, as root on the host (CVE-2019-5736). There are three ways to get hold:
//!
//! ```text
//! #!/proc/self/exe          an image's entrypoint, link or ELF interpreter that is
//!                           this link: the kernel runs this program in the container
//! /proc/PID/exe of exec     by a process in the container that has CAP_SYS_PTRACE
//! /proc/1/exe               of an init that waits for `start`, by an exec likewise
//! ```
//!
//! `PR_SET_DUMPABLE` stops neither the first nor those who have `CAP_SYS_PTRACE`.
//! So every command that lets a container's process begin as a copy of this one
//! first executes itself anew from a mount that is read-only and attached
//! nowhere:
//!
//! ```text
//! open_tree(/proc/self/exe, OPEN_TREE_CLONE) ─ mount_setattr(RDONLY) ─ execveat(fd)
//! ```
//!
//! `/proc/PID/exe` then leads to the file *on that mount*. Opening it for writing
//! gives `EROFS`, and since the mount is in no namespace once the exec has closed
//! its descriptor, nobody can change it, bind it or clone it, not with
//! `CAP_SYS_ADMIN` either. `docs/decisions/0005-the-program-is-sealed.md` has what
//! else was measured. Where mounting is not allowed (an ordinary user), a sealed
//! copy in memory serves instead, unless the file is root's and thus not
//! theirs to write at all.
//!
//! On x86-64 the three calls are made before the C library begins
//! (`sys/first.rs`); what is here then finds the program sealed. It is the way of
//! other processors, and of machines where one of the calls fails.
//!
//! Try: `berth-oci run` with `/proc/self/exe` as program and `pod-init` as its
//! argument, and `readlink /proc/PID/exe` from outside.

use std::convert::Infallible;
use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::{MemfdFlags, OFlags, SealFlags, StatVfsMountFlags};

use crate::error::{Error, ErrorKind};
use crate::sys::call::{SyscallError, finish, narrate, narrating, remark, tell};
use crate::sys::mount::{self, AttributeChange, Depth};
use crate::sys::{path, process};

/// Where the kernel shows a process its own program.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Words of the command line that may be a verb which makes a container's process.
const VERBS: [&str; 4] = ["create", "run", "exec", "step"];

/// Whether a command line may be one for which the program must be sealed. It is
/// asked before the command line is taken apart, so a container that is named
/// `run` is sealed against for nothing.
pub fn concerns(words: impl IntoIterator<Item = OsString>) -> bool {
    words
        .into_iter()
        .any(|word| VERBS.iter().any(|verb| word == *verb))
}

/// Whether `--narrate` stands before the command: asked, like [`concerns`], before
/// the command line is taken apart, for the calls that are made here are told too.
fn is_told(words: impl IntoIterator<Item = OsString>) -> bool {
    words
        .into_iter()
        .take_while(|word| VERBS.iter().all(|verb| word != *verb))
        .any(|word| word == "--narrate" || word == "-narrate")
}

/// What is told of the calls that seal the program.
const REASON: &str =
    "before the first stage: the program is executed anew from a read-only mount, so that
    no container writes to it
    see open_tree(2), execveat(2), docs/security.md";

/// Tells, when asked to, of the calls that `sys/first.rs` made before this process
/// was what it is now: there was nothing yet that could have told of them.
fn tell_of_first() {
    if narrating() && cfg!(target_arch = "x86_64") {
        tell(format_args!("{REASON}"));
        let clone = "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC";
        remark(|| format!("open_tree(AT_FDCWD, {OWN_PROGRAM:?}, {clone}) = ok"));
        let change = "{attr_set=MOUNT_ATTR_RDONLY, attr_clr=0, propagation=0}";
        remark(|| format!("mount_setattr(…, \"\", AT_EMPTY_PATH, {change}) = ok"));
        remark(|| "execveat(…, \"\", …, AT_EMPTY_PATH) = ok".to_owned());
    }
}

/// Returns when the program is one that nobody in a container can write to;
/// executes it anew as such otherwise.
///
/// # Errors
///
/// When that cannot be done. Nothing was done then.
pub fn ensure_sealed() -> Result<(), Error> {
    if is_told(std::env::args_os().skip(1)) {
        narrate();
    }
    let failed = |error: SyscallError| {
        let text = format!("protecting {OWN_PROGRAM} from containers: {error}; nothing was done");
        Error::new(ErrorKind::Failed, text)
    };
    if is_sealed().map_err(failed)? {
        tell_of_first();
        return Ok(());
    }
    if is_roots_alone() {
        return Ok(());
    }
    if narrating() {
        tell(format_args!("{REASON}"));
    }
    match execute_sealed().map_err(failed)? {}
}

/// Whether this process was executed from a read-only mount by a descriptor, or
/// from a sealed memory file. A file on a mount that is read-only and has a path
/// is not enough: who updates the machine makes it writable.
fn is_sealed() -> Result<bool, SyscallError> {
    if !is_descriptor(rustix::param::linux_execfn()) {
        return Ok(false);
    }
    let found = finish(rustix::fs::statvfs(OWN_PROGRAM), || {
        format!("statvfs({OWN_PROGRAM:?})")
    })?;
    if found.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(true);
    }
    let program = path::open_readable(Path::new(OWN_PROGRAM))?;
    // Files that cannot be sealed at all answer EINVAL.
    let seals = rustix::fs::fcntl_get_seals(&program).unwrap_or(SealFlags::empty());
    Ok(seals.contains(SealFlags::WRITE))
}

/// Whether the name that a program was executed by stands for a descriptor:
/// `execveat(2)` with `AT_EMPTY_PATH` makes it `/dev/fd/N`.
fn is_descriptor(name: &CStr) -> bool {
    let name = name.to_bytes();
    name.starts_with(b"/dev/fd/") || name.starts_with(b"/proc/self/fd/")
}

/// Whether an ordinary user runs a program of root's: in that user's containers
/// there is nobody to whom the kernel gives a right over the file.
fn is_roots_alone() -> bool {
    !rustix::process::geteuid().is_root()
        && rustix::fs::stat(OWN_PROGRAM)
            .is_ok_and(|found| found.st_uid == 0 && found.st_mode & 0o022 == 0)
}

fn execute_sealed() -> Result<Infallible, SyscallError> {
    let sealed = match mount_read_only() {
        Ok(mount) => mount,
        // No right to mount, or the file lies on a mount of another namespace.
        Err(_) => copy_to_memory()?,
    };
    execute(sealed.as_fd())
}

/// The program's file on a mount of its own that is attached nowhere.
fn mount_read_only() -> Result<OwnedFd, SyscallError> {
    let program = path::open_host(Path::new(OWN_PROGRAM))?;
    let mount = mount::open_tree_clone(program.as_fd(), Depth::One)?;
    let read_only = AttributeChange {
        set: libc::MOUNT_ATTR_RDONLY,
        ..AttributeChange::default()
    };
    mount::mount_setattr(mount.as_fd(), Depth::One, read_only)?;
    Ok(mount)
}

/// A copy of the program that can never be changed again, by anybody.
fn copy_to_memory() -> Result<OwnedFd, SyscallError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let made = rustix::fs::memfd_create("berth-oci", flags | MemfdFlags::EXEC)
        // MFD_EXEC is of Linux 6.3; before, all of them could be executed.
        .or_else(|_| rustix::fs::memfd_create("berth-oci", flags));
    let copy = finish(made, || "memfd_create(\"berth-oci\")".to_owned())?;
    let mut program = File::from(path::open_readable(Path::new(OWN_PROGRAM))?);
    let mut copy = File::from(copy);
    finish(std::io::copy(&mut program, &mut copy), || {
        format!("sendfile({OWN_PROGRAM:?})")
    })?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    finish(rustix::fs::fcntl_add_seals(&copy, seals), || {
        format!("fcntl(F_ADD_SEALS, {seals:?})")
    })?;
    // Executing a file that is open for writing fails, so a new descriptor it is.
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let sealed = rustix::fs::open(path.as_str(), flags, rustix::fs::Mode::empty());
    finish(sealed, || format!("open({path:?})"))
}

fn execute(program: BorrowedFd<'_>) -> Result<Infallible, SyscallError> {
    // Neither an argument nor a variable of this process can hold a zero byte.
    let text = |word: OsString| CString::new(word.into_vec()).unwrap_or_default();
    let arguments: Vec<CString> = std::env::args_os().map(text).collect();
    let variables: Vec<CString> = std::env::vars_os()
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            text(name)
        })
        .collect();
    remark(|| format!("execveat({}, \"\", …, AT_EMPTY_PATH)", program.as_raw_fd()));
    process::execveat(program, &arguments, &variables)
}

#[cfg(test)]
mod tests {
    use super::{concerns, copy_to_memory, is_descriptor};
    use rustix::fs::SealFlags;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn verbs_that_make_a_process_are_known_wherever_they_stand() {
        let words = |text: &str| text.split(' ').map(Into::into).collect::<Vec<_>>();
        assert!(concerns(words(
            "berth-oci --root /run/x create --bundle b c"
        )));
        assert!(concerns(words("berth-oci exec c true")));
        assert!(concerns(words("berth-oci step c")));
        assert!(!concerns(words("berth-oci --root /run/x start c")));
        assert!(!concerns(words("berth-oci features")));
    }

    #[test]
    fn a_name_of_a_descriptor_is_known() {
        assert!(is_descriptor(c"/dev/fd/3"));
        assert!(!is_descriptor(c"/usr/bin/berth-oci"));
        assert!(!is_descriptor(c"./dev/fd/3"));
    }

    #[test]
    fn a_copy_cannot_be_written() {
        let copy = copy_to_memory().expect("memory for this program");
        let seals = rustix::fs::fcntl_get_seals(&copy).expect("it has seals");
        assert!(seals.contains(SealFlags::WRITE | SealFlags::SEAL));
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        // It may open for writing, as root may open anything; a write is refused.
        let written = std::fs::OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"x"));
        let error = written.expect_err("a sealed file takes no byte");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }
}
