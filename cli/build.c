/*
 * popf image build debian.
 *
 * mmdebstrap makes a root file system of packages and writes it out as a tar; build_root.sh, at the
 * other end of the pipe, adds what makes a machine of it and writes an ext4 file system with
 * mke2fs. Both believe to be root: in a user namespace, or by fakeroot where there are none. `popf
 * image convert` makes a qcow2 of the result.
 */
#include "cli/build.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cli/blob.h"
#include "cli/cli.h"

#define LABEL     "popf-root"
#define MIB       (1ull << 20)
#define ROOM      (2500 * MIB) /* what the temporary files of an image take, and some more */
#define PARTITION (1 * MIB)    /* where the partition begins, and what the second GPT gets */

struct build {
    struct build_options opt;
    struct build_progress progress;
    const char *mode;    /* of mmdebstrap */
    struct args wrapper; /* words before a command that is to believe to be root */
    char *out, *part;    /* the image, and its name until it is whole */
    char *dir;           /* temporary */
    int signal_fd;
    sigset_t old_mask;
    bool interrupted;
};

static int fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static int fail(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("popf image build: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    return -1;
}

/* --- what this host has --- */

static int need_program(const char *name, const char *package)
{
    if (proc_exists(name))
        return 0;
    return fail("%s is not installed; as root: apt-get install %s", name, package);
}

static void wrap(struct build *b, const char *const *words)
{
    for (; *words; words++)
        args_add(&b->wrapper, *words);
}

static const char *const in_userns[] = {"unshare", "-U", "--map-auto", "--map-root-user", NULL};
static const char *const in_fakeroot[] = {"fakeroot", "--", NULL};

static bool userns_works(void)
{
    char *const argv[] = {"unshare", "-U", "--map-auto", "--map-root-user", "true", NULL};
    return proc_exists("newuidmap") && !proc_quiet(argv);
}

static int choose_mode(struct build *b)
{
    b->mode = b->opt.mode;
    if (!b->mode)
        b->mode = geteuid() == 0                                         ? "root"
                  : userns_works()                                       ? "unshare"
                  : proc_exists("fakechroot") && proc_exists("fakeroot") ? "fakechroot"
                                                                         : NULL;
    if (!b->mode)
        return fail("no way to make files that belong to root: user namespaces do not work here "
                    "(they need the package uidmap and lines for you in /etc/subuid and "
                    "/etc/subgid); as root: apt-get install uidmap, or fakechroot and fakeroot");
    if (!strcmp(b->mode, "unshare"))
        wrap(b, in_userns);
    else if (!strcmp(b->mode, "fakechroot"))
        wrap(b, in_fakeroot);
    return 0;
}

static int check_host(struct build *b)
{
    if (need_program("mmdebstrap", "mmdebstrap") || need_program("mke2fs", "e2fsprogs") ||
        need_program("tar", "tar") || (b->opt.partitioned && need_program("sfdisk", "fdisk")))
        return -1;
    return choose_mode(b);
}

/* --- files --- */

static int check_output(struct build *b)
{
    const struct build_options *o = &b->opt;
    b->out = o->out ? xstrdup(o->out) : xasprintf("debian-%s-%s.qcow2", o->suite, o->arch);
    b->part = xasprintf("%s.part", b->out);
    if (!o->force && !access(b->out, F_OK))
        return fail("%s exists; --force overwrites it", b->out);
    int fd = open(b->part, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0)
        return fail("cannot write %s: %s", b->part, strerror(errno));
    close(fd);
    return 0;
}

static unsigned long long room(const char *dir)
{
    struct statvfs s;
    return statvfs(dir, &s) ? 0 : (unsigned long long)s.f_bavail * s.f_frsize;
}

static int make_dir(struct build *b)
{
    const char *tmp = getenv("TMPDIR");
    if (!tmp)
        tmp = room("/tmp") >= ROOM ? "/tmp" : "/var/tmp";
    if (room(tmp) < ROOM)
        return fail("%s has %llu MiB left, and the temporary files need %llu: set TMPDIR to a "
                    "folder with more room",
                    tmp, room(tmp) / MIB, ROOM / MIB);
    setenv("TMPDIR", tmp, 1);
    b->dir = xasprintf("%s/popf-build.XXXXXX", tmp);
    if (mkdtemp(b->dir))
        return 0;
    int rc = fail("cannot make a folder in %s: %s", tmp, strerror(errno));
    free(b->dir);
    b->dir = NULL;
    return rc;
}

static int write_file(const char *path, const void *data, size_t len)
{
    FILE *f = fopen(path, "we");
    if (!f)
        return fail("cannot write %s: %s", path, strerror(errno));
    bool ok = fwrite(data, 1, len, f) == len;
    return fclose(f) || !ok ? fail("cannot write %s: %s", path, strerror(errno)) : 0;
}

/* Appends file `from` to an open file. */
static int append_file(FILE *to, const char *from)
{
    char buf[4096];
    size_t n;
    FILE *f = fopen(from, "re");
    if (!f)
        return fail("cannot read %s: %s", from, strerror(errno));
    while ((n = fread(buf, 1, sizeof(buf), f)))
        fwrite(buf, 1, n, to);
    fputc('\n', to);
    fclose(f);
    return 0;
}

static int write_keys(const struct build *b, const char *path)
{
    FILE *f = fopen(path, "we");
    int rc = f ? 0 : fail("cannot write %s: %s", path, strerror(errno));
    for (size_t i = 0; !rc && i < b->opt.keys.n; i++)
        rc = append_file(f, b->opt.keys.v[i]);
    if (f)
        fclose(f);
    return rc;
}

/* --- the two halves --- */

/*
 * What the initramfs needs: disks that virtual machines have. Debian's default, every driver there
 * is, makes it several times as large. Written before the kernel's package is configured.
 */
static const char initramfs_hook[] =
    "mkdir -p \"$1/etc/initramfs-tools/conf.d\" \"$1/etc/initramfs-tools/hooks\"\n"
    "cat >\"$1/etc/initramfs-tools/conf.d/popf\" <<END\n"
    "MODULES=list\n"
    "COMPRESS=zstd\n"
    "FSTYPE=ext4\n"
    "END\n"
    "cat >\"$1/etc/initramfs-tools/hooks/popf\" <<\"END\"\n"
    "#!/bin/sh\n"
    "[ \"$1\" != prereqs ] || exit 0\n"
    ". /usr/share/initramfs-tools/hook-functions\n"
    "manual_add_modules virtio_pci virtio_blk virtio_scsi sd_mod ata_piix ahci nvme ext4 \\\n"
    "    crc32c_generic crc32c_intel\n"
    "END\n"
    "chmod 755 \"$1/etc/initramfs-tools/hooks/popf\"\n";

/* Modules for hardware that no virtual machine has: three quarters of them all. */
static const char *const no_modules[] = {
    "drivers/bluetooth",  "drivers/gpu",   "drivers/hid",   "drivers/iio",
    "drivers/infiniband", "drivers/isdn",  "drivers/media", "drivers/net/wireless",
    "drivers/staging",    "net/bluetooth", "net/mac80211",  "sound",
};

static void add_excludes(struct args *a)
{
    for (size_t i = 0; i < sizeof(no_modules) / sizeof(no_modules[0]); i++) {
        args_addf(a, "--dpkgopt=path-exclude=/lib/modules/*/kernel/%s/*", no_modules[i]);
        args_addf(a, "--dpkgopt=path-exclude=/usr/lib/modules/*/kernel/%s/*", no_modules[i]);
    }
}

static const char base_packages[] =
    "initramfs-tools,zstd,busybox,systemd-sysv,udev,dbus,libpam-systemd,systemd-resolved,"
    "openssh-server,e2fsprogs,iproute2,iputils-ping,sudo,ca-certificates,kmod,procps,less,nano,"
    "netbase";

static void add_includes(const struct build *b, struct args *a)
{
    const struct build_options *o = &b->opt;
    /* Not linux-image-cloud-amd64: it has no 9p, and so no shared folders. */
    const char *kernel = o->kernel                  ? o->kernel
                         : !strcmp(o->arch, "i386") ? "linux-image-686"
                                                    : "linux-image-amd64";
    args_addf(a, "--include=%s,%s", kernel, base_packages);
    if (o->cloud_init)
        args_add(a, "--include=cloud-init,cloud-guest-utils");
    for (size_t i = 0; i < o->include.n; i++)
        args_addf(a, "--include=%s", o->include.v[i]);
}

/*
 * fakechroot finds libraries by LD_LIBRARY_PATH, in which mmdebstrap puts the new root's
 * lib/systemd, where systemd had its own until Debian 12. The host's is found where there is one.
 */
static const char libs_hook[] =
    "mkdir -p \"$1/usr/lib/systemd\"\n"
    "for dir in \"$1\"/usr/lib/*-linux-gnu; do\n"
    "    for v in $(seq 252 270); do\n"
    "        lib=libsystemd-shared-$v.so\n"
    "        ln -s \"../${dir##*/}/systemd/$lib\" \"$1/usr/lib/systemd/$lib\"\n"
    "    done\n"
    "done\n";
static const char libs_end_hook[] = "for lib in \"$1\"/usr/lib/systemd/libsystemd-shared-*.so; do\n"
                                    "    [ ! -L \"$lib\" ] || rm \"$lib\"\n"
                                    "done\n";

static void bootstrap_args(const struct build *b, struct args *a)
{
    struct args apt = {0}, lines = {0};
    args_add(a, "mmdebstrap");
    args_add(a, "--verbose");
    args_addf(a, "--mode=%s", b->mode);
    args_add(a, "--variant=minbase");
    args_add(a, "--format=tar");
    args_addf(a, "--architectures=%s", b->opt.arch);
    add_includes(b, a);
    add_excludes(a);
    build_apt_options(&apt);
    for (size_t i = 0; i < apt.n; i++)
        args_addf(a, "--aptopt=%s", apt.v[i]);
    args_addf(a, "--essential-hook=%s", initramfs_hook);
    if (!strcmp(b->mode, "fakechroot")) {
        args_addf(a, "--essential-hook=%s", libs_hook);
        args_addf(a, "--customize-hook=%s", libs_end_hook);
    }
    args_add(a, b->opt.suite);
    args_add(a, "-");
    build_apt_sources(&b->opt, &lines);
    for (size_t i = 0; i < lines.n; i++)
        args_add(a, lines.v[i]);
    args_free(&apt);
    args_free(&lines);
}

static void put_env(const char *name, const char *val)
{
    setenv(name, val ? val : "", 1);
}

/* The environment of build_root.sh; programs that run before it do not mind. */
static int prepare_second(struct build *b)
{
    const struct build_options *o = &b->opt;
    char *root = xasprintf("%s/root", b->dir), *image = xasprintf("%s/disk", b->dir);
    char *keys = xasprintf("%s/keys", b->dir), *script = xasprintf("%s/script", b->dir);
    char *agent = xasprintf("%s/agent", b->dir);
    uint64_t around = o->partitioned ? 2 * PARTITION : 0;
    char *size = xasprintf("%llu", (unsigned long long)((o->size - around) / 1024));
    char *offset = xasprintf("%llu", (unsigned long long)(around / 2));
    char *hash = text_crypt(o->password), *root_hash = text_crypt(o->root_password);
    bool is64 = strcmp(o->arch, "i386");
    const struct blob *a = is64 ? &blob_agent64 : &blob_agent32;

    put_env("ROOT", root);
    put_env("IMG", image);
    put_env("OFFSET", offset);
    put_env("SIZE", size);
    put_env("LABEL", LABEL);
    put_env("NAME", o->hostname);
    put_env("LOGIN", o->user);
    put_env("KEYS", o->keys.n ? keys : "");
    put_env("HASH", hash);
    put_env("ROOT_HASH", root_hash);
    put_env("CLOUD", o->cloud_init ? "yes" : "no");
    put_env("AGENT", a->len ? agent : "");
    put_env("KARGS", o->kernel_args);
    int rc = write_file(script, blob_build_root.data, blob_build_root.len) ||
             write_file(agent, a->data, a->len) || write_keys(b, keys);
    if (!rc && mkdir(root, 0755))
        rc = fail("cannot make %s: %s", root, strerror(errno));
    free(root), free(image), free(keys), free(script), free(size), free(offset), free(agent);
    free(hash), free(root_hash);
    return rc ? -1 : 0;
}

static pid_t start_second(const struct build *b, int in, int err)
{
    struct args a = {0};
    for (size_t i = 0; i < b->wrapper.n; i++)
        args_add(&a, b->wrapper.v[i]);
    args_add(&a, "sh");
    args_addf(&a, "%s/script", b->dir);
    pid_t pid = proc_start(a.v, in, err, err);
    args_free(&a);
    return pid;
}

/* Reads what the programs say until both have closed their end. */
static void follow(struct build *b, int fd, const pid_t *pids)
{
    struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = b->signal_fd, .events = POLLIN}};
    char buf[4096];
    for (;;) {
        if (poll(p, 2, -1) < 0)
            continue;
        struct signalfd_siginfo si;
        if ((p[1].revents & POLLIN) && read(b->signal_fd, &si, sizeof(si)) == sizeof(si)) {
            b->interrupted = true;
            kill(pids[0], SIGTERM);
            kill(pids[1], SIGTERM);
        }
        ssize_t n = p[0].revents ? read(fd, buf, sizeof(buf)) : 1;
        if (n <= 0)
            return;
        if (p[0].revents)
            build_progress_feed(&b->progress, buf, (size_t)n);
    }
}

static int report_failure(struct build *b, const char *what, int status)
{
    build_progress_end(&b->progress);
    if (b->interrupted)
        return fail("interrupted");
    build_progress_tail(&b->progress);
    return fail("%s failed with status %d; its last words are above (-v shows all)", what, status);
}

static int make_file_system(struct build *b)
{
    struct args a = {0};
    int data[2], said[2];
    if (prepare_second(b))
        return -1;
    if (pipe2(data, O_CLOEXEC) || pipe2(said, O_CLOEXEC))
        return fail("cannot make a pipe: %s", strerror(errno));
    bootstrap_args(b, &a);
    build_progress_step(&b->progress, "starting mmdebstrap");
    pid_t pids[2] = {proc_start(a.v, -1, data[1], said[1])};
    close(data[1]);
    pids[1] = start_second(b, data[0], said[1]);
    close(data[0]);
    close(said[1]);
    follow(b, said[0], pids);
    close(said[0]);
    args_free(&a);
    int first = proc_wait(pids[0]), second = proc_wait(pids[1]);
    if (first)
        return report_failure(b, "mmdebstrap", first);
    return second ? report_failure(b, "making the file system", second) : 0;
}

/* --- the disk --- */

static const char *partition_type(const struct build *b)
{
    /* "Linux root" of the discoverable partitions specification */
    return strcmp(b->opt.arch, "i386") ? "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
                                       : "44479540-F297-41B2-9AF7-D131D5F0458A";
}

static int write_partitions(struct build *b)
{
    char *disk = xasprintf("%s/disk", b->dir), *table = xasprintf("%s/table", b->dir);
    char *text =
        xasprintf("label: gpt\nstart=%llu, size=%llu, type=%s, name=root\n", PARTITION / 512,
                  (unsigned long long)(b->opt.size - 2 * PARTITION) / 512, partition_type(b));
    char *const argv[] = {"sfdisk", "-q", "-W", "never", disk, NULL};
    int rc = write_file(table, text, strlen(text));
    if (!rc && truncate(disk, (off_t)b->opt.size))
        rc = fail("cannot make %s as large as the disk: %s", disk, strerror(errno));
    int fd = rc ? -1 : open(table, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        int status = proc_wait(proc_start(argv, fd, -1, STDERR_FILENO));
        rc = status ? fail("sfdisk failed with status %d", status) : 0;
        close(fd);
    }
    free(disk), free(table), free(text);
    return rc;
}

static int convert(struct build *b)
{
    bool raw = text_ends(b->out, ".raw") || text_ends(b->out, ".img");
    char *disk = xasprintf("%s/disk", b->dir);
    char *const argv[] = {"/proc/self/exe",      "image", "convert", "-O",
                          raw ? "raw" : "qcow2", disk,    b->part,   NULL};
    build_progress_step(&b->progress, "writing the disk");
    unlink(b->part);
    int status = proc_wait(proc_start(argv, -1, -1, STDERR_FILENO));
    build_progress_end(&b->progress);
    free(disk);
    if (status)
        return fail("popf image convert failed with status %d", status);
    if (rename(b->part, b->out))
        return fail("cannot rename %s to %s: %s", b->part, b->out, strerror(errno));
    return 0;
}

/* --- the whole --- */

static void clean_up(struct build *b)
{
    if (b->part)
        unlink(b->part);
    if (b->dir) { /* files in there may belong to users that only the wrapper can be */
        struct args a = {0};
        for (size_t i = 0; i < b->wrapper.n; i++)
            args_add(&a, b->wrapper.v[i]);
        args_add(&a, "rm");
        args_add(&a, "-rf");
        args_add(&a, b->dir);
        proc_quiet(a.v);
        args_free(&a);
    }
    free(b->dir), free(b->out), free(b->part);
    args_free(&b->wrapper);
    build_progress_free(&b->progress);
}

/* Interrupted, popf still removes what it has made. */
static void catch_signals(struct build *b)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, &b->old_mask);
    b->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int build(struct build *b)
{
    if (check_host(b) || check_output(b) || make_dir(b) || make_file_system(b))
        return -1;
    if (b->opt.partitioned && write_partitions(b))
        return -1;
    if (convert(b))
        return -1;
    struct stat st;
    if (!stat(b->out, &st))
        printf("%s: Debian %s for %s, %llu MiB\n", b->out, b->opt.suite, b->opt.arch,
               (unsigned long long)st.st_blocks * 512 / MIB);
    return 0;
}

int build_main(int argc, char **argv)
{
    struct build b = {.signal_fd = -1};
    if (build_parse(&b.opt, argc, argv)) {
        build_free(&b.opt);
        return STATUS_USAGE;
    }
    int rc = 0;
    if (b.opt.help) {
        build_help(stdout);
    } else {
        proc_init();
        catch_signals(&b);
        build_progress_init(&b.progress, b.opt.verbose);
        rc = build(&b);
        clean_up(&b);
    }
    build_free(&b.opt);
    return rc ? STATUS_ERROR : 0;
}
