/*
 * bt_map.c - memory for emitted code: writable and executable, or where that is forbidden
 * (SELinux's execmem, PR_SET_MDWE, seccomp filters) one file mapped twice, writable here and
 * executable there.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/bt/bt.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x10u /* linux/memfd.h, Linux 6.3: where vm.memfd_noexec is 1, it must be said */
#endif

static u8 *map(size_t size, int prot, int flags, int fd)
{
    void *p = mmap(NULL, size, prot, flags, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

static int map_once(struct bt_code *m)
{
    /* For tests: as if it were forbidden. */
    const char *twice = getenv("POPF_BT_MAP");
    if (twice && !strcmp(twice, "twice")) {
        errno = EACCES;
        return -1;
    }
    m->write = m->run = map(m->size, PROT_READ | PROT_WRITE | PROT_EXEC,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
    if (!m->write)
        return -1;
    madvise(m->write, m->size, MADV_DONTFORK);
    madvise(m->write, m->size, MADV_HUGEPAGE); /* fewer faults, and misses of the TLB */
    return 0;
}

static int map_file_twice(struct bt_code *m, int fd)
{
    if (fd < 0)
        return -1;
    m->write = m->run = NULL;
    if (!ftruncate(fd, (off_t)m->size)) {
        m->write = map(m->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
        m->run = map(m->size, PROT_READ | PROT_EXEC, MAP_SHARED, fd);
    }
    int why = errno;
    close(fd);
    if (m->write && m->run)
        return 0;
    bt_code_unmap(m);
    errno = why;
    return -1;
}

static int open_memfd(void)
{
    int fd = memfd_create("popf-code", MFD_CLOEXEC | MFD_EXEC);
    return fd < 0 && errno == EINVAL ? memfd_create("popf-code", MFD_CLOEXEC) : fd;
}

/* A file without a name. */
static int open_in(const char *folder)
{
    return folder ? open(folder, O_RDWR | O_TMPFILE | O_EXCL | O_CLOEXEC, 0600) : -1;
}

int bt_code_map(struct bt_code *m, size_t size, struct err *e)
{
    *m = (struct bt_code){.size = size};
    if (!map_once(m) || !map_file_twice(m, open_memfd()) ||
        !map_file_twice(m, open_in("/dev/shm")) ||
        !map_file_twice(m, open_in(getenv("XDG_RUNTIME_DIR"))) ||
        !map_file_twice(m, open_in("/tmp")))
        return 0;
    return err_set(e, "the translator needs executable memory, which this host refuses, written to "
                      "or shared (SELinux, seccomp, noexec); use --engine interp");
}

void bt_code_unmap(struct bt_code *m)
{
    if (m->write)
        munmap(m->write, m->size);
    if (m->run && m->run != m->write)
        munmap(m->run, m->size);
    m->write = m->run = NULL;
}
