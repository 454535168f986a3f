#include <string.h>

#include "cli/cli.h"

void doctor_help(FILE *f)
{
    fputs("Usage: popf doctor\n\n"
          "Says what this host offers to virtual machines, which engine `popf run` would take and\n"
          "why, what is missing, and how to mend it. Takes a moment: KVM, if there is one, is\n"
          "measured. The exit status is 0 if machines can run here, else 1.\n",
          f);
}

static void print(void *arg, const char *text)
{
    fprintf(arg, "%s\n", text);
}

int doctor_main(int argc, char **argv)
{
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        doctor_help(stdout);
        return 0;
    }
    if (argc > 1) {
        fprintf(stderr, "popf doctor: unexpected \"%s\"; try popf doctor --help\n", argv[1]);
        return STATUS_USAGE;
    }
    return popf_doctor(print, stdout) ? STATUS_ERROR : 0;
}
