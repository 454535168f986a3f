/*
 * image.c - `popf image`: disk images.
 */
#include <ctype.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/build.h"
#include "cli/cli.h"
#include "popf_image.h"

/* Exit status of `check`: damaged; leaks only. Those of qemu-img. */
enum {
    CHECK_ERRORS = 2,
    CHECK_LEAKS = 3,
};

enum {
    OPT_BACKING_FORMAT = 256,
    OPT_CLUSTER,
    OPT_COMPRESSION,
    OPT_COMPAT,
    OPT_LAZY,
    OPT_FORCE,
    OPT_IMAGE_SNAPSHOT,
    OPT_JSON,
    OPT_SHRINK,
    OPT_REPAIR,
};

static const struct option options[] = {
    {"format", required_argument, NULL, 'f'},
    {"output-format", required_argument, NULL, 'O'},
    {"backing", required_argument, NULL, 'b'},
    {"backing-format", required_argument, NULL, OPT_BACKING_FORMAT},
    {"cluster-size", required_argument, NULL, OPT_CLUSTER},
    {"compression", required_argument, NULL, OPT_COMPRESSION},
    {"compat", required_argument, NULL, OPT_COMPAT},
    {"lazy-refcounts", no_argument, NULL, OPT_LAZY},
    {"force", no_argument, NULL, OPT_FORCE},
    {"compress", no_argument, NULL, 'c'},
    {"snapshot", required_argument, NULL, OPT_IMAGE_SNAPSHOT},
    {"quiet", no_argument, NULL, 'q'},
    {"json", no_argument, NULL, OPT_JSON},
    {"shrink", no_argument, NULL, OPT_SHRINK},
    {"repair", no_argument, NULL, OPT_REPAIR},
    {"help", no_argument, NULL, 'h'},
    {0},
};

struct wish {
    const char *command;
    const char *format, *output_format, *snapshot;
    struct popf_image_options o;
    bool compress, quiet, json, shrink, repair, help;
    const char *word[2]; /* file and size, or two files */
    int nwords;
};

void image_help(FILE *f)
{
    fputs("Usage: popf image create [OPTION...] FILE [SIZE]\n"
          "       popf image info [--json] [-f FORMAT] FILE\n"
          "       popf image convert [OPTION...] FROM TO\n"
          "       popf image resize [-f FORMAT] [--shrink] FILE SIZE\n"
          "       popf image check [--repair] FILE\n"
          "       popf image build [OPTION...]    (see popf image build --help)\n\n"
          "Disk images: raw, and qcow2 versions 2 and 3.\n\n"
          "  -f, --format F         raw or qcow2. create: of the new image (default qcow2);\n"
          "                         else: of FILE or FROM (default: what its first bytes show)\n"
          "  -O, --output-format F  convert: of TO (default qcow2)\n"
          "  -b, --backing FILE     create, convert: what the new image does not hold itself is\n"
          "                         read from FILE (relative to the new image's folder)\n"
          "      --backing-format F its format\n"
          "      --cluster-size N   512 to 2M (default 64K)\n"
          "      --compression C    zlib or zstd (default zlib)\n"
          "      --compat N         version of qcow2, 2 or 3 (default 3)\n"
          "      --lazy-refcounts   reference counts are written when the image is closed\n"
          "      --force            overwrite what is there\n"
          "  -c, --compress         convert: compress all data\n"
          "      --snapshot NAME    convert: a snapshot inside FROM\n"
          "  -q, --quiet            convert: show no progress\n"
          "      --shrink           resize: cut off what is behind the new end\n"
          "      --repair           check: correct reference counts\n"
          "      --json             info: for programs\n\n"
          "SIZE is a number and K, M, G or T; resize takes +SIZE and -SIZE as well. The exit\n"
          "status is 0, 1 after an error, and for check 2 if the image is damaged, 3 if it\n"
          "merely holds clusters that nobody uses.\n",
          f);
}

/* --- parsing --- */

static int complain(const struct wish *w, const char *opt, const char *text, const char *should)
{
    fprintf(stderr, "popf image %s: %s \"%s\": %s\n", w->command, opt, text, should);
    return -1;
}

static int set_cluster(struct wish *w, const char *text)
{
    uint64_t bytes;
    if (opts_size(text, &bytes) || bytes < 512 || bytes > 2 << 20 || (bytes & (bytes - 1)))
        return complain(w, "--cluster-size", text, "must be a power of two from 512 to 2M");
    w->o.cluster = (unsigned)bytes;
    return 0;
}

static int set_compat(struct wish *w, const char *text)
{
    if (!strcmp(text, "2") || !strcmp(text, "0.10"))
        w->o.version = 2;
    else if (!strcmp(text, "3") || !strcmp(text, "1.1"))
        w->o.version = 3;
    else
        return complain(w, "--compat", text, "must be 2 or 3");
    return 0;
}

static int set_option(struct wish *w, int opt, const char *arg)
{
    switch (opt) {
    case 'f':
        w->format = arg;
        return 0;
    case 'O':
        w->output_format = arg;
        return 0;
    case 'b':
        w->o.backing = arg;
        return 0;
    case OPT_BACKING_FORMAT:
        w->o.backing_format = arg;
        return 0;
    case OPT_CLUSTER:
        return set_cluster(w, arg);
    case OPT_COMPRESSION:
        w->o.compression = arg;
        return 0;
    case OPT_COMPAT:
        return set_compat(w, arg);
    case OPT_IMAGE_SNAPSHOT:
        w->snapshot = arg;
        return 0;
    default:
        return -1;
    }
}

static bool *flag(struct wish *w, int opt)
{
    switch (opt) {
    case OPT_LAZY:
        return &w->o.lazy_refcounts;
    case OPT_FORCE:
        return &w->o.force;
    case 'c':
        return &w->compress;
    case 'q':
        return &w->quiet;
    case OPT_JSON:
        return &w->json;
    case OPT_SHRINK:
        return &w->shrink;
    case OPT_REPAIR:
        return &w->repair;
    case 'h':
        return &w->help;
    default:
        return NULL;
    }
}

/* The options that mean something to a command; "" stands for its words. */
struct rule {
    const char *command;
    const char *letters; /* of options with a short form */
    int longs[8];        /* of the others */
    int min, max;        /* words */
    const char *words;
};

static const struct rule rules[] = {
    {"create",
     "fb",
     {OPT_BACKING_FORMAT, OPT_CLUSTER, OPT_COMPRESSION, OPT_COMPAT, OPT_LAZY, OPT_FORCE},
     1,
     2,
     "FILE [SIZE]"},
    {"info", "f", {OPT_JSON}, 1, 1, "FILE"},
    {"convert",
     "fObcq",
     {OPT_BACKING_FORMAT, OPT_CLUSTER, OPT_COMPRESSION, OPT_COMPAT, OPT_LAZY, OPT_FORCE,
      OPT_IMAGE_SNAPSHOT},
     2,
     2,
     "FROM TO"},
    {"resize", "f", {OPT_SHRINK}, 2, 2, "FILE SIZE"},
    {"check", "", {OPT_REPAIR}, 1, 1, "FILE"},
};

static bool is_allowed(const struct rule *r, int opt)
{
    if (opt == 'h')
        return true;
    if (opt < 256)
        return strchr(r->letters, opt) != NULL;
    for (size_t i = 0; i < sizeof(r->longs) / sizeof(r->longs[0]); i++)
        if (r->longs[i] == opt)
            return true;
    return false;
}

static int take_words(struct wish *w, const struct rule *r, int argc, char **argv)
{
    w->nwords = argc;
    if (w->nwords < r->min || w->nwords > r->max) {
        fprintf(stderr, "popf image %s: expects %s; try popf image --help\n", w->command, r->words);
        return -1;
    }
    for (int i = 0; i < argc; i++)
        w->word[i] = argv[i];
    return 0;
}

static int bad_option(const struct wish *w, int opt, const char *text)
{
    const char *what = opt == ':'   ? "a value is missing after"
                       : opt == '?' ? "unknown option"
                                    : "not an option of this command:";
    char letter[3] = {'-', (char)optopt, 0};
    fprintf(stderr, "popf image %s: %s \"%s\"; try popf image --help\n", w->command, what,
            optopt > 32 && optopt < 127 && opt != ':' ? letter : text);
    return -1;
}

/* The "-10G" of resize is a word, though it looks like an option. */
static int parse(struct wish *w, const struct rule *r, int argc, char **argv)
{
    const char *last = argv[argc - 1];
    bool minus = !strcmp(r->command, "resize") && argc > 2 && last[0] == '-' && isdigit(last[1]);
    if (minus)
        argc--;
    opterr = 0;
    optopt = 0;
    optind = 0;
    for (;;) {
        int opt = getopt_long(argc, argv, ":f:O:b:cqh", options, NULL);
        if (opt < 0)
            break;
        if (opt == '?' || opt == ':' || !is_allowed(r, opt))
            return bad_option(w, opt, argv[optind - 1]);
        bool *on = flag(w, opt);
        if (on)
            *on = true;
        else if (set_option(w, opt, optarg))
            return -1;
    }
    /* getopt has moved the words to the end. */
    return w->help ? 0 : take_words(w, r, argc + minus - optind, argv + optind);
}

/* --- the commands --- */

static int report(const struct wish *w, const struct popf_error *e)
{
    fprintf(stderr, "popf image %s: %s\n", w->command, e->msg);
    return STATUS_ERROR;
}

static int create(struct wish *w)
{
    struct popf_error e;
    uint64_t size = 0;
    if (w->nwords > 1 && opts_size(w->word[1], &size)) {
        complain(w, "SIZE", w->word[1], "a size is a number and K, M, G or T");
        return STATUS_USAGE;
    }
    if (w->nwords < 2 && !w->o.backing) {
        fprintf(stderr, "popf image create: expects FILE SIZE; try popf image --help\n");
        return STATUS_USAGE;
    }
    w->o.format = w->format;
    return popf_image_create(w->word[0], size, &w->o, &e) ? report(w, &e) : 0;
}

static const char *human(uint64_t bytes, char *buf, size_t size)
{
    static const char units[] = "KMGTPE";
    int u = -1;
    double v = (double)bytes;
    while (v >= 1024 && u < 5) {
        v /= 1024;
        u++;
    }
    if (u < 0)
        snprintf(buf, size, "%" PRIu64, bytes);
    else
        snprintf(buf, size, v < 10 && v != (int)v ? "%.1f%c" : "%.0f%c", v, units[u]);
    return buf;
}

static void print_snapshots(const char *file, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct popf_image_snapshot s;
        char date[32] = "", size[16];
        if (popf_image_snapshot(file, i, &s, NULL))
            return;
        time_t t = (time_t)s.date;
        struct tm tm;
        if (gmtime_r(&t, &tm))
            strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
        printf("snapshot:     %s \"%s\", %s, %s UTC%s\n", s.id, s.name,
               human(s.size, size, sizeof(size)), date,
               s.vm_state ? ", with a machine's state" : "");
    }
}

static void print_info(const char *file, const struct popf_image_info *i)
{
    char a[16], b[16], c[16];
    printf("file:         %s\nformat:       %s\n", file, i->format);
    printf("disk size:    %s (%" PRIu64 " bytes)\n", human(i->size, a, sizeof(a)), i->size);
    printf("on the host:  %s (file of %s)\n", human(i->used, b, sizeof(b)),
           human(i->file_size, c, sizeof(c)));
    if (!i->cluster)
        return;
    printf("version:      %u\ncluster size: %u\ncompression:  %s\n", i->version, i->cluster,
           i->compression);
    if (i->backing[0])
        printf("backing file: %s (%s)\n", i->backing,
               i->backing_format[0] ? i->backing_format : "format not said");
    if (i->lazy_refcounts)
        puts("lazy refcounts");
    if (i->dirty)
        puts("was not closed: will be repaired when it is opened for writing");
    if (i->corrupt)
        puts("marked as damaged");
    print_snapshots(file, i->snapshots);
}

static void print_string(const char *key, const char *text)
{
    printf("  \"%s\": \"", key);
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if (*p == '"' || *p == '\\')
            printf("\\%c", *p);
        else if (*p < 32)
            printf("\\u%04x", *p);
        else
            putchar(*p);
    }
    puts("\",");
}

static void print_json(const char *file, const struct popf_image_info *i)
{
    puts("{");
    print_string("file", file);
    print_string("format", i->format);
    if (i->backing[0])
        print_string("backing", i->backing);
    if (i->backing_format[0])
        print_string("backing-format", i->backing_format);
    if (i->cluster) {
        print_string("compression", i->compression);
        printf("  \"version\": %u,\n  \"cluster-size\": %u,\n  \"snapshots\": %u,\n", i->version,
               i->cluster, i->snapshots);
        printf("  \"lazy-refcounts\": %s,\n  \"dirty\": %s,\n  \"corrupt\": %s,\n",
               i->lazy_refcounts ? "true" : "false", i->dirty ? "true" : "false",
               i->corrupt ? "true" : "false");
    }
    printf("  \"disk-size\": %" PRIu64 ",\n  \"file-size\": %" PRIu64 ",\n  \"used\": %" PRIu64
           "\n}\n",
           i->size, i->file_size, i->used);
}

static int info(struct wish *w)
{
    struct popf_image_info i;
    struct popf_error e;
    if (popf_image_info(w->word[0], w->format, &i, &e))
        return report(w, &e);
    if (w->json)
        print_json(w->word[0], &i);
    else
        print_info(w->word[0], &i);
    return 0;
}

struct meter {
    int shown; /* percent; -1: nothing yet */
};

static void show_progress(void *arg, uint64_t done, uint64_t total)
{
    struct meter *m = arg;
    int percent = total ? (int)(done / (total / 100 + 1)) : 100;
    if (done == total)
        percent = 100;
    if (percent != m->shown)
        fprintf(stderr, "\r%3d %%%s", percent, percent == 100 ? "\n" : "");
    m->shown = percent;
}

static int convert(struct wish *w)
{
    struct meter meter = {-1};
    struct popf_error e;
    struct popf_image_convert c = {.from = w->word[0],
                                   .from_format = w->format,
                                   .snapshot = w->snapshot,
                                   .to = w->word[1],
                                   .options = w->o,
                                   .compress = w->compress,
                                   .progress_arg = &meter};
    c.options.format = w->output_format;
    if (!w->quiet && isatty(2))
        c.progress = show_progress;
    int rc = popf_image_convert(&c, &e);
    if (rc && meter.shown >= 0 && meter.shown < 100)
        fputc('\n', stderr);
    return rc ? report(w, &e) : 0;
}

static int resize(struct wish *w)
{
    struct popf_error e;
    struct popf_image_info i;
    const char *text = w->word[1];
    char sign = *text == '+' || *text == '-' ? *text++ : 0;
    uint64_t size;
    if (opts_size(text, &size)) {
        complain(w, "SIZE", w->word[1], "a size is a number and K, M, G or T, with + or - before");
        return STATUS_USAGE;
    }
    if (sign && popf_image_info(w->word[0], w->format, &i, &e))
        return report(w, &e);
    if ((sign == '-' && size >= i.size) || (sign == '+' && size > INT64_MAX - i.size)) {
        complain(w, "SIZE", w->word[1], "the disk cannot have such a size");
        return STATUS_ERROR;
    }
    size = sign == '+' ? i.size + size : sign == '-' ? i.size - size : size;
    return popf_image_resize(w->word[0], w->format, size, w->shrink, &e) ? report(w, &e) : 0;
}

static int check(struct wish *w)
{
    struct popf_image_check r;
    struct popf_error e;
    if (popf_image_check(w->word[0], w->repair, &r, &e))
        return report(w, &e);
    if (r.fixed)
        printf("%" PRIu64 " reference counts were corrected\n", r.fixed);
    if (r.errors)
        printf("damaged: %" PRIu64 " errors; the first: %s\n", r.errors, r.first);
    if (r.leaks)
        printf("%" PRIu64 " clusters are counted and not used (--repair frees them)\n", r.leaks);
    if (!r.errors && !r.leaks)
        printf("no errors; %" PRIu64 " of %" PRIu64 " clusters allocated, %" PRIu64
               " of them compressed\n",
               r.allocated, r.total, r.compressed);
    return r.errors ? CHECK_ERRORS : r.leaks ? CHECK_LEAKS : 0;
}

int image_main(int argc, char **argv)
{
    static int (*const run[])(struct wish *) = {create, info, convert, resize, check};
    _Static_assert(sizeof(run) / sizeof(run[0]) == sizeof(rules) / sizeof(rules[0]), "a command");
    const char *word = argc > 1 ? argv[1] : "";
    if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
        image_help(stdout);
        return 0;
    }
    if (!strcmp(word, "build"))
        return build_main(argc - 1, argv + 1);
    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        if (strcmp(word, rules[i].command))
            continue;
        struct wish w = {.command = rules[i].command};
        if (parse(&w, &rules[i], argc - 1, argv + 1))
            return STATUS_USAGE;
        if (!w.help)
            return run[i](&w);
        image_help(stdout);
        return 0;
    }
    if (argc > 1)
        fprintf(stderr, "popf image: unknown command \"%s\"; try popf image --help\n", word);
    else
        image_help(stderr);
    return STATUS_USAGE;
}
