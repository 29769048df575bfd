use oci_spec::runtime::LinuxSeccomp;

use super::compile_filter;
use crate::seccomp::plan::plan_filter;
use crate::seccomp::profile::default_profile;
use crate::sys::seccomp::{BpfProgram, Instruction};

const X86_64: u32 = 0xc000_003e;
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;

fn compiled(json: &str) -> BpfProgram {
    let profile: LinuxSeccomp = serde_json::from_str(json).expect("good JSON");
    let plan = plan_filter(&profile).expect("a plan");
    compile_filter(&plan, None).expect("a program")
}

/// Runs a filter as the kernel would: an interpreter of the few operations that
/// libseccomp and we use. `data` is `struct seccomp_data` as 32-bit words.
fn run(program: &[Instruction], data: &[u32; 16]) -> u32 {
    let (mut accumulator, mut position) = (0_u32, 0);
    loop {
        let Instruction {
            code,
            jump_true,
            jump_false,
            constant,
        } = program[position];
        position += 1;
        let holds = match code {
            0x20 => {
                accumulator = data[constant as usize / 4];
                continue;
            }
            0x54 => {
                accumulator &= constant;
                continue;
            }
            0x05 => {
                position += constant as usize;
                continue;
            }
            0x06 => return constant,
            0x15 => accumulator == constant,
            0x25 => accumulator > constant,
            0x35 => accumulator >= constant,
            0x45 => accumulator & constant != 0,
            other => panic!("operation {other:#x} at {}", position - 1),
        };
        position += usize::from(if holds { jump_true } else { jump_false });
    }
}

/// What happens to an x86_64 call with these arguments.
fn ask(program: &BpfProgram, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = [0; 16];
    data[0] = number;
    data[1] = X86_64;
    for (index, argument) in arguments.iter().enumerate() {
        data[4 + 2 * index] = *argument as u32;
        data[5 + 2 * index] = (argument >> 32) as u32;
    }
    run(&program.instructions, &data)
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_default_profile_decides_as_it_says() {
    let plan = plan_filter(&default_profile(&[].into()).expect("a profile")).expect("a plan");
    let program = compile_filter(&plan, None).expect("a program");
    let errno = |number: i32| ERRNO | number as u32;
    let cases = [
        (libc::SYS_read, [0; 6], ALLOW),
        (libc::SYS_mount, [0; 6], errno(libc::EPERM)),
        (libc::SYS_clone3, [0; 6], errno(libc::ENOSYS)),
        (libc::SYS_clone, [0x0001_0f00, 0, 0, 0, 0, 0], ALLOW),
        // CLONE_NEWUSER
        (
            libc::SYS_clone,
            [0x1000_0000, 0, 0, 0, 0, 0],
            errno(libc::EPERM),
        ),
        (libc::SYS_socket, [2, 0, 0, 0, 0, 0], ALLOW),
        (libc::SYS_socket, [40, 0, 0, 0, 0, 0], errno(libc::EPERM)),
        (libc::SYS_personality, [8, 0, 0, 0, 0, 0], ALLOW),
        (
            libc::SYS_personality,
            [9, 0, 0, 0, 0, 0],
            errno(libc::EPERM),
        ),
        (libc::SYS_io_uring_setup, [0; 6], errno(libc::EPERM)),
        // No kernel has it yet, and the caller must not take that for a refusal.
        (9_999, [0; 6], errno(libc::ENOSYS)),
    ];
    for (number, arguments, expected) in cases {
        let verdict = ask(&program, number as u32, arguments);
        assert_eq!(
            verdict, expected,
            "call {number} {arguments:x?}: {verdict:#x}"
        );
    }
    // x32: known calls are allowed, numbers beyond the list are unknown.
    assert_eq!(ask(&program, 0x4000_0000, [0; 6]), ALLOW);
    assert_eq!(ask(&program, 0x4000_9999, [0; 6]), errno(libc::ENOSYS));
}

#[test]
fn comparisons_compare_all_64_bits() {
    let program = compiled(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["lseek"],
            "action": "SCMP_ACT_ERRNO", "errnoRet": 5, "args": [
                {"index": 1, "value": 4294967297, "op": "SCMP_CMP_GE"},
                {"index": 2, "value": 2, "op": "SCMP_CMP_NE"}]}]}"#,
    );
    let seek = |offset: u64, whence: u64| {
        ask(
            &program,
            libc::SYS_lseek as u32,
            [0, offset, whence, 0, 0, 0],
        )
    };
    assert_eq!(seek(0x1_0000_0001, 0), ERRNO | 5);
    assert_eq!(seek(0x1_0000_0000, 0), ALLOW);
    assert_eq!(seek(0x1_0000_0001, 2), ALLOW);
    assert_eq!(
        ask(&program, 9_999, [0; 6]),
        ALLOW,
        "an allowing default is left alone"
    );
}

#[test]
fn every_verdict_becomes_the_kernels() {
    for (action, expected) in [
        ("SCMP_ACT_KILL", 0x0),
        ("SCMP_ACT_KILL_THREAD", 0x0),
        ("SCMP_ACT_KILL_PROCESS", 0x8000_0000),
        ("SCMP_ACT_TRAP", 0x0003_0000),
        ("SCMP_ACT_ERRNO", ERRNO | 1),
        ("SCMP_ACT_TRACE", 0x7ff0_0001),
        ("SCMP_ACT_LOG", 0x7ffc_0000),
    ] {
        let program = compiled(&format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW",
                 "syscalls": [{{"names": ["getcwd"], "action": "{action}"}}]}}"#
        ));
        let verdict = ask(&program, libc::SYS_getcwd as u32, [0; 6]);
        assert_eq!(verdict, expected, "{action}: {verdict:#x}");
        assert_eq!(ask(&program, libc::SYS_read as u32, [0; 6]), ALLOW);
    }
}

#[test]
fn unknown_names_are_ignored_and_unknown_architectures_named() {
    compiled(
        r#"{"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["no_such_call", "read"], "action": "SCMP_ACT_LOG"}]}"#,
    );
    let profile: LinuxSeccomp = serde_json::from_str(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_LOONGARCH64"]}"#,
    )
    .expect("good JSON");
    let plan = plan_filter(&profile).expect("a plan");
    // libseccomp knows it from 2.6 on.
    if super::library_version()
        .expect("a version")
        .starts_with("2.5")
    {
        let error = compile_filter(&plan, None).expect_err("too new");
        assert!(
            error
                .to_string()
                .starts_with("linux.seccomp.architectures[1]: "),
            "{error}"
        );
    } else {
        compile_filter(&plan, None).expect("known");
    }
}

#[test]
fn the_cache_gives_the_same_program() {
    let root = tempfile::tempdir().expect("a directory");
    let cache = root.path().join("cache");
    let plan = plan_filter(&default_profile(&[].into()).expect("a profile")).expect("a plan");
    let fresh = compile_filter(&plan, Some(&cache)).expect("a program");
    assert_eq!(std::fs::read_dir(&cache).expect("made").count(), 1);
    assert_eq!(
        compile_filter(&plan, Some(&cache)).expect("a program"),
        fresh
    );
    // A cache that cannot be made is no error.
    let nowhere = root.path().join("no/such");
    assert_eq!(
        compile_filter(&plan, Some(&nowhere)).expect("a program"),
        fresh
    );
}
