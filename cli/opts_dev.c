/*
 * Options that make devices. What they share: a value, then settings with commas before them.
 * Addresses and the like are judged by the library, whose complaints are as good.
 */
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

/* A copy that lives as long as the options. */
static char *keep(struct run_options *o, const char *text)
{
    args_add(&o->pieces, text);
    return o->pieces.v[o->pieces.n - 1];
}

void opts_free(struct run_options *o)
{
    args_free(&o->pieces);
}

/* Takes the text up to the next comma out of *rest; two commas are one that is meant. NULL at the
 * end. */
static char *next_piece(struct run_options *o, const char **rest)
{
    const char *p = *rest;
    if (!p)
        return NULL;
    char *piece = keep(o, p), *to = piece;
    while (*p && (*p != ',' || p[1] == ',')) {
        p += *p == ',';
        *to++ = *p++;
    }
    *to = 0;
    *rest = *p ? p + 1 : NULL;
    return piece;
}

/* The value of "name=value", or NULL if it is another setting. */
static char *value_of(char *piece, const char *name)
{
    size_t n = strlen(name);
    return !strncmp(piece, name, n) && piece[n] == '=' ? piece + n + 1 : NULL;
}

/* One of two words: 0 for the first, 1 for the second, -1 for neither. */
static int which(const char *text, const char *first, const char *second)
{
    return !strcmp(text, first) ? 0 : !strcmp(text, second) ? 1 : -1;
}

static int too_many(const char *opt, const char *text, unsigned max)
{
    char should[64];
    snprintf(should, sizeof(should), "there may be %u of them", max);
    return opts_complain(opt, text, should);
}

static int disk_setting(struct popf_disk *d, char *piece)
{
    char *v;
    int n = 0;
    if (!strcmp(piece, "overlay")) {
        d->overlay = true;
    } else if (!strcmp(piece, "ro")) {
        d->read_only = true;
    } else if ((v = value_of(piece, "format"))) {
        n = which(v, "raw", "qcow2");
        d->format = v;
    } else if ((v = value_of(piece, "cache"))) {
        n = which(v, "on", "off");
        d->no_cache = n == 1;
    } else if ((v = value_of(piece, "on-error"))) {
        n = which(v, "report", "stop");
        d->stop_on_error = n == 1;
    } else if ((v = value_of(piece, "serial"))) {
        d->serial = v;
    } else {
        n = -1;
    }
    return n < 0 ? -1 : 0;
}

int opts_disk(struct run_options *o, const char *text)
{
    const char *rest = text;
    if (o->cfg.ndisks == POPF_DISKS_MAX)
        return too_many("--disk", text, POPF_DISKS_MAX);
    struct popf_disk *d = &o->disk[o->cfg.ndisks++];
    d->file = next_piece(o, &rest);
    if (!*d->file)
        return opts_complain("--disk", text, "a file's name is missing");
    for (char *piece; (piece = next_piece(o, &rest));)
        if (disk_setting(d, piece))
            return opts_complain("--disk", piece,
                                 "settings are overlay, ro, format=raw|qcow2, cache=on|off, "
                                 "on-error=report|stop, serial=TEXT (a comma in a file's name is "
                                 "written twice)");
    return 0;
}

int opts_net(struct run_options *o, const char *text)
{
    static const char *const kinds[] = {"user", "none", "tap:", "socket:"};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        size_t n = strlen(kinds[i]);
        if (strncmp(text, kinds[i], n) || (i < 2 && text[n] && text[n] != ','))
            continue;
        o->cfg.net = text;
        return 0;
    }
    return opts_complain("--net", text, "must be user, none, tap:NAME or socket:PATH");
}

int opts_forward(struct run_options *o, const char *text)
{
    if (o->cfg.nforwards == POPF_FORWARDS_MAX)
        return too_many("--publish", text, POPF_FORWARDS_MAX);
    o->forward[o->cfg.nforwards++] = text;
    return 0;
}

int opts_allow(struct run_options *o, const char *text)
{
    if (o->cfg.nallows == POPF_ALLOWS_MAX)
        return too_many("--allow", text, POPF_ALLOWS_MAX);
    o->allow[o->cfg.nallows++] = text;
    return 0;
}

/* HOST[:TAG][:ro]; a colon within HOST cannot be said. */
int opts_share(struct run_options *o, const char *text)
{
    if (o->cfg.nshares == POPF_SHARES_MAX)
        return too_many("--share", text, POPF_SHARES_MAX);
    char *copy = keep(o, text), *save = NULL;
    if (!*copy || *copy == ':')
        return opts_complain("--share", text, "must be FOLDER[:TAG][:ro][:virtiofs]");
    struct popf_share *s = &o->share[o->cfg.nshares++];
    s->host = strtok_r(copy, ":", &save);
    for (char *word; (word = strtok_r(NULL, ":", &save));) {
        if (!strcmp(word, "ro"))
            s->read_only = true;
        else if (!strcmp(word, "virtiofs"))
            s->virtiofs = true;
        else if (!s->guest && !s->read_only && !s->virtiofs)
            s->guest = word;
        else
            return opts_complain("--share", text, "must be FOLDER[:TAG][:ro][:virtiofs]");
    }
    return 0;
}

int opts_vsock(struct run_options *o, const char *text)
{
    const char *rest = text;
    o->cfg.vsock = next_piece(o, &rest);
    for (char *piece, *end; (piece = next_piece(o, &rest));) {
        char *v = value_of(piece, "cid");
        unsigned long long cid = v ? strtoull(v, &end, 10) : 0;
        if (!v || *end || cid < 3 || cid >= 0xffffffff)
            return opts_complain("--vsock", piece, "must be PATH[,cid=N], N from 3 to 4294967294");
        o->cfg.vsock_cid = cid;
    }
    return *o->cfg.vsock ? 0 : opts_complain("--vsock", text, "a socket's path is missing");
}

int opts_port(struct run_options *o, const char *text)
{
    if (o->cfg.nports == POPF_PORTS_MAX)
        return too_many("--port", text, POPF_PORTS_MAX);
    char *copy = keep(o, text);
    char *path = strchr(copy, '=');
    if (!path || path == copy || !path[1])
        return opts_complain("--port", text, "must be NAME=PATH");
    *path++ = 0;
    o->port[o->cfg.nports++] = (struct popf_port){.name = copy, .path = path};
    return 0;
}

int opts_console(struct run_options *o, const char *text)
{
    int n = which(text, "serial", "virtio");
    if (n < 0)
        return opts_complain("--console", text, "must be serial or virtio");
    o->cfg.console = n;
    o->terminal = n ? POPF_CONSOLE_PORT : 0;
    return 0;
}

int opts_on_off(const char *opt, const char *text, bool *off)
{
    int n = which(text, "on", "off");
    *off = n == 1;
    return n < 0 ? opts_complain(opt, text, "must be on or off") : 0;
}
