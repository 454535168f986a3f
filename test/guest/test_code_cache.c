/*
 * Translations that are kept from run to run: the second start translates next to nothing; damage,
 * other people's files and other processes do no harm. Usage: test_code_cache GUEST.ELF
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "popf.h"
#include "translator.h"

#define LIMIT_MS 60000
#define FILES    32

struct folder {
    const char *guest;
    char path[64];
};

/* What a run did. */
struct counts {
    unsigned long long translated, kept, refused; /* regions */
    unsigned code;                                /* that the guest ended with */
    unsigned complaints;                          /* lines of log */
    unsigned regions_shown;                       /* of them, of --bt-dump */
    unsigned names;                               /* that gdb was told */
};

static void on_stats(void *arg, const char *line)
{
    struct counts *c = arg;
    unsigned long long blocks, regions, more, unkept, refused;
    const char *text = strchr(line, ':');
    if (!text)
        return;
    if (sscanf(text, ": %llu blocks in %llu regions translated", &blocks, &regions) == 2)
        c->translated += regions;
    if (sscanf(text,
               ": %llu regions of %llu blocks kept from other runs; %llu regions to be kept, %llu "
               "not, %llu refused",
               &regions, &blocks, &more, &unkept, &refused) == 5) {
        c->kept += regions;
        c->refused += refused;
    }
}

static void on_log(void *arg, const char *line)
{
    struct counts *c = arg;
    if (strncmp(line, "bt: ", 4))
        print_message("# %s\n", line);
    c->complaints++;
    c->regions_shown += strstr(line, " region at ") != NULL;
}

/* Of the next machine. */
struct look {
    bool perf_map, gdb_jit, dump;
    uint64_t at;
};

static struct popf *create_looking(const struct folder *f, struct counts *c, struct look look,
                                   struct popf_error *err)
{
    struct popf_config cfg = POPF_CONFIG_INIT;
    cfg.kernel = f->guest;
    cfg.memory = 32 << 20;
    cfg.engine = "bt";
    cfg.code_cache = f->path;
    cfg.debug_exit = true;
    cfg.no_reboot = true;
    cfg.log = on_log;
    cfg.log_arg = c;
    cfg.perf_map = look.perf_map;
    cfg.gdb_jit = look.gdb_jit;
    cfg.bt_dump = look.dump;
    cfg.bt_dump_at = look.at;
    cfg.count_blocks = look.dump;
    return popf_create(&cfg, err);
}

static struct popf *create(const struct folder *f, struct counts *c, struct popf_error *err)
{
    return create_looking(f, c, (struct look){0}, err);
}

/* What gdb's manual says of its interface for compilers at run time. */
struct jit_entry {
    struct jit_entry *next, *prev;
    const unsigned char *object;
    uint64_t size;
};
extern struct {
    uint32_t version, action;
    struct jit_entry *relevant, *first;
} __jit_debug_descriptor;

/* Objects that gdb is told of; each has one symbol, and gdb can read it. */
static unsigned count_names(void)
{
    unsigned n = 0;
    for (const struct jit_entry *e = __jit_debug_descriptor.first; e; e = e->next, n++) {
        const Elf64_Ehdr *h = (const Elf64_Ehdr *)e->object;
        const Elf64_Shdr *sec = (const Elf64_Shdr *)(e->object + h->e_shoff);
        assert_memory_equal(h->e_ident, ELFMAG, SELFMAG);
        assert_int_equal(sec[2].sh_type, SHT_SYMTAB);
        const Elf64_Sym *sym = (const Elf64_Sym *)(e->object + sec[2].sh_offset) + 1;
        const char *name = (const char *)e->object + sec[sec[2].sh_link].sh_offset + sym->st_name;
        assert_memory_equal(name, "guest_", 6);
        assert_int_equal(sym->st_value, sec[sym->st_shndx].sh_addr);
        assert_true(sym->st_size > 0 && sym->st_size == sec[sym->st_shndx].sh_size);
    }
    return n;
}

/* False and *err if it does not end as it should. */
static bool try_run(const struct folder *f, struct look look, struct counts *c,
                    struct popf_error *err)
{
    struct popf_outcome how = {.end = POPF_END_ERROR};
    struct popf *vm = create_looking(f, c, look, err);
    if (!vm)
        return false;
    snprintf(err->msg, sizeof(err->msg), "the guest does not end");
    bool good =
        !popf_start(vm, err) && !popf_wait_ms(vm, &how, LIMIT_MS) && how.end == POPF_END_DEBUG_EXIT;
    c->code = how.code;
    popf_engine_stats(vm, on_stats, c);
    c->names = count_names();
    popf_destroy(vm);
    return good;
}

static struct counts run_looking(const struct folder *f, struct look look)
{
    struct counts c = {0};
    struct popf_error err = {{0}};
    if (!try_run(f, look, &c, &err))
        fail_msg("%s", err.msg);
    return c;
}

static struct counts run(const struct folder *f)
{
    return run_looking(f, (struct look){0});
}

/* --- the folder --- */

static void path_of(const struct folder *f, const char *name, char *path)
{
    snprintf(path, 400, "%s/%s", f->path, name);
}

/* Names of what is in it. */
static unsigned list(const struct folder *f, char names[FILES][256])
{
    unsigned n = 0;
    DIR *d = opendir(f->path);
    for (struct dirent *e; d && n < FILES && (e = readdir(d));)
        if (e->d_name[0] != '.')
            snprintf(names[n++], 256, "%s", e->d_name);
    if (d)
        closedir(d);
    return n;
}

static void empty(const struct folder *f)
{
    char names[FILES][256], path[400];
    unsigned n = list(f, names);
    while (n--) {
        path_of(f, names[n], path);
        unlink(path);
    }
}

static int begin(void **state)
{
    static struct folder f;
    f.guest = *state;
    snprintf(f.path, sizeof(f.path), "/tmp/popf-test-XXXXXX");
    *state = &f;
    return mkdtemp(f.path) ? 0 : -1;
}

static int end(void **state)
{
    const struct folder *f = *state;
    chmod(f->path, 0700);
    empty(f);
    rmdir(f->path);
    *state = (void *)f->guest;
    return 0;
}

/* The file of a first run; its size. */
static long first_file(const struct folder *f, char *path)
{
    char names[FILES][256];
    struct stat st;
    assert_int_equal(list(f, names), 1);
    path_of(f, names[0], path);
    assert_int_equal(stat(path, &st), 0);
    return (long)st.st_size;
}

static void change(const char *path, long at, unsigned char by)
{
    unsigned char v = 0;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &v, 1, at), 1);
    v ^= by;
    assert_int_equal(pwrite(fd, &v, 1, at), 1);
    close(fd);
}

static void copy(const char *from, const char *to)
{
    char cmd[900];
    snprintf(cmd, sizeof(cmd), "cp %s %s", from, to);
    assert_int_equal(system(cmd), 0);
}

/* --- tests --- */

static void assert_warm(struct counts warm, struct counts cold)
{
    assert_int_equal(warm.code, cold.code);
    assert_true(warm.translated * 10 <= cold.translated);
    assert_true(warm.kept * 2 >= cold.translated);
    assert_int_equal(warm.refused, 0);
}

static void test_second_start(void **state)
{
    struct counts cold = run(*state), warm = run(*state);
    assert_true(cold.translated > 50);
    assert_int_equal(cold.kept, 0);
    assert_warm(warm, cold);
    assert_int_equal(cold.complaints + warm.complaints, 0);
}

/* A byte here and there: whatever it hits, it is seen. */
static void test_damage(void **state)
{
    const struct folder *f = *state;
    struct counts cold = run(f);
    char path[400], good[64] = "/tmp/popf-test-good-XXXXXX";
    long size = first_file(f, path);
    int fd = mkstemp(good);
    assert_true(fd >= 0);
    close(fd);
    copy(path, good);
    for (long n = 0; n < 24; n++) {
        copy(good, path);
        /* The head, then all over the file. */
        change(path, n < 8 ? n * 7 : size * (n - 8) / 16 + n, (unsigned char)(1 << (n & 7)));
        struct counts c = run(f);
        assert_int_equal(c.code, cold.code);
        assert_true(n >= 8 || c.complaints);
        empty(f);
    }
    unlink(good);
}

/* A part is missing, or reads as zeros. */
static void test_cut_short(void **state)
{
    const struct folder *f = *state;
    static const unsigned part[] = {0, 1, 30, 500, 999};
    char path[400];
    for (unsigned n = 0; n < 2 * sizeof(part) / sizeof(part[0]); n++) {
        struct counts cold = run(f);
        long size = first_file(f, path);
        assert_int_equal(truncate(path, size * part[n / 2] / 1000), 0);
        if (n & 1)
            assert_int_equal(truncate(path, size), 0);
        struct counts c = run(f);
        assert_int_equal(c.code, cold.code);
        assert_int_equal(c.kept, 0);
        assert_true(c.complaints);
        if (n)
            assert_int_equal(run(f).complaints, 0); /* it is gone */
        empty(f);
    }
}

/* Files of others, and folders: not touched. */
static void test_foreign(void **state)
{
    const struct folder *f = *state;
    struct counts cold = run(f);
    char path[400], other[400], link[400];
    first_file(f, path);
    path_of(f, "notes.txt", other);
    copy("/etc/passwd", other);
    path_of(f, "bt-0000000000000000-0000000000000000.kept", other);
    copy("/etc/passwd", other);
    chmod(path, 0666);
    struct counts c = run(f);
    assert_int_equal(c.kept, 0);
    assert_int_equal(c.complaints, 1);
    assert_int_equal(c.code, cold.code);

    empty(f);
    run(f);
    first_file(f, path);
    snprintf(link, sizeof(link), "/tmp/popf-test-moved-%d", (int)getpid());
    rename(path, link);
    assert_int_equal(symlink(link, path), 0);
    c = run(f);
    assert_int_equal(c.kept, 0);
    assert_int_equal(c.complaints, 1);
    unlink(link);
}

static void assert_refused(const struct folder *f, const char *why)
{
    struct counts c = {0};
    struct popf_error err = {{0}};
    struct popf *vm = create(f, &c, &err);
    assert_null(vm);
    assert_non_null(strstr(err.msg, why));
    assert_null(strchr(err.msg, '\n'));
}

static void test_refused_folder(void **state)
{
    const struct folder *f = *state;
    chmod(f->path, 0777);
    assert_refused(f, "others may write to it");
    chmod(f->path, 0700);
    struct folder file = {.guest = f->guest, .path = "/etc/passwd"};
    assert_refused(&file, "/etc/passwd");
    struct folder nowhere = {.guest = f->guest, .path = "/proc/nothing/here"};
    assert_refused(&nowhere, "/proc/nothing/here");
    if (geteuid() != 0) {
        struct folder root = {.guest = f->guest, .path = "/usr"};
        assert_refused(&root, "another user");
    }
}

static int run_in_child(const struct folder *f)
{
    struct counts c = {0};
    struct popf_error err = {{0}};
    return try_run(f, (struct look){0}, &c, &err) ? (int)(c.code & 0xff) : 255;
}

static void test_two_at_once(void **state)
{
    enum { PROCESSES = 3 };
    pid_t child[PROCESSES];
    for (unsigned n = 0; n < PROCESSES; n++) {
        child[n] = fork();
        if (!child[n])
            _exit(run_in_child(*state));
    }
    int status[PROCESSES];
    for (unsigned n = 0; n < PROCESSES; n++)
        waitpid(child[n], &status[n], 0);
    struct counts warm = run(*state);
    for (unsigned n = 0; n < PROCESSES; n++)
        assert_true(WIFEXITED(status[n]) && WEXITSTATUS(status[n]) == (int)(warm.code & 0xff));
    assert_true(warm.translated * 10 <= warm.kept);
}

/* Many files become one. */
static void test_merge(void **state)
{
    const struct folder *f = *state;
    struct counts cold = run(f);
    char path[400], other[400], names[FILES][256];
    first_file(f, path);
    for (unsigned n = 0; n < 9; n++) {
        snprintf(other, sizeof(other), "%s", path);
        snprintf(other + strlen(other) - 6, 16, "%u.kept", n);
        if (strcmp(path, other))
            copy(path, other);
    }
    setenv("POPF_BT_HOT", "0", 1); /* something new */
    struct counts warm = run(f);
    setenv("POPF_BT_HOT", "1", 1);
    assert_int_equal(warm.code, cold.code);
    if (warm.translated)
        assert_int_equal(list(f, names), 1);
    assert_warm(run(f), cold);
}

/* Names for perf; the translation of one of those addresses is shown. */
static void test_looking_inside(void **state)
{
    struct counts plain = run_looking(*state, (struct look){.perf_map = true});
    char path[64], line[256];
    unsigned long long code, size, rip = 0, lines = 0;
    snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%llx %llx guest_%llx", &code, &size, &rip) != 3)
            assert_int_equal(sscanf(line, "%llx %llx guest_user_%llx", &code, &size, &rip), 3);
        assert_true(size > 0 && size < 1 << 18);
        lines++;
    }
    fclose(f);
    unlink(path);
    assert_int_equal(lines, plain.translated);
    assert_int_equal(plain.names, 0);
    struct counts named = run_looking(*state, (struct look){.gdb_jit = true});
    assert_int_equal(named.names, named.translated + named.kept);
    assert_true(named.names > 0);
    assert_int_equal(count_names(), 0);
    struct counts shown = run_looking(*state, (struct look){.dump = true, .at = rip});
    assert_int_equal(shown.code, plain.code);
    assert_true(shown.regions_shown > 0);
    assert_true(shown.complaints > 3 * shown.regions_shown);
    assert_true(shown.translated > plain.translated / 2); /* counting is another key */
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    setenv("POPF_BT_HOT", "1", 1); /* tiny guests hardly repeat themselves */
    unsetenv("POPF_BT_KEEP");
    if (!have_translator(argv[1]))
        return 0;
#define TEST(f)                                                                                    \
    {                                                                                              \
#f, f, begin, end, argv[1]                                                                 \
    }
    const struct CMUnitTest tests[] = {
        TEST(test_second_start), TEST(test_damage),         TEST(test_cut_short),
        TEST(test_foreign),      TEST(test_refused_folder), TEST(test_two_at_once),
        TEST(test_merge),        TEST(test_looking_inside),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("code cache", tests, NULL, NULL);
}
