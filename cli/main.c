#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/machine.h"

struct command {
    const char *name;
    const char *what;
    int (*main)(int argc, char **argv);
    void (*help)(FILE *f);
};

static const struct command commands[] = {
    {"run", "run a virtual machine", run_main, run_help},
    {"ps", "list the machines that run", ps_main, ps_help},
    {"stop", "press the power button of machines, then switch them off", stop_main, stop_help},
    {"kill", "switch machines off at once", kill_main, kill_help},
    {"console", "attach to a machine's console", console_main, console_help},
    {"logs", "print what a machine's console has printed", logs_main, logs_help},
    {"exec", "run a command in a machine", exec_main, exec_help},
    {"cp", "copy files into a machine or out of it", cp_main, cp_help},
    {"rm", "forget machines that have ended", rm_main, rm_help},
    {"image", "make, convert, resize and check disk images", image_main, image_help},
    {"doctor", "say what this host offers and what to mend", doctor_main, doctor_help},
};

#define NCOMMANDS (sizeof(commands) / sizeof(commands[0]))

static const struct command *find(const char *name)
{
    for (size_t i = 0; i < NCOMMANDS; i++)
        if (!strcmp(commands[i].name, name))
            return &commands[i];
    return NULL;
}

static void help(FILE *f)
{
    fputs("popf - virtual machines without root and without /dev/kvm\n\n"
          "Usage: popf COMMAND [OPTION...]\n\n",
          f);
    for (size_t i = 0; i < NCOMMANDS; i++)
        fprintf(f, "  %-10s %s\n", commands[i].name, commands[i].what);
    fputs("  help CMD   say how a command is used (as CMD --help does)\n\n"
          "  --version  print the version\n"
          "  --help     print this\n\n"
          "First try: popf run --kernel bzImage --append console=ttyS0\n",
          f);
}

static int unknown(const char *word)
{
    fprintf(stderr, "popf: unknown %s \"%s\"; try popf --help\n",
            word[0] == '-' ? "option" : "command", word);
    return STATUS_USAGE;
}

static int help_main(int argc, char **argv)
{
    if (argc < 2) {
        help(stdout);
        return 0;
    }
    const struct command *c = find(argv[1]);
    if (!c)
        return unknown(argv[1]);
    c->help(stdout);
    return 0;
}

/* Descriptors 0 to 2 exist from here on, so that none of ours ends up there. */
static void open_standard(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd < 3);
    if (fd >= 3)
        close(fd);
}

/* Text that could not be written (a full disk) is a failure, too. */
static int flush(int status)
{
    if ((fflush(stdout) || ferror(stdout)) && !status) {
        perror("popf: cannot write to standard output");
        return STATUS_ERROR;
    }
    return status;
}

int main(int argc, char **argv)
{
    open_standard();
    if (argc < 2) {
        help(stderr);
        return STATUS_USAGE;
    }
    const char *word = argv[1];
    if (!strcmp(word, "--version") || !strcmp(word, "-V")) {
        printf("popf %s\n", popf_version());
        return flush(0);
    }
    if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
        help(stdout);
        return flush(0);
    }
    if (!strcmp(word, "help"))
        return flush(help_main(argc - 1, argv + 1));
    const struct command *c = find(word);
    return c ? flush(c->main(argc - 1, argv + 1)) : unknown(word);
}
