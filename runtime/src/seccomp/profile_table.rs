//! The default profile's calls, by what they are for.
//!
//! Names of all architectures and kernels stand together: one that a machine
//! does not know is ignored there. The 32-bit forms (`chown32`, `futex_time64`)
//! stand beside the calls that they are forms of.

use oci_spec::runtime::Capability;

/// Calls that every container may make: a title, and the names in one text.
pub(crate) const ALLOWED: &[(&str, &str)] = &[
    (
        "a process's life: start, end, wait",
        "execve execveat exit exit_group fork vfork wait4 waitid waitpid restart_syscall pause \
         set_tid_address set_robust_list get_robust_list rseq membarrier process_mrelease \
         pidfd_open pidfd_send_signal",
    ),
    (
        "who am I: ids, groups, sessions",
        "getpid getppid gettid getpgid getpgrp getsid setpgid setsid getuid getuid32 geteuid \
         geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32 getresgid \
         getresgid32 getgroups getgroups32 setuid setuid32 setgid setgid32 setreuid setreuid32 \
         setregid setregid32 setresuid setresuid32 setresgid setresgid32 setfsuid setfsuid32 \
         setfsgid setfsgid32 setgroups setgroups32 capget capset prctl seccomp umask",
    ),
    (
        "memory",
        "brk mmap mmap2 munmap mremap mprotect madvise mincore mlock mlock2 mlockall munlock \
         munlockall msync remap_file_pages memfd_create memfd_secret mseal map_shadow_stack \
         pkey_alloc pkey_free pkey_mprotect",
    ),
    (
        "files: open, close, duplicate",
        "open openat openat2 creat close close_range dup dup2 dup3 fcntl fcntl64 flock pipe \
         pipe2 eventfd eventfd2 ioctl name_to_handle_at",
    ),
    (
        "files: read and write",
        "read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek _llseek \
         readahead fadvise64 fadvise64_64 arm_fadvise64_64 fallocate truncate truncate64 \
         ftruncate ftruncate64 sendfile sendfile64 splice tee vmsplice copy_file_range sync \
         syncfs fsync fdatasync sync_file_range sync_file_range2 arm_sync_file_range cachestat",
    ),
    (
        "files: names, directories, links",
        "getcwd chdir fchdir mkdir mkdirat rmdir getdents getdents64 link linkat unlink \
         unlinkat rename renameat renameat2 symlink symlinkat readlink readlinkat mknod mknodat",
    ),
    (
        "files: status, owner, mode, times, attributes",
        "stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat statx statfs statfs64 \
         fstatfs fstatfs64 statmount listmount access faccessat faccessat2 chmod fchmod \
         fchmodat fchmodat2 chown chown32 fchown fchown32 lchown lchown32 fchownat utime utimes \
         futimesat utimensat utimensat_time64 getxattr lgetxattr fgetxattr getxattrat setxattr \
         lsetxattr fsetxattr setxattrat listxattr llistxattr flistxattr listxattrat removexattr \
         lremovexattr fremovexattr removexattrat",
    ),
    (
        "waiting for many descriptors",
        "poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64 epoll_create \
         epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait \
         epoll_pwait2 inotify_init inotify_init1 inotify_add_watch inotify_rm_watch \
         fanotify_mark",
    ),
    (
        // io_uring is left out: its operations pass no filter, and it has been
        // the way out of many sandboxes.
        "asynchronous reading and writing, the old way",
        "io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents \
         io_pgetevents_time64",
    ),
    (
        // socket itself has a condition, see the profile.
        "network",
        "socketpair socketcall bind listen accept accept4 connect shutdown getsockname \
         getpeername getsockopt setsockopt send sendto sendmsg sendmmsg recv recvfrom recvmsg \
         recvmmsg recvmmsg_time64",
    ),
    (
        "signals",
        "kill tkill tgkill sigaltstack sigprocmask sigreturn signalfd signalfd4 rt_sigaction \
         rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend \
         rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo",
    ),
    (
        // Asking for the time and waiting for it. Of those that set clocks,
        // adjtimex and clock_adjtime also only ask; the kernel wants
        // CAP_SYS_TIME for more.
        "time and timers",
        "time times gettimeofday clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
         clock_nanosleep clock_nanosleep_time64 nanosleep adjtimex clock_adjtime \
         clock_adjtime64 alarm getitimer setitimer timer_create timer_delete timer_getoverrun \
         timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create \
         timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64",
    ),
    (
        "locks between threads",
        "futex futex_time64 futex_waitv futex_wake futex_wait futex_requeue",
    ),
    (
        "scheduling and limits",
        "sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr \
         sched_getparam sched_setparam sched_getscheduler sched_setscheduler \
         sched_get_priority_max sched_get_priority_min sched_rr_get_interval \
         sched_rr_get_interval_time64 getpriority setpriority ioprio_get ioprio_set getrlimit \
         ugetrlimit setrlimit prlimit64 getrusage getcpu",
    ),
    (
        "System V and POSIX inter-process communication",
        "ipc msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat \
         shmctl shmdt shmget mq_getsetattr mq_notify mq_open mq_timedreceive \
         mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink",
    ),
    (
        // They can only take rights away from the caller.
        "sandboxes of one's own",
        "landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    ),
    (
        // Since Linux 4.8 a tracer cannot lead its child past a filter, and the
        // kernel allows only processes of the same user namespace and rights.
        "looking into one's own processes",
        "ptrace process_vm_readv process_vm_writev uretprobe",
    ),
    (
        "the machine: names, figures, random numbers",
        "uname sysinfo getrandom",
    ),
    (
        "what single architectures need for threads and old programs",
        "arch_prctl modify_ldt get_thread_area set_thread_area breakpoint cacheflush set_tls \
         get_tls riscv_flush_icache riscv_hwprobe s390_pci_mmio_read s390_pci_mmio_write \
         s390_runtime_instr swapcontext switch_endian",
    ),
];

/// Calls that come with a capability.
pub(crate) const WITH_CAPABILITY: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie \
         lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount \
         open_tree open_tree_attr perf_event_open pivot_root quotactl quotactl_fd setdomainname \
         sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (
        Capability::SysModule,
        "delete_module init_module finit_module",
    ),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise"),
    (Capability::SysRawio, "iopl ioperm"),
    (
        Capability::SysTime,
        "settimeofday stime clock_settime clock_settime64",
    ),
    (Capability::SysTtyConfig, "vhangup"),
    (
        Capability::SysNice,
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];
