/*
 * popf stop, kill, rm, logs.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/machine.h"
#include "cli/text.h"

#define STOP_SECONDS 60
#define PRESS_MS     4000 /* a guest that is still starting does not hear the button */
#define DIE_MS       5000
#define FOLLOW_MS    200

void stop_help(FILE *f)
{
    fprintf(f,
            "Usage: popf stop [-t SECONDS] NAME...\n\n"
            "Presses the power button, and switches the machine off if it is still on after\n"
            "SECONDS (default %d; 0: at once).\n",
            STOP_SECONDS);
}

void kill_help(FILE *f)
{
    fputs("Usage: popf kill NAME...\n\nSwitches machines off at once, as pulling the plug would.\n",
          f);
}

void rm_help(FILE *f)
{
    fputs("Usage: popf rm NAME...\n\nForgets machines that have ended, and their logs. Disks are "
          "not touched.\n",
          f);
}

void logs_help(FILE *f)
{
    fputs("Usage: popf logs [-f] NAME\n\nPrints what the machine's console has printed.\n\n"
          "  -f, --follow  go on as more comes, until the machine ends\n",
          f);
}

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* True if its process is gone after at most so long. */
static bool gone_after(const char *name, uint64_t ms)
{
    uint64_t end = now_ms() + ms;
    while (machine_owner(name)) {
        if (now_ms() >= end)
            return false;
        usleep(20000);
    }
    return true;
}

/* Off, if need be by ending the process. */
static int kill_machine(const char *cmd, const char *name)
{
    int fd = client_open(cmd, name);
    pid_t pid = machine_name_ok(name) ? machine_owner(name) : 0;
    if (fd >= 0) {
        json_object_put(client_ask(fd, client_request("stop"), 1000));
        close(fd);
        if (gone_after(name, DIE_MS))
            return 0;
    }
    if (!pid)
        return STATUS_ERROR;
    fprintf(stderr, "popf %s: its process %d is killed\n", cmd, (int)pid);
    if (kill(pid, SIGKILL) || !gone_after(name, DIE_MS)) {
        fprintf(stderr, "popf %s: cannot end process %d\n", cmd, (int)pid);
        return STATUS_ERROR;
    }
    machine_sweep(name);
    return 0;
}

static int stop_machine(const char *name, unsigned seconds)
{
    uint64_t end = now_ms() + seconds * 1000ull;
    for (uint64_t now = now_ms(); now < end; now = now_ms()) {
        int status = client_command("stop", name, "power-button");
        if (status)
            return machine_owner(name) ? kill_machine("stop", name) : status;
        if (gone_after(name, end - now < PRESS_MS ? end - now : PRESS_MS))
            return 0;
    }
    if (seconds)
        fprintf(stderr, "popf stop: %s did not switch itself off within %u s: it is switched off\n",
                name, seconds);
    return kill_machine("stop", name);
}

static int wrong(const char *cmd, int opt, int argc, char **argv)
{
    if (opt == '?' || opt == ':')
        fprintf(stderr, "popf %s: unknown option or no value: %s; try popf %s --help\n", cmd,
                argv[optind - 1], cmd);
    else
        fprintf(stderr, "popf %s: %s; try popf %s --help\n", cmd,
                optind < argc ? "one name too many" : "no name given", cmd);
    return STATUS_USAGE;
}

static int each(int argc, char **argv, int (*act)(const char *name, unsigned arg), unsigned arg)
{
    int status = 0;
    for (; optind < argc; optind++)
        if (act(argv[optind], arg))
            status = STATUS_ERROR;
    return status;
}

static int parse_seconds(const char *text, unsigned *seconds)
{
    char *end;
    errno = 0;
    unsigned long n = strtoul(text, &end, 10);
    *seconds = (unsigned)n;
    return errno || *end || end == text || n > 1000000 || text[0] == '-' ? -1 : 0;
}

int stop_main(int argc, char **argv)
{
    static const struct option options[] = {
        {"timeout", required_argument, NULL, 't'}, {"help", no_argument, NULL, 'h'}, {0}};
    unsigned seconds = STOP_SECONDS;
    int opt;
    opterr = 0;
    optind = 1;
    while ((opt = getopt_long(argc, argv, ":t:h", options, NULL)) != -1) {
        if (opt == 'h') {
            stop_help(stdout);
            return 0;
        }
        if (opt != 't')
            return wrong("stop", opt, argc, argv);
        if (parse_seconds(optarg, &seconds)) {
            fprintf(stderr, "popf stop: -t %s: must be a number of seconds\n", optarg);
            return STATUS_USAGE;
        }
    }
    return optind < argc ? each(argc, argv, stop_machine, seconds) : wrong("stop", 0, argc, argv);
}

/* Commands without options: 0, or the status to end with. */
static bool only_names(const char *cmd, int argc, char **argv, void (*help)(FILE *), int *status)
{
    static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {0}};
    opterr = 0;
    optind = 1;
    int opt = getopt_long(argc, argv, "h", options, NULL);
    *status = 0;
    if (opt == 'h')
        help(stdout);
    else if (opt != -1 || optind >= argc)
        *status = wrong(cmd, opt, argc, argv);
    else
        return true;
    return false;
}

static int kill_one(const char *name, unsigned arg)
{
    return kill_machine("kill", name);
}

int kill_main(int argc, char **argv)
{
    int status;
    return only_names("kill", argc, argv, kill_help, &status) ? each(argc, argv, kill_one, 0)
                                                              : status;
}

static int forget(const char *name, unsigned arg)
{
    static const char *const files[] = {"machine.json", "machine.json.part", "log", "log.1",
                                        "messages"};
    if (machine_name_ok(name) && machine_owner(name)) {
        fprintf(stderr, "popf rm: %s is running; popf stop %s\n", name, name);
        return STATUS_ERROR;
    }
    char *dir = machine_name_ok(name) ? machine_state(name, NULL) : NULL;
    if (!dir || access(dir, F_OK)) {
        fprintf(stderr, "popf rm: there is no machine %s\n", name);
        free(dir);
        return STATUS_ERROR;
    }
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        char *path = machine_state(name, files[i]);
        unlink(path);
        free(path);
    }
    int rc = rmdir(dir);
    if (rc)
        fprintf(stderr, "popf rm: cannot remove %s: %s\n", dir, strerror(errno));
    free(dir);
    return rc ? STATUS_ERROR : 0;
}

int rm_main(int argc, char **argv)
{
    int status;
    return only_names("rm", argc, argv, rm_help, &status) ? each(argc, argv, forget, 0) : status;
}

/* --- logs --- */

static int open_log(const char *name, const char *file)
{
    char *path = machine_state(name, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    free(path);
    return fd;
}

/* Prints what there is from here on; -1 if nobody reads it. */
static int copy(int fd)
{
    char buf[65536];
    ssize_t n;
    while ((n = read(fd, buf, sizeof(buf))) > 0)
        if (fwrite(buf, 1, (size_t)n, stdout) != (size_t)n)
            return -1;
    return fflush(stdout) ? -1 : 0;
}

/* The file has been renamed, and another one begun. */
static bool replaced(int fd, const char *name)
{
    struct stat a, b;
    char *path = machine_state(name, "log");
    bool yes = !fstat(fd, &a) && !stat(path, &b) && a.st_ino != b.st_ino;
    free(path);
    return yes;
}

static void follow(int fd, const char *name)
{
    bool running = true;
    while (fd >= 0 && running && !copy(fd)) {
        running = machine_owner(name) != 0;
        if (replaced(fd, name)) {
            copy(fd);
            close(fd);
            fd = open_log(name, "log");
        } else if (running) {
            usleep(FOLLOW_MS * 1000);
        }
    }
    if (fd >= 0) {
        copy(fd);
        close(fd);
    }
}

static int show_logs(const char *name, bool on)
{
    int old = machine_name_ok(name) ? open_log(name, "log.1") : -1;
    int fd = machine_name_ok(name) ? open_log(name, "log") : -1;
    if (old >= 0) {
        copy(old);
        close(old);
    }
    if (fd < 0) {
        fprintf(stderr,
                "popf logs: there is no log of %s: machines that run with --name or -d have "
                "one\n",
                name);
        return STATUS_ERROR;
    }
    if (on) {
        follow(fd, name);
    } else {
        copy(fd);
        close(fd);
    }
    return 0;
}

int logs_main(int argc, char **argv)
{
    static const struct option options[] = {
        {"follow", no_argument, NULL, 'f'}, {"help", no_argument, NULL, 'h'}, {0}};
    bool on = false;
    int opt;
    opterr = 0;
    optind = 1;
    while ((opt = getopt_long(argc, argv, "fh", options, NULL)) != -1) {
        if (opt == 'h') {
            logs_help(stdout);
            return 0;
        }
        if (opt != 'f')
            return wrong("logs", opt, argc, argv);
        on = true;
    }
    return optind + 1 == argc ? show_logs(argv[optind], on) : wrong("logs", 0, argc, argv);
}
