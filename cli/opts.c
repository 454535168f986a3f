#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

enum {
    OPT_ENTRY = OPT_BT_END,
    OPT_NO_REBOOT,
    OPT_DEBUG_EXIT,
    OPT_TRACE,
    OPT_STATS,
    OPT_TIMEOUT,
    OPT_MAX,
    OPT_CPU
};

static const struct option options[] = {
    {"kernel", required_argument, NULL, 'k'},
    {"initrd", required_argument, NULL, 'i'},
    {"append", required_argument, NULL, 'a'},
    {"memory", required_argument, NULL, 'm'},
    {"cpus", required_argument, NULL, 'c'},
    {"cpu", required_argument, NULL, OPT_CPU},
    {"engine", required_argument, NULL, 'e'},
    {"entry", required_argument, NULL, OPT_ENTRY},
    {"no-reboot", no_argument, NULL, OPT_NO_REBOOT},
    {"debug-exit", no_argument, NULL, OPT_DEBUG_EXIT},
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"max-insns", required_argument, NULL, OPT_MAX},
    {"stats", no_argument, NULL, OPT_STATS},
    {"trace", required_argument, NULL, OPT_TRACE},
    {"code-cache", required_argument, NULL, OPT_CODE_CACHE},
    {"code-cache-size", required_argument, NULL, OPT_CODE_CACHE_SIZE},
    {"bt-regions", required_argument, NULL, OPT_BT_REGIONS},
    {"bt-dump", required_argument, NULL, OPT_BT_DUMP},
    {"perf-map", no_argument, NULL, OPT_PERF_MAP},
    {"verbose", no_argument, NULL, 'v'},
    {"help", no_argument, NULL, 'h'},
    {0},
};

void run_help(FILE *f)
{
    fprintf(f,
            "Usage: popf run [OPTION...] [KERNEL]\n\n"
            "Runs a virtual machine; its first serial port is this terminal.\n\n"
            "  -k, --kernel FILE    bzImage, vmlinux, ELF with a PVH note, or multiboot 1\n"
            "  -i, --initrd FILE    initial RAM disk; multiboot: \"FILE args,FILE2 args\"\n"
            "  -a, --append STRING  kernel command line\n"
            "  -m, --memory SIZE    RAM: a number and K, M or G (default 512M)\n"
            "  -c, --cpus N         virtual CPUs, 1 to %d (default 1)\n"
            "      --cpu MODEL      host, then -FEATURE, +FEATURE, vendor=NAME, phys-bits=N, with\n"
            "                       commas between; \"help\" lists the features\n"
            "  -e, --engine NAME    auto, interp, bt or kvm (default auto: see popf doctor)\n"
            "      --entry WAY      how the kernel is entered: auto, 64, 32, 16 or pvh\n"
            "      --no-reboot      end when the guest asks for a reset\n"
            "      --debug-exit     a guest's write of V to port 0xf4 ends popf with V * 2 + 1\n"
            "      --timeout SEC    stop the machine after SEC seconds (exit status 124)\n"
            "      --max-insns N    stop it when a CPU has executed N instructions (status 124)\n"
            "      --stats          at the end, print what the machine has done\n"
            "      --trace LIST     show on standard error any of\n"
            "                       %s\n"
            "  -v, --verbose        say what is being done\n"
            "  -h, --help           print this\n",
            POPF_CPUS_MAX, popf_trace_names());
    opts_bt_help(f);
    fputs("\nKeys: Ctrl-A X leaves, Ctrl-A H lists the others.\n"
          "Exit status: 0 the guest switched itself off (or was reset, with --no-reboot),\n"
          "1 failure or triple fault, 2 wrong usage, 124 out of time.\n",
          f);
}

void run_cpu_help(FILE *f)
{
    const char *p = popf_cpu_features();
    fprintf(f, "Usage: popf run --cpu host[,-FEATURE][,+FEATURE][,vendor=NAME][,phys-bits=N]\n\n"
               "The CPU is the host's, less what popf does not offer. -FEATURE leaves more out,\n"
               "+FEATURE takes that back, and is an error where the feature is not offered.\n"
               "Vendors: AuthenticAMD, GenuineIntel. Physical addresses: 36 to 52 bits.\n\n"
               "Features:\n");
    for (int col = 0; *p; p += strspn(p, " ")) {
        int len = (int)strcspn(p, " ");
        bool wraps = col + len > 76;
        fprintf(f, "%s  %.*s", wraps ? "\n" : "", len, p);
        col = (wraps ? 0 : col) + len + 2;
        p += len;
    }
    fputs("  kvm\n", f);
}

static int complain(const char *opt, const char *text, const char *should)
{
    fprintf(stderr, "popf run: %s %s: %s; try popf run --help\n", opt, text, should);
    return -1;
}

/* Digits only; -1 if it is no number or too large. */
static int number(const char *text, uint64_t max, uint64_t *val)
{
    char *end;
    if (!isdigit((unsigned char)text[0]))
        return -1;
    errno = 0;
    *val = strtoull(text, &end, 10);
    return errno || *end || *val > max ? -1 : 0;
}

int opts_size(const char *text, uint64_t *bytes)
{
    static const char units[] = "KMGT";
    char digits[24];
    size_t n = strspn(text, "0123456789");
    if (!n || n >= sizeof(digits))
        return -1;
    memcpy(digits, text, n);
    digits[n] = 0;

    unsigned shift = 0;
    const char *rest = text + n;
    if (*rest) {
        const char *unit = strchr(units, toupper((unsigned char)*rest));
        if (!unit)
            return -1;
        shift = 10 * (unsigned)(unit - units + 1);
        rest++;
        if (shift && !strcasecmp(rest, "iB"))
            rest += 2;
    }
    if (*rest || number(digits, UINT64_MAX >> shift, bytes))
        return -1;
    *bytes <<= shift;
    return 0;
}

static int set_memory(struct run_options *o, const char *text)
{
    uint64_t bytes;
    if (opts_size(text, &bytes))
        return complain("--memory", text, "a size is a number and K, M or G");
    if (bytes < POPF_MEMORY_MIN)
        return complain("--memory", text, "less than 1M; is the unit missing (512M)?");
    if (bytes > POPF_MEMORY_MAX)
        return complain("--memory", text, "more than 1T");
    o->cfg.memory = bytes;
    return 0;
}

static int set_number(const char *opt, const char *text, uint64_t min, uint64_t max, uint64_t *val)
{
    char should[64];
    if (!number(text, max, val) && *val >= min)
        return 0;
    snprintf(should, sizeof(should), "must be a number from %llu to %llu", (unsigned long long)min,
             (unsigned long long)max);
    return complain(opt, text, should);
}

static int set_one_of(const char *opt, const char *text, const char *const *names, const char **val)
{
    char should[128] = "must be one of";
    for (; *names; names++) {
        if (!strcmp(text, *names)) {
            *val = text;
            return 0;
        }
        size_t len = strlen(should);
        snprintf(should + len, sizeof(should) - len, " %s", *names);
    }
    return complain(opt, text, should);
}

static int set_trace(struct run_options *o, const char *list)
{
    struct popf_error err;
    o->cfg.trace = popf_trace_mask(list, &err);
    return o->cfg.trace ? 0 : complain("--trace", list, err.msg);
}

static int set_kernel(struct run_options *o, const char *file)
{
    if (o->cfg.kernel)
        return complain("--kernel", file, "there is a kernel already");
    o->cfg.kernel = file;
    return 0;
}

static int apply(struct run_options *o, int opt, const char *arg)
{
    static const char *const engines[] = {"auto", "interp", "bt", "kvm", NULL};
    static const char *const entries[] = {"auto", "64", "32", "16", "pvh", NULL};
    uint64_t val = 0;
    int rc = 0;
    switch (opt) {
    case 'k':
        return set_kernel(o, arg);
    case 'i':
        o->cfg.initrd = arg;
        return 0;
    case 'a':
        o->cfg.cmdline = arg;
        return 0;
    case 'm':
        return set_memory(o, arg);
    case 'c':
        rc = set_number("--cpus", arg, 1, POPF_CPUS_MAX, &val);
        o->cfg.cpus = (unsigned)val;
        return rc;
    case OPT_CPU:
        o->cpu_help = !strcmp(arg, "help");
        o->cfg.cpu = arg;
        return 0;
    case 'e':
        return set_one_of("--engine", arg, engines, &o->cfg.engine);
    case OPT_ENTRY:
        return set_one_of("--entry", arg, entries, &o->cfg.entry);
    case OPT_CODE_CACHE ... OPT_BT_END - 1:
        return opts_bt(o, opt, arg);
    case OPT_TIMEOUT:
        rc = set_number("--timeout", arg, 1, 1000000, &val);
        o->timeout = (unsigned)val;
        return rc;
    case OPT_MAX:
        return set_number("--max-insns", arg, 1, UINT64_MAX / 2, &o->cfg.max_insns);
    case OPT_TRACE:
        return set_trace(o, arg);
    case OPT_NO_REBOOT:
        o->cfg.no_reboot = true;
        return 0;
    case OPT_DEBUG_EXIT:
        o->cfg.debug_exit = true;
        return 0;
    case OPT_STATS:
        o->stats = true;
        return 0;
    case 'v':
        o->cfg.verbose = true;
        return 0;
    default:
        o->help = true;
        return 0;
    }
}

static int wrong_option(int opt, char **argv)
{
    const char *word = argv[optind - 1];
    char letter[3] = {'-', (char)optopt, 0};
    /* optopt is the letter, or the value of a long option, or 0 for one that does not exist */
    if (optopt && optopt < 256 && strncmp(word, "--", 2))
        word = letter;
    fprintf(stderr, "popf run: %s %s; try popf run --help\n",
            opt == ':' ? "no value given for" : "unknown option", word);
    return -1;
}

int opts_parse(struct run_options *o, int argc, char **argv)
{
    *o = (struct run_options){.cfg = POPF_CONFIG_INIT};
    opterr = 0;
    optind = 1;
    int opt;
    while ((opt = getopt_long(argc, argv, ":k:i:a:m:c:e:vh", options, NULL)) != -1) {
        if (opt == '?' || opt == ':')
            return wrong_option(opt, argv);
        if (apply(o, opt, optarg))
            return -1;
        if (o->help || o->cpu_help)
            return 0;
    }
    for (; optind < argc; optind++)
        if (set_kernel(o, argv[optind]))
            return -1;
    if (o->cfg.kernel)
        return 0;
    fputs("popf run: no kernel given; try popf run --help\n", stderr);
    return -1;
}
