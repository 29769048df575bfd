//! What a difference does to the container, in a sentence about the second one (B).

use serde_json::Value;

use super::facts::plain;

/// Words for one field. `{key}`, `{a}` and `{b}` are filled in.
struct Words {
    /// The beginning of a fact's pattern.
    pattern: &'static str,
    /// B says it and A does not.
    added: &'static str,
    /// A says it and B does not.
    removed: &'static str,
    /// Both say it differently.
    changed: &'static str,
}

const fn words(
    pattern: &'static str,
    added: &'static str,
    removed: &'static str,
    changed: &'static str,
) -> Words {
    Words {
        pattern,
        added,
        removed,
        changed,
    }
}

/// The longest pattern that a fact's begins with is the one that speaks.
const WORDS: &[Words] = &[
    words(
        "",
        "B says something about {key} that A does not",
        "B is silent on {key}",
        "the two differ here",
    ),
    words(
        "ociVersion",
        "written for another version of the runtime spec; the container is the same",
        "written for another version of the runtime spec; the container is the same",
        "written for another version of the runtime spec; the container is the same",
    ),
    words(
        "hostname",
        "B has the host name {b}",
        "B keeps the host name that its UTS namespace began with",
        "B has the host name {b}",
    ),
    words(
        "domainname",
        "B has the NIS domain name {b}",
        "B has no NIS domain name of its own",
        "B has the NIS domain name {b}",
    ),
    words(
        "root.path",
        "B's root is {b}",
        "B names no root",
        "B has another root, so other files",
    ),
    words(
        "root.readonly",
        "B cannot write to its root mount",
        "B may write to its root mount",
        "B may write to its root mount if this is false",
    ),
    words(
        "annotations[]",
        "a word for others; berth-oci passes it to hooks and `state`",
        "a word for others that B does not pass on",
        "a word for others; berth-oci passes it to hooks and `state`",
    ),
    words(
        "process.args",
        "B runs {b}",
        "B names no program",
        "B runs another program, or the same with other arguments",
    ),
    words(
        "process.cwd",
        "B begins in {b}",
        "B begins nowhere, which is an error",
        "B begins in {b}",
    ),
    words(
        "process.env[]",
        "B's program sees the variable {key}",
        "B's program does not see the variable {key}",
        "B's program sees another value of {key}",
    ),
    words(
        "process.terminal",
        "B's program has a terminal",
        "B's program has no terminal, only pipes or files",
        "one has a terminal, the other not",
    ),
    words(
        "process.consoleSize",
        "B's terminal begins with a size",
        "B's terminal begins without a size",
        "B's terminal begins with another size",
    ),
    words(
        "process.user.uid",
        "B's program is user {b} instead of root",
        "B's program is root (0)",
        "B's program is user {b}",
    ),
    words(
        "process.user.gid",
        "B's program is of group {b} instead of root's",
        "B's program is of root's group (0)",
        "B's program is of group {b}",
    ),
    words(
        "process.user.additionalGids[]",
        "B's program may use what group {key} may",
        "B's program is not of group {key}",
        "the groups differ",
    ),
    words(
        "process.user.umask",
        "new files in B lose the permissions {b} (a decimal number)",
        "new files in B lose the permissions 022",
        "new files in B lose other permissions",
    ),
    words(
        "process.user.username",
        "only for other operating systems",
        "only for other operating systems",
        "only for other operating systems",
    ),
    words(
        "process.noNewPrivileges",
        "no program in B gains rights by an exec, also not by set-user-ID",
        "programs in B may gain rights by set-user-ID and file capabilities",
        "one forbids the gain of rights by an exec",
    ),
    words(
        "process.oomScoreAdj",
        "B is killed sooner when memory runs out the higher the number ({b}) is",
        "B keeps its caller's OOM score",
        "B is killed sooner when memory runs out if {b} is above {a}",
    ),
    words(
        "process.rlimits[].soft",
        "B has this limit in force: {b}",
        "B keeps its caller's limit {key}",
        "{key} is {b} in B, {a} in A",
    ),
    words(
        "process.rlimits[].hard",
        "B may raise {key} up to {b}",
        "B keeps its caller's limit {key}",
        "B may raise {key} up to {b}, A up to {a}",
    ),
    words(
        "process.apparmorProfile",
        "B is confined by the AppArmor profile {b}",
        "B is confined by no AppArmor profile",
        "B is confined by another AppArmor profile",
    ),
    words(
        "process.selinuxLabel",
        "B runs under the SELinux label {b}",
        "B runs under its caller's SELinux label",
        "B runs under another SELinux label",
    ),
    words(
        "process.scheduler",
        "B is scheduled by a policy of its own",
        "B is scheduled as its caller is",
        "B is scheduled differently",
    ),
    words(
        "process.ioPriority",
        "B's reads and writes have a priority of their own",
        "B's reads and writes have its caller's priority",
        "B's reads and writes have another priority",
    ),
    words(
        "process.execCPUAffinity",
        "programs added to B begin on other processors",
        "programs added to B begin on any processor",
        "programs added to B begin on other processors",
    ),
    words(
        "mounts[]",
        "B has a mount at {key}",
        "B has no such mount at {key}, and sees what the root has there",
        "the mount at {key} differs",
    ),
    words(
        "mounts[].source",
        "B mounts {b}",
        "B's mount names no source",
        "B sees {b} where A sees {a}",
    ),
    words(
        "mounts[].type",
        "B mounts a {b} at {key}",
        "B has nothing mounted at {key}, and sees what the root has there",
        "another kind of filesystem is mounted",
    ),
    words(
        "mounts[].options[]",
        "this mount has {key} in B",
        "this mount lacks {key} in B",
        "{key} is {b} in B and {a} in A",
    ),
    words(
        "mounts.order",
        "B has mounts and A has none",
        "B has no mounts",
        "a mount that comes later covers an earlier one at or above its place",
    ),
    words(
        "hooks",
        "the caller's programs run at this moment of B's life, with the caller's rights",
        "no program of the caller runs at this moment of B's life",
        "other programs of the caller run, or in another order",
    ),
    words(
        "linux.namespaces[]",
        "",
        "",
        "one has a new namespace, the other joins one, or they join different ones",
    ),
    words(
        "linux.devices[]",
        "B has the device node {key}",
        "B has no device node {key}",
        "the device node {key} differs",
    ),
    words(
        "linux.sysctl[]",
        "B's namespaces have {key} = {b}",
        "B's namespaces keep the kernel's default of {key}",
        "{key} is {b} in B",
    ),
    words(
        "linux.cgroupsPath",
        "B is accounted in the group {b}",
        "B is accounted in a group named by its id",
        "B is accounted in the group {b}; two containers of one group share its limits",
    ),
    words(
        "linux.rootfsPropagation",
        "mounts pass between B and the host as {b} says",
        "mounts of the host are seen in B, not the other way",
        "mounts pass between B and the host as {b} says",
    ),
    words(
        "linux.maskedPaths[]",
        "B sees nothing at {key}",
        "B sees what is at {key}",
        "the hidden paths differ",
    ),
    words(
        "linux.readonlyPaths[]",
        "B cannot write below {key}",
        "B may write below {key}, as far as its user may",
        "the read-only paths differ",
    ),
    words(
        "linux.mountLabel",
        "B's mounts have the SELinux label {b}",
        "B's mounts have no SELinux label of their own",
        "B's mounts have another SELinux label",
    ),
    words(
        "linux.uidMappings[]",
        "users of B from {key} on are other users of the host",
        "users from {key} on are not known in B",
        "users of B from {key} on are other users of the host",
    ),
    words(
        "linux.gidMappings[]",
        "groups of B from {key} on are other groups of the host",
        "groups from {key} on are not known in B",
        "groups of B from {key} on are other groups of the host",
    ),
    words(
        "linux.seccomp.defaultAction",
        "system calls that no rule names meet {b} in B",
        "B has no filter: it may make every system call",
        "system calls that no rule names meet {b} in B, {a} in A",
    ),
    words(
        "linux.seccomp.defaultErrnoRet",
        "system calls that no rule names fail with another errno",
        "system calls that no rule names fail with EPERM",
        "system calls that no rule names fail with another errno",
    ),
    words(
        "linux.seccomp.syscalls[]",
        "the filter treats {key} in B as {b} instead of its default",
        "the filter treats {key} in B by its default",
        "the filter treats {key} as {b} in B and {a} in A",
    ),
    words(
        "linux.seccomp.architectures[]",
        "programs of {key} are filtered by the same rules in B",
        "programs of {key} are killed in B where the machine could run them",
        "the architectures differ",
    ),
    words(
        "linux.seccomp",
        "B's filter is installed differently",
        "B's filter is installed differently",
        "B's filter is installed differently",
    ),
    words(
        "linux.resources.devices",
        "B may open other device nodes (the later rule wins)",
        "B may open only the device nodes that every container has",
        "B may open other device nodes (the later rule wins)",
    ),
    words(
        "linux.resources.memory.limit",
        "B is killed when it needs more than {b} bytes",
        "B may use all memory",
        "B may use {b} bytes, A {a}",
    ),
    words(
        "linux.resources.memory.swap",
        "memory and swap of B together end at {b} bytes",
        "B may use all swap",
        "memory and swap of B together end at {b} bytes",
    ),
    words(
        "linux.resources.memory.reservation",
        "B keeps {b} bytes when memory is short",
        "nothing is kept for B when memory is short",
        "B keeps {b} bytes when memory is short",
    ),
    words(
        "linux.resources.memory",
        "B's memory is managed differently",
        "B's memory is managed by the default",
        "B's memory is managed differently",
    ),
    words(
        "linux.resources.cpu.shares",
        "B's share of busy processors weighs {b} (1024 is the default)",
        "B's share of busy processors weighs 1024, the default",
        "B's share of busy processors weighs {b} instead of {a}",
    ),
    words(
        "linux.resources.cpu.quota",
        "B runs at most {b} µs in each period",
        "B's processor time has no limit",
        "B runs at most {b} µs in each period, A {a}",
    ),
    words(
        "linux.resources.cpu.period",
        "B's quota is for periods of {b} µs",
        "B's quota is for periods of 100000 µs, the default",
        "B's quota is for periods of {b} µs",
    ),
    words(
        "linux.resources.cpu.cpus",
        "B runs on the processors {b} only",
        "B runs on any processor",
        "B runs on the processors {b} only",
    ),
    words(
        "linux.resources.cpu.mems",
        "B's memory comes from the nodes {b} only",
        "B's memory comes from any node",
        "B's memory comes from the nodes {b} only",
    ),
    words(
        "linux.resources.cpu",
        "B is scheduled differently",
        "B is scheduled by the default",
        "B is scheduled differently",
    ),
    words(
        "linux.resources.pids.limit",
        "B may have {b} processes and threads at once",
        "B may have any number of processes",
        "B may have {b} processes and threads at once, A {a}",
    ),
    words(
        "linux.resources.hugepageLimits[]",
        "B may use {b} bytes of huge pages of {key}",
        "B may use any number of huge pages of {key}",
        "B may use {b} bytes of huge pages of {key}",
    ),
    words(
        "linux.resources.blockIO",
        "B's reads and writes of block devices are limited or weighted",
        "B's reads and writes of block devices are not limited here",
        "B's reads and writes of block devices have another limit or weight",
    ),
    words(
        "linux.resources.network",
        "B's packets are marked for the host's traffic control",
        "B's packets are not marked for the host's traffic control",
        "B's packets are marked differently",
    ),
    words(
        "linux.resources.unified[]",
        "the file {key} of B's version 2 cgroup holds {b}",
        "the file {key} of B's version 2 cgroup keeps its default",
        "the file {key} of B's version 2 cgroup holds {b}",
    ),
    words(
        "linux.resources",
        "B has a limit that A has not",
        "B lacks a limit that A has",
        "B has another limit",
    ),
    words(
        "linux.timeOffsets[]",
        "B's clock {key} is shifted",
        "B's clock {key} is the host's",
        "B's clock {key} is shifted differently",
    ),
    words(
        "linux.netDevices[]",
        "B takes the host's network device {key} away from it",
        "the network device {key} stays with the host",
        "the network device {key} is called differently in B",
    ),
    words(
        "linux.personality",
        "B's programs see another execution domain",
        "B's programs see the kernel's own execution domain",
        "B's programs see another execution domain",
    ),
    words(
        "linux.intelRdt",
        "B has its own share of cache and memory bandwidth",
        "B shares cache and memory bandwidth with all",
        "B has another share of cache and memory bandwidth",
    ),
    words(
        "linux.memoryPolicy",
        "B's memory is placed by a policy of its own",
        "B's memory is placed by the default policy",
        "B's memory is placed by another policy",
    ),
];

/// What a namespace is of.
const NAMESPACES: &[(&str, &str)] = &[
    (
        "pid",
        "sees the host's processes and may signal those of its user",
    ),
    (
        "network",
        "uses the host's network: its addresses, ports and abstract sockets",
    ),
    ("mount", "changes the host's mounts"),
    ("ipc", "uses the host's System V IPC and message queues"),
    (
        "uts",
        "has the host's name, and may change it with CAP_SYS_ADMIN",
    ),
    (
        "user",
        "has the host's user ids: root inside is root outside",
    ),
    ("cgroup", "sees the paths of the host's cgroups"),
    ("time", "has the host's clocks"),
];

/// What a capability allows: capabilities(7) in a line each.
const CAPABILITIES: &[(&str, &str)] = &[
    (
        "CAP_AUDIT_CONTROL",
        "change the rules of the kernel's audit log",
    ),
    ("CAP_AUDIT_READ", "read the kernel's audit log"),
    ("CAP_AUDIT_WRITE", "write to the kernel's audit log"),
    ("CAP_BLOCK_SUSPEND", "keep the machine from sleeping"),
    ("CAP_BPF", "load BPF programs into the kernel"),
    (
        "CAP_CHECKPOINT_RESTORE",
        "choose process numbers and freeze programs to disk",
    ),
    ("CAP_CHOWN", "give files to other users"),
    (
        "CAP_DAC_OVERRIDE",
        "read and write every file that it can reach",
    ),
    (
        "CAP_DAC_READ_SEARCH",
        "read every file that it can reach, and open files by handle",
    ),
    (
        "CAP_FOWNER",
        "act as the owner of every file that it can reach",
    ),
    (
        "CAP_FSETID",
        "keep set-user-ID bits on files that it changes",
    ),
    ("CAP_IPC_LOCK", "lock any amount of memory"),
    (
        "CAP_IPC_OWNER",
        "use all System V IPC objects of its IPC namespace",
    ),
    ("CAP_KILL", "signal processes of other users"),
    ("CAP_LEASE", "take leases on all files"),
    ("CAP_LINUX_IMMUTABLE", "make files immutable or append-only"),
    ("CAP_MAC_ADMIN", "change the rules of Smack"),
    ("CAP_MAC_OVERRIDE", "pass over the rules of Smack"),
    (
        "CAP_MKNOD",
        "make device nodes (opening them is a question of the device rules)",
    ),
    (
        "CAP_NET_ADMIN",
        "change addresses, routes and firewall of its network namespace",
    ),
    ("CAP_NET_BIND_SERVICE", "listen on ports below 1024"),
    (
        "CAP_NET_BROADCAST",
        "do nothing: the kernel does not use it",
    ),
    (
        "CAP_NET_RAW",
        "send any packet: ping, and also forged addresses",
    ),
    (
        "CAP_PERFMON",
        "watch the whole machine by performance counters",
    ),
    ("CAP_SETFCAP", "give capabilities to files"),
    ("CAP_SETGID", "become any group"),
    (
        "CAP_SETPCAP",
        "drop capabilities for good and change its inheritable ones",
    ),
    ("CAP_SETUID", "become any user"),
    ("CAP_SYSLOG", "read the kernel's log and its addresses"),
    (
        "CAP_SYS_ADMIN",
        "mount, join namespaces and do much else that only root of a machine does",
    ),
    ("CAP_SYS_BOOT", "reboot the machine or load another kernel"),
    (
        "CAP_SYS_CHROOT",
        "change its root directory and join mount namespaces",
    ),
    ("CAP_SYS_MODULE", "load and unload kernel modules"),
    (
        "CAP_SYS_NICE",
        "raise priorities and choose processors of other processes",
    ),
    ("CAP_SYS_PACCT", "switch process accounting on and off"),
    (
        "CAP_SYS_PTRACE",
        "look into and change every process that it sees",
    ),
    ("CAP_SYS_RAWIO", "use I/O ports and raw disk commands"),
    ("CAP_SYS_RESOURCE", "pass over quotas and raise hard limits"),
    ("CAP_SYS_TIME", "set the machine's clock"),
    ("CAP_SYS_TTY_CONFIG", "hang up terminals"),
    ("CAP_WAKE_ALARM", "wake the machine by a timer"),
];

/// A sentence on one difference.
pub fn of(pattern: &str, key: &str, a: &Option<Value>, b: &Option<Value>) -> String {
    if let Some(set) = pattern
        .strip_prefix("process.capabilities.")
        .and_then(|rest| rest.strip_suffix("[]"))
    {
        return of_capability(set, key, b.is_some());
    }
    if pattern == "linux.namespaces[]" && (a.is_none() || b.is_none()) {
        return of_namespace(key, b.is_some());
    }
    let begins = |words: &&Words| pattern.starts_with(words.pattern);
    let found = WORDS
        .iter()
        .filter(begins)
        .max_by_key(|words| words.pattern.len());
    let Some(words) = found else {
        return String::new();
    };
    let text = match (a, b) {
        (None, _) => words.added,
        (_, None) => words.removed,
        _ => words.changed,
    };
    let shown = |value: &Option<Value>| value.as_ref().map(plain).unwrap_or_default();
    let key = if key.is_empty() { pattern } else { key };
    text.replace("{key}", key)
        .replace("{a}", &shown(a))
        .replace("{b}", &shown(b))
}

fn of_capability(set: &str, name: &str, added: bool) -> String {
    let known = CAPABILITIES.iter().find(|(known, _)| *known == name);
    let what = known.map_or("use it, if the kernel knows it", |(_, what)| what);
    match (set, added) {
        ("effective", true) => format!("B may {what}"),
        ("effective", false) => format!("B may not {what}"),
        ("permitted", true) => format!("B may switch on what lets it {what}"),
        ("permitted", false) => format!("B cannot switch on what would let it {what}"),
        ("bounding", true) => {
            format!(
                "a program in B can gain by an exec (set-user-ID, file capabilities) what lets it {what}"
            )
        }
        ("bounding", false) => format!("no program in B can ever {what}"),
        ("ambient", true) => {
            format!("every program that B starts may {what}, also for an ordinary user")
        }
        ("ambient", false) => {
            format!("programs that B starts do not by themselves keep what lets them {what}")
        }
        (_, true) => format!("programs in B with matching file capabilities may {what}"),
        (_, false) => format!("file capabilities in B do not keep what lets a program {what}"),
    }
}

fn of_namespace(kind: &str, added: bool) -> String {
    let known = NAMESPACES.iter().find(|(known, _)| *known == kind);
    let what = known.map_or("shares the host's", |(_, what)| what);
    match added {
        false => format!("B {what}"),
        true => format!("B has its own {kind} namespace; A {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::CAPABILITIES;

    #[test]
    fn every_capability_of_the_kernel_has_words() {
        for capability in caps::all() {
            let name = capability.to_string();
            assert!(
                CAPABILITIES.iter().any(|(known, _)| *known == name),
                "{name} has no words"
            );
        }
    }
}
