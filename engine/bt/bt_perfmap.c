/*
 * bt_perfmap.c - names of translations for `perf report`: /tmp/perf-PID.map, a line with the
 * address, the size and the name of each (linux/tools/perf/Documentation/jit-interface.txt).
 *
 * Runs while the guest's vector state is loaded: no libc but system calls.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "engine/bt/bt.h"

int bt_perfmap_open(struct err *e)
{
    char path[64];
    snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
    /* Whatever lies there was not made by this process unless it has several machines. */
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd < 0 ? err_errno(e, "cannot write %s", path) : fd;
}

struct line {
    char text[96];
    unsigned n;
};

static void put(struct line *l, const char *s)
{
    while (*s)
        l->text[l->n++] = *s++;
}

static void put_hex(struct line *l, u64 v)
{
    unsigned digits = 1;
    while (digits < 16 && v >> 4 * digits)
        digits++;
    while (digits--)
        l->text[l->n++] = "0123456789abcdef"[v >> 4 * digits & 15];
}

void bt_tell_names(struct bt_cpu *bt, const u8 *code, u64 size, unsigned view)
{
    const u8 *run = bt->map.run + (code - bt->code);
    u64 rip = bt->cpu->reg[X86_SLOT_RIP];
    if (bt->set->perf_map >= 0)
        bt_perfmap_add(bt->set->perf_map, run, size, rip, view);
    if (bt->gdbjit)
        bt_gdbjit_add(bt->gdbjit, run, size, rip, view);
}

void bt_perfmap_add(int fd, const u8 *code, u64 size, u64 rip, unsigned view)
{
    struct line l = {.n = 0};
    put_hex(&l, (u64)code);
    put(&l, " ");
    put_hex(&l, size);
    put(&l, BT_USER(view) ? " guest_user_" : " guest_");
    put_hex(&l, rip);
    put(&l, "\n");
    int saved = errno;
    if (write(fd, l.text, l.n) < 0)
        errno = saved;
}
