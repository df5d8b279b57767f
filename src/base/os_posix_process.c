/* os_posix_process.c: the program's own place, and other programs run as children: no shell, so no
 * file name can be taken for a command. SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

bool os_program_folder(char path[1024]) {
    ssize_t n = readlink("/proc/self/exe", path, 1023);
    if (n <= 0 || n >= 1023) return false;
    path[n] = 0;
    char *slash = strrchr(path, '/');
    if (!slash || slash == path) return false;
    *slash = 0;
    return true;
}

static int silence(posix_spawn_file_actions_t *a) {
    int e = posix_spawn_file_actions_addopen(a, 0, "/dev/null", O_RDONLY, 0);
    for (int fd = 1; fd <= 2 && !e; fd++)
        e = posix_spawn_file_actions_addopen(a, fd, "/dev/null", O_WRONLY, 0);
    return e;
}

status os_run(const char *const *argv, int *code) {
    status st = OK;
    posix_spawn_file_actions_t actions;
    pid_t child = 0;
    int how = 0, e = posix_spawn_file_actions_init(&actions);
    if (e) return fail(E_HOST_MEMORY, "%s cannot be started: %s", argv[0], strerror(e));
    e = silence(&actions);
    /* the prototype lacks a const that POSIX promises: argv is not written to */
    if (!e) e = posix_spawnp(&child, argv[0], &actions, NULL, (char *const *)(uintptr_t)argv, environ);
    *code = 127;
    if (e == ENOENT) goto out;
    if (e) TRY(fail(E_IO, "%s cannot be started: %s", argv[0], strerror(e)));
    while (waitpid(child, &how, 0) < 0)
        if (errno != EINTR) TRY(fail(E_IO, "%s: %s", argv[0], strerror(errno)));
    *code = WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
out:
    posix_spawn_file_actions_destroy(&actions);
    return st;
}
