/*
 * How far an image is: the lines of mmdebstrap, apt, dpkg and build_root.sh are read, and what they
 * are at is shown in one line.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/build.h"

#define TAIL_LINES 12
#define SHOW_NS    100000000ull

/* What a line that begins so means to the user. */
static const struct {
    const char *line, *step;
} steps[] = {
    {"I: running apt-get update", "reading package lists"},
    {"I: downloading packages", "downloading packages"},
    {"I: extracting archives", "unpacking the base system"},
    {"I: installing essential packages", "setting up the base system"},
    {"I: installing remaining packages", "installing packages"},
    {"I: cleaning package lists", "packing"},
    {"I: configuring", "configuring"},
    {"I: writing the file system", "writing the file system"},
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

void build_progress_init(struct build_progress *p, bool verbose)
{
    *p = (struct build_progress){
        .verbose = verbose, .tty = isatty(STDERR_FILENO), .began = now_ns()};
}

static void show(struct build_progress *p)
{
    p->shown = now_ns();
    unsigned sec = (unsigned)((p->shown - p->began) / 1000000000ull);
    fprintf(stderr, p->tty ? "\r[%3u s] %s" : "[%3u s] %s", sec, p->what);
    if (p->tty && p->count && p->total)
        fprintf(stderr, ": %u of %u", p->count < p->total ? p->count : p->total, p->total);
    else if (p->tty && p->count)
        fprintf(stderr, ": %u", p->count);
    fputs(p->tty ? "\033[K" : "\n", stderr);
    fflush(stderr);
}

void build_progress_step(struct build_progress *p, const char *what)
{
    p->what = what;
    p->count = p->total = 0;
    if (!p->verbose)
        show(p);
}

/* What is said for each package tells nothing about a failure. */
static bool is_routine(const char *line)
{
    static const char *const begin[] = {
        "/usr/bin/dpkg --", "Get:",        "Selecting ",           "Preparing ",
        "Unpacking ",       "Setting up ", "Processing triggers ", "(Reading database ",
        "Created symlink "};
    for (size_t i = 0; i < sizeof(begin) / sizeof(begin[0]); i++)
        if (text_starts(line, begin[i]))
            return true;
    return false;
}

static void keep(struct build_progress *p, const char *line)
{
    if (is_routine(line))
        return;
    args_add(&p->tail, line);
    if (p->tail.n <= TAIL_LINES)
        return;
    free(p->tail.v[0]);
    memmove(p->tail.v, p->tail.v + 1, p->tail.n * sizeof(*p->tail.v));
    p->tail.n--;
}

/* Packages are counted by dpkg's and apt's lines for each. */
static void count(struct build_progress *p, const char *line)
{
    const char *newly = strstr(line, " newly installed");
    if (newly) {
        const char *digits = newly;
        while (digits > line && digits[-1] >= '0' && digits[-1] <= '9')
            digits--;
        p->total = 2 * (unsigned)atoi(digits); /* each is unpacked and set up */
        p->count = 0;
    } else if (text_starts(line, "Unpacking ") || text_starts(line, "Setting up ") ||
               text_starts(line, "Get:")) {
        p->count++;
    } else {
        return;
    }
    if (p->tty && !p->verbose && p->what && now_ns() - p->shown > SHOW_NS)
        show(p);
}

static void take_line(struct build_progress *p, const char *line)
{
    keep(p, line);
    if (p->verbose)
        fprintf(stderr, "%s\n", line);
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
        if (text_starts(line, steps[i].line))
            build_progress_step(p, steps[i].step);
    count(p, line);
}

void build_progress_feed(struct build_progress *p, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        bool end = text[i] == '\n' || text[i] == '\r';
        if (!end && p->len < sizeof(p->line) - 1)
            p->line[p->len++] = text[i];
        if (!end || !p->len)
            continue;
        p->line[p->len] = 0;
        p->len = 0;
        take_line(p, p->line);
    }
}

void build_progress_end(struct build_progress *p)
{
    if (p->tty && !p->verbose && p->what)
        fputs("\r\033[K", stderr);
    p->what = NULL;
}

void build_progress_tail(const struct build_progress *p)
{
    for (size_t i = 0; !p->verbose && i < p->tail.n; i++)
        fprintf(stderr, "    %s\n", p->tail.v[i]);
}

void build_progress_free(struct build_progress *p)
{
    args_free(&p->tail);
}
