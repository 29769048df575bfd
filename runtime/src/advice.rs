//! What to do about a failure: a table from stage, call and errno to advice.
//!
//! An errno is one number for many causes; which of them it is follows from the
//! stage and the call. The table holds what is nearly always the cause there,
//! and says what can be done. Where a look at a file tells the cause for certain
//! (a missing interpreter, another machine's program), `advice::program` looks.
//!
//! Advice stands behind the error, after a semicolon, and never changes its
//! words: callers such as podman look for some of them.

/// Why a program that was found does not run.
pub mod program;

use nix::errno::Errno;

/// Advice for one kind of failure.
#[derive(Debug, Clone, Copy)]
pub struct Advice {
    /// Stages in which it holds; none: in every one, and outside of them.
    pub stages: &'static [&'static str],
    /// How the call begins, arguments included; empty: any call.
    pub call: &'static str,
    /// A text that must be among the call's arguments; empty: any.
    pub with: &'static str,
    /// What the kernel answered.
    pub errno: Errno,
    /// What to do, a clause after a semicolon.
    pub text: &'static str,
}

const fn advice(
    stages: &'static [&'static str],
    (call, with): (&'static str, &'static str),
    errno: Errno,
    text: &'static str,
) -> Advice {
    Advice {
        stages,
        call,
        with,
        errno,
        text,
    }
}

const STATE: &[&str] = &["reserve-id", "record-init", "publish-state"];
const CLONE: &[&str] = &["clone-init"];
const GROUPS: &[&str] = &["create-v2", "create-v1", "join-cgroup"];
const MOUNTS: &[&str] = &["bind-root", "mount-tree", "mount-rest"];

/// The first row that fits speaks.
pub const TABLE: &[Advice] = &[
    // The container's folder.
    advice(
        STATE,
        ("", ""),
        Errno::EROFS,
        "the state's folder is on a read-only filesystem: choose another by --root, a tmpfs such as /run is best",
    ),
    advice(
        STATE,
        ("", ""),
        Errno::ENOSPC,
        "the filesystem of the state's folder is full, or has no inodes left (df -h, df -i): free some or choose another by --root",
    ),
    advice(
        STATE,
        ("", ""),
        Errno::EDQUOT,
        "the quota of the state's folder is used up: choose another by --root",
    ),
    advice(
        STATE,
        ("mkdir", ""),
        Errno::EACCES,
        "only the owner of the state's folder may make containers in it: be root, or choose a folder of your own by --root",
    ),
    advice(
        STATE,
        ("mkdir", ""),
        Errno::ENOTDIR,
        "a part of --root is a file: choose a folder",
    ),
    // Init.
    advice(
        CLONE,
        ("clone3", "CLONE_NEWUSER"),
        Errno::EPERM,
        "new user namespaces are forbidden here: see /proc/sys/kernel/unprivileged_userns_clone, /proc/sys/kernel/apparmor_restrict_unprivileged_userns, or be outside of a chroot",
    ),
    advice(
        CLONE,
        ("clone3", ""),
        Errno::EPERM,
        "new namespaces need CAP_SYS_ADMIN: be root, or put a user namespace with mappings into config.json; within a container its seccomp profile may forbid it too",
    ),
    advice(
        CLONE,
        ("clone3", ""),
        Errno::ENOSPC,
        "the limit of namespaces is reached: raise /proc/sys/user/max_*_namespaces, or end containers that are not needed (lsns shows who has them)",
    ),
    advice(
        CLONE,
        ("clone3", ""),
        Errno::EUSERS,
        "user namespaces are nested too deep, at most 32",
    ),
    advice(
        CLONE,
        ("clone3", ""),
        Errno::EAGAIN,
        "no more processes are allowed: see RLIMIT_NPROC (ulimit -u), pids.max of the caller's cgroup, and /proc/sys/kernel/pid_max",
    ),
    advice(
        CLONE,
        ("clone3", ""),
        Errno::ENOMEM,
        "the kernel has no memory for a process, or the pid namespace that is joined has ended",
    ),
    advice(
        CLONE,
        ("clone3", ""),
        Errno::EINVAL,
        "this kernel lacks a kind of namespace that is asked for: ls /proc/self/ns shows those it has",
    ),
    advice(
        CLONE,
        ("clone3", ""),
        Errno::EBUSY,
        "the version 2 group hands controllers to groups inside it, so no process may be in it itself: choose another linux.cgroupsPath",
    ),
    advice(
        CLONE,
        ("clone3", ""),
        Errno::EOPNOTSUPP,
        "the version 2 group is in a threaded or invalid subtree: choose another linux.cgroupsPath",
    ),
    advice(
        &["join-spaces", "clone-init"],
        ("open", ""),
        Errno::ENOENT,
        "the namespace's file is not there: its owner has ended, or never bound it (ip netns list shows those of networks)",
    ),
    advice(
        &["join-spaces", "clone-init"],
        ("setns", ""),
        Errno::EINVAL,
        "the file is no namespace of that kind, or has ended",
    ),
    advice(
        &["join-spaces", "clone-init"],
        ("setns", ""),
        Errno::EPERM,
        "joining a namespace needs CAP_SYS_ADMIN in the user namespace that owns it",
    ),
    // Groups.
    advice(
        GROUPS,
        ("write", "cpuset.cpus"),
        Errno::EINVAL,
        "a processor is named that is not online or not in the parent group's cpuset.cpus (lscpu -e shows those of the machine)",
    ),
    advice(
        GROUPS,
        ("write", "cpuset.cpus"),
        Errno::ERANGE,
        "a processor is named that the kernel cannot count to (lscpu -e shows those of the machine)",
    ),
    advice(
        GROUPS,
        ("write", "cpuset.mems"),
        Errno::EINVAL,
        "a memory node is named that is not there or not in the parent group's cpuset.mems (numactl -H shows those of the machine)",
    ),
    advice(
        GROUPS,
        ("write", "cpuset."),
        Errno::EACCES,
        "the parent group's cpuset does not have what is asked for",
    ),
    advice(
        GROUPS,
        ("write", "cpuset."),
        Errno::EBUSY,
        "a cpuset with processes in it cannot become empty",
    ),
    advice(
        GROUPS,
        ("write", "cgroup.procs"),
        Errno::ENOSPC,
        "the cpuset of the group has no processors or no memory nodes: give it some by linux.resources.cpu.cpus and .mems",
    ),
    advice(
        GROUPS,
        ("write", "tasks"),
        Errno::ENOSPC,
        "the cpuset of the group has no processors or no memory nodes: give it some by linux.resources.cpu.cpus and .mems",
    ),
    advice(
        GROUPS,
        ("write", "cgroup.subtree_control"),
        Errno::EBUSY,
        "a group with processes in it cannot hand controllers on (cgroup-v2.rst, \"no internal processes\"): move them into a group inside it, or choose another linux.cgroupsPath",
    ),
    advice(
        GROUPS,
        ("write", "cgroup.subtree_control"),
        Errno::ENOENT,
        "the parent group does not have that controller to hand on: switch it on in its cgroup.subtree_control first",
    ),
    advice(
        GROUPS,
        ("write", "cgroup.procs"),
        Errno::EBUSY,
        "the group hands controllers on, so no process may be in it itself: choose another linux.cgroupsPath",
    ),
    advice(
        GROUPS,
        ("write", "cpu.rt_runtime_us"),
        Errno::EINVAL,
        "a group has real-time time only if its parent has as much: raise cpu.rt_runtime_us there first",
    ),
    advice(
        GROUPS,
        ("write", "memory."),
        Errno::EBUSY,
        "more memory is in use than the new limit allows",
    ),
    advice(
        GROUPS,
        ("write", "memory.memsw"),
        Errno::EINVAL,
        "the limit of memory and swap together cannot be below that of memory: raise linux.resources.memory.swap",
    ),
    advice(
        GROUPS,
        ("write", ""),
        Errno::EINVAL,
        "the controller does not take that value: docs/cgroups.md has the range of each",
    ),
    advice(
        GROUPS,
        ("write", ""),
        Errno::ERANGE,
        "the value is out of the controller's range: docs/cgroups.md has the range of each",
    ),
    advice(
        GROUPS,
        ("write", ""),
        Errno::ENODEV,
        "there is no block device of that number: lsblk shows major and minor",
    ),
    advice(
        GROUPS,
        ("write", ""),
        Errno::EPERM,
        "the parent group has less than that, or is not ours to change",
    ),
    advice(
        GROUPS,
        ("open", ""),
        Errno::ENOENT,
        "this kernel has no such file, or the controller is not switched on for the group",
    ),
    advice(
        GROUPS,
        ("mkdir", ""),
        Errno::EAGAIN,
        "an ancestor's cgroup.max.descendants or cgroup.max.depth is reached",
    ),
    advice(
        GROUPS,
        ("mkdir", ""),
        Errno::ENOSPC,
        "the kernel has no number left for another group (65535 of version 1): remove empty ones",
    ),
    advice(
        GROUPS,
        ("mkdir", ""),
        Errno::EROFS,
        "the cgroup filesystem is mounted read-only, as within a container: mount it writable, or choose --cgroup-manager disabled",
    ),
    advice(
        GROUPS,
        ("mkdir", ""),
        Errno::EACCES,
        "the parent group is not ours: be root, have it delegated, or choose --cgroup-manager disabled",
    ),
    advice(
        GROUPS,
        ("mkdir", ""),
        Errno::EPERM,
        "the parent group is not ours: be root, have it delegated, or choose --cgroup-manager disabled",
    ),
    // Names, parameters, limits.
    advice(
        &["set-names"],
        ("", ""),
        Errno::EINVAL,
        "a host name has at most 64 bytes",
    ),
    advice(
        &["set-names"],
        ("", ""),
        Errno::EPERM,
        "naming needs CAP_SYS_ADMIN in the user namespace that owns the UTS namespace",
    ),
    advice(
        &["set-sysctls"],
        ("", ""),
        Errno::ENOENT,
        "this kernel has no such parameter, or its module is not loaded",
    ),
    advice(
        &["set-sysctls"],
        ("", ""),
        Errno::EINVAL,
        "the parameter does not take that value",
    ),
    advice(
        &["set-limits"],
        ("", ""),
        Errno::EPERM,
        "raising a hard limit needs CAP_SYS_RESOURCE, and RLIMIT_NOFILE ends at /proc/sys/fs/nr_open",
    ),
    advice(
        &["new-session"],
        ("", "oom_score_adj"),
        Errno::EACCES,
        "making the score smaller than the caller's needs CAP_SYS_RESOURCE",
    ),
    // Mounts.
    advice(
        MOUNTS,
        ("fsopen", ""),
        Errno::ENODEV,
        "this kernel has no such filesystem: /proc/filesystems lists those it has, modprobe may load it",
    ),
    advice(
        MOUNTS,
        ("fsconfig", "SET_"),
        Errno::EINVAL,
        "the filesystem does not know that option or its value; words for the mount itself, such as ro, are in mount(8)",
    ),
    advice(
        MOUNTS,
        ("fsconfig", "CREATE"),
        Errno::EBUSY,
        "the filesystem or its device is mounted elsewhere with other options",
    ),
    advice(
        MOUNTS,
        ("fsconfig", "CREATE"),
        Errno::EPERM,
        "a new proc or sysfs within a user namespace needs the pid or network namespace to be new too, and an unmasked one outside: bind the host's instead",
    ),
    advice(
        MOUNTS,
        ("fsconfig", ""),
        Errno::ENOENT,
        "the device or path that the mount names does not exist",
    ),
    advice(
        MOUNTS,
        ("fsconfig", ""),
        Errno::EINVAL,
        "the filesystem does not take these options together",
    ),
    advice(
        MOUNTS,
        ("open_tree", ""),
        Errno::ENOENT,
        "the source of a bind must exist on the host before the container is made",
    ),
    advice(
        MOUNTS,
        ("open", ""),
        Errno::ENOENT,
        "the source of a bind must exist on the host before the container is made",
    ),
    advice(
        MOUNTS,
        ("open_tree", ""),
        Errno::EINVAL,
        "what lies in another mount namespace, or is unbindable, cannot be bound",
    ),
    advice(
        MOUNTS,
        ("open_tree", ""),
        Errno::EPERM,
        "binding needs CAP_SYS_ADMIN in the user namespace that owns the mounts",
    ),
    advice(
        MOUNTS,
        ("move_mount", ""),
        Errno::EINVAL,
        "a parent of the place is a shared mount, or the mount is below itself",
    ),
    advice(
        MOUNTS,
        ("move_mount", ""),
        Errno::ENOTDIR,
        "a directory can be mounted only on a directory, and a file only on a file",
    ),
    advice(
        MOUNTS,
        ("mount_setattr", ""),
        Errno::EPERM,
        "flags that a mount of another user namespace has, such as ro or nosuid, cannot be taken from it",
    ),
    advice(
        MOUNTS,
        ("mount_setattr", ""),
        Errno::EINVAL,
        "two of the attributes exclude each other, or the filesystem cannot be id-mapped",
    ),
    advice(
        MOUNTS,
        ("", ""),
        Errno::EROFS,
        "the place of a mount does not exist and cannot be made, for the root is on a read-only filesystem: make it in the image",
    ),
    advice(
        MOUNTS,
        ("", ""),
        Errno::ENOSPC,
        "the limit of mounts (/proc/sys/fs/mount-max) is reached, or the disk that holds the root is full",
    ),
    advice(
        MOUNTS,
        ("", ""),
        Errno::ELOOP,
        "a symbolic link stands where none may be followed: have the image changed, or mount elsewhere",
    ),
    advice(
        &["make-devices"],
        ("mknod", ""),
        Errno::EPERM,
        "device nodes need CAP_MKNOD in the machine's own user namespace, and the caller's cgroup must allow making them",
    ),
    advice(
        &["make-devices", "mask-paths"],
        ("", ""),
        Errno::EROFS,
        "/dev is on a read-only filesystem: mount a tmpfs at /dev, as `berth-oci spec` does",
    ),
    advice(
        &["enter-root"],
        ("pivot_root", ""),
        Errno::EINVAL,
        "the machine's root is a ramfs, from which nobody can pivot: use --no-pivot",
    ),
    // The program.
    advice(
        &["open-console"],
        ("", "ptmx"),
        Errno::ENOENT,
        "a terminal needs devpts at /dev/pts: add the mount as `berth-oci spec` has it",
    ),
    advice(
        &["enter-cwd"],
        ("", ""),
        Errno::ENOENT,
        "process.cwd must be a directory in the image or one of the mounts",
    ),
    advice(
        &["enter-cwd"],
        ("", ""),
        Errno::ENOTDIR,
        "process.cwd must be a directory",
    ),
    advice(
        &["enter-cwd"],
        ("", ""),
        Errno::EACCES,
        "process.user may not enter process.cwd: give the directory to it, or choose another",
    ),
    advice(
        &["become-user"],
        ("", ""),
        Errno::EINVAL,
        "the user namespace does not know that user or group: extend linux.uidMappings and linux.gidMappings",
    ),
    advice(
        &["become-user"],
        ("", ""),
        Errno::EPERM,
        "a capability cannot be had that the caller has not: take it out of process.capabilities, or be root",
    ),
    advice(
        &["find-program"],
        ("", ""),
        Errno::ENOENT,
        "process.args names it: is it in the image, and in a folder of PATH of process.env?",
    ),
    advice(
        &["find-program"],
        ("", ""),
        Errno::EACCES,
        "it is there, but process.user may not execute it: chmod +x, or give it to that user; a mount with noexec forbids it too",
    ),
    advice(
        &["find-program"],
        ("", ""),
        Errno::EISDIR,
        "process.args[0] is a directory: name the program in it",
    ),
    advice(
        &["filter-calls"],
        ("", ""),
        Errno::EACCES,
        "a filter without CAP_SYS_ADMIN needs process.noNewPrivileges to be true",
    ),
    advice(
        &["filter-calls"],
        ("", ""),
        Errno::EINVAL,
        "this kernel does not know an action or flag of the filter: see /proc/sys/kernel/seccomp/actions_avail",
    ),
    advice(
        &["exec-program"],
        ("execve", ""),
        Errno::E2BIG,
        "arguments and environment are too long together: at most a quarter of RLIMIT_STACK, and 128 KiB each",
    ),
    advice(
        &["exec-program"],
        ("execve", ""),
        Errno::ETXTBSY,
        "somebody has the program open for writing",
    ),
    advice(
        &["exec-program"],
        ("execve", ""),
        Errno::ENOMEM,
        "the memory limit is too small for the program to be loaded: raise linux.resources.memory.limit",
    ),
    advice(
        &["exec-program"],
        ("execve", ""),
        Errno::EPERM,
        "an administrator's policy, a filter or noNewPrivileges with file capabilities forbids it",
    ),
    advice(
        &["exec-program"],
        ("execve", ""),
        Errno::EAGAIN,
        "the user has more processes than RLIMIT_NPROC allows",
    ),
    // Files that the call names, before any stage.
    advice(
        &[],
        ("config.json", ""),
        Errno::ENOENT,
        "--bundle names a folder with a config.json (default: the working directory); `berth-oci spec` writes one to begin with",
    ),
    advice(
        &[],
        ("rootfs", ""),
        Errno::ENOENT,
        "unpack an image's files there, or name another folder in root.path",
    ),
    advice(
        &[],
        ("rootfs", ""),
        Errno::ENOTDIR,
        "root.path must be a folder with an image's files",
    ),
    advice(
        &[],
        ("connect", ""),
        Errno::ENOENT,
        "the caller must listen on the socket before the container is made",
    ),
    advice(
        &[],
        ("connect", ""),
        Errno::ECONNREFUSED,
        "nobody listens on the socket",
    ),
    advice(
        &[],
        ("connect", ""),
        Errno::ENAMETOOLONG,
        "the path of a unix socket has at most 107 bytes: choose a shorter one, such as in /run",
    ),
    // In every stage.
    advice(
        &[],
        ("", ""),
        Errno::EMFILE,
        "this process has too many files open: raise RLIMIT_NOFILE (ulimit -n)",
    ),
    advice(
        &[],
        ("", ""),
        Errno::ENFILE,
        "the machine has too many files open: raise /proc/sys/fs/file-max",
    ),
    advice(
        &[],
        ("", ""),
        Errno::ENOSYS,
        "this kernel is too old for the call, or a seccomp profile around us hides it: Linux 5.12 or later is needed",
    ),
    advice(
        &[],
        ("", ""),
        Errno::EDQUOT,
        "a quota of the user is used up",
    ),
    advice(
        &[],
        ("", ""),
        Errno::ENOMEM,
        "the kernel has no memory left, or the memory limit of the caller's cgroup is reached",
    ),
];

/// What to do about a call that failed in a stage; an empty stage is none.
pub fn find(stage: &str, call: &str, errno: Errno) -> Option<&'static str> {
    let fits = |row: &&Advice| {
        row.errno == errno
            && (row.stages.is_empty() || row.stages.contains(&stage))
            && call.starts_with(row.call)
            && call.contains(row.with)
    };
    TABLE.iter().find(fits).map(|row| row.text)
}

#[cfg(test)]
mod tests {
    use super::{Errno, TABLE, find};

    #[test]
    fn every_row_is_of_stages_that_there_are_and_can_speak() {
        for row in TABLE {
            for stage in row.stages {
                assert!(crate::stages::is_known(stage), "{stage}");
            }
            let stage = row.stages.first().copied().unwrap_or("");
            let call = format!("{}({})", row.call, row.with);
            let call = if row.call.is_empty() { row.with } else { &call };
            let found = find(stage, call, row.errno);
            assert!(found.is_some(), "{row:?}");
            assert!(!row.text.ends_with('.'), "{row:?}");
        }
    }

    #[test]
    fn the_nearest_row_speaks() {
        let found = find(
            "create-v1",
            "write(\"/sys/fs/cgroup/cpuset/c/cpuset.cpus\", \"99\")",
            Errno::EINVAL,
        );
        assert!(found.is_some_and(|text| text.contains("not online")));
        let found = find("clone-init", "clone3(CLONE_NEWNS)", Errno::EPERM);
        assert!(found.is_some_and(|text| text.contains("CAP_SYS_ADMIN")));
        assert_eq!(find("clone-init", "clone3(CLONE_NEWNS)", Errno::EIO), None);
    }
}
