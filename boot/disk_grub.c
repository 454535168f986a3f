/*
 * disk_grub.c - GRUB 2's configuration: enough of its language (GRUB manual, "Shell-like
 * scripting") to come to the menu entry that GRUB would boot, and to what that entry loads.
 *
 * Understood are variables, quoting, if/elif/else, test, menus, search, load_env, blscfg. Loops and
 * functions are passed over; other commands succeed and do nothing.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "boot/disk_conf.h"
#include "boot/grub_words.h"

#define ENTRIES_MAX 256
#define ARGS_MAX    96
#define FILES_MAX   8
#define DEPTH_MAX   48      /* of blocks within blocks */
#define STEPS_MAX   200000u /* commands */

struct entry {
    char title[128], id[128];
    struct grub_text body;
    bool submenu;
};

struct command {
    unsigned n;
    char *arg[ARGS_MAX];
    bool block; /* '{' follows */
    size_t used;
    char buf[CONF_LINE_MAX];
};

struct grub {
    const struct conf_disk *disk;
    struct disk_fs *fs; /* that the configuration is on */
    struct conf *c;     /* while an entry is run */
    struct grub_vars vars;
    struct entry *entry; /* of the menu */
    unsigned nentries, depth, steps, nfiles;
    struct blob file[FILES_MAX];
    bool blscfg;
};

enum keyword { KW_NONE, KW_THEN, KW_ELIF, KW_ELSE, KW_FI, KW_DO, KW_DONE, KW_END };

static enum keyword run(struct grub *g, struct grub_text *t, bool live);

/* --- devices and files --- */

static struct disk_fs *find_partition(const struct grub *g, unsigned number)
{
    for (unsigned i = 0; i < g->disk->nfs; i++)
        if (g->disk->fs[i]->part.number == number)
            return g->disk->fs[i];
    return g->fs;
}

/* "popf3": what search has found; "hd0,gpt2", "hd0,msdos5", "hd0,1", "hd0". */
static struct disk_fs *find_device(const struct grub *g, const char *dev)
{
    unsigned n;
    if (sscanf(dev, "popf%u", &n) == 1)
        return n < g->disk->nfs ? g->disk->fs[n] : g->fs;
    const char *comma = strchr(dev, ',');
    if (comma)
        return find_partition(
            g, (unsigned)strtoul(comma + 1 + strcspn(comma + 1, "0123456789"), NULL, 10));
    return strncmp(dev, "hd", 2) ? g->fs : find_partition(g, 0);
}

/* "(device)/path" or "/path" on $root. */
static void locate(const struct grub *g, const char *name, struct conf_file *f)
{
    char dev[1024];
    const char *close = *name == '(' ? strchr(name, ')') : NULL;
    snprintf(dev, sizeof(dev), "%s", grub_vars_get(&g->vars, "root"));
    if (close) {
        snprintf(dev, sizeof(dev), "%.*s", (int)min_u64((u64)(close - name - 1), 60), name + 1);
        name = close + 1;
    }
    f->fs = find_device(g, dev);
    snprintf(f->path, sizeof(f->path), "%s%s", *name == '/' ? "" : "/", name);
}

static bool file_there(const struct grub *g, const char *name)
{
    struct conf_file f;
    locate(g, name, &f);
    return disk_fs_exists(f.fs, f.path);
}

enum by { BY_UUID, BY_LABEL, BY_FILE };

static bool fs_matches(struct disk_fs *fs, enum by by, const char *what)
{
    switch (by) {
    case BY_UUID:
        return !strcasecmp(fs->uuid, what);
    case BY_LABEL:
        return !strcmp(fs->label, what);
    default:
        return disk_fs_exists(fs, what);
    }
}

static bool search_for(struct grub *g, enum by by, const char *what, const char *var)
{
    for (unsigned i = 0; *what && i < g->disk->nfs; i++) {
        if (!fs_matches(g->disk->fs[i], by, what))
            continue;
        char dev[16];
        snprintf(dev, sizeof(dev), "popf%u", i);
        grub_vars_set(&g->vars, var, dev);
        return true;
    }
    return false;
}

static bool do_search(struct grub *g, const struct command *c)
{
    enum by by = BY_FILE;
    const char *what = "", *var = "root";
    for (unsigned i = 1; i < c->n; i++) {
        const char *a = c->arg[i];
        if (!strcmp(a, "--fs-uuid") || !strcmp(a, "-u"))
            by = BY_UUID;
        else if (!strcmp(a, "--label") || !strcmp(a, "-l") || !strcmp(a, "--fs-label"))
            by = BY_LABEL;
        else if (!strncmp(a, "--set=", 6))
            var = a + 6;
        else if (!strcmp(a, "--hint") && i + 1 < c->n)
            i++;
        else if (*a != '-')
            what = a;
    }
    return search_for(g, by, what, var);
}

/* search.fs_uuid WHAT [VARIABLE [HINT...]] */
static bool do_search_dot(struct grub *g, const struct command *c)
{
    const char *kind = c->arg[0] + strlen("search.");
    enum by by = !strcmp(kind, "fs_uuid")    ? BY_UUID
                 : !strcmp(kind, "fs_label") ? BY_LABEL
                                             : BY_FILE;
    return c->n > 1 && search_for(g, by, c->arg[1], c->n > 2 ? c->arg[2] : "root");
}

/* --- test --- */

static bool test_unary(const struct grub *g, const char *op, const char *a)
{
    if (!strcmp(op, "-n"))
        return *a;
    if (!strcmp(op, "-z"))
        return !*a;
    return file_there(g, a); /* -e, -f, -s, -d */
}

static bool test_binary(const char *a, const char *op, const char *b)
{
    long x = strtol(a, NULL, 10), y = strtol(b, NULL, 10);
    if (!strcmp(op, "=") || !strcmp(op, "=="))
        return !strcmp(a, b);
    if (!strcmp(op, "!="))
        return strcmp(a, b) != 0;
    if (!strcmp(op, "<"))
        return strcmp(a, b) < 0;
    if (!strcmp(op, ">"))
        return strcmp(a, b) > 0;
    return !strcmp(op, "-eq")   ? x == y
           : !strcmp(op, "-ne") ? x != y
           : !strcmp(op, "-lt") ? x < y
           : !strcmp(op, "-le") ? x <= y
           : !strcmp(op, "-gt") ? x > y
                                : !strcmp(op, "-ge") && x >= y;
}

static bool is_binary(const char *op)
{
    static const char *const ops[] = {"=",   "==",  "!=",  "<",   ">",  "-eq",
                                      "-ne", "-lt", "-le", "-gt", "-ge"};
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
        if (!strcmp(op, ops[i]))
            return true;
    return false;
}

static bool is_unary(const char *op)
{
    return op[0] == '-' && op[1] && strchr("nzefsd", op[1]) && !op[2];
}

/* One condition, from arg[*i] on. */
static bool test_one(const struct grub *g, const struct command *c, unsigned n, unsigned *i)
{
    bool not = false;
    while (*i < n && !strcmp(c->arg[*i], "!")) {
        not = !not ;
        ++*i;
    }
    unsigned at = *i;
    bool val = false;
    if (at + 2 < n && is_binary(c->arg[at + 1])) {
        val = test_binary(c->arg[at], c->arg[at + 1], c->arg[at + 2]);
        *i += 3;
    } else if (at + 1 < n && is_unary(c->arg[at])) {
        val = test_unary(g, c->arg[at], c->arg[at + 1]);
        *i += 2;
    } else if (at < n) {
        val = *c->arg[at];
        *i += 1;
    }
    return val != not ;
}

/* [ A -a B -o C ], -a and -o from left to right. */
static bool do_test(const struct grub *g, const struct command *c)
{
    unsigned n = c->n, i = 1;
    if (!strcmp(c->arg[0], "[") && n > 1 && !strcmp(c->arg[n - 1], "]"))
        n--;
    bool val = test_one(g, c, n, &i);
    while (i + 1 < n) {
        const char *op = c->arg[i++];
        bool next = test_one(g, c, n, &i);
        if (!strcmp(op, "-o"))
            val = val || next;
        else
            val = val && next;
    }
    return val;
}

/* --- commands --- */

static bool assign(struct grub *g, const char *text)
{
    char name[64];
    const char *eq = strchr(text, '=');
    size_t n = eq ? (size_t)(eq - text) : 0;
    if (!n || n >= sizeof(name) ||
        strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                     "0123456789_") != n)
        return false;
    memcpy(name, text, n);
    name[n] = 0;
    grub_vars_set(&g->vars, name, eq + 1);
    return true;
}

/* GRUB's environment block: lines of NAME=VALUE. */
static bool load_env(struct grub *g, const struct command *c)
{
    char name[DISK_PATH_MAX + 16];
    struct conf_file f;
    struct blob b;
    snprintf(name, sizeof(name), "%s/grubenv", grub_vars_get(&g->vars, "prefix"));
    for (unsigned i = 1; i < c->n; i++) {
        if (!strncmp(c->arg[i], "--file=", 7))
            snprintf(name, sizeof(name), "%s", c->arg[i] + 7);
        else if ((!strcmp(c->arg[i], "-f") || !strcmp(c->arg[i], "--file")) && i + 1 < c->n)
            snprintf(name, sizeof(name), "%s", c->arg[++i]);
    }
    locate(g, name, &f);
    if (disk_fs_read(f.fs, f.path, CONF_FILE_MAX, &b, NULL))
        return false;
    char *at = b.owned, *line;
    while ((line = conf_line(&at)))
        if (*line != '#')
            assign(g, line);
    blob_free(&b);
    return true;
}

static bool is_linux(const char *name)
{
    return !strcmp(name, "linux") || !strcmp(name, "linux16") || !strcmp(name, "linuxefi");
}

static bool is_initrd(const char *name)
{
    return !strcmp(name, "initrd") || !strcmp(name, "initrd16") || !strcmp(name, "initrdefi");
}

static void do_linux(struct grub *g, const struct command *c)
{
    if (!g->c || c->n < 2)
        return;
    locate(g, c->arg[1], &g->c->kernel);
    g->c->cmdline[0] = 0;
    for (unsigned i = 2; i < c->n; i++) {
        char word[CONF_LINE_MAX];
        bool blank = strpbrk(c->arg[i], " \t");
        snprintf(word, sizeof(word), blank ? "\"%s\"" : "%s", c->arg[i]);
        conf_append(g->c->cmdline, sizeof(g->c->cmdline), word);
    }
}

static void do_initrd(struct grub *g, const struct command *c)
{
    for (unsigned i = 1; g->c && i < c->n; i++) {
        struct conf_file f;
        locate(g, c->arg[i], &f);
        conf_add_initrd(g->c, f.fs, f.path);
    }
}

/* Another file's commands. Its text stays: menu entries point into it. */
static bool do_source(struct grub *g, const char *name)
{
    struct conf_file f;
    if (g->nfiles == FILES_MAX)
        return false;
    locate(g, name, &f);
    struct blob *b = &g->file[g->nfiles];
    if (disk_fs_read(f.fs, f.path, CONF_FILE_MAX, b, NULL))
        return false;
    g->nfiles++;
    struct grub_text t = {.p = (const char *)b->data, .end = (const char *)b->data + b->size};
    run(g, &t, true);
    return g->vars.status;
}

static bool do_simple(struct grub *g, const struct command *c)
{
    const char *name = c->arg[0];
    if (!strcmp(name, "set"))
        return c->n < 2 || assign(g, c->arg[1]);
    if (!strcmp(name, "[") || !strcmp(name, "test"))
        return do_test(g, c);
    if (!strcmp(name, "false"))
        return false;
    if (!strcmp(name, "load_env"))
        return load_env(g, c);
    if (!strcmp(name, "search"))
        return do_search(g, c);
    if (!strncmp(name, "search.", 7))
        return do_search_dot(g, c);
    if (c->n > 1 && (!strcmp(name, "source") || !strcmp(name, ".") || !strcmp(name, "configfile")))
        return do_source(g, c->arg[1]);
    if (is_linux(name))
        do_linux(g, c);
    else if (is_initrd(name))
        do_initrd(g, c);
    else if (!strcmp(name, "blscfg"))
        g->blscfg = true;
    else
        assign(g, name);
    return true;
}

/* menuentry TITLE [--class C] [--id ID]... { */
static void add_entry(struct grub *g, const struct command *c, struct grub_text body)
{
    if (g->nentries == ENTRIES_MAX || c->n < 2)
        return;
    struct entry *e = &g->entry[g->nentries++];
    *e = (struct entry){.body = body, .submenu = !strcmp(c->arg[0], "submenu")};
    snprintf(e->title, sizeof(e->title), "%s", c->arg[1]);
    for (unsigned i = 2; i + 1 < c->n; i++)
        if (!strcmp(c->arg[i], "--id"))
            snprintf(e->id, sizeof(e->id), "%s", c->arg[i + 1]);
    for (unsigned i = 2; i < c->n; i++)
        if (!strncmp(c->arg[i], "--id=", 5))
            snprintf(e->id, sizeof(e->id), "%s", c->arg[i] + 5);
}

/* --- control flow --- */

static enum keyword keyword_of(const char *word)
{
    static const char *const names[] = {[KW_THEN] = "then", [KW_ELIF] = "elif", [KW_ELSE] = "else",
                                        [KW_FI] = "fi",     [KW_DO] = "do",     [KW_DONE] = "done"};
    for (unsigned i = KW_THEN; i < ARRAY_SIZE(names); i++)
        if (!strcmp(word, names[i]))
            return (enum keyword)i;
    return KW_NONE;
}

static enum grub_word add_arg(struct grub *g, struct grub_text *t, struct command *c, bool *quoted)
{
    char *at = c->buf + c->used;
    *at = 0;
    enum grub_word w = grub_words_next(&g->vars, t, at, sizeof(c->buf) - c->used, quoted);
    size_t len = strlen(at);
    if (w != GRUB_WORD || (!len && !*quoted)) /* an empty variable is no word */
        return w;
    if (c->n < ARGS_MAX && c->used + len + 2 < sizeof(c->buf)) {
        c->arg[c->n++] = at;
        c->used += len + 1;
    }
    return w;
}

/* The first word; a keyword is all that is read. GRUB_END: there is no more. */
static enum grub_word first_word(struct grub *g, struct grub_text *t, struct command *c,
                                 enum keyword *kw)
{
    bool quoted = false;
    enum grub_word w;
    c->n = 0;
    c->used = 0;
    c->block = false;
    *kw = KW_NONE;
    while ((w = add_arg(g, t, c, &quoted)) == GRUB_SEPARATOR || w == GRUB_OPEN ||
           (w == GRUB_WORD && !c->n))
        ;
    if (w == GRUB_WORD && !quoted)
        *kw = keyword_of(c->arg[0]);
    return w;
}

static void other_words(struct grub *g, struct grub_text *t, struct command *c)
{
    bool quoted;
    enum grub_word w;
    while ((w = add_arg(g, t, c, &quoted)) == GRUB_WORD)
        ;
    c->block = w == GRUB_OPEN;
    if (w == GRUB_CLOSE)
        t->p--; /* ends the block, too */
}

static void run_if(struct grub *g, struct grub_text *t, bool live)
{
    bool done = false;
    enum keyword kw = KW_ELIF;
    while (kw == KW_ELIF) {
        bool look = live && !done;
        if (run(g, t, look) != KW_THEN)
            return;
        bool take = look && g->vars.status;
        kw = run(g, t, take);
        done |= take;
    }
    if (kw == KW_ELSE)
        run(g, t, live && !done);
}

/* Loops are passed over. */
static void pass_loop(struct grub *g, struct grub_text *t)
{
    if (run(g, t, false) == KW_DO)
        run(g, t, false);
}

static void run_command(struct grub *g, struct grub_text *t, struct command *c, bool live)
{
    const char *name = c->arg[0];
    if (!strcmp(name, "if")) {
        run_if(g, t, live);
        return;
    }
    if (!strcmp(name, "while") || !strcmp(name, "until") || !strcmp(name, "for")) {
        pass_loop(g, t);
        return;
    }
    other_words(g, t, c);
    struct grub_text body = {0};
    if (c->block)
        body = grub_words_block(t);
    if (!live)
        return;
    if (!strcmp(name, "menuentry") || !strcmp(name, "submenu")) {
        if (c->block)
            add_entry(g, c, body);
    } else if (strcmp(name, "function") != 0) {
        bool not = !strcmp(name, "!") && c->n > 1;
        if (not ) {
            memmove(c->arg, c->arg + 1, (c->n - 1) * sizeof(c->arg[0]));
            c->n--;
        }
        g->vars.status = do_simple(g, c) != not ;
    }
}

/* Commands up to a keyword that does not begin one. `live`: they are carried out, too. */
static enum keyword run(struct grub *g, struct grub_text *t, bool live)
{
    enum keyword kw = KW_END;
    struct command *c = g->depth < DEPTH_MAX ? malloc(sizeof(*c)) : NULL;
    if (!c) {
        t->p = t->end;
        return KW_END;
    }
    g->depth++;
    while (g->steps++ < STEPS_MAX) {
        enum grub_word w = first_word(g, t, c, &kw);
        if (w == GRUB_END)
            kw = KW_END;
        if (w == GRUB_END || kw != KW_NONE)
            break;
        if (w == GRUB_WORD)
            run_command(g, t, c, live);
    }
    g->depth--;
    free(c);
    return kw;
}

/* --- the menu --- */

/* The entry that one part of `default` names; the first if there is none such. */
static unsigned find_entry(const struct grub *g, const char *spec)
{
    char *end;
    unsigned long n = strtoul(spec, &end, 10);
    if (*spec && !*end)
        return n < g->nentries ? (unsigned)n : 0;
    for (unsigned i = 0; i < g->nentries; i++)
        if (!strcmp(g->entry[i].title, spec) || (*spec && !strcmp(g->entry[i].id, spec)))
            return i;
    return 0;
}

/* Goes down into submenus until there is an entry; false if there is none. */
static bool choose(struct grub *g, struct entry *out)
{
    char spec[1024], *rest = spec;
    snprintf(spec, sizeof(spec), "%s", grub_vars_get(&g->vars, "default"));
    for (unsigned level = 0; level < 8 && g->nentries; level++) {
        char *part = rest ? strsep(&rest, ">") : "";
        *out = g->entry[find_entry(g, part)];
        if (!out->submenu)
            return true;
        g->nentries = 0;
        struct grub_text t = out->body;
        run(g, &t, true);
    }
    return false;
}

static bool run_entry(struct grub *g, const struct entry *e, struct conf *c)
{
    struct grub_text t = e->body;
    *c = (struct conf){0};
    snprintf(c->title, sizeof(c->title), "%s", e->title);
    g->c = c;
    run(g, &t, true);
    g->c = NULL;
    return c->kernel.path[0];
}

/* The default entry, or the first behind it that loads a Linux. */
static int boot_menu(struct grub *g, struct conf *c)
{
    struct entry e;
    if (choose(g, &e)) {
        if (run_entry(g, &e, c))
            return 1;
        for (unsigned i = 0; i < g->nentries; i++)
            if (!g->entry[i].submenu && run_entry(g, &g->entry[i], c))
                return 1;
    }
    return 0;
}

static void expand(void *arg, const char *text, char *out, size_t size)
{
    const struct grub *g = arg;
    grub_vars_expand(&g->vars, text, out, size);
}

/* blscfg: entries of the specification, with variables of GRUB's environment. */
static int boot_bls(struct grub *g, struct conf *c, struct err *e)
{
    static const char *const dirs[] = {"/loader/entries", "/boot/loader/entries"};
    const char *wanted = grub_vars_get(&g->vars, "default");
    struct disk_fs *fs = find_device(g, grub_vars_get(&g->vars, "root"));
    for (unsigned i = 0; i < 2 * ARRAY_SIZE(dirs); i++) {
        int rc =
            bls_choose(i < 2 ? fs : g->fs, dirs[i % 2], *wanted ? wanted : NULL, expand, g, c, e);
        if (rc)
            return rc;
    }
    return 0;
}

static int run_file(struct grub *g, const char *path, struct conf *c, struct err *e)
{
    char root[16];
    for (unsigned i = 0; i < g->disk->nfs; i++)
        if (g->disk->fs[i] == g->fs) {
            snprintf(root, sizeof(root), "popf%u", i);
            grub_vars_set(&g->vars, "root", root);
        }
    grub_vars_set(&g->vars, "feature_menuentry_id", "y");
    grub_vars_set(&g->vars, "feature_platform_search_hint", "y");
    grub_vars_set(&g->vars, "grub_platform", "pc");
    grub_vars_set(&g->vars, "grub_cpu", "i386");
    if (!do_source(g, path) && !g->nfiles)
        return err_set(e, "cannot read %s", path);
    int rc = boot_menu(g, c);
    if (!rc && g->blscfg)
        rc = boot_bls(g, c, e);
    return rc ? rc : err_set(e, "%s has no entry that loads a Linux", path);
}

static int find_file(struct grub *g, struct conf *c, struct err *e)
{
    static const char *const dirs[] = {"/boot/grub", "/grub", "/boot/grub2", "/grub2"};
    for (unsigned i = 0; i < ARRAY_SIZE(dirs); i++) {
        char path[64];
        snprintf(path, sizeof(path), "%s/grub.cfg", dirs[i]);
        if (!disk_fs_exists(g->fs, path))
            continue;
        grub_vars_set(&g->vars, "prefix", dirs[i]);
        return run_file(g, path, c, e);
    }
    return 0;
}

int grub_find(const struct conf_disk *d, struct disk_fs *fs, struct conf *c, struct err *e)
{
    struct grub g = {.disk = d,
                     .fs = fs,
                     .vars = {.var = calloc(GRUB_VARS_MAX, sizeof(struct grub_var))},
                     .entry = calloc(ENTRIES_MAX, sizeof(*g.entry))};
    int rc = g.vars.var && g.entry ? find_file(&g, c, e) : err_set(e, "out of memory");
    for (unsigned i = 0; i < g.nfiles; i++)
        blob_free(&g.file[i]);
    free(g.vars.var);
    free(g.entry);
    return rc;
}
