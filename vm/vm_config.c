/*
 * A machine's own copy of its configuration: the caller's may go once popf_create() has returned.
 */
#include "vm/vm.h"

#include <stdlib.h>
#include <string.h>

/* A copy of n bytes that goes with the bag; NULL if there is no memory. */
static void *keep(struct vm_bag *b, const void *p, size_t n)
{
    void **piece = realloc(b->piece, (b->n + 1) * sizeof(*piece));
    if (!piece)
        return NULL;
    b->piece = piece;
    void *copy = malloc(n ? n : 1);
    if (copy) {
        memcpy(copy, p, n);
        b->piece[b->n++] = copy;
    }
    return copy;
}

static bool keep_string(struct vm_bag *b, const char **s)
{
    if (*s)
        *s = keep(b, *s, strlen(*s) + 1);
    else
        return true;
    return *s;
}

/* n strings, or elements of `size` bytes that are copied as they are. */
static bool keep_array(struct vm_bag *b, const void **array, size_t size, unsigned n)
{
    if (n && *array)
        *array = keep(b, *array, size * n);
    return !n || *array;
}

static bool keep_strings(struct vm_bag *b, const char *const **array, unsigned n)
{
    if (!keep_array(b, (const void **)array, sizeof(char *), n))
        return false;
    const char **s = (const char **)*array;
    for (unsigned i = 0; i < n; i++)
        if (!keep_string(b, &s[i]))
            return false;
    return true;
}

static bool keep_disks(struct vm_bag *b, struct popf_config *c)
{
    if (!keep_array(b, (const void **)&c->disks, sizeof(*c->disks), c->ndisks))
        return false;
    struct popf_disk *d = (struct popf_disk *)c->disks;
    bool ok = true;
    for (unsigned i = 0; i < c->ndisks; i++)
        ok = ok && keep_string(b, &d[i].file) && keep_string(b, &d[i].format) &&
             keep_string(b, &d[i].serial);
    return ok;
}

static bool keep_shares(struct vm_bag *b, struct popf_config *c)
{
    if (!keep_array(b, (const void **)&c->shares, sizeof(*c->shares), c->nshares))
        return false;
    struct popf_share *s = (struct popf_share *)c->shares;
    bool ok = true;
    for (unsigned i = 0; i < c->nshares; i++)
        ok = ok && keep_string(b, &s[i].host) && keep_string(b, &s[i].guest);
    return ok;
}

static bool keep_ports(struct vm_bag *b, struct popf_config *c)
{
    if (!keep_array(b, (const void **)&c->ports, sizeof(*c->ports), c->nports))
        return false;
    struct popf_port *p = (struct popf_port *)c->ports;
    bool ok = true;
    for (unsigned i = 0; i < c->nports; i++)
        ok = ok && keep_string(b, &p[i].name) && keep_string(b, &p[i].path);
    return ok;
}

static int check_counts(const struct popf_config *c, struct err *e)
{
    const struct {
        const char *what;
        unsigned n, max;
    } counts[] = {
        {"disks", c->ndisks, POPF_DISKS_MAX},
        {"shared folders", c->nshares, POPF_SHARES_MAX},
        {"console ports", c->nports, POPF_PORTS_MAX},
        {"forwarded ports", c->nforwards, POPF_FORWARDS_MAX},
        {"allowed addresses", c->nallows, POPF_ALLOWS_MAX},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(counts); i++)
        if (counts[i].n > counts[i].max)
            return err_set(e, "%u %s: there may be %u", counts[i].n, counts[i].what, counts[i].max);
    return 0;
}

int vm_config_copy(struct popf *vm, const struct popf_config *from, struct err *e)
{
    struct popf_config *c = &vm->cfg;
    struct vm_bag *b = &vm->cfg_bag;
    *c = *from;
    if (check_counts(c, e))
        return -1;
    const char **str[] = {&c->kernel, &c->initrd, &c->cmdline, &c->engine,
                          &c->cpu,    &c->entry,  &c->net,     &c->pcap,
                          &c->vsock,  &c->gdb,    &c->name,    &c->code_cache};
    bool ok = keep_disks(b, c) && keep_shares(b, c) && keep_ports(b, c) &&
              keep_strings(b, &c->forwards, c->nforwards) &&
              keep_strings(b, &c->allows, c->nallows);
    for (unsigned i = 0; i < ARRAY_SIZE(str); i++)
        ok = ok && keep_string(b, str[i]);
    return ok ? 0 : err_set(e, "out of memory");
}

void vm_config_free(struct popf *vm)
{
    for (unsigned i = 0; i < vm->cfg_bag.n; i++)
        free(vm->cfg_bag.piece[i]);
    free(vm->cfg_bag.piece);
    vm->cfg_bag = (struct vm_bag){0};
}
