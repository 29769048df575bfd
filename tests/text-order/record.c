/*
 * Which code of a program is executed: every instruction is a stop of ptrace(2).
 *
 * It follows the program's children too, each until it executes another program; the
 * first process may execute itself anew. What it adds to the file are the addresses, in
 * decimal and rounded down to 16, each once, and a line "end". The program must be
 * linked to fixed addresses below 64 MiB, as berth-oci is.
 *
 * usage: record FILE PROGRAM [ARGUMENT ...]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define GRAIN 16
#define GRAINS ((64UL << 20) / GRAIN)

#define MOST 64

static unsigned char executed[GRAINS];
static pid_t followed[MOST];
static size_t followed_count;

static void check(int failed, const char *what)
{
	if (failed) {
		fprintf(stderr, "record: %s: %s\n", what, strerror(errno));
		exit(125);
	}
}

/* A process that a signal has ended meanwhile is seen by waitpid. */
static void step(pid_t process, int signal)
{
	check(ptrace(PTRACE_SINGLESTEP, process, NULL, (long)signal) != 0 && errno != ESRCH, "step");
}

/* The signal that the process is to get when it goes on. */
static int look(pid_t process, int status)
{
	struct user_regs_struct registers;
	int signal = WSTOPSIG(status);

	if (ptrace(PTRACE_GETREGS, process, NULL, &registers) == 0 &&
	    registers.rip / GRAIN < GRAINS)
		executed[registers.rip / GRAIN] = 1;
	/* A step, an event, or the stop that a new process begins with. */
	return signal == SIGTRAP || signal == SIGSTOP ? 0 : signal;
}

/* Lets a process go that waits for something: a step that is pending would kill it. */
static void release(pid_t process)
{
	int status;

	if (kill(process, SIGSTOP) != 0)
		return;
	while (waitpid(process, &status, __WALL) == process && WIFSTOPPED(status)) {
		if (WSTOPSIG(status) == SIGSTOP) {
			check(ptrace(PTRACE_DETACH, process, NULL, 0L) != 0, "detach");
			return;
		}
		step(process, look(process, status));
	}
}

static void forget(pid_t process)
{
	for (size_t at = 0; at < followed_count; at++)
		if (followed[at] == process)
			followed[at] = followed[--followed_count];
}

static void remember(pid_t process)
{
	forget(process);
	check(followed_count == MOST, "so many processes");
	followed[followed_count++] = process;
}

static int follow(pid_t first)
{
	long options = PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE |
		       PTRACE_O_TRACEEXEC;
	int status;
	pid_t process;

	check(waitpid(first, &status, 0) != first, "waitpid");
	check(ptrace(PTRACE_SETOPTIONS, first, NULL, options) != 0, "follow");
	step(first, 0);
	for (;;) {
		process = waitpid(-1, &status, __WALL);
		check(process < 0, "waitpid");
		if (WIFSTOPPED(status)) {
			if (status >> 16 == PTRACE_EVENT_EXEC && process != first) {
				check(ptrace(PTRACE_DETACH, process, NULL, 0L) != 0, "detach");
				forget(process);
				continue;
			}
			if (process != first)
				remember(process);
			step(process, look(process, status));
			continue;
		}
		forget(process);
		if (process == first) {
			while (followed_count > 0)
				release(followed[--followed_count]);
			return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		}
	}
}

int main(int argc, char **argv)
{
	FILE *file;
	pid_t first;
	int code;

	if (argc < 3) {
		fprintf(stderr, "usage: record FILE PROGRAM [ARGUMENT ...]\n");
		return 2;
	}
	first = fork();
	check(first < 0, "fork");
	if (first == 0) {
		check(ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0, "traceme");
		execv(argv[2], argv + 2);
		check(1, argv[2]);
	}
	code = follow(first);
	file = fopen(argv[1], "a");
	check(file == NULL, argv[1]);
	for (unsigned long grain = 0; grain < GRAINS; grain++)
		if (executed[grain])
			fprintf(file, "%lu\n", grain * GRAIN);
	fprintf(file, "end\n");
	check(fclose(file) != 0, argv[1]);
	return code;
}
