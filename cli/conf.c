#include "cli/conf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/toml.h"

#define FILE_MAX_ (1u << 20)

enum kind {
    TEXT,   /* a string, or a number as it stands */
    PATH,   /* a string, relative to the file's folder */
    FLAG,   /* true: the option is given */
    ON_OFF, /* true, false: the option with on or off */
};

struct rule {
    const char *table, *key;
    enum kind kind;
    bool many;         /* an array is the option several times */
    const char *after; /* PATH: what may stand before it */
};

/* Where the option is called otherwise, see special(). */
static const struct rule rules[] = {
    {"", "image", PATH},
    {"", "kernel", PATH},
    {"", "initrd", PATH},
    {"", "append", TEXT},
    {"", "memory", TEXT},
    {"", "cpus", TEXT},
    {"", "cpu", TEXT},
    {"", "engine", TEXT},
    {"", "entry", TEXT},
    {"", "name", TEXT},
    {"", "detach", FLAG},
    {"", "disk", PATH, .many = true},
    {"", "snapshot", FLAG},
    {"", "net", PATH, .after = "socket:"},
    {"", "publish", TEXT, .many = true},
    {"", "allow", TEXT, .many = true},
    {"", "pcap", PATH},
    {"", "share", PATH, .many = true},
    {"", "vsock", PATH},
    {"", "port", TEXT, .many = true},
    {"", "console", TEXT},
    {"", "rng", ON_OFF},
    {"", "balloon", ON_OFF},
    {"", "cloud-init", PATH},
    {"", "user", TEXT},
    {"", "ssh-key", PATH, .many = true},
    {"", "password", TEXT},
    {"", "hostname", TEXT},
    {"", "gdb", PATH, .after = "unix:"},
    {"", "no-reboot", FLAG},
    {"", "debug-exit", FLAG},
    {"", "timeout", TEXT},
    {"", "max-insns", TEXT},
    {"", "stats", FLAG},
    {"", "trace", TEXT},
    {"", "verbose", FLAG},
    {"", "code-cache", PATH},
    {"", "code-cache-size", TEXT},
    {"", "bt-regions", ON_OFF},
    {"", "bt-direct", ON_OFF},
    {"", "bt-dump", TEXT},
    {"", "perf-map", FLAG},
    {"", "gdb-jit", FLAG},
    {"disk", "file", PATH},
    {"disk", "overlay", FLAG},
    {"disk", "ro", FLAG},
    {"disk", "format", TEXT},
    {"disk", "cache", ON_OFF},
    {"disk", "on-error", TEXT},
    {"disk", "serial", TEXT},
    {"net", "kind", PATH, .after = "socket:"},
    {"net", "restrict", FLAG},
    {"net", "mac", TEXT},
    {"net", "mtu", TEXT},
    {"share", "host", PATH},
    {"share", "guest", TEXT},
    {"share", "ro", FLAG},
    {"share", "virtiofs", FLAG},
    {"port", "name", TEXT},
    {"port", "path", PATH},
};

#define NRULES (sizeof(rules) / sizeof(rules[0]))

struct reader {
    struct args *out;
    const char *file, *dir;
    char *why;
    size_t why_len;
};

static int fail(struct reader *r, unsigned line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static int fail(struct reader *r, unsigned line, const char *fmt, ...)
{
    int n = snprintf(r->why, r->why_len, "%s:%u: ", r->file, line);
    va_list ap;
    va_start(ap, fmt);
    if (n >= 0 && (size_t)n < r->why_len)
        vsnprintf(r->why + n, r->why_len - (size_t)n, fmt, ap);
    va_end(ap);
    return -1;
}

/* --- values as text --- */

static char *as_path(const struct reader *r, const struct rule *rule, const char *text)
{
    const char *home = getenv("HOME"), *path = text;
    if (rule->after && !text_starts(text, rule->after))
        return xstrdup(text); /* "user", a port's number */
    if (rule->after)
        path += strlen(rule->after);
    int before = (int)(path - text);
    if (text_starts(path, "~/") && home)
        return xasprintf("%.*s%s%s", before, text, home, path + 1);
    if (path[0] == '/' || !r->dir || !r->dir[0])
        return xstrdup(text);
    return xasprintf("%.*s%s/%s", before, text, r->dir, path);
}

/* To be freed; NULL after an error. */
static char *as_text(struct reader *r, const struct rule *rule, const struct toml_pair *p,
                     const struct toml_value *v)
{
    switch (rule->kind) {
    case TEXT:
        if (v->kind == TOML_STRING)
            return xstrdup(v->string);
        if (v->kind == TOML_INT)
            return xasprintf("%lld", (long long)v->number);
        fail(r, v->line, "%s must be a string%s", p->key, rule->many ? " or an array of them" : "");
        return NULL;
    case PATH:
        if (v->kind == TOML_STRING)
            return as_path(r, rule, v->string);
        fail(r, v->line, "%s must be a string%s", p->key, rule->many ? " or an array of them" : "");
        return NULL;
    default:
        if (v->kind == TOML_BOOL)
            return xstrdup(v->number ? "on" : "off");
        fail(r, v->line, "%s must be true or false", p->key);
        return NULL;
    }
}

static const struct rule *find(struct reader *r, const struct toml_table *t,
                               const struct toml_pair *p)
{
    bool known = false;
    for (size_t i = 0; i < NRULES; i++) {
        if (strcmp(rules[i].table, t->name))
            continue;
        known = true;
        if (!strcmp(rules[i].key, p->key))
            return &rules[i];
    }
    if (!known)
        fail(r, t->line, "unknown table [%s]: there are [[disk]], [net], [[share]], [[port]]",
             t->name);
    else
        fail(r, p->line, "unknown key \"%s\"%s%s; the keys are the long options of popf run",
             p->key, t->name[0] ? " in " : "", t->name);
    return NULL;
}

/* --- the file's beginning: keys are options --- */

static int put_option(struct reader *r, const struct rule *rule, const struct toml_pair *p,
                      const struct toml_value *v)
{
    char *text = as_text(r, rule, p, v);
    if (!text)
        return -1;
    if (!strcmp(rule->key, "image"))
        args_add(r->out, text);
    else if (rule->kind != FLAG || !strcmp(text, "on"))
        args_addf(r->out, "--%s", p->key);
    if (rule->kind != FLAG && strcmp(rule->key, "image"))
        args_add(r->out, text);
    free(text);
    return 0;
}

static int put_pair(struct reader *r, const struct toml_table *t, const struct toml_pair *p)
{
    const struct rule *rule = find(r, t, p);
    if (!rule)
        return -1;
    if (!rule->many || p->value.kind != TOML_ARRAY)
        return put_option(r, rule, p, &p->value);
    for (unsigned i = 0; i < p->value.nitems; i++)
        if (put_option(r, rule, p, &p->value.items[i]))
            return -1;
    return 0;
}

/* --- tables: their keys make one option's value --- */

/* A comma in it is written twice. */
static void put_escaped(struct text *to, const char *s)
{
    for (; *s; s++) {
        text_put(to, s, 1);
        if (*s == ',')
            text_put(to, s, 1);
    }
}

/* The value of a key, or NULL if it is not there; an error sets *rc. */
static char *field(struct reader *r, const struct toml_table *t, const char *key, int *rc)
{
    for (unsigned i = 0; i < t->npairs; i++) {
        if (strcmp(t->pairs[i].key, key))
            continue;
        const struct rule *rule = find(r, t, &t->pairs[i]);
        char *text = rule ? as_text(r, rule, &t->pairs[i], &t->pairs[i].value) : NULL;
        *rc = text ? *rc : -1;
        return text;
    }
    return NULL;
}

/* "first[,flag][,name=value]..." */
static int put_settings(struct reader *r, const struct toml_table *t, const char *first)
{
    struct text all = {0};
    int rc = 0;
    char *value = field(r, t, first, &rc);
    if (!value && !rc)
        rc = fail(r, t->line, "%s is missing in [[%s]]", first, t->name);
    if (value)
        put_escaped(&all, value);
    free(value);
    for (unsigned i = 0; !rc && i < t->npairs; i++) {
        const struct rule *rule = find(r, t, &t->pairs[i]);
        if (!rule || !strcmp(rule->key, first)) {
            rc = rule ? 0 : -1;
            continue;
        }
        value = field(r, t, rule->key, &rc);
        if (value && rule->kind == FLAG) {
            text_putf(&all, "%s%s", strcmp(value, "on") ? "" : ",",
                      strcmp(value, "on") ? "" : rule->key);
        } else if (value) {
            text_putf(&all, ",%s=", rule->key);
            put_escaped(&all, value);
        }
        free(value);
    }
    if (!rc) {
        args_addf(r->out, "--%s", t->name);
        args_add(r->out, all.s);
    }
    text_free(&all);
    return rc;
}

static int put_share(struct reader *r, const struct toml_table *t)
{
    int rc = 0;
    char *host = field(r, t, "host", &rc), *guest = field(r, t, "guest", &rc);
    char *ro = field(r, t, "ro", &rc), *fs = field(r, t, "virtiofs", &rc);
    if (!rc && !host)
        rc = fail(r, t->line, "host is missing in [[share]]");
    if (!rc) {
        args_add(r->out, "--share");
        args_addf(r->out, "%s%s%s%s%s", host, guest ? ":" : "", guest ? guest : "",
                  ro && !strcmp(ro, "on") ? ":ro" : "", fs && !strcmp(fs, "on") ? ":virtiofs" : "");
    }
    free(host), free(guest), free(ro), free(fs);
    return rc;
}

static int put_port(struct reader *r, const struct toml_table *t)
{
    int rc = 0;
    char *name = field(r, t, "name", &rc), *path = field(r, t, "path", &rc);
    if (!rc && (!name || !path))
        rc = fail(r, t->line, "[[port]] needs name and path");
    if (!rc) {
        args_add(r->out, "--port");
        args_addf(r->out, "%s=%s", name, path);
    }
    free(name), free(path);
    return rc;
}

static int put_table(struct reader *r, const struct toml_table *t)
{
    for (unsigned i = 0; i < t->npairs; i++)
        if (!find(r, t, &t->pairs[i]))
            return -1;
    if (t->name[0] && t->of_array != (strcmp(t->name, "net") != 0))
        return fail(r, t->line,
                    t->of_array ? "there is one network: write [%s]"
                                : "there may be several: write [[%s]]",
                    t->name);
    if (!strcmp(t->name, "disk"))
        return put_settings(r, t, "file");
    if (!strcmp(t->name, "net"))
        return put_settings(r, t, "kind");
    if (!strcmp(t->name, "share"))
        return put_share(r, t);
    if (!strcmp(t->name, "port"))
        return put_port(r, t);
    for (unsigned i = 0; i < t->npairs; i++)
        if (put_pair(r, t, &t->pairs[i]))
            return -1;
    return t->name[0] ? fail(r, t->line,
                             "unknown table [%s]: there are [[disk]], [net], [[share]], "
                             "[[port]]",
                             t->name)
                      : 0;
}

int conf_parse(struct args *options, const char *text, const char *file, const char *dir, char *why,
               size_t len)
{
    struct reader r = {options, file, dir, why, len};
    struct toml t;
    int rc = toml_parse(&t, text);
    if (rc)
        fail(&r, t.error_line, "%s", t.error);
    for (unsigned i = 0; !rc && i < t.ntables; i++)
        rc = put_table(&r, &t.tables[i]);
    toml_free(&t);
    return rc;
}

/* --- files --- */

static int read_file(struct text *t, const char *file, char *why, size_t len)
{
    char buf[4096];
    size_t n;
    FILE *f = fopen(file, "re");
    while (f && t->n < FILE_MAX_ && (n = fread(buf, 1, sizeof(buf), f)))
        text_put(t, buf, n);
    bool bad = !f || ferror(f);
    if (bad)
        snprintf(why, len, "cannot read %s: %s", file, strerror(errno));
    if (f)
        fclose(f);
    text_put(t, "", 0);
    return bad ? -1 : 0;
}

/* Without a name of its own a machine is called as its file. */
static void name_after(struct args *options, const char *file)
{
    for (size_t i = 0; i < options->n; i++)
        if (!strcmp(options->v[i], "--name"))
            return;
    const char *slash = strrchr(file, '/'), *base = slash ? slash + 1 : file;
    args_add(options, "--name");
    args_addf(options, "%.*s", (int)(strlen(base) - strlen(".toml")), base);
}

int conf_read(struct args *options, const char *file, char *why, size_t len)
{
    struct text text = {0};
    const char *slash = strrchr(file, '/');
    char *dir = slash ? xasprintf("%.*s", (int)(slash - file), file) : xstrdup("");
    if (slash == file)
        strcpy(dir, ""); /* of the root: absolute paths anyway */
    int rc = read_file(&text, file, why, len);
    if (!rc)
        rc = conf_parse(options, text.s, file, dir, why, len);
    if (!rc && text_ends(file, ".toml"))
        name_after(options, file);
    text_free(&text);
    free(dir);
    return rc;
}

/* Options without a value: what follows one is an argument of its own. */
static bool is_flag(const char *arg)
{
    static const char *const flags[] = {"-d",          "--detach",     "-v",
                                        "--verbose",   "--snapshot",   "--stats",
                                        "--no-reboot", "--debug-exit", "--"};
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
        if (!strcmp(arg, flags[i]))
            return true;
    return false;
}

static int find_file(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        bool is_value =
            i > 1 && argv[i - 1][0] == '-' && !is_flag(argv[i - 1]) && !strchr(argv[i - 1], '=');
        if (argv[i][0] != '-' && text_ends(argv[i], ".toml") && !is_value)
            return i;
    }
    return 0;
}

int conf_expand(struct args *all, int argc, char **argv)
{
    char why[512];
    int at = find_file(argc, argv);
    args_add(all, argv[0]);
    if (at && conf_read(all, argv[at], why, sizeof(why))) {
        fprintf(stderr, "popf run: %s\n", why);
        return -1;
    }
    for (int i = 1; i < argc; i++)
        if (i != at)
            args_add(all, argv[i]);
    return 0;
}
