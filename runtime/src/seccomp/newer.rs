//! What keeps new programs from dying on an old list.
//!
//! A C library tries the newest call first (`clone3`, `faccessat2`) and falls
//! back when the kernel says `ENOSYS`, "no such call". A profile that was
//! written before that call existed answers `EPERM`, and the program gives up.
//! So a few instructions go before the filter: a number above every number
//! that the profile mentions gets `ENOSYS`, as from an older kernel. runc does
//! the same.
//!
//! ```text
//!      ld  [arch]            for each architecture
//!      jeq A, next if not
//!      ld  [nr]
//!      jge low, next if not  (x86_64 and x32 share an architecture
//!      jge high, next if so   and differ in the range of numbers)
//!      jgt max, next if not
//!      ret ERRNO | ENOSYS
//! next:
//! ```

use oci_spec::runtime::Arch;

use super::plan::Verdict;
use crate::sys::seccomp::Instruction;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

// Classic BPF: class, size or operator, source of the operand.
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

const RETURN_ERRNO: u32 = 0x0005_0000;

/// x32 numbers carry this bit; all else about them is x86_64.
const X32_BIT: u32 = 0x4000_0000;

/// The highest number that a profile mentions, for one architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Highest {
    /// The architecture.
    pub architecture: Arch,
    /// The number.
    pub number: u32,
}

/// Whether a default verdict would hide from a program that a call is unknown.
pub(crate) fn wants_prefix(default: Verdict) -> bool {
    match default {
        Verdict::Allow | Verdict::Log | Verdict::Notify | Verdict::Trace(_) => false,
        Verdict::Errno(errno) => i32::from(errno) != libc::ENOSYS,
        Verdict::KillThread | Verdict::KillProcess | Verdict::Trap => true,
    }
}

/// The instructions to put before a filter.
pub(crate) fn prefix(highest: &[Highest]) -> Vec<Instruction> {
    highest.iter().flat_map(block).collect()
}

fn block(highest: &Highest) -> Vec<Instruction> {
    let (audit, low, high) = match highest.architecture {
        Arch::ScmpArchX86_64 => (Arch::ScmpArchX86_64 as u32, None, Some(X32_BIT)),
        Arch::ScmpArchX32 => (Arch::ScmpArchX86_64 as u32, Some(X32_BIT), None),
        // The specification's numbers are those of the kernel's audit.h.
        other => (other as u32, None, None),
    };
    let mut block = vec![
        plain(LOAD, ARCHITECTURE),
        // A jump's distances are filled in below: "stay" is 0, "leave" is LEAVE.
        jump(JUMP_EQUAL, audit, STAY, LEAVE),
        plain(LOAD, NUMBER),
    ];
    if let Some(low) = low {
        block.push(jump(JUMP_GREATER_OR_EQUAL, low, STAY, LEAVE));
    }
    if let Some(high) = high {
        block.push(jump(JUMP_GREATER_OR_EQUAL, high, LEAVE, STAY));
    }
    block.push(jump(JUMP_GREATER, highest.number, STAY, LEAVE));
    block.push(plain(RETURN, RETURN_ERRNO | libc::ENOSYS as u32));
    let length = block.len();
    for (position, instruction) in block.iter_mut().enumerate() {
        // Counted from the next instruction; a block has at most seven.
        let distance = (length - position - 1) as u8;
        for jump in [&mut instruction.jump_true, &mut instruction.jump_false] {
            if *jump == LEAVE {
                *jump = distance;
            }
        }
    }
    block
}

const STAY: u8 = 0;
const LEAVE: u8 = u8::MAX;

fn plain(code: u16, constant: u32) -> Instruction {
    jump(code, constant, 0, 0)
}

fn jump(code: u16, constant: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction {
        code,
        jump_true,
        jump_false,
        constant,
    }
}
