//! What runs before anything else in this program, the C library included.
//!
//! A command that makes a container's process executes itself anew from a
//! read-only mount ([`crate::sealing`]). The C library sets itself up before
//! `main`, and what it does there is lost with that exec. It is not little: on
//! x86-64 it asks `cpuid` some seventy times for the sizes of caches, and in a
//! virtual machine each of these traps (7 µs and more, half a millisecond in
//! all: more than the exec itself). So the program's ELF entry is not `_start` but
//! [`first`], which makes the same three calls and lets `_start` begin only when
//! there is nothing to do, or when one of the calls failed: [`crate::sealing`]
//! then tries again, says what is wrong, and has other ways.
//!
//! Nothing of the C library may be used here: not its errno, not its thread's
//! memory, and not `memcpy`, which in a static program is a pointer that is not
//! filled in yet. The compiler makes such calls out of plain loops and slices;
//! bytes are therefore read one by one, volatile, and there is no slice.
//!
//! Other processors begin at `_start`, and pay.

use core::arch::{asm, naked_asm};

/// The program's entry; `build.rs` tells the linker its name.
///
/// The kernel enters with the stack as System V's ABI for x86-64 has it: the
/// number of arguments at its top, then the arguments, the environment and the
/// auxiliary vector. All is left as it was for `_start`.
///
/// # Safety
///
/// For the kernel only: it cannot be called, since it never returns to anybody.
#[unsafe(naked)]
#[unsafe(export_name = "berth_first")]
pub unsafe extern "C" fn first() -> ! {
    naked_asm!(
        "mov rdi, rsp",
        // `rdx` is what `_start` registers with atexit(3).
        "push rdx",
        "sub rsp, 8",
        "call {seal}",
        "add rsp, 8",
        "pop rdx",
        "xor ebp, ebp",
        "jmp _start",
        seal = sym seal,
    )
}

/// The words of the command line that a process of a container may come from.
const VERBS: [&[u8]; 4] = [b"create\0", b"run\0", b"exec\0", b"step\0"];
/// How `execveat(2)` names a program that it was given as a descriptor.
const BY_DESCRIPTOR: &[u8] = b"/dev/fd/";
const PROGRAM: &[u8] = b"/proc/self/exe\0";

/// `struct mount_attr` of `<linux/mount.h>`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Executes the program from a read-only mount where that is wanted and possible.
unsafe extern "C" fn seal(stack: *const usize) {
    // SAFETY: the kernel laid the stack out so (exec(2), "Auxiliary vector"): a
    // count, that many pointers to strings, a null, pointers to variables, a null,
    // and pairs of numbers up to one of type 0. The strings end with a zero byte.
    // The calls below get pointers to these or to constants.
    unsafe {
        let count = *stack;
        let arguments = stack.add(1).cast::<*const u8>();
        let variables = arguments.add(count + 1);
        if !concerns(arguments, count) || is_by_descriptor(variables) {
            return;
        }
        let clone = libc::OPEN_TREE_CLONE as usize | libc::OPEN_TREE_CLOEXEC as usize;
        let here = libc::AT_FDCWD as usize;
        let program = PROGRAM.as_ptr() as usize;
        let mount = call(libc::SYS_open_tree, [here, program, clone, 0, 0]);
        if mount < 0 {
            return;
        }
        let mount = mount as usize;
        let attributes = MountAttributes {
            set: libc::MOUNT_ATTR_RDONLY,
            clear: 0,
            propagation: 0,
            user_namespace: 0,
        };
        let empty = PROGRAM.as_ptr().add(PROGRAM.len() - 1) as usize;
        let itself = libc::AT_EMPTY_PATH as usize;
        let size = size_of::<MountAttributes>();
        let changed = &raw const attributes as usize;
        if call(
            libc::SYS_mount_setattr,
            [mount, empty, itself, changed, size],
        ) == 0
        {
            let (arguments, variables) = (arguments as usize, variables as usize);
            call(
                libc::SYS_execveat,
                [mount, empty, arguments, variables, itself],
            );
        }
        // Still here: what follows is as if nothing had been tried.
        call(libc::SYS_close, [mount, 0, 0, 0, 0]);
    }
}

/// Whether one of the words is a verb; the first is the program's own name.
unsafe fn concerns(arguments: *const *const u8, count: usize) -> bool {
    let mut index = 1;
    while index < count {
        // SAFETY: `count` pointers to strings stand there, says the caller.
        let word = unsafe { *arguments.add(index) };
        let mut verb = 0;
        while verb < VERBS.len() {
            // SAFETY: `verb` is below the length; the word ends with a zero byte.
            if unsafe { begins_with(word, *VERBS.as_ptr().add(verb)) } {
                return true;
            }
            verb += 1;
        }
        index += 1;
    }
    false
}

/// Whether the program was executed by a descriptor. Then it is sealed, or its
/// caller wanted this very one: both are for [`crate::sealing`] to judge.
unsafe fn is_by_descriptor(mut variables: *const *const u8) -> bool {
    // SAFETY: a null ends the variables, and a pair of type 0 what follows them.
    unsafe {
        while !(*variables).is_null() {
            variables = variables.add(1);
        }
        let mut pair = variables.add(1).cast::<usize>();
        while *pair != 0 {
            if *pair == libc::AT_EXECFN as usize {
                return begins_with(*pair.add(1) as *const u8, BY_DESCRIPTOR);
            }
            pair = pair.add(2);
        }
    }
    false
}

/// Whether the string begins with these bytes; with a zero among them it ends there.
unsafe fn begins_with(string: *const u8, wanted: &'static [u8]) -> bool {
    let mut index = 0;
    while index < wanted.len() {
        // SAFETY: a zero byte that differs ends the loop, so nothing behind the
        // string's end is read; `index` is below the length.
        let (found, expected) = unsafe {
            (
                string.add(index).read_volatile(),
                wanted.as_ptr().add(index).read_volatile(),
            )
        };
        if found != expected {
            return false;
        }
        index += 1;
    }
    true
}

/// A system call: its result, or a negative errno.
unsafe fn call(number: libc::c_long, arguments: [usize; 5]) -> isize {
    let returned: isize;
    let [a, b, c, d, e] = arguments;
    // SAFETY: the registers are those of the kernel's convention (syscall(2)), and
    // those that it does not keep are named; the pointers are the caller's duty.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => returned,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    returned
}

#[cfg(test)]
mod tests {
    use super::{begins_with, concerns};

    #[test]
    fn verbs_are_whole_words() {
        let asks = |words: &[&std::ffi::CStr]| {
            let pointers: Vec<*const u8> = words.iter().map(|word| word.as_ptr().cast()).collect();
            // SAFETY: as many pointers to strings as the count says.
            unsafe { concerns(pointers.as_ptr(), pointers.len()) }
        };
        assert!(asks(&[c"berth-oci", c"--root", c"/x", c"create", c"c"]));
        assert!(asks(&[c"x", c"run"]) && asks(&[c"x", c"exec"]) && asks(&[c"x", c"step"]));
        assert!(!asks(&[c"run"]), "its own name is no verb");
        assert!(!asks(&[c"x", c"runs"]) && !asks(&[c"x", c"ru"]) && !asks(&[c"x", c""]));
        assert!(!asks(&[]));
    }

    #[test]
    fn a_beginning_is_compared_to_its_end() {
        // SAFETY: the strings end with a zero byte.
        unsafe {
            assert!(begins_with(c"/dev/fd/3".as_ptr().cast(), b"/dev/fd/"));
            assert!(!begins_with(c"/dev/f".as_ptr().cast(), b"/dev/fd/"));
        }
    }
}
