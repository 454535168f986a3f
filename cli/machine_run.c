/*
 * What the process that runs a machine does for it beside running it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli/machine.h"
#include "cli/machine_ctl.h"
#include "cli/text.h"

#define LOG_MAX (16u << 20) /* then log becomes log.1, and the one before is gone */

struct machine {
    char *name;
    int lock;
    bool named, detached, was_on;
    unsigned port; /* the one with a console */
    int tell;      /* pipe to the process in the foreground; -1: none */
    char *vsock, *seed;
    struct popf_disk *disks; /* cfg's, and the seed's */
    json_object *about;      /* what machine.json says */
    struct ctl *ctl;
    int log;
    size_t logged;
};

static int fail(struct popf_error *err, const char *what, const char *path)
{
    snprintf(err->msg, sizeof(err->msg), "%s %s: %s", what, path, strerror(errno));
    return -1;
}

/* --- names --- */

static const char *what_is_run(const struct popf_config *cfg)
{
    return cfg->ndisks ? cfg->disks[0].file : cfg->kernel ? cfg->kernel : "machine";
}

/* The name of a file without folders and endings, as far as a name may look so. */
static char *name_after(const char *file)
{
    const char *base = strrchr(file, '/') ? strrchr(file, '/') + 1 : file;
    char *name = xasprintf("%.*s", (int)strcspn(base, "."), base);
    for (char *p = name; *p; p++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", *p))
            *p = '-';
    if (strlen(name) > MACHINE_NAME_MAX - 8)
        name[MACHINE_NAME_MAX - 8] = 0;
    if (machine_name_ok(name))
        return name;
    free(name);
    return xstrdup("machine");
}

static int claim_any(struct machine *m, const char *file, struct popf_error *err)
{
    char *base = name_after(file);
    bool taken = true;
    for (unsigned i = 1; m->lock < 0 && taken && i < 10000; i++) {
        free(m->name);
        m->name = i == 1 ? xstrdup(base) : xasprintf("%s-%u", base, i);
        m->lock = machine_claim(m->name, &taken, err);
    }
    free(base);
    return m->lock < 0 ? -1 : 0;
}

static int claim(struct machine *m, const struct popf_config *cfg, struct popf_error *err)
{
    bool taken;
    if (!cfg->name)
        return claim_any(m, what_is_run(cfg), err);
    if (!machine_name_ok(cfg->name)) {
        snprintf(err->msg, sizeof(err->msg),
                 "the name \"%s\" cannot be used: letters, digits, - _ . are allowed, at most %d, "
                 "with a letter or digit first",
                 cfg->name, MACHINE_NAME_MAX);
        return -1;
    }
    m->name = xstrdup(cfg->name);
    m->lock = machine_claim(m->name, &taken, err);
    return m->lock < 0 ? -1 : 0;
}

/* --- ports of the host: a clash is told with the name of the machine that has it --- */

struct forward {
    char address[64];
    unsigned host, guest;
    bool udp;
};

/* "[ADDR:]HOST:GUEST[/udp]"; false if it is something else, about which libpopf complains. */
static bool parse_forward(const char *text, struct forward *f)
{
    const char *guest = strrchr(text, ':'), *host = guest;
    if (!guest)
        return false;
    while (host > text && host[-1] != ':')
        host--;
    size_t n = host > text ? (size_t)(host - text - 1) : 0;
    if (n >= sizeof(f->address))
        return false;
    strcpy(f->address, "127.0.0.1");
    if (n)
        snprintf(f->address, sizeof(f->address), "%.*s", (int)n, text);
    f->host = (unsigned)atoi(host);
    f->guest = (unsigned)atoi(guest + 1);
    f->udp = text_ends(text, "/udp");
    return f->host != 0;
}

static bool same_port(const char *forward, json_object *port)
{
    struct forward f;
    const char *b = json_text(port, "address");
    if (!parse_forward(forward, &f) || json_number(port, "host") != f.host ||
        json_number(port, "udp") != f.udp)
        return false;
    return !strcmp(f.address, b) || !strcmp(f.address, "0.0.0.0") || !strcmp(b, "0.0.0.0");
}

static int check_machine(const struct popf_config *cfg, const char *name, struct popf_error *err)
{
    json_object *s = machine_owner(name) ? client_status(name) : NULL, *ports = NULL;
    int rc = 0;
    if (!s || !json_object_object_get_ex(s, "ports", &ports)) {
        json_object_put(s);
        return 0;
    }
    for (size_t i = 0; !rc && i < json_object_array_length(ports); i++)
        for (unsigned k = 0; !rc && k < cfg->nforwards; k++)
            if (same_port(cfg->forwards[k], json_object_array_get_idx(ports, i))) {
                snprintf(err->msg, sizeof(err->msg),
                         "-p %s: this port of the host leads into the machine %s already; take "
                         "another one, or: popf stop %s",
                         cfg->forwards[k], name, name);
                rc = -1;
            }
    json_object_put(s);
    return rc;
}

static int check_ports(const struct popf_config *cfg, struct popf_error *err)
{
    char *folder = machine_runtime(NULL, NULL);
    struct args names = cfg->nforwards ? machine_names(folder) : (struct args){0};
    int rc = 0;
    for (size_t i = 0; !rc && i < names.n; i++)
        rc = check_machine(cfg, names.v[i], err);
    args_free(&names);
    free(folder);
    return rc;
}

/* --- what is known about it --- */

static void add_text(json_object *o, const char *key, const char *text)
{
    if (text)
        json_object_object_add(o, key, json_object_new_string(text));
}

static void add_number(json_object *o, const char *key, uint64_t val)
{
    json_object_object_add(o, key, json_object_new_int64((int64_t)val));
}

static json_object *describe_ports(const struct popf_config *cfg)
{
    json_object *ports = json_object_new_array();
    for (unsigned i = 0; i < cfg->nforwards; i++) {
        struct forward f;
        if (!parse_forward(cfg->forwards[i], &f))
            continue;
        json_object *port = json_object_new_object();
        add_text(port, "address", f.address);
        add_number(port, "host", f.host);
        add_number(port, "guest", f.guest);
        add_number(port, "udp", f.udp);
        json_object_array_add(ports, port);
    }
    return ports;
}

static json_object *describe(const struct machine *m, const struct popf_config *cfg)
{
    json_object *o = json_object_new_object();
    char *image = realpath(what_is_run(cfg), NULL);
    add_text(o, "name", m->name);
    add_number(o, "pid", (uint64_t)getpid());
    add_text(o, "image", image ? image : what_is_run(cfg));
    add_number(o, "cpus", cfg->cpus);
    add_number(o, "memory", cfg->memory);
    add_text(o, "net", cfg->net ? cfg->net : "none");
    json_object_object_add(o, "ports", describe_ports(cfg));
    add_text(o, "vsock", cfg->vsock);
    add_text(o, "gdb", cfg->gdb);
    json_object_object_add(o, "detached", json_object_new_boolean(m->detached));
    free(image);
    return o;
}

/* Written anew and renamed, so that nobody reads half of it. */
static void save(const struct machine *m)
{
    if (!m->named)
        return;
    char *path = machine_state(m->name, "machine.json");
    char *part = xasprintf("%s.part", path);
    if (!json_object_to_file_ext(part, m->about, JSON_C_TO_STRING_PRETTY))
        rename(part, path);
    free(path), free(part);
}

/* --- the log --- */

static void open_log(struct machine *m)
{
    char *path = machine_state(m->name, "log");
    m->log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    m->logged = 0;
    free(path);
}

static void log_output(struct machine *m, const char *buf, size_t len)
{
    if (m->log >= 0 && m->logged > LOG_MAX) {
        char *path = machine_state(m->name, "log"), *old = machine_state(m->name, "log.1");
        close(m->log);
        rename(path, old);
        open_log(m);
        free(path), free(old);
    }
    while (m->log >= 0 && len) { /* a full disk loses the log, not the guest */
        ssize_t n = write(m->log, buf, len);
        if (n < 0 && errno != EINTR)
            return;
        buf += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
        m->logged += n > 0 ? (size_t)n : 0;
    }
}

/* What an earlier machine of that name has left is gone. */
static int make_state(struct machine *m, struct popf_error *err)
{
    char *dir = machine_state(m->name, NULL), *log = machine_state(m->name, "log");
    char *old = machine_state(m->name, "log.1");
    int rc = 0;
    for (char *p = dir + 1; *p; p++)
        if (*p == '/') {
            *p = 0;
            mkdir(dir, 0700);
            *p = '/';
        }
    if (mkdir(dir, 0700) && errno != EEXIST)
        rc = fail(err, "cannot make the folder", dir);
    unlink(log);
    unlink(old);
    if (!rc)
        open_log(m);
    free(dir), free(log), free(old);
    return rc;
}

/* --- the background --- */

/* Waits until the machine has started and ends as that went. */
static void __attribute__((noreturn)) wait_in_front(pid_t pid, int fd)
{
    char name[MACHINE_NAME_MAX + 1];
    ssize_t n;
    do
        n = read(fd, name, sizeof(name) - 1);
    while (n < 0 && errno == EINTR);
    if (n > 0) {
        name[n] = 0;
        puts(name);
        exit(fflush(stdout) ? 1 : 0);
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    exit(WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : 1);
}

/* Call before any thread is made. */
static int go_behind(struct machine *m, struct popf_error *err)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC))
        return fail(err, "cannot make", "a pipe");
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0)
        return fail(err, "cannot start", "a process");
    if (pid) {
        close(fds[1]);
        wait_in_front(pid, fds[0]);
    }
    close(fds[0]);
    m->tell = fds[1];
    setsid();
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    close(null);
    return 0;
}

/* From here on nobody reads our standard error. */
static void let_go(struct machine *m)
{
    if (m->tell < 0)
        return;
    char *path = machine_state(m->name, "messages");
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    fflush(stderr);
    dup2(fd, STDERR_FILENO);
    close(fd);
    ssize_t n = write(m->tell, m->name, strlen(m->name));
    (void)n;
    close(m->tell);
    m->tell = -1;
    free(path);
}

/* --- */

static int add_seed(struct machine *m, struct popf_config *cfg, const struct seed *seed,
                    struct popf_error *err)
{
    if (!seed->from && !seed->user)
        return 0;
    if (cfg->ndisks >= POPF_DISKS_MAX) {
        snprintf(err->msg, sizeof(err->msg), "no disk is left for the cloud-init seed: at most %d",
                 POPF_DISKS_MAX);
        return -1;
    }
    struct seed s = *seed;
    if (!s.hostname && m->named)
        s.hostname = m->name;
    m->seed = machine_runtime(m->name, "seed.iso");
    if (seed_write(&s, m->seed, err))
        return -1;
    m->disks = xmalloc((cfg->ndisks + 1) * sizeof(*m->disks));
    memcpy(m->disks, cfg->disks, cfg->ndisks * sizeof(*m->disks));
    m->disks[cfg->ndisks] =
        (struct popf_disk){.file = m->seed, .format = "raw", .serial = "cidata", .read_only = true};
    cfg->disks = m->disks;
    cfg->ndisks++;
    return 0;
}

static int set_up(struct machine *m, struct popf_config *cfg, const struct machine_options *o,
                  struct popf_error *err)
{
    if (m->named && make_state(m, err))
        return -1;
    cfg->name = m->name;
    if (!cfg->vsock && (m->named || cfg->ndisks)) {
        m->vsock = machine_runtime(m->name, "vsock");
        cfg->vsock = m->vsock;
    }
    m->about = describe(m, cfg);
    return add_seed(m, cfg, &o->seed, err);
}

int machine_new(struct machine **out, struct popf_config *cfg, const struct machine_options *o,
                struct popf_error *err)
{
    bool wants_seed = o->seed.from || o->seed.user;
    struct machine *m = xmalloc(sizeof(*m));
    *m = (struct machine){.lock = -1, .tell = -1, .log = -1, .detached = o->detach};
    m->named = cfg->name || o->detach;
    *out = NULL;
    int rc = check_ports(cfg, err);
    if (!rc && o->detach)
        rc = go_behind(m, err);
    bool claimed = !rc && !claim(m, cfg, err);
    if (claimed)
        rc = set_up(m, cfg, o, err);
    else if (!rc && (m->named || wants_seed))
        rc = -1;
    if (claimed && !rc) {
        *out = m;
        return 0;
    }
    machine_free(m);
    return rc;
}

int machine_started(struct machine *m, struct popf *vm, struct popf_error *err)
{
    if (!m)
        return 0;
    struct timespec now;
    char *path = machine_runtime(m->name, "control");
    clock_gettime(CLOCK_REALTIME, &now);
    add_number(m->about, "started", (uint64_t)now.tv_sec);
    add_text(m->about, "engine", popf_engine(vm));
    m->ctl = ctl_new(path, vm, m->port, json_object_get(m->about), err);
    free(path);
    if (!m->ctl)
        return m->named ? -1 : 0;
    m->was_on = true;
    save(m);
    let_go(m);
    return 0;
}

bool machine_output(struct machine *m, unsigned port, const void *buf, size_t len)
{
    if (!m || port != m->port)
        return false;
    log_output(m, buf, len);
    struct ctl *ctl = __atomic_load_n(&m->ctl, __ATOMIC_ACQUIRE);
    if (ctl)
        ctl_output(ctl, buf, len);
    return m->detached;
}

void machine_ended(struct machine *m, const struct popf_outcome *how)
{
    if (!m)
        return;
    struct ctl *ctl = m->ctl;
    __atomic_store_n(&m->ctl, NULL, __ATOMIC_RELEASE);
    ctl_free(ctl, how);
    if (!m->about || !how)
        return;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    add_number(m->about, "ended", (uint64_t)now.tv_sec);
    add_text(m->about, "end", ctl_end_name(how->end));
    add_text(m->about, "text", how->text);
    save(m);
}

/* A machine that never started has not been there. */
static void remove_state(const struct machine *m)
{
    static const char *const files[] = {"log", "messages", "machine.json", NULL};
    for (unsigned i = 0; i < 4; i++) { /* NULL: the folder */
        char *path = machine_state(m->name, files[i]);
        remove(path);
        free(path);
    }
}

void machine_free(struct machine *m)
{
    if (!m)
        return;
    if (m->lock >= 0 && m->named && !m->was_on)
        remove_state(m);
    if (m->lock >= 0)
        machine_unclaim(m->name, m->lock);
    if (m->log >= 0)
        close(m->log);
    if (m->tell >= 0)
        close(m->tell);
    json_object_put(m->about);
    free(m->name), free(m->vsock), free(m->seed), free(m->disks);
    free(m);
}
