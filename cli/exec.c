/*
 * popf exec, popf cp.
 */
#include "cli/exec.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/machine.h"
#include "cli/proc.h"

#define WAIT_SECONDS 30

void exec_help(FILE *f)
{
    fprintf(f,
            "Usage: popf exec [OPTION...] NAME [--] [COMMAND [ARG...]]\n\n"
            "Runs a command in a running machine, as root, by the agent that `popf image build`\n"
            "puts into images; needs no network. Without a command: a shell on this terminal.\n\n"
            "  -t, --tty           on a terminal of its own\n"
            "  -u, --user NAME     as this user of the guest\n"
            "  -w, --workdir DIR   there (default: the home of root)\n"
            "  -e, --env NAME=VAL  with this in its environment; may be repeated\n"
            "      --wait SECONDS  how long the agent may take to be there (default %d)\n\n"
            "Exit status: the command's; 128 and the signal that ended it; 127 there is no such\n"
            "command, 126 it cannot be run, 125 popf could not have it done.\n",
            WAIT_SECONDS);
}

void cp_help(FILE *f)
{
    fputs("Usage: popf cp FILE NAME:PATH\n"
          "       popf cp NAME:PATH FILE\n\n"
          "Copies a file or a folder into a running machine, or out of it, by its agent and tar.\n"
          "If the target is a folder that exists, it goes into it; else that is its new name.\n",
          f);
}

static int usage(const char *cmd, const char *what)
{
    fprintf(stderr, "popf %s: %s; try popf %s --help\n", cmd, what, cmd);
    return STATUS_USAGE;
}

static void add_env(struct exec *e)
{
    const char *term = getenv("TERM");
    args_add(&e->env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    args_add(&e->env, "HOME=/root");
    args_add(&e->env, "USER=root");
    args_add(&e->env, "LOGNAME=root");
    args_add(&e->env, "SHELL=/bin/sh");
    args_add(&e->env, "LANG=C.UTF-8");
    if (e->tty)
        args_addf(&e->env, "TERM=%s", term ? term : "linux");
}

static void exec_free(struct exec *e)
{
    args_free(&e->argv);
    args_free(&e->env);
}

/* bash where there is one. */
static void add_shell(struct exec *e)
{
    args_add(&e->argv, "sh");
    args_add(&e->argv, "-c");
    args_add(&e->argv, "[ -x /bin/bash ] && exec /bin/bash -l; exec /bin/sh -l");
}

static int parse_exec(struct exec *e, const char **user, int argc, char **argv)
{
    static const struct option options[] = {{"tty", no_argument, NULL, 't'},
                                            {"user", required_argument, NULL, 'u'},
                                            {"workdir", required_argument, NULL, 'w'},
                                            {"env", required_argument, NULL, 'e'},
                                            {"wait", required_argument, NULL, 'W'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    struct args env = {0};
    int opt;
    opterr = 0;
    optind = 1;
    while ((opt = getopt_long(argc, argv, "+:tu:w:e:h", options, NULL)) != -1) {
        if (opt == 't')
            e->tty = true;
        else if (opt == 'u')
            *user = optarg;
        else if (opt == 'w')
            e->dir = optarg;
        else if (opt == 'e' && strchr(optarg, '='))
            args_add(&env, optarg);
        else if (opt == 'W')
            e->wait = (unsigned)strtoul(optarg, NULL, 10);
        else if (opt == 'h')
            return 1;
        else
            return usage("exec", "unknown option or wrong value"), -1;
    }
    if (optind >= argc)
        return usage("exec", "no machine given"), -1;
    e->name = argv[optind++];
    if (optind >= argc || (!strcmp(argv[optind], "--") && optind + 1 >= argc))
        e->tty |= isatty(STDIN_FILENO) != 0;
    add_env(e);
    for (size_t i = 0; i < env.n; i++)
        args_add(&e->env, env.v[i]);
    args_free(&env);
    return 0;
}

int exec_main(int argc, char **argv)
{
    struct exec e = {.cmd = "exec", .dir = "", .wait = WAIT_SECONDS};
    const char *user = NULL;
    int rc = parse_exec(&e, &user, argc, argv);
    if (rc) {
        if (rc > 0)
            exec_help(stdout);
        exec_free(&e);
        return rc > 0 ? 0 : STATUS_USAGE;
    }
    if (optind < argc && !strcmp(argv[optind], "--"))
        optind++;
    if (user) {
        args_add(&e.argv, "runuser");
        args_add(&e.argv, "-u");
        args_add(&e.argv, user);
        args_add(&e.argv, "--");
    }
    if (optind >= argc)
        add_shell(&e);
    for (; optind < argc; optind++)
        args_add(&e.argv, argv[optind]);
    int status = exec_run(&e, STDIN_FILENO, STDOUT_FILENO);
    exec_free(&e);
    return status;
}

/* --- cp --- */

/* Prints what $1 names as a tar; a link to a file is that file. */
static const char pack[] = "case $1 in -*) set -- \"./$1\" ;; esac\n"
                           "follow=\n"
                           "[ ! -L \"$1\" ] || [ -d \"$1\" ] || follow=-h\n"
                           "cd \"$(dirname \"$1\")\" && exec tar -c $follow -f - \"./$2\"\n";

/* Takes a tar of ./$2 and makes it $1, or puts it into that. */
static const char unpack[] =
    "set -e\n"
    "quiet=\n" /* about the clocks of host and guest, which differ by milliseconds */
    "! tar --version 2>&1 | grep -q GNU || quiet=--warning=no-timestamp\n"
    "case $1 in -*) set -- \"./$1\" \"$2\" ;; esac\n"
    "if [ -d \"$1\" ]; then exec tar -x -o $quiet -f - -C \"$1\"; fi\n"
    "case $1 in */) echo \"$1: no such folder\" >&2; exit 1 ;; esac\n"
    "tmp=$(mktemp -d \"$(dirname \"$1\")/.popf-cp.XXXXXX\")\n"
    "trap 'rm -rf \"$tmp\"' EXIT\n"
    "tar -x -o $quiet -f - -C \"$tmp\"\n"
    "mv -f \"$tmp/$2\" \"$1\"\n";

static void add_script(struct args *a, const char *script, const char *path, const char *base)
{
    args_add(a, "sh");
    args_add(a, "-c");
    args_add(a, script);
    args_add(a, "sh");
    args_add(a, path);
    args_add(a, base);
}

/* "NAME:PATH" in two, or NULL: it is a file here. */
static char *guest_path(const char *arg, char **name)
{
    const char *colon = strchr(arg, ':'), *slash = strchr(arg, '/');
    if (!colon || colon == arg || (slash && slash < colon))
        return NULL;
    *name = xasprintf("%.*s", (int)(colon - arg), arg);
    return xstrdup(colon[1] ? colon + 1 : "/root/");
}

/* The last part of a path, without a slash at its end, which goes. NULL if it has no name. */
static char *last_part(char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        path[--n] = 0;
    char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    return *base && strcmp(base, ".") && strcmp(base, "..") ? base : NULL;
}

/* The half in the guest and the half here, with a pipe between them. */
static int copy(struct exec *e, struct args *here, bool into_guest)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC))
        return EXEC_FAILED;
    pid_t pid = into_guest ? proc_start(here->v, -1, fds[1], STDERR_FILENO)
                           : proc_start(here->v, fds[0], -1, STDERR_FILENO);
    close(fds[into_guest]);
    int far = into_guest ? exec_run(e, fds[0], STDERR_FILENO) : exec_run(e, -1, fds[1]);
    close(fds[!into_guest]);
    int near = proc_wait(pid);
    return far == EXEC_FAILED ? EXEC_FAILED : far || near ? STATUS_ERROR : 0;
}

static int copy_paths(char *name, char *inside, char *outside, bool into_guest)
{
    struct exec e = {.cmd = "cp", .name = name, .dir = "", .wait = WAIT_SECONDS};
    struct args here = {0};
    char *from = into_guest ? realpath(outside, NULL) : xstrdup(inside);
    char *base = from ? last_part(from) : NULL;
    int status = EXEC_FAILED;
    if (!from)
        fprintf(stderr, "popf cp: cannot read %s: %s\n", outside, strerror(errno));
    else if (!base)
        fprintf(stderr, "popf cp: %s: give the folder's own name\n", from);
    else {
        add_env(&e);
        add_script(into_guest ? &here : &e.argv, pack, from, base);
        add_script(into_guest ? &e.argv : &here, unpack, into_guest ? inside : outside, base);
        status = copy(&e, &here, into_guest);
    }
    free(from);
    args_free(&here);
    exec_free(&e);
    return status;
}

int cp_main(int argc, char **argv)
{
    static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {0}};
    opterr = 0;
    optind = 1;
    int opt = getopt_long(argc, argv, "h", options, NULL);
    if (opt == 'h') {
        cp_help(stdout);
        return 0;
    }
    if (opt != -1 || optind + 2 != argc)
        return usage("cp", "two paths are needed, one of them NAME:PATH");
    char *name = NULL, *first = guest_path(argv[optind], &name), *second = NULL;
    if (!first)
        second = guest_path(argv[optind + 1], &name);
    int status;
    if (!first && !second)
        status = usage("cp", "one of the paths must be NAME:PATH");
    else
        status = copy_paths(name, first ? first : second, argv[optind + (first ? 1 : 0)], !first);
    free(name), free(first), free(second);
    return status;
}
