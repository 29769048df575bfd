//! Filters on the real kernel: each is put on a child of its own.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Output};
use std::time::Instant;

use berth_runtime::seccomp::compile::compile_filter;
use berth_runtime::seccomp::plan::plan_filter;
use berth_runtime::seccomp::profile::default_profile;
use berth_runtime::sys::privilege::set_no_new_privileges;
use berth_runtime::sys::seccomp::{BpfProgram, install};
use oci_spec::runtime::LinuxSeccomp;

fn compiled(json: &str) -> BpfProgram {
    let profile: LinuxSeccomp = serde_json::from_str(json).expect("good JSON");
    compile_filter(&plan_filter(&profile).expect("a plan"), None).expect("a program")
}

fn run_under(program: &BpfProgram, script: &str) -> Output {
    let program = program.clone();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    // SAFETY: between fork and exec the child makes two system calls and, only
    // if they fail, allocates for the error; no other thread of this process
    // holds the allocator's lock for ever.
    unsafe {
        command.pre_exec(move || {
            set_no_new_privileges()
                .and_then(|()| install(&program).map(drop))
                .map_err(|error| std::io::Error::from_raw_os_error(error.errno() as i32))
        });
    }
    command.output().expect("it ran")
}

#[test]
fn an_errno_is_what_the_program_sees() {
    let program = compiled(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#,
    );
    let output = run_under(&program, "mkdir /tmp/berth-seccomp-never");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("No space left on device"), "{text}");
    assert!(!std::path::Path::new("/tmp/berth-seccomp-never").exists());
}

#[test]
fn killing_kills() {
    let program = compiled(
        r#"{"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["getcwd"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#,
    );
    let output = run_under(&program, "exec /bin/pwd -P");
    assert_eq!(output.status.signal(), Some(libc::SIGSYS));
}

#[test]
fn the_default_profile_lets_ordinary_programs_work_and_no_mount() {
    let plan = plan_filter(&default_profile(&[].into()).expect("a profile")).expect("a plan");
    let program = compile_filter(&plan, None).expect("a program");
    let output = run_under(
        &program,
        "ls -l / >/dev/null && (sleep 0 & wait) && date >/dev/null && echo works; \
         unshare -U true 2>/dev/null || echo no user namespace; \
         mount -t tmpfs none /mnt 2>/dev/null || echo no mount",
    );
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "works\nno user namespace\nno mount\n"
    );
}

/// `cargo test --release -p berth-runtime --test seccomp -- --ignored --nocapture`
#[test]
#[ignore = "a measurement, see docs/cgroups.md"]
fn costs() {
    let cache = tempfile::tempdir().expect("a directory");
    let cache = cache.path().join("cache");
    let profile = default_profile(&[].into()).expect("a profile");
    let begun = Instant::now();
    let plan = plan_filter(&profile).expect("a plan");
    println!("plan: {} us", begun.elapsed().as_micros());
    for title in ["compile", "cached", "cached again"] {
        let begun = Instant::now();
        let program = compile_filter(&plan, Some(&cache)).expect("a program");
        println!("{title}: {} us, {program:?}", begun.elapsed().as_micros());
    }
}
