/*
 * Where the packages of an image come from: what the machine's own apt knows, so that mirrors and
 * proxies that were set up for it are used for images, too.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/build.h"

/* A line of `apt-get indextargets`. */
struct target {
    char *uri, *release, *component, *arch, *origin, *label;
};

static bool split(char *line, struct target *t)
{
    char **field[] = {&t->uri, &t->release, &t->component, &t->arch, &t->origin, &t->label};
    for (size_t i = 0; i < sizeof(field) / sizeof(field[0]); i++)
        if (!(*field[i] = strsep(&line, "|")))
            return false;
    return true;
}

/* bookworm, bookworm-updates, bookworm-security, but not bookworm-backports. */
static bool of_suite(const struct target *t, const char *suite)
{
    size_t n = strlen(suite);
    if (strncmp(t->release, suite, n))
        return false;
    const char *rest = t->release + n;
    return !*rest || !strcmp(rest, "-updates") || !strcmp(rest, "-security") ||
           !strcmp(rest, "/updates");
}

static bool present(const struct args *a, const char *text)
{
    for (size_t i = 0; i < a->n; i++)
        if (!strcmp(a->v[i], text))
            return true;
    return false;
}

static void add_line(struct args *lines, const struct target *t, const char *release)
{
    char *line = xasprintf("deb %s %s %s", t->uri, release, t->component);
    if (!present(lines, line))
        args_add(lines, line);
    free(line);
}

enum match { SAME_ARCH, ANY_ARCH, ANY_SUITE };

static void add_matching(struct args *lines, const char *targets, const struct build_options *o,
                         enum match how)
{
    char *copy = xstrdup(targets), *rest = copy, *line;
    while ((line = strsep(&rest, "\n"))) {
        struct target t;
        if (!split(line, &t) || strcmp(t.origin, "Debian"))
            continue;
        if (how == ANY_SUITE) {
            if (!strcmp(t.label, "Debian") && !strcmp(t.component, "main") && !lines->n)
                add_line(lines, &t, o->suite);
        } else if (of_suite(&t, o->suite) && (how == ANY_ARCH || !strcmp(t.arch, o->arch))) {
            add_line(lines, &t, t.release);
        }
    }
    free(copy);
}

/* Suites that the machine's apt has lists of, but not for the image's architecture. */
static void say_missing(const char *targets, const struct build_options *o,
                        const struct args *lines)
{
    struct args all = {0};
    add_matching(&all, targets, o, ANY_ARCH);
    for (size_t i = 0; i < all.n; i++)
        if (!present(lines, all.v[i]))
            fprintf(stderr,
                    "popf image build: the image comes without \"%s\": this machine's apt has no "
                    "list of it for %s (--mirror names sources)\n",
                    all.v[i], o->arch);
    args_free(&all);
}

static void machine_sources(const struct build_options *o, struct args *lines)
{
    char *const argv[] = {"apt-get",
                          "indextargets",
                          "--format",
                          "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ARCHITECTURE)|$(ORIGIN)|$(LABEL)",
                          "Created-By: Packages",
                          NULL};
    char *targets = proc_output(argv);
    for (enum match how = SAME_ARCH; targets && how <= ANY_SUITE && !lines->n; how++)
        add_matching(lines, targets, o, how);
    if (targets)
        say_missing(targets, o, lines);
    free(targets);
}

void build_apt_sources(const struct build_options *o, struct args *lines)
{
    for (size_t i = 0; i < o->mirrors.n; i++) {
        const char *m = o->mirrors.v[i];
        if (!strncmp(m, "deb ", 4))
            args_add(lines, m);
        else
            args_addf(lines, "deb %s %s main", m, o->suite);
    }
    if (!lines->n)
        machine_sources(o, lines);
}

/* Settings of the machine's apt without which its mirrors may be out of reach. */
static bool wanted(const char *line)
{
    static const char *const names[] = {"Acquire::Check-Valid-Until ", "Acquire::Check-Date ",
                                        "Acquire::http::Proxy ", "Acquire::https::Proxy ",
                                        "Acquire::Retries "};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (!strncasecmp(line, names[i], strlen(names[i])))
            return true;
    return false;
}

void build_apt_options(struct args *options)
{
    char *const argv[] = {"apt-config", "dump", NULL};
    char *dump = proc_output(argv), *rest = dump, *line;
    while (dump && (line = strsep(&rest, "\n")))
        if (wanted(line))
            args_add(options, line);
    free(dump);
}
