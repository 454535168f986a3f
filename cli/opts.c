#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

void run_help(FILE *f)
{
    fprintf(
        f,
        "Usage: popf run [OPTION...] [IMAGE]\n\n"
        "Runs a virtual machine; its first serial port is this terminal. IMAGE is a kernel, or a\n"
        "disk (raw or qcow2; settings as with --disk) that is booted with its own kernel.\n\n"
        "  -k, --kernel FILE    bzImage, vmlinux, ELF with a PVH note, or multiboot 1\n"
        "  -i, --initrd FILE    initial RAM disk; multiboot: \"FILE args,FILE2 args\"\n"
        "  -a, --append STRING  kernel command line\n"
        "  -m, --memory SIZE    RAM: a number and K, M or G (default 512M)\n"
        "  -c, --cpus N         virtual CPUs, 1 to %d (default 1)\n"
        "      --cpu MODEL      host, then -FEATURE, +FEATURE, vendor=NAME, phys-bits=N, with\n"
        "                       commas between; \"help\" lists the features\n"
        "  -e, --engine NAME    auto, interp, bt or kvm (default auto: see popf doctor)\n"
        "      --entry WAY      how the kernel is entered: auto, 64, 32, 16 or pvh\n"
        "      --name NAME      the machine's name, for popf ps, stop, console...\n"
        "  -d, --detach         run in the background: popf ps, console, logs, exec, stop\n"
        "\ncloud-init in the guest:\n"
        "      --user NAME      a user who may log in and use sudo\n"
        "      --ssh-key FILE   with this public key; may be repeated\n"
        "      --password TEXT  or with this password\n"
        "      --hostname NAME  of the guest (default: the machine's --name)\n"
        "      --cloud-init FILE|FOLDER\n"
        "                       user-data, or a folder with user-data, meta-data, network-config\n"
        "\nDevices:\n"
        "      --disk FILE[,overlay][,ro][,format=raw|qcow2][,cache=on|off]\n"
        "             [,on-error=report|stop][,serial=TEXT]\n"
        "                       a disk, /dev/vda and so on; overlay: FILE is not written to;\n"
        "                       a comma in FILE is written twice\n"
        "      --snapshot       overlays on all disks: nothing is kept\n"
        "      --net KIND       user (default; no rights needed), none, tap:NAME or socket:PATH,\n"
        "                       then ,restrict (no way out), ,mac=ADDRESS, ,mtu=N\n"
        "  -p, --publish [ADDR:]PORT:GUEST[/udp]\n"
        "                       a port of this host (127.0.0.1) that leads into the guest\n"
        "      --allow HOST:PORT\n"
        "                       where a restricted guest may connect to all the same\n"
        "      --pcap FILE      record all frames, for tcpdump -r or wireshark\n"
        "      --share HOST[:TAG][:ro][:virtiofs]\n"
        "                       a folder: mount -t 9p -o trans=virtio,version=9p2000.L TAG /mnt\n"
        "      --vsock PATH[,cid=N]\n"
        "                       vsock: the guest's port P is PATH_P here, and PATH takes\n"
        "                       \"CONNECT P\"; the guest's CID is 3\n"
        "      --console WHICH  what this terminal is: serial (default) or virtio, /dev/hvc0\n"
        "      --port NAME=PATH /dev/virtio-ports/NAME in the guest, the unix socket PATH here\n"
        "      --rng on|off     random numbers for the guest (default on)\n"
        "      --balloon on|off memory that the guest does not use goes back (default on)\n"
        "\nDebugging:\n"
        "      --gdb ADDR       take a debugger: PORT, ADDR:PORT or unix:PATH, then ,wait\n"
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

int opts_complain(const char *opt, const char *text, const char *should)
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
        return opts_complain("--memory", text, "a size is a number and K, M or G");
    if (bytes < POPF_MEMORY_MIN)
        return opts_complain("--memory", text, "less than 1M; is the unit missing (512M)?");
    if (bytes > POPF_MEMORY_MAX)
        return opts_complain("--memory", text, "more than 1T");
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
    return opts_complain(opt, text, should);
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
    return opts_complain(opt, text, should);
}

static int set_trace(struct run_options *o, const char *list)
{
    struct popf_error err;
    o->cfg.trace = popf_trace_mask(list, &err);
    return o->cfg.trace ? 0 : opts_complain("--trace", list, err.msg);
}

static int set_kernel(struct run_options *o, const char *file)
{
    if (o->cfg.kernel)
        return opts_complain("--kernel", file, "there is a kernel already");
    o->cfg.kernel = file;
    return 0;
}

/* IMAGE: a kernel, or a disk to boot from, which is the first one then; settings may follow. */
static int set_image(struct run_options *o, const char *text)
{
    char file[4096];
    size_t n = 0;
    for (const char *p = text; *p && n < sizeof(file) - 1 && (*p != ',' || *++p == ','); p++)
        file[n++] = *p; /* of two commas the first is skipped */
    file[n] = 0;
    if (!popf_is_disk(file))
        return set_kernel(o, text);
    if (opts_disk(o, text))
        return -1;
    struct popf_disk d = o->disk[o->cfg.ndisks - 1];
    memmove(o->disk + 1, o->disk, (o->cfg.ndisks - 1) * sizeof(d));
    o->disk[0] = d;
    return 0;
}

/* Options that make devices. */
static int apply_device(struct run_options *o, int opt, const char *arg)
{
    switch (opt) {
    case OPT_DISK:
        return opts_disk(o, arg);
    case OPT_NET:
        return opts_net(o, arg);
    case 'p':
        return opts_forward(o, arg);
    case OPT_ALLOW:
        return opts_allow(o, arg);
    case OPT_PCAP:
        o->cfg.pcap = arg;
        return 0;
    case OPT_SHARE:
        return opts_share(o, arg);
    case OPT_VSOCK:
        return opts_vsock(o, arg);
    case OPT_CONSOLE:
        return opts_console(o, arg);
    case OPT_PORT:
        return opts_port(o, arg);
    case OPT_RNG:
        return opts_on_off("--rng", arg, &o->cfg.no_rng);
    case OPT_BALLOON:
        return opts_on_off("--balloon", arg, &o->cfg.no_balloon);
    case OPT_GDB:
        o->cfg.gdb = arg;
        return 0;
    case OPT_NAME:
        o->cfg.name = arg;
        return 0;
    default:
        assert(!"an option without an action");
        return -1;
    }
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
    case OPT_SNAPSHOT:
        o->cfg.snapshot = true;
        return 0;
    case 'd':
        o->detach = true;
        return 0;
    case OPT_STATS:
        o->stats = true;
        o->cfg.count_blocks = true;
        return 0;
    case 'v':
        o->cfg.verbose = true;
        return 0;
    case 'h':
        o->help = true;
        return 0;
    default:
        return opt >= OPT_SEED ? opts_seed(o, opt, arg) : apply_device(o, opt, arg);
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
    o->cfg.net = "user";
    o->cfg.disks = o->disk;
    o->cfg.shares = o->share;
    o->cfg.ports = o->port;
    o->cfg.forwards = o->forward;
    o->cfg.allows = o->allow;
    opterr = 0;
    optind = 1;
    int opt;
    while ((opt = getopt_long(argc, argv, ":k:i:a:m:c:e:p:dvh", run_long_options(), NULL)) != -1) {
        if (opt == '?' || opt == ':')
            return wrong_option(opt, argv);
        if (apply(o, opt, optarg))
            return -1;
        if (o->help || o->cpu_help)
            return 0;
    }
    for (; optind < argc; optind++)
        if (set_image(o, argv[optind]))
            return -1;
    if (opts_seed_check(o))
        return -1;
    if (o->cfg.kernel || o->cfg.ndisks)
        return 0;
    fputs("popf run: no image given; try popf run --help\n", stderr);
    return -1;
}
