/*
 * bt_settings.c - what can be set of the translator: options, and variables for tests.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/bt/bt.h"

/* Runs in the interpreter before a block is translated: translating costs as much as some dozens.
 */
#define HOT 24
/* Where translations are kept it pays sooner. But what has run makes better ones: bt_region.c,
 * cpu_fpu_plan(). */
#define HOT_KEPT 2

/* A number from the environment, at most `max`; `otherwise` without it. */
static u64 from_environment(const char *name, u64 otherwise, u64 max)
{
    const char *text = getenv(name);
    return text ? min_u64(strtoull(text, NULL, 10), max) : otherwise;
}

static bool is(const char *name, const char *value)
{
    const char *text = getenv(name);
    return text && !strcmp(text, value);
}

void bt_settings_init(struct bt_settings *s, const struct engine_bt_config *cfg)
{
    u64 size = cfg->code_size ? cfg->code_size : BT_CODE_SIZE;
    size = from_environment("POPF_BT_SIZE", size, BT_CODE_SIZE_MAX);
    size = max_u64(size, BT_REGION_ROOM + 64 * KiB); /* tests may want less than the minimum */
    const char *kept_in = cfg->kept_in ? cfg->kept_in : getenv("POPF_BT_KEEP");
    *s = (struct bt_settings){
        .hot = (u8)from_environment("POPF_BT_HOT", kept_in ? HOT_KEPT : HOT, UINT8_MAX),
        .count = cfg->count,
        .dump = cfg->dump,
        .dump_at = cfg->dump_at,
        .kept_in = kept_in,
        .perf_map = -1,
        .gdb_jit = cfg->gdb_jit,
        .one_block = cfg->one_block || is("POPF_BT_REGIONS", "off"),
        .code_size = align_up(size, PAGE_SIZE),
        .no_direct = cfg->no_direct || is("POPF_BT_DIRECT", "off"),
        .always_direct = is("POPF_BT_DIRECT", "always") || is("POPF_BT_DIRECT", "stops"),
        .no_filter = is("POPF_BT_DIRECT", "stops"),
    };
}

/* --- what was hot --- */

static unsigned known_bit(gpa_t gpa)
{
    return (unsigned)((gpa * 0x9e3779b97f4a7c15ull) >> (64 - BT_KNOWN_BITS));
}

void bt_known_add(struct bt_known *k, gpa_t gpa)
{
    unsigned bit = known_bit(gpa);
    k->now[bit >> 3] |= (u8)(1u << (bit & 7));
}

bool bt_known(const struct bt_known *k, gpa_t gpa)
{
    unsigned bit = known_bit(gpa);
    return k->before[bit >> 3] >> (bit & 7) & 1;
}

void bt_known_next(struct bt_known *k)
{
    cpu_copy(k->before, k->now, sizeof(k->now));
    cpu_fill(k->now, 0, sizeof(k->now));
}
