/*
 * peak GROUP PROGRAM [ARGUMENT...]: runs a program in a cgroup and prints its peak
 * resident memory in KiB, as wait4(2) tells it.
 *
 * A small program for it, because the kernel counts what a process was before its
 * execve(2) too: below a large parent everybody would have the parent's peak.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void become(const char *group, char **program)
{
	int entrance = open(group, O_WRONLY | O_CLOEXEC);
	int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (entrance < 0 || write(entrance, "0", 1) != 1 || nothing < 0)
		_exit(126);
	/* A created container keeps its streams, and the reader of ours waits for its end. */
	for (int stream = 0; stream < 3; stream++)
		dup2(nothing, stream);
	execvp(program[0], program);
	_exit(127);
}

int main(int count, char **words)
{
	struct rusage usage;
	int status;
	pid_t child;

	if (count < 3)
		return 2;
	child = fork();
	if (child == 0)
		become(words[1], words + 2);
	if (child < 0 || wait4(child, &status, 0, &usage) != child)
		return 1;
	printf("%ld\n", usage.ru_maxrss);
	return status != 0;
}
