//! `bpf(2)`, as far as device programs on version 2 cgroups need it.
//!
//! ```text
//! int bpf(int cmd, union bpf_attr *attr, unsigned int size);
//! ```
//!
//! The union has a layout for each command. Each wrapper writes its own, as
//! numbers at the offsets of `include/uapi/linux/bpf.h`, into zeroed memory:
//! the kernel wants every byte that it does not know to be zero.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::call::{SyscallError, check, finish};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_F_REPLACE: u32 = 4;

/// By this name our programs are known from others' on the same group.
const PROGRAM_NAME: &[u8; 13] = b"berth_devices";

/// `bpf_attr` for `BPF_PROG_LOAD`, up to the fields that we set.
#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// `bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
#[derive(Default)]
struct AttachAttributes {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// `bpf_attr` for `BPF_PROG_QUERY`.
#[repr(C)]
#[derive(Default)]
struct QueryAttributes {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

/// `bpf_attr` for `BPF_PROG_GET_FD_BY_ID`.
#[repr(C)]
#[derive(Default)]
struct IdAttributes {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
    padding: u32,
}

/// `bpf_attr` for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
#[derive(Default)]
struct InfoAttributes {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_prog_info`, up to the name.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    numbers: [u64; 8],
    name: [u8; 16],
}

/// `bpf(cmd, attr, size)` for an attribute struct of one of the types above.
fn bpf<T>(command: libc::c_int, attributes: &mut T) -> Result<libc::c_long, Errno> {
    // SAFETY: `attributes` is one of this file's repr(C) structs, laid out as
    // the kernel's union for `command` and without uninitialised padding; the
    // wrappers keep alive what the addresses in it point to.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    check(returned)
}

/// Takes a descriptor that `bpf(2)` has just made.
fn own(returned: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel returned this number as a new descriptor, which
    // nobody else owns; bpf(2) sets close-on-exec itself. It fits an int.
    unsafe { OwnedFd::from_raw_fd(returned as i32) }
}

/// Loads a device program from its instructions, eight bytes each.
///
/// # Errors
///
/// `EPERM` without `CAP_BPF` and `CAP_NET_ADMIN` (or `CAP_SYS_ADMIN`),
/// `EINVAL` and `EACCES` when the verifier does not like it.
pub fn load_device_program(instructions: &[u8]) -> Result<OwnedFd, SyscallError> {
    let mut attributes = LoadAttributes {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: (instructions.len() / 8) as u32,
        insns: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..LoadAttributes::default()
    };
    attributes.prog_name[..13].copy_from_slice(PROGRAM_NAME);
    finish(bpf(BPF_PROG_LOAD, &mut attributes), || {
        format!(
            "bpf(BPF_PROG_LOAD, {{prog_type=BPF_PROG_TYPE_CGROUP_DEVICE, insn_cnt={}}})",
            instructions.len() / 8
        )
    })
    .map(own)
}

/// Attaches a device program to a group, in the place of `old` if given.
///
/// # Errors
///
/// `EPERM`: an ancestor has a program that allows no others. `ENOENT`: `old`
/// is not attached there.
pub fn attach_device_program(
    group: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    old: Option<BorrowedFd<'_>>,
) -> Result<(), SyscallError> {
    let mut attributes = AttachAttributes {
        target_fd: number(group),
        attach_bpf_fd: number(program),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
        replace_bpf_fd: 0,
    };
    if let Some(old) = old {
        attributes.attach_flags |= BPF_F_REPLACE;
        attributes.replace_bpf_fd = number(old);
    }
    finish(bpf(BPF_PROG_ATTACH, &mut attributes).map(drop), || {
        format!(
            "bpf(BPF_PROG_ATTACH, {{target_fd={}, attach_type=BPF_CGROUP_DEVICE, attach_flags={}}})",
            group.as_raw_fd(),
            if old.is_some() {
                "BPF_F_ALLOW_MULTI|BPF_F_REPLACE"
            } else {
                "BPF_F_ALLOW_MULTI"
            }
        )
    })
}

/// The ids of the device programs on a group itself, in the order of their attaching.
///
/// # Errors
///
/// `ENOSPC`: there are more than 64.
pub fn query_device_programs(group: BorrowedFd<'_>) -> Result<Vec<u32>, SyscallError> {
    let mut ids = [0_u32; 64];
    let mut attributes = QueryAttributes {
        target_fd: number(group),
        attach_type: BPF_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        ..QueryAttributes::default()
    };
    finish(bpf(BPF_PROG_QUERY, &mut attributes), || {
        format!(
            "bpf(BPF_PROG_QUERY, {{target_fd={}, attach_type=BPF_CGROUP_DEVICE}})",
            group.as_raw_fd()
        )
    })?;
    Ok(ids
        .iter()
        .take(attributes.prog_cnt as usize)
        .copied()
        .collect())
}

/// Opens a program by its id.
///
/// # Errors
///
/// `ENOENT`: it was unloaded.
pub fn open_program(id: u32) -> Result<OwnedFd, SyscallError> {
    let mut attributes = IdAttributes {
        prog_id: id,
        ..IdAttributes::default()
    };
    finish(bpf(BPF_PROG_GET_FD_BY_ID, &mut attributes), || {
        format!("bpf(BPF_PROG_GET_FD_BY_ID, {{prog_id={id}}})")
    })
    .map(own)
}

/// Whether a program was loaded by [`load_device_program`].
///
/// # Errors
///
/// `EINVAL` before Linux 4.15.
pub fn is_device_program_of_ours(program: BorrowedFd<'_>) -> Result<bool, SyscallError> {
    let mut info = ProgramInfo::default();
    let mut attributes = InfoAttributes {
        bpf_fd: number(program),
        // The kernel fills in as much of its struct as there is room.
        info_len: size_of::<ProgramInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    finish(bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes), || {
        format!(
            "bpf(BPF_OBJ_GET_INFO_BY_FD, {{bpf_fd={}}})",
            program.as_raw_fd()
        )
    })?;
    Ok(info.name.starts_with(PROGRAM_NAME))
}

/// A descriptor in the kernel's unsigned form; an open one is never negative.
fn number(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd() as u32
}
