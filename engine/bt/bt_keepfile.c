/*
 * bt_keepfile.c - the folder of kept translations: what is read from it and written to it.
 *
 * Whoever can write to these files can run code as the user, so they are only used where nobody
 * else can; checksums are against accidents. Any number of processes may share a folder: files are
 * never changed, and one that another process has deleted stays readable while it is mapped.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cpu/cpu_cpuid.h"
#include "engine/bt/bt_build.h"
#include "engine/bt/bt_keep.h"

#define NAME_SIZE     64
#define MERGE_AT      8           /* segments that are merged when there are so many */
#define SEGMENT_MAX   (128 * MiB) /* of records */
#define FOLDER_MAX    (512 * MiB) /* older segments, of whatever key, go when there is more */
#define MODEL_ENTRIES 256

/* --- the key: what translations depend on beside the guest's code --- */

static u64 hash_bytes(u64 h, const void *data, size_t n)
{
    const u8 *p = data;
    for (; n; n--)
        h = (h ^ *p++) * 0x100000001b3ull;
    return h;
}

static u64 host_cpu(u64 h)
{
    static const u32 leaves[] = {0, 1, 7, 0xd, 0x80000001};
    for (unsigned n = 0; n < ARRAY_SIZE(leaves); n++) {
        u32 r[4];
        __asm__ volatile("cpuid"
                         : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
                         : "a"(leaves[n]), "c"(0));
        if (leaves[n] == 1)
            r[1] = 0; /* which processor this runs on */
        if (leaves[n] == 0xd)
            r[1] = 0; /* size of what is enabled just now */
        h = hash_bytes(h, r, sizeof(r));
    }
    return h;
}

/* Features of the guest's CPU; what tells its CPUs apart or its clock does not matter. */
static u64 guest_cpu(u64 h, const struct cpu_model *model)
{
    struct cpu_cpuid_entry *e = calloc(MODEL_ENTRIES, sizeof(*e));
    unsigned count = e && model ? cpu_model_entries(model, e, MODEL_ENTRIES) : 0;
    for (unsigned n = 0; n < count; n++) {
        if (e[n].leaf == 1)
            e[n].ebx = 0;
        if (e[n].leaf <= 1 || e[n].leaf == 7 || e[n].leaf == 0xd || e[n].leaf >> 16 == 0x8000)
            h = hash_bytes(h, &e[n], sizeof(e[n]));
    }
    free(e);
    return h;
}

static u64 key_of(const struct cpu_model *model, const struct bt_settings *set)
{
    u64 h = 0xcbf29ce484222325ull ^ bt_build_hash();
    h = hash_bytes(h, &set->one_block, sizeof(set->one_block));
    h = hash_bytes(h, &set->count, sizeof(set->count));
    return guest_cpu(host_cpu(h), model);
}

/* --- the folder --- */

static bool private_to_us(const struct stat *st)
{
    return st->st_uid == geteuid() && !(st->st_mode & 022);
}

static int open_folder(const char *path, struct err *e)
{
    struct stat st;
    if (mkdir(path, 0700) && errno != EEXIST)
        return err_errno(e, "cannot make the folder %s to keep translations in", path);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        err_errno(e, "cannot keep translations in %s", path);
    } else if (!private_to_us(&st)) {
        err_set(e, "cannot keep translations in %s: %s", path,
                st.st_uid != geteuid() ? "it belongs to another user"
                                       : "others may write to it (chmod go-w)");
    } else {
        return fd;
    }
    if (fd >= 0)
        close(fd);
    return -1;
}

static void prefix_of(u64 key, char *text)
{
    snprintf(text, NAME_SIZE, "bt-%016llx-", (unsigned long long)key);
}

static bool is_segment(const char *name)
{
    size_t len = strlen(name);
    return !strncmp(name, "bt-", 3) && len > 5 && len < NAME_SIZE &&
           !strcmp(name + len - 5, ".kept");
}

/* --- reading --- */

/* NULL, or why the file is not used. */
static const char *check(const struct keep_file *f, u64 size, u64 key)
{
    if (size < sizeof(*f) || memcmp(f->magic, KEEP_MAGIC, sizeof(f->magic)) ||
        f->version != KEEP_VERSION || f->sum != bt_keep_sum(f, offsetof(struct keep_file, sum)))
        return "it is damaged, or none of popf's";
    u64 left = size - sizeof(*f);
    if (f->size > left || f->size & 7 || f->index_bits > 30 ||
        left - f->size != sizeof(struct keep_index) << f->index_bits)
        return "it is damaged: a part is missing";
    if (f->key != key)
        return "it was renamed";
    const u8 *index = (const u8 *)(f + 1) + f->size;
    if (f->index_sum != bt_keep_sum(index, sizeof(struct keep_index) << f->index_bits))
        return "it is damaged: its index is wrong";
    return NULL;
}

/* Maps a file; NULL and *why if it is not to be used. */
static void *map_file(const struct keep *k, const char *name, size_t *size, const char **why)
{
    struct stat st;
    void *map = NULL;
    int fd = openat(k->dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        *why = "it cannot be opened";
    } else if (!private_to_us(&st)) {
        *why = "it belongs to, or may be written by, another user";
    } else if (st.st_size) {
        *size = (size_t)st.st_size;
        map = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fd, 0);
        map = map == MAP_FAILED ? NULL : map;
        *why = map ? check(map, *size, k->key) : "it cannot be mapped";
    } else {
        *why = "it is empty";
    }
    if (fd >= 0)
        close(fd);
    return map;
}

static void add_segment(struct keep *k, const char *name)
{
    size_t size = 0;
    const char *why = NULL;
    struct keep_segment *s = &k->segment[k->nsegments];
    char *copy = strdup(name);
    struct keep_file *f = map_file(k, name, &size, &why);
    if (!f || why || !copy) {
        /* A file of ours that is damaged would be so for ever. */
        bool removed = f && why && !unlinkat(k->dir, name, 0);
        if (why)
            log_emit(k->log, "kept translations in %s/%s are not used%s: %s", k->path, name,
                     removed ? " and have been removed" : "", why);
        if (f)
            munmap(f, size);
        free(copy);
        return;
    }
    *s = (struct keep_segment){.record = (const u8 *)(f + 1),
                               .size = f->size,
                               .index = (const struct keep_index *)((u8 *)(f + 1) + f->size),
                               .index_bits = f->index_bits,
                               .nrecords = f->nrecords,
                               .map = f,
                               .map_size = size,
                               .name = copy};
    k->nsegments++;
}

static DIR *list(const struct keep *k)
{
    int fd = openat(k->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d && fd >= 0)
        close(fd);
    return d;
}

static void read_folder(struct keep *k)
{
    char prefix[NAME_SIZE];
    prefix_of(k->key, prefix);
    DIR *d = list(k);
    for (struct dirent *f; d && k->nsegments < KEEP_SEGMENTS && (f = readdir(d));)
        if (is_segment(f->d_name) && !strncmp(f->d_name, prefix, strlen(prefix)))
            add_segment(k, f->d_name);
    if (d)
        closedir(d);
}

struct keep *bt_keep_open(const char *path, const struct cpu_model *model,
                          const struct bt_settings *set, const struct log *log, struct err *e)
{
    int dir = open_folder(path, e);
    struct keep *k = dir < 0 ? NULL : calloc(1, sizeof(*k));
    if (!k || !(k->path = strdup(path))) {
        if (dir >= 0) {
            close(dir);
            err_set(e, "out of memory for kept translations");
        }
        free(k);
        return NULL;
    }
    k->dir = dir;
    k->log = log;
    k->key = key_of(model, set);
    pthread_mutex_init(&k->lock, NULL);
    read_folder(k);
    return k;
}

/* --- of a CPU --- */

#define OWN_INDEX (sizeof(struct keep_index) << KEEP_OWN_BITS)

static void free_cpu(struct keep_cpu *kc)
{
    if (kc->record)
        munmap(kc->record, KEEP_OWN_SIZE);
    if (kc->index)
        munmap(kc->index, OWN_INDEX);
    free(kc);
}

struct keep_cpu *bt_keep_attach(struct keep *k)
{
    struct keep_cpu *kc = calloc(1, sizeof(*kc));
    if (!kc)
        return NULL;
    kc->keep = k;
    kc->record = reserve_memory(KEEP_OWN_SIZE);
    kc->index = reserve_memory(OWN_INDEX);
    kc->own = (struct keep_segment){
        .record = kc->record, .index = kc->index, .index_bits = KEEP_OWN_BITS};
    if (kc->record && kc->index)
        return kc;
    free_cpu(kc);
    return NULL;
}

void bt_keep_detach(struct keep_cpu *kc)
{
    pthread_mutex_lock(&kc->keep->lock);
    kc->next = kc->keep->done;
    kc->keep->done = kc;
    pthread_mutex_unlock(&kc->keep->lock);
}

/* --- writing --- */

/* A file under way. Records that are there already are left out. */
struct writer {
    u8 *record;
    u64 size, room, nrecords, nblocks;
    u64 *seen; /* their checksums: hash table */
    unsigned seen_bits;
};

static bool add_new(struct writer *w, u64 sum)
{
    u64 mask = (1ull << w->seen_bits) - 1, n = sum & mask;
    sum |= !sum;
    for (; w->seen[n]; n = (n + 1) & mask)
        if (w->seen[n] == sum)
            return false;
    w->seen[n] = sum;
    return true;
}

static void add_records(struct writer *w, const struct keep_segment *s)
{
    struct keep_parts p;
    for (u64 at = 0; at < s->size && bt_keep_split(s->record + at, s->size - at, &p);
         at += p.r->size) {
        if (w->size + p.r->size > min_u64(w->room, SEGMENT_MAX) ||
            w->nrecords * 2 >> w->seen_bits || !add_new(w, p.r->sum))
            continue;
        memcpy(w->record + w->size, p.r, p.r->size);
        w->size += p.r->size;
        w->nrecords++;
        w->nblocks += p.r->nblocks;
    }
}

static struct keep_index *make_index(const struct writer *w, unsigned *bits)
{
    for (*bits = 4; w->nblocks * 2 >> *bits;)
        ++*bits;
    struct keep_index *index = calloc(1ull << *bits, sizeof(*index));
    struct keep_parts p;
    for (u64 at = 0; index && at < w->size; at += p.r->size) {
        if (!bt_keep_split(w->record + at, w->size - at, &p))
            break;
        for (unsigned n = 0; n < p.r->nblocks; n++)
            bt_keep_enter(index, *bits, p.block[n].hash[0] | (u64)p.block[n].hash[1] << 32, at);
    }
    return index;
}

static bool write_all(int fd, const void *data, size_t n)
{
    const u8 *p = data;
    while (n) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return false;
        p += done;
        n -= (size_t)done;
    }
    return true;
}

static bool write_file(const struct keep *k, const struct writer *w, int fd)
{
    unsigned bits;
    struct keep_index *index = make_index(w, &bits);
    if (!index)
        return false;
    size_t index_size = sizeof(*index) << bits;
    struct keep_file f = {.magic = KEEP_MAGIC,
                          .version = KEEP_VERSION,
                          .index_bits = bits,
                          .key = k->key,
                          .size = w->size,
                          .nrecords = w->nrecords,
                          .index_sum = bt_keep_sum(index, index_size)};
    f.sum = bt_keep_sum(&f, offsetof(struct keep_file, sum));
    bool done = write_all(fd, &f, sizeof(f)) && write_all(fd, w->record, w->size) &&
                write_all(fd, index, index_size);
    free(index);
    return done;
}

/* Under a name that no other process takes; complete, or not at all. */
static bool put_file(const struct keep *k, const struct writer *w)
{
    char prefix[NAME_SIZE], name[2 * NAME_SIZE], temp[2 * NAME_SIZE];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    u64 unique = hash_bytes((u64)getpid(), &now, sizeof(now));
    unique = hash_bytes(unique, &w, sizeof(w));
    prefix_of(k->key, prefix);
    snprintf(name, sizeof(name), "%s%016llx.kept", prefix, (unsigned long long)unique);
    snprintf(temp, sizeof(temp), "%s%016llx.new", prefix, (unsigned long long)unique);
    int fd = openat(k->dir, temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool done = fd >= 0 && write_file(k, w, fd);
    if (fd >= 0 && close(fd))
        done = false;
    done = done && !renameat(k->dir, temp, k->dir, name);
    if (!done) {
        log_emit(k->log, "cannot keep translations in %s: %s", k->path, strerror(errno));
        unlinkat(k->dir, temp, 0);
    }
    return done;
}

static bool begin_writer(struct writer *w, u64 room, u64 nrecords)
{
    *w = (struct writer){.room = room, .seen_bits = 6};
    while (nrecords * 2 >> w->seen_bits)
        w->seen_bits++;
    w->record = malloc(room);
    w->seen = calloc(1ull << w->seen_bits, sizeof(u64));
    return w->record && w->seen;
}

static void end_writer(struct writer *w)
{
    free(w->record);
    free(w->seen);
}

/* What the CPUs have translated, and all segments if they are merged, newest first. */
static void write_segment(struct keep *k, bool merge)
{
    struct writer w;
    u64 room = 0, nrecords = 0;
    for (struct keep_cpu *kc = k->done; kc; kc = kc->next)
        room += kc->own.size, nrecords += kc->own.nrecords;
    for (unsigned n = 0; merge && n < k->nsegments; n++)
        room += k->segment[n].size, nrecords += k->segment[n].nrecords;
    if (!room)
        return;
    bool done = false;
    if (begin_writer(&w, room, nrecords)) {
        for (struct keep_cpu *kc = k->done; kc; kc = kc->next)
            add_records(&w, &kc->own);
        for (unsigned n = 0; merge && n < k->nsegments; n++)
            add_records(&w, &k->segment[n]);
        done = put_file(k, &w);
    }
    end_writer(&w);
    for (unsigned n = 0; merge && done && n < k->nsegments; n++)
        unlinkat(k->dir, k->segment[n].name, 0);
}

/* --- housekeeping --- */

struct old {
    char name[NAME_SIZE];
    u64 size;
    struct timespec at;
};

static int by_age(const void *a, const void *b)
{
    const struct timespec *x = &((const struct old *)a)->at, *y = &((const struct old *)b)->at;
    if (x->tv_sec != y->tv_sec)
        return x->tv_sec < y->tv_sec ? 1 : -1;
    return x->tv_nsec < y->tv_nsec ? 1 : x->tv_nsec > y->tv_nsec ? -1 : 0;
}

#define OLD_MAX 256

/* Also what a process that died was writing. */
static void unlink_leftover(const struct keep *k, const char *name, const struct stat *st)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    size_t len = strlen(name);
    if (!strncmp(name, "bt-", 3) && len > 4 && !strcmp(name + len - 4, ".new") &&
        now.tv_sec - st->st_mtim.tv_sec > 3600)
        unlinkat(k->dir, name, 0);
}

/* The files that were used longest ago go when all are too large. */
static void bound_folder(const struct keep *k)
{
    struct old *old = calloc(OLD_MAX, sizeof(*old));
    DIR *d = old ? list(k) : NULL;
    unsigned n = 0;
    u64 sum = 0;
    for (struct dirent *f; d && n < OLD_MAX && (f = readdir(d));) {
        struct stat st;
        if (fstatat(k->dir, f->d_name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode))
            continue;
        if (!is_segment(f->d_name)) {
            unlink_leftover(k, f->d_name, &st);
            continue;
        }
        old[n] = (struct old){.size = (u64)st.st_size, .at = st.st_mtim};
        memcpy(old[n++].name, f->d_name, strlen(f->d_name) + 1);
    }
    if (d)
        closedir(d);
    if (n)
        qsort(old, n, sizeof(*old), by_age);
    for (unsigned i = 0; i < n; i++) {
        sum += old[i].size;
        if (sum > FOLDER_MAX)
            unlinkat(k->dir, old[i].name, 0);
    }
    free(old);
}

/* Two processes that merge at once would keep all twice, no worse: one of them leaves it. */
static bool lock_folder(const struct keep *k)
{
    return flock(k->dir, LOCK_EX | LOCK_NB) == 0;
}

void bt_keep_close(struct keep *k)
{
    for (unsigned n = 0; n < k->nsegments; n++)
        if (k->segment[n].used)
            utimensat(k->dir, k->segment[n].name, NULL, 0);
    bool merge = k->nsegments >= MERGE_AT && lock_folder(k);
    write_segment(k, merge);
    if (k->done && k->done->own.size)
        bound_folder(k);
    while (k->done) {
        struct keep_cpu *kc = k->done;
        k->done = kc->next;
        free_cpu(kc);
    }
    for (unsigned n = 0; n < k->nsegments; n++) {
        munmap(k->segment[n].map, k->segment[n].map_size);
        free(k->segment[n].name);
    }
    close(k->dir);
    pthread_mutex_destroy(&k->lock);
    free(k->path);
    free(k);
}
