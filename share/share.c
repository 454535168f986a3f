#include "share/share.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "share/share_priv.h"

#define FDS_MIN 16

/* --- opening the folder --- */

/* umask() cannot be read without being set, for every thread. */
static mode_t read_umask(void)
{
    char line[128];
    unsigned mask = 022;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "Umask: %o", &mask) == 1)
            break;
    if (f)
        fclose(f);
    return mask;
}

static unsigned fds_limit(unsigned asked)
{
    struct rlimit r;
    unsigned limit = asked;
    if (!limit && !getrlimit(RLIMIT_NOFILE, &r))
        limit = min_u64(r.rlim_cur / 2, 65536);
    return max_u64(limit, FDS_MIN);
}

/* Does the file system have user attributes? ENODATA is a yes. */
static bool has_xattrs(int fd)
{
    struct share_proc path = share_proc(fd);
    return getxattr(path.name, "user.popf.attr", NULL, 0) >= 0 || errno == ENODATA;
}

static int open_root(struct share *s, const char *path, struct err *e)
{
    struct stat st;
    int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(e, "cannot share %s", path);
    struct share_proc proc = share_proc(fd);
    if (access(proc.name, R_OK | X_OK) || fstat(fd, &st)) {
        err_errno(e, "cannot share %s", path);
        close(fd);
        return -1;
    }
    s->dev = st.st_dev;
    s->mapped = !s->cfg.passthrough && has_xattrs(fd);
    int err = share_node_init(s, fd);
    if (!err)
        return 0;
    close(fd);
    return err_set(e, "cannot share %s: %s", path, strerror(err));
}

struct share *share_open(const struct share_config *cfg, struct err *e)
{
    struct share *s = calloc(1, sizeof(*s));
    if (!s) {
        err_set(e, "cannot share %s: out of memory", cfg->path);
        return NULL;
    }
    s->cfg = *cfg;
    s->cfg.path = NULL;
    s->umask = read_umask();
    s->tree.fds_max = fds_limit(cfg->fds_max);
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->attr_lock, NULL);
    if (open_root(s, cfg->path, e)) {
        share_close(s);
        return NULL;
    }
    return s;
}

void share_close(struct share *s)
{
    if (!s)
        return;
    share_fid_remove_all(s);
    share_node_free(s);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->attr_lock);
    free(s);
}

void share_reset(struct share *s)
{
    share_fid_remove_all(s);
    s->msize = 0;
}

bool share_in_use(const struct share *s)
{
    return s->msize;
}

/* --- serving --- */

static int flush(struct share *s, struct share_in *in, struct share_out *out)
{
    share_in_u16(in);
    return in->err;
}

/* ORDER 9P */
static share_op *const ops[SHARE_TYPES] = {
    [TSTATFS] = share_attr_statfs,       [TLOPEN] = share_file_lopen,
    [TLCREATE] = share_file_lcreate,     [TSYMLINK] = share_name_symlink,
    [TMKNOD] = share_name_mknod,         [TRENAME] = share_name_rename,
    [TREADLINK] = share_name_readlink,   [TGETATTR] = share_attr_getattr,
    [TSETATTR] = share_attr_setattr,     [TXATTRWALK] = share_xattr_walk,
    [TXATTRCREATE] = share_xattr_create, [TREADDIR] = share_file_readdir,
    [TFSYNC] = share_file_fsync,         [TLOCK] = share_lock_lock,
    [TGETLOCK] = share_lock_getlock,     [TLINK] = share_name_link,
    [TMKDIR] = share_name_mkdir,         [TRENAMEAT] = share_name_renameat,
    [TUNLINKAT] = share_name_unlinkat,   [TVERSION] = share_walk_version,
    [TATTACH] = share_walk_attach,       [TFLUSH] = flush,
    [TWALK] = share_walk_walk,           [TREAD] = share_file_read,
    [TWRITE] = share_file_write,         [TCLUNK] = share_walk_clunk,
    [TREMOVE] = share_name_remove,
};

struct header {
    u32 size;
    u8 type;
    u16 tag;
};

static struct header in_header(struct share_in *in)
{
    struct header h;
    h.size = share_in_u32(in);
    h.type = share_in_u8(in);
    h.tag = share_in_u16(in);
    return h;
}

bool share_flushes(const u8 *req, size_t n, u16 *oldtag)
{
    struct share_in in = {.buf = req, .len = n};
    struct header h = in_header(&in);
    *oldtag = share_in_u16(&in);
    return !in.err && h.type == TFLUSH;
}

int share_tag(const u8 *req, size_t n)
{
    struct share_in in = {.buf = req, .len = n};
    struct header h = in_header(&in);
    return in.err ? -1 : h.tag;
}

/* Before Tversion nothing is agreed upon: no other message is known. */
static int run(struct share *s, const struct header *h, struct share_in *in, struct share_out *out)
{
    u32 msize = s->msize;
    share_op *op = h->type < SHARE_TYPES ? ops[h->type] : NULL;
    if (h->size < SHARE_HEADER || h->size > in->len)
        return EPROTO;
    if (h->type != TVERSION && (!msize || h->size > msize))
        return msize ? EMSGSIZE : EPROTO;
    in->len = h->size;
    return op ? op(s, in, out) : EOPNOTSUPP;
}

static size_t seal(struct share_out *out, u8 type, u16 tag)
{
    struct share_out head = {.buf = out->buf, .cap = SHARE_HEADER};
    share_out_u32(&head, out->pos);
    share_out_u8(&head, type);
    share_out_u16(&head, tag);
    return out->pos;
}

size_t share_serve(struct share *s, const u8 *req, size_t n, u8 *reply, size_t cap)
{
    struct share_in in = {.buf = req, .len = n};
    struct header h = in_header(&in);
    u32 msize = s->msize;
    if (in.err || cap < SHARE_REPLY_MIN)
        return 0;
    struct share_out out = {
        .buf = reply, .cap = min_u64(cap, msize ? msize : SHARE_MSIZE_MIN), .pos = SHARE_HEADER};
    int err = run(s, &h, &in, &out);
    if (!err && out.full)
        err = EOVERFLOW;
    if (!err)
        return seal(&out, h.type + 1, h.tag);
    out = (struct share_out){.buf = reply, .cap = cap, .pos = SHARE_HEADER};
    share_out_u32(&out, err);
    return seal(&out, TLERROR + 1, h.tag);
}
