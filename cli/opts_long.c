/*
 * opts_long.c - the long options of popf run; conf.c knows them as keys of a machine's file.
 */
#include "cli/cli.h"

static const struct option options[] = {
    {"kernel", required_argument, NULL, 'k'},
    {"initrd", required_argument, NULL, 'i'},
    {"append", required_argument, NULL, 'a'},
    {"memory", required_argument, NULL, 'm'},
    {"cpus", required_argument, NULL, 'c'},
    {"cpu", required_argument, NULL, OPT_CPU},
    {"engine", required_argument, NULL, 'e'},
    {"disk", required_argument, NULL, OPT_DISK},
    {"snapshot", no_argument, NULL, OPT_SNAPSHOT},
    {"net", required_argument, NULL, OPT_NET},
    {"publish", required_argument, NULL, 'p'},
    {"allow", required_argument, NULL, OPT_ALLOW},
    {"pcap", required_argument, NULL, OPT_PCAP},
    {"share", required_argument, NULL, OPT_SHARE},
    {"vsock", required_argument, NULL, OPT_VSOCK},
    {"console", required_argument, NULL, OPT_CONSOLE},
    {"port", required_argument, NULL, OPT_PORT},
    {"rng", required_argument, NULL, OPT_RNG},
    {"balloon", required_argument, NULL, OPT_BALLOON},
    {"gdb", required_argument, NULL, OPT_GDB},
    {"name", required_argument, NULL, OPT_NAME},
    {"detach", no_argument, NULL, 'd'},
    {"cloud-init", required_argument, NULL, OPT_SEED},
    {"user", required_argument, NULL, OPT_SEED_USER},
    {"ssh-key", required_argument, NULL, OPT_SEED_KEY},
    {"password", required_argument, NULL, OPT_SEED_PASSWORD},
    {"hostname", required_argument, NULL, OPT_SEED_HOSTNAME},
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
    {"bt-direct", required_argument, NULL, OPT_BT_DIRECT},
    {"bt-dump", required_argument, NULL, OPT_BT_DUMP},
    {"perf-map", no_argument, NULL, OPT_PERF_MAP},
    {"gdb-jit", no_argument, NULL, OPT_GDB_JIT},
    {"verbose", no_argument, NULL, 'v'},
    {"help", no_argument, NULL, 'h'},
    {0},
};

const struct option *run_long_options(void)
{
    return options;
}
