//! Device rules as an eBPF program: version 2's form of the devices controller.
//!
//! At every `open(2)` and `mknod(2)` of a device node the kernel runs the
//! program with three numbers and takes the answer, 1 or 0:
//!
//! ```text
//! struct bpf_cgroup_dev_ctx {        r1 points here
//!     __u32 access_type;             low 16 bits: kind, high 16 bits: rights
//!     __u32 major;
//!     __u32 minor;
//! };
//! ```
//!
//! Our program is the list of rules read from the last to the first. Each rule
//! is a few compares that jump to the next rule, then `r0 = allow; exit`. It
//! has no loops and no calls, so the verifier has little to think about, and
//! it is small enough to be assembled by hand: an instruction is eight bytes.
//!
//! See the kernel's `include/uapi/linux/bpf.h` and
//! `Documentation/bpf/standardization/instruction-set.rst`. Try
//! `bpftool prog dump xlated id N` on a version 2 machine.

use super::devices::{Access, DeviceKind, DeviceRule};

/// One instruction: operation, registers, jump distance, constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    operation: u8,
    destination: u8,
    source: u8,
    offset: i16,
    constant: i32,
}

// Operations: class, source of the operand and operator in one byte.
const LOAD_WORD: u8 = 0x61;
const MOVE_CONSTANT: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND_CONSTANT: u8 = 0x57;
const SHIFT_RIGHT_CONSTANT: u8 = 0x77;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

// Registers and what they hold once the prologue ran.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const RIGHTS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

// BPF_DEVCG_DEV_BLOCK and BPF_DEVCG_DEV_CHAR.
const KIND_BLOCK: i32 = 1;
const KIND_CHAR: i32 = 2;

/// Assembles the program for a list of rules. The bytes are what `bpf(2)` takes.
pub fn assemble(rules: &[DeviceRule]) -> Vec<u8> {
    let mut program = prologue();
    for rule in rules.iter().rev() {
        program.extend(rule_block(rule));
    }
    // No rule spoke: deny.
    program.extend(verdict(false));
    program.iter().flat_map(encode).collect()
}

fn prologue() -> Vec<Instruction> {
    vec![
        load(KIND, 0),
        with_register(MOVE_REGISTER, RIGHTS, KIND),
        with_constant(AND_CONSTANT, KIND, 0xffff),
        with_constant(SHIFT_RIGHT_CONSTANT, RIGHTS, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ]
}

/// A rule's compares, each jumping behind the block when it fails, and its verdict.
fn rule_block(rule: &DeviceRule) -> Vec<Instruction> {
    let mut block = Vec::new();
    if let Some(kind) = rule.kind {
        let number = match kind {
            DeviceKind::Block => KIND_BLOCK,
            DeviceKind::Char => KIND_CHAR,
        };
        block.push(with_constant(JUMP_IF_NOT_EQUAL, KIND, number));
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number {
            // The planner keeps numbers below 2^31, so the sign is never set.
            block.push(with_constant(JUMP_IF_NOT_EQUAL, register, number as i32));
        }
    }
    let given = i32::from(rule.access.bits());
    block.push(with_register(MOVE_REGISTER, ANSWER, RIGHTS));
    if rule.allow {
        // Rights that are asked for and not given must be none.
        block.push(with_constant(
            AND_CONSTANT,
            ANSWER,
            !given & i32::from(Access::ALL.bits()),
        ));
        block.push(with_constant(JUMP_IF_NOT_EQUAL, ANSWER, 0));
    } else {
        // Rights that are asked for and taken must be some.
        block.push(with_constant(AND_CONSTANT, ANSWER, given));
        block.push(with_constant(JUMP_IF_EQUAL, ANSWER, 0));
    }
    block.extend(verdict(rule.allow));
    let length = block.len();
    for (position, instruction) in block.iter_mut().enumerate() {
        if matches!(instruction.operation, JUMP_IF_EQUAL | JUMP_IF_NOT_EQUAL) {
            // Distances count from the next instruction; a block has at most eight.
            instruction.offset = (length - position - 1) as i16;
        }
    }
    block
}

fn verdict(allow: bool) -> [Instruction; 2] {
    [
        with_constant(MOVE_CONSTANT, ANSWER, i32::from(allow)),
        with_constant(EXIT, 0, 0),
    ]
}

fn load(destination: u8, offset: i16) -> Instruction {
    Instruction {
        operation: LOAD_WORD,
        destination,
        source: CONTEXT,
        offset,
        constant: 0,
    }
}

fn with_constant(operation: u8, destination: u8, constant: i32) -> Instruction {
    Instruction {
        operation,
        destination,
        source: 0,
        offset: 0,
        constant,
    }
}

fn with_register(operation: u8, destination: u8, source: u8) -> Instruction {
    Instruction {
        operation,
        destination,
        source,
        offset: 0,
        constant: 0,
    }
}

/// `struct bpf_insn` in the byte order of the machine.
fn encode(instruction: &Instruction) -> [u8; 8] {
    let registers = if cfg!(target_endian = "big") {
        instruction.destination << 4 | instruction.source
    } else {
        instruction.source << 4 | instruction.destination
    };
    let offset = instruction.offset.to_ne_bytes();
    let constant = instruction.constant.to_ne_bytes();
    [
        instruction.operation,
        registers,
        offset[0],
        offset[1],
        constant[0],
        constant[1],
        constant[2],
        constant[3],
    ]
}

#[cfg(test)]
mod tests;
