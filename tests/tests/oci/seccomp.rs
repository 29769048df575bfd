//! Filters of system calls.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use anyhow::ensure;
use serde_json::{Value, json};

use crate::check::{Who, check};
use crate::lab::{holds, same};

fn rules(config: &mut Value, rules: Value) {
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    });
}

fn no_folders(config: &mut Value) {
    rules(
        config,
        json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]),
    );
}

#[test]
fn a_call_is_refused_by_errno() {
    check(Who::All, |lab| {
        let told = lab.run("mkdir /new || touch /other; ls -d /new /other", no_folders)?;
        holds(&told.stderr, &["Operation not permitted"])?;
        same(told.stdout.trim(), "/other")?;
        let told = lab.run("mkdir /new", |config| {
            rules(
                config,
                json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]),
            );
        })?;
        holds(&told.stderr, &["No space left on device"])
    });
}

#[test]
fn privileges_do_not_matter_to_a_filter() {
    check(Who::All, |lab| {
        for (asked, uid) in [(true, 0), (false, 0), (true, 1000), (false, 1000)] {
            let told = lab.run(
                "grep Seccomp: /proc/self/status; mkdir /tmp/new; id -u",
                |config| {
                    no_folders(config);
                    config["process"]["noNewPrivileges"] = json!(asked);
                    config["process"]["user"] = json!({"uid": uid, "gid": 0});
                },
            )?;
            holds(&told.stderr, &["Operation not permitted"])?;
            same(told.stdout.trim(), &format!("Seccomp:\t2\n{uid}"))?;
        }
        Ok(())
    });
}

#[test]
fn a_call_ends_the_program() {
    check(Who::All, |lab| {
        let told = lab.run("uname; echo after", |config| {
            rules(
                config,
                json!([{"names": ["uname"], "action": "SCMP_ACT_KILL_PROCESS"}]),
            );
        })?;
        // 128 and SIGSYS: busybox's shell calls uname(2) itself.
        ensure!(told.code == 159, "{told:?}");
        Ok(())
    });
}

#[test]
fn arguments_are_compared() {
    check(Who::All, |lab| {
        let script = "sleep 100 & kill -0 $! && echo zero; kill -10 $! 2>/dev/null || echo refused; kill -12 $! && echo sent";
        let told = lab.text(script, |config| {
            let argument = json!([{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]);
            rules(
                config,
                json!([{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": argument}]),
            );
        })?;
        same(told, "zero\nrefused\nsent")
    });
}

#[test]
fn masked_arguments_are_compared() {
    check(Who::All, |lab| {
        // open(2) with O_CREAT, 0o100.
        let argument =
            json!([{"index": 2, "value": 0o100, "valueTwo": 0o100, "op": "SCMP_CMP_MASKED_EQ"}]);
        let told = lab.text("cat /etc/nsswitch.conf; echo x 2>/dev/null > /tmp/new || echo no", |config| {
            rules(
                config,
                json!([{"names": ["openat"], "action": "SCMP_ACT_ERRNO", "args": argument},
                    {"names": ["open"], "action": "SCMP_ACT_ERRNO",
                     "args": [{"index": 1, "value": 0o100, "valueTwo": 0o100, "op": "SCMP_CMP_MASKED_EQ"}]}]),
            );
        })?;
        same(told, "hosts: files dns\nno")
    });
}

#[test]
fn a_list_of_what_is_allowed() {
    check(Who::All, |lab| {
        // All that the kernel has, by number of names, less two: an allow-list
        // as engines write it would be as long.
        let told = lab.run("mkdir /new; echo after", |config| {
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"action": "SCMP_ACT_ALLOW", "names": [
                    "access", "arch_prctl", "brk", "capget", "capset", "chdir", "clone", "clone3",
                    "close", "close_range", "dup", "dup2", "dup3", "epoll_create1", "epoll_ctl",
                    "epoll_pwait", "execve", "exit", "exit_group", "faccessat2", "fchdir", "fchown",
                    "fcntl", "fork", "fstat", "fstatfs", "futex", "getcwd", "getdents64", "getegid",
                    "geteuid", "getgid", "getpgrp", "getpid", "getppid", "getrandom", "gettid",
                    "getuid", "ioctl", "lseek", "lstat", "madvise", "mmap", "mprotect", "munmap",
                    "nanosleep", "newfstatat", "open", "openat", "openat2", "pipe2", "poll", "ppoll",
                    "prctl", "pread64", "prlimit64", "read", "readlink", "readlinkat", "recvfrom",
                    "recvmsg", "rseq", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn",
                    "sched_getaffinity", "sched_yield", "sendmsg", "sendto", "set_robust_list",
                    "set_tid_address", "setgid", "setgroups", "setsid", "setuid", "sigaltstack",
                    "stat", "statfs", "statx", "sysinfo", "tgkill", "tkill", "uname", "vfork", "wait4",
                    "waitid", "write", "writev", "not_a_call_yet",
                ]}],
            });
        })?;
        holds(&told.stderr, &["not implemented"])?;
        same(told.stdout.trim(), "after")
    });
}

#[test]
fn exec_is_filtered_too() {
    check(Who::All, |lab| {
        lab.start("c", no_folders)?;
        let told = lab.call(&["exec", "c", "mkdir", "/new"])?;
        holds(told.complaint()?, &["Operation not permitted"])?;
        lab.remove("c")
    });
}

#[test]
fn an_unknown_action_is_refused() {
    check(Who::All, |lab| {
        let refused = lab.run("true", |config| {
            rules(
                config,
                json!([{"names": ["mkdir"], "action": "SCMP_ACT_NONSENSE"}]),
            );
        })?;
        refused.complaint().map(drop)
    });
}

#[test]
fn a_compiled_filter_is_kept_and_used_again() {
    check(Who::Berth, |lab| {
        let cache = lab.root().join(".seccomp-cache");
        let files = || -> anyhow::Result<Vec<std::path::PathBuf>> {
            Ok(fs::read_dir(&cache)?
                .flatten()
                .map(|entry| entry.path())
                .collect())
        };
        lab.run("mkdir /new", no_folders)?.complaint()?;
        let kept = files()?;
        ensure!(kept.len() == 1, "{kept:?}");
        let of_first = fs::metadata(&kept[0])?;
        ensure!(
            of_first.permissions().mode() & 0o077 == 0,
            "others may read or write it"
        );
        ensure!(
            fs::metadata(&cache)?.permissions().mode() & 0o077 == 0,
            "others may enter"
        );
        lab.run("mkdir /new", no_folders)?.complaint()?;
        ensure!(files()?.len() == 1);
        ensure!(
            fs::metadata(&kept[0])?.ino() == of_first.ino(),
            "it was written again"
        );
        lab.run("mkdir /new", |config| {
            rules(config, json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]));
        })?
        .complaint()?;
        ensure!(files()?.len() == 2, "another profile is another filter");
        Ok(())
    });
}

#[test]
fn a_damaged_filter_is_made_anew() {
    check(Who::Berth, |lab| {
        lab.run("mkdir /new", no_folders)?.complaint()?;
        let cache = lab.root().join(".seccomp-cache");
        let file = fs::read_dir(&cache)?.flatten().next().unwrap().path();
        let whole = fs::read(&file)?;
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0xff;
        // A program that allows everything: one BPF instruction.
        let allows: &[u8] = &[6, 0, 0, 0, 0, 0, 0xff, 0x7f];
        for bytes in [&whole[..whole.len() / 2], &[], &flipped, allows] {
            fs::write(&file, bytes)?;
            let told = lab.run("mkdir /new", no_folders)?;
            holds(told.complaint()?, &["Operation not permitted"])?;
        }
        Ok(())
    });
}
