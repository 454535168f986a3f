/*
 * opts_bt.c - options of the translator.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

void opts_bt_help(FILE *f)
{
    fputs(
        "\nThe translator (engine bt):\n"
        "      --code-cache DIR keep translations in DIR, a folder of your own: the next start of\n"
        "                       the same guest is quicker. What is in there is run: trust it\n"
        "      --code-cache-size SIZE\n"
        "                       memory for translated code, per CPU (default 64M, at least 1M)\n"
        "      --bt-regions on|off\n"
        "                       translate what belongs together at once (default on)\n"
        "      --bt-direct on|off\n"
        "                       let user code that computes for long run as it is, in a process\n"
        "                       of its own (default on)\n"
        "      --bt-dump ADDR   show how the code at this address, virtual or physical, is\n"
        "                       translated\n"
        "      --perf-map       write /tmp/perf-PID.map, for perf report\n"
        "      --gdb-jit        tell a gdb that debugs popf itself how translated code is called\n",
        f);
}

static int complain(const char *opt, const char *text, const char *should)
{
    fprintf(stderr, "popf run: %s %s: %s; try popf run --help\n", opt, text, should);
    return -1;
}

static int set_size(struct popf_config *cfg, const char *text)
{
    uint64_t size;
    if (opts_size(text, &size))
        return complain("--code-cache-size", text, "a size is a number and K, M or G");
    if (size < POPF_CODE_CACHE_MIN || size > POPF_CODE_CACHE_MAX)
        return complain("--code-cache-size", text, "must be from 1M to 1G");
    cfg->code_cache_size = size;
    return 0;
}

static int set_off(bool *off, const char *opt, const char *text)
{
    if (strcmp(text, "on") && strcmp(text, "off"))
        return complain(opt, text, "must be on or off");
    *off = !strcmp(text, "off");
    return 0;
}

static int set_dump(struct popf_config *cfg, const char *text)
{
    char *end;
    errno = 0;
    cfg->bt_dump_at = strtoull(text, &end, 0);
    if (!isdigit((unsigned char)text[0]) || errno || *end)
        return complain("--bt-dump", text, "an address is a number (0xffffffff81000000)");
    cfg->bt_dump = true;
    return 0;
}

int opts_bt(struct run_options *o, int opt, const char *arg)
{
    switch (opt) {
    case OPT_CODE_CACHE:
        o->cfg.code_cache = arg;
        return 0;
    case OPT_CODE_CACHE_SIZE:
        return set_size(&o->cfg, arg);
    case OPT_BT_REGIONS:
        return set_off(&o->cfg.no_regions, "--bt-regions", arg);
    case OPT_BT_DIRECT:
        return set_off(&o->cfg.no_direct, "--bt-direct", arg);
    case OPT_BT_DUMP:
        return set_dump(&o->cfg, arg);
    case OPT_GDB_JIT:
        o->cfg.gdb_jit = true;
        return 0;
    default:
        o->cfg.perf_map = true;
        return 0;
    }
}
