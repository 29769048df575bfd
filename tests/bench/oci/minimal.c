/*
 * The floor that no container runtime can go below: only the kernel's calls.
 *
 * It makes what the default spec asks for (new pid, mount, network, IPC, UTS and
 * cgroup namespaces; a root of its own with /proc, /dev, /dev/pts, /dev/shm,
 * /dev/mqueue and /sys; masked and read-only paths) and runs a program in it.
 * It reads no configuration, checks nothing and cleans nothing up but its child.
 *
 * usage: minimal ROOTFS PROGRAM [ARGUMENT ...]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static void check(int failed, const char *what)
{
	if (failed) {
		fprintf(stderr, "minimal: %s: %s\n", what, strerror(errno));
		_exit(125);
	}
}

static void mount_or_die(const char *source, const char *target, const char *type,
			 unsigned long flags, const char *data)
{
	check(mount(source, target, type, flags, data) != 0, target);
}

static void make_device(const char *path, unsigned int major_number, unsigned int minor_number)
{
	check(mknod(path, S_IFCHR | 0666, makedev(major_number, minor_number)) != 0, path);
}

static void make_root(const char *rootfs)
{
	static const char *masked_files[] = {
		"proc/kcore", "proc/keys", "proc/latency_stats", "proc/timer_list", "proc/sched_debug",
	};
	static const char *read_only[] = {
		"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger",
	};
	mount_or_die(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
	mount_or_die(rootfs, rootfs, NULL, MS_BIND | MS_REC, NULL);
	check(chdir(rootfs) != 0, rootfs);
	mount_or_die("proc", "proc", "proc", 0, NULL);
	mount_or_die("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
	check(mkdir("dev/pts", 0755) != 0, "dev/pts");
	check(mkdir("dev/shm", 0755) != 0, "dev/shm");
	check(mkdir("dev/mqueue", 0755) != 0, "dev/mqueue");
	mount_or_die("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
		     "newinstance,ptmxmode=0666,mode=0620,gid=5");
	mount_or_die("shm", "dev/shm", "tmpfs", MS_NOSUID | MS_NOEXEC | MS_NODEV,
		     "mode=1777,size=65536k");
	mount_or_die("mqueue", "dev/mqueue", "mqueue", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL);
	mount_or_die("sysfs", "sys", "sysfs", MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RDONLY, NULL);
	make_device("dev/null", 1, 3);
	make_device("dev/zero", 1, 5);
	make_device("dev/full", 1, 7);
	make_device("dev/tty", 5, 0);
	make_device("dev/random", 1, 8);
	make_device("dev/urandom", 1, 9);
	check(symlink("/proc/self/fd", "dev/fd") != 0, "dev/fd");
	check(symlink("pts/ptmx", "dev/ptmx") != 0, "dev/ptmx");
	for (size_t i = 0; i < sizeof(masked_files) / sizeof(*masked_files); i++)
		if (access(masked_files[i], F_OK) == 0)
			mount_or_die("/dev/null", masked_files[i], NULL, MS_BIND, NULL);
	mount_or_die("tmpfs", "sys/firmware", "tmpfs", MS_RDONLY, NULL);
	for (size_t i = 0; i < sizeof(read_only) / sizeof(*read_only); i++)
		if (access(read_only[i], F_OK) == 0) {
			mount_or_die(read_only[i], read_only[i], NULL, MS_BIND | MS_REC, NULL);
			mount_or_die(NULL, read_only[i], NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL);
		}
	check(syscall(SYS_pivot_root, ".", ".") != 0, "pivot_root");
	check(umount2(".", MNT_DETACH) != 0, "umount2");
	mount_or_die(NULL, "/", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL);
	check(chdir("/") != 0, "/");
}

int main(int argc, char **argv)
{
	struct clone_args arguments = {
		.flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
			 CLONE_NEWCGROUP,
		.exit_signal = SIGCHLD,
	};
	int status;
	pid_t child;

	if (argc < 3) {
		fprintf(stderr, "usage: minimal ROOTFS PROGRAM [ARGUMENT ...]\n");
		return 2;
	}
	child = syscall(SYS_clone3, &arguments, sizeof(arguments));
	check(child < 0, "clone3");
	if (child == 0) {
		check(setsid() < 0, "setsid");
		check(sethostname("minimal", 7) != 0, "sethostname");
		make_root(argv[1]);
		check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0, "no_new_privs");
		execv(argv[2], argv + 2);
		check(1, argv[2]);
	}
	check(waitpid(child, &status, 0) != child, "waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
