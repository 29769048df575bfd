//! `seccomp(2)`: putting a filter on this process.

use std::fmt;
use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::call::{SyscallError, check, finish, remark};

/// `struct sock_filter`: one instruction of classic BPF.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// The operation.
    pub code: u16,
    /// How many instructions to skip if a comparison holds.
    pub jump_true: u8,
    /// How many to skip if it does not.
    pub jump_false: u8,
    /// The constant.
    pub constant: u32,
}

// The kernel reads an array of these.
const _: () = assert!(size_of::<Instruction>() == size_of::<libc::sock_filter>());

/// A filter that the kernel can take.
#[derive(Clone, PartialEq, Eq)]
pub struct BpfProgram {
    /// The program.
    pub instructions: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*` for the installing call.
    pub flags: u32,
}

impl fmt::Debug for BpfProgram {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "BpfProgram({} instructions, flags {:#x})",
            self.instructions.len(),
            self.flags
        )
    }
}

/// `int seccomp(SECCOMP_SET_MODE_FILTER, unsigned int flags, struct sock_fprog *)`.
///
/// From the return on, every system call of this thread and its children goes
/// through the filter; with `SECCOMP_FILTER_FLAG_TSYNC`, of all threads. With
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER` a descriptor comes back on which somebody
/// is asked about calls; it closes at the exec.
/// It is narrated before, for the filter may forbid `write(2)`.
///
/// # Errors
///
/// - `EACCES`: neither `no_new_privs` nor `CAP_SYS_ADMIN`.
/// - `EINVAL`: a bad program, an unknown flag, or more than 4096 instructions.
/// - `ESRCH`: a thread has another filter and cannot be synchronised.
pub fn install(program: &BpfProgram) -> Result<Option<OwnedFd>, SyscallError> {
    let describe = || {
        format!(
            "seccomp(SECCOMP_SET_MODE_FILTER, {:#x}, {{len={}}})",
            program.flags,
            program.instructions.len()
        )
    };
    let Ok(length) = u16::try_from(program.instructions.len()) else {
        return finish(Err(Errno::EINVAL), describe);
    };
    let filter = libc::sock_fprog {
        len: length,
        filter: program
            .instructions
            .as_ptr()
            .cast::<libc::sock_filter>()
            .cast_mut(),
    };
    remark(describe);
    // SAFETY: `filter` points to `length` instructions of the kernel's layout
    // (asserted above), which outlive the call; the kernel copies and only
    // reads them.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            program.flags,
            std::ptr::from_ref(&filter),
        )
    };
    match check(returned) {
        Ok(number) if u64::from(program.flags) & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 => {
            // SAFETY: with this flag the kernel returns a new descriptor, which
            // nobody else owns.
            Ok(Some(unsafe { OwnedFd::from_raw_fd(number as i32) }))
        }
        Ok(0) => Ok(None),
        // With TSYNC the number of the thread that refused comes back.
        Ok(_) => finish(Err(Errno::ESRCH), describe),
        Err(errno) => finish(Err(errno), describe),
    }
}
