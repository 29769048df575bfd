//! A walk through the stages: in front of each one the runtime tells what comes,
//! and asks.
//!
//! ```text
//! [enter]  make this stage and stop before the next
//! l        look: what init is by now, as /proc tells
//! s        a shell in what there is of the container
//! q        give up: everything that was made is taken back
//! ```
//!
//! The questions go to standard error and the answers come from standard input,
//! a byte at a time: what stands behind them is the container's program's to read.
//! The end of the input and Ctrl-C give up, so that nothing half-made is left.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::stage::Stage;
use crate::sys::call::tell;
use crate::sys::interrupt;
use crate::sys::process::HostPid;

/// What a walker wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The stage is to be made.
    GoOn,
    /// Everything is to be taken back.
    GiveUp,
}

/// The longest answer that is kept.
const ANSWER_LIMIT_BYTES: usize = 64;

/// What a stage changes that can be seen from outside, below `/proc/PID` of init
/// if it begins with no `/`.
const WATCH: &[(&str, &str)] = &[
    ("make-filter", "--root DIR/.seccomp-cache"),
    ("create-v2", "/sys/fs/cgroup"),
    ("clone-init", "ns/ of the new process: ls -l /proc/PID/ns"),
    ("create-v1", "/sys/fs/cgroup/*"),
    ("record-init", "state.json below --root"),
    ("join-spaces", "ns/"),
    ("new-session", "stat (fields 5 and 6), oom_score_adj"),
    ("set-names", "hostname, as a shell in it (s) prints it"),
    ("set-sysctls", "/proc/sys, as a shell in it (s) sees it"),
    ("quiet-mounts", "mountinfo (shared:N becomes master:N)"),
    ("bind-root", "mountinfo"),
    ("mount-tree", "mountinfo"),
    ("join-cgroup", "cgroup"),
    ("own-cgroup", "ns/cgroup"),
    ("mount-rest", "mountinfo"),
    (
        "make-devices",
        "root/ROOTFS/dev, as a shell in it (s) sees it",
    ),
    ("enter-root", "root/, mountinfo"),
    ("open-console", "fd/0, fd/1, fd/2"),
    ("mask-paths", "mountinfo"),
    ("lock-root", "mountinfo, the line of /"),
    ("set-limits", "limits"),
    ("enter-cwd", "cwd"),
    ("become-user", "status: Uid, Gid, Groups, Cap*"),
    ("filter-calls", "status: Seccomp, NoNewPrivs"),
    ("exec-program", "exe, cmdline, environ"),
];

/// Tells of a stage and asks until there is an answer.
pub fn ask(stage: &Stage, order: usize, init: Option<HostPid>) -> Answer {
    let (name, actor) = (stage.name, stage.run.actor());
    let watch = WATCH.iter().find(|(known, _)| *known == name);
    let watch = watch.map_or("status", |(_, what)| what);
    tell(format_args!("\n{order}. {name} ({actor})"));
    tell(format_args!("   effect  {}", stage.effect));
    match init {
        Some(pid) => tell(format_args!(
            "   watch   {watch} (init is {}: /proc/{0})",
            pid.0
        )),
        None => tell(format_args!("   watch   {watch} (there is no init yet)")),
    }
    tell(format_args!("   see     {}", stage.see.join(", ")));
    loop {
        tell(format_args!("[enter] go on, l look, s shell, q give up"));
        match read_answer().as_deref() {
            None => return Answer::GiveUp,
            Some("") => return Answer::GoOn,
            Some("q") => return Answer::GiveUp,
            Some("l") => look(init),
            Some("s") => open_shell(init),
            Some(other) => tell(format_args!("{other:?} is no answer")),
        }
    }
}

/// A line of standard input; `None` at its end and after Ctrl-C.
fn read_answer() -> Option<String> {
    let mut line = Vec::new();
    let input = std::io::stdin();
    loop {
        let mut byte = [0];
        match rustix::io::read(&input, &mut byte) {
            _ if interrupt::has_come() => return None,
            Err(rustix::io::Errno::INTR) => {}
            Ok(1) if byte[0] == b'\n' => break,
            Ok(1) if line.len() < ANSWER_LIMIT_BYTES => line.push(byte[0]),
            Ok(1) => {}
            _ => return None,
        }
    }
    Some(String::from_utf8_lossy(&line).trim().to_owned())
}

/// The kinds of namespace in `/proc/PID/ns`, and how nsenter(1) calls them.
const KINDS: &[(&str, &str)] = &[
    ("cgroup", "--cgroup"),
    ("ipc", "--ipc"),
    ("mnt", "--mount"),
    ("net", "--net"),
    ("pid", "--pid"),
    ("time", "--time"),
    ("user", "--user"),
    ("uts", "--uts"),
];

/// The kinds in which init has another one than we.
fn own_kinds(pid: HostPid) -> Vec<&'static (&'static str, &'static str)> {
    let link = |owner: &str, kind: &str| fs::read_link(format!("/proc/{owner}/ns/{kind}")).ok();
    let number = pid.0.to_string();
    let kinds = KINDS.iter();
    kinds
        .filter(|(kind, _)| {
            let its = link(&number, kind);
            its.is_some() && its != link("self", kind)
        })
        .collect()
}

/// What /proc tells of init.
fn look(init: Option<HostPid>) {
    let Some(pid) = init else {
        tell(format_args!(
            "   there is no init yet: the runtime is {}",
            std::process::id()
        ));
        return;
    };
    let text =
        |file: &str| fs::read_to_string(format!("/proc/{}/{file}", pid.0)).unwrap_or_default();
    let link = |file: &str| {
        fs::read_link(format!("/proc/{}/{file}", pid.0))
            .map_or_else(|error| error.to_string(), |path| path.display().to_string())
    };
    let kinds: Vec<&str> = own_kinds(pid).into_iter().map(|(kind, _)| *kind).collect();
    tell(format_args!("   name        {}", text("comm").trim_end()));
    tell(format_args!("   namespaces  its own: {}", kinds.join(" ")));
    let mounts = text("mountinfo");
    tell(format_args!("   mounts      {}", mounts.lines().count()));
    tell(format_args!(
        "   root, cwd   {}, {}",
        link("root"),
        link("cwd")
    ));
    for line in text("cgroup").lines().filter(|line| !line.ends_with(":/")) {
        tell(format_args!("   cgroup      {line}"));
    }
    const FIELDS: [&str; 8] = [
        "Uid:",
        "Gid:",
        "NoNewPrivs:",
        "Seccomp:",
        "CapPrm:",
        "CapEff:",
        "CapBnd:",
        "CapAmb:",
    ];
    let status = text("status");
    for line in status.lines() {
        if let Some((name, value)) = line.split_once('\t')
            && FIELDS.contains(&name)
        {
            tell(format_args!("   {name:11} {value}"));
        }
    }
}

/// A shell where init is: before `enter-root` it sees the host's files in init's
/// mount namespace, after it the container's alone.
fn open_shell(init: Option<HostPid>) {
    let Some(pid) = init else {
        tell(format_args!(
            "   there is no init yet: look around in another terminal"
        ));
        return;
    };
    let mut command = Command::new("nsenter");
    command.arg(format!("--target={}", pid.0));
    command.args(own_kinds(pid).into_iter().map(|(_, option)| option));
    command.args(["--", "/bin/sh"]).arg0("nsenter");
    // Its words are no output of the container.
    command.stdout(Stdio::from(std::io::stderr()));
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => tell(format_args!("   the shell ended with {status}")),
        Err(error) => tell(format_args!("   nsenter (of util-linux): {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::WATCH;

    #[test]
    fn only_stages_that_there_are_can_be_watched() {
        for (name, _) in WATCH {
            assert!(crate::stages::is_known(name), "{name}");
        }
    }
}
