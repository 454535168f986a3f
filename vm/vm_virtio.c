#include "vm/vm_virtio.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dev/virtio_9p.h"
#include "dev/virtio_fs.h"
#include "dev/virtio_balloon.h"
#include "dev/virtio_blk.h"
#include "dev/virtio_console.h"
#include "dev/virtio_net.h"
#include "dev/virtio_pci.h"
#include "dev/virtio_rng.h"
#include "dev/virtio_vsock.h"
#include "vm/vm.h"
#include "vm/vm_port.h"

enum {
    SLOT_RNG = 1,
    SLOT_BALLOON,
    SLOT_NET,
    SLOT_VSOCK,
    SLOT_CONSOLE,
    SLOT_SHARE,
    SLOT_DISK = SLOT_SHARE + POPF_SHARES_MAX,
};
static_assert(SLOT_DISK + POPF_DISKS_MAX <= PCI_SLOTS, "more devices than slots");
static_assert(POPF_PORTS_MAX < VIRTIO_CONSOLE_PORTS, "more ports than a console has");

#define VSOCK_CID 3 /* of the guest, unless told otherwise */

struct vm_virtio {
    struct virtio_pci *card[PCI_SLOTS]; /* NULL: nothing there */
    struct virtio_rng rng;
    struct virtio_balloon balloon;
    struct virtio_console *console; /* NULL: none */
    struct vm_port *port;           /* [nports] */
    unsigned nports;
    struct virtio_blk disk[POPF_DISKS_MAX];
    unsigned ndisks;
    struct net *net;
    struct virtio_net *nic;
    struct virtio_9p share[POPF_SHARES_MAX]; /* of each, one of the two */
    struct virtio_fs share_fs[POPF_SHARES_MAX];
    unsigned nshares;
    struct virtio_vsock *vsock;
};

static int out_of_memory(struct err *e)
{
    return err_set(e, "out of memory for the machine's devices");
}

static int plug_in(struct popf *vm, struct virtio_dev *v, unsigned slot, struct err *e)
{
    struct virtio_pci *card = calloc(1, sizeof(*card));
    if (!card)
        return out_of_memory(e);
    v->log = &vm->log;
    vm->virtio->card[slot] = card;
    return virtio_pci_attach(card, v, &vm->pc.pci, slot, e);
}

/* --- console --- */

static size_t console_out(void *arg, const u8 *buf, size_t n)
{
    return vm_serial_send(arg, POPF_CONSOLE_PORT, buf, n);
}

static void console_want(void *arg)
{
    vm_serial_feed(arg, POPF_CONSOLE_PORT);
}

static int make_ports(struct popf *vm, struct err *e)
{
    struct vm_virtio *d = vm->virtio;
    d->port = calloc(vm->cfg.nports, sizeof(*d->port));
    if (!d->port)
        return out_of_memory(e);
    for (unsigned i = 0; i < vm->cfg.nports; i++) {
        const struct popf_port *p = &vm->cfg.ports[i];
        d->nports++;
        if (vm_port_init(&d->port[i], d->console, &vm->loop, p->name, p->path, e))
            return -1;
    }
    return 0;
}

static int make_console(struct popf *vm, struct err *e)
{
    struct vm_virtio *d = vm->virtio;
    struct virtio_console_end end = {.out = console_out, .want = console_want, .arg = vm};
    if (!vm->cfg.console && !vm->cfg.nports)
        return 0;
    d->console = calloc(1, sizeof(*d->console));
    if (!d->console)
        return out_of_memory(e);
    virtio_console_init(d->console, &vm->mem, &vm->clk.clock, &end);
    if (vm->cfg.nports && make_ports(vm, e))
        return -1;
    return plug_in(vm, &d->console->v, SLOT_CONSOLE, e);
}

size_t vm_virtio_console_in(struct popf *vm, const u8 *buf, size_t n)
{
    struct virtio_console *c = vm->virtio->console;
    return c ? virtio_console_in(c, 0, buf, n) : 0;
}

void vm_virtio_console_room(void *arg)
{
    struct popf *vm = arg;
    if (vm->virtio->console)
        virtio_console_room(vm->virtio->console, 0);
}

void popf_console_resize(struct popf *vm, unsigned columns, unsigned rows)
{
    pthread_mutex_lock(&vm->dev_lock);
    struct virtio_console *c = vm->virtio->console;
    if (c && columns <= UINT16_MAX && rows <= UINT16_MAX)
        virtio_console_resize(c, (u16)columns, (u16)rows);
    pthread_mutex_unlock(&vm->dev_lock);
}

/* --- disks --- */

static void on_disk_error(void *arg, const char *why)
{
    vm_want_pause(arg, why);
}

static int make_disk(struct popf *vm, const struct popf_disk *c, struct err *e)
{
    struct vm_virtio *d = vm->virtio;
    struct virtio_blk_config cfg = {
        .disk = {.file = c->file,
                 .ro = c->read_only,
                 .overlay = c->overlay || vm->cfg.snapshot,
                 .direct = c->no_cache,
                 .loop = &vm->loop,
                 .log = &vm->log},
        .serial = c->serial,
        .queues = vm->cfg.cpus < VIRTIO_BLK_QUEUES_MAX ? vm->cfg.cpus : VIRTIO_BLK_QUEUES_MAX,
        .stop_on_error = c->stop_on_error,
        .stop = on_disk_error,
        .arg = vm,
    };
    if (!c->file)
        return err_set(e, "a disk without a file");
    if (c->format && image_format_parse(c->format, &cfg.disk.format))
        return err_set(e, "--disk %s: unknown format \"%s\": there are raw and qcow2", c->file,
                       c->format);
    if (virtio_blk_init(&d->disk[d->ndisks], &cfg, &vm->mem, e))
        return -1;
    unsigned n = d->ndisks++;
    return plug_in(vm, &d->disk[n].v, SLOT_DISK + n, e);
}

static int make_disks(struct popf *vm, struct err *e)
{
    for (unsigned i = 0; i < vm->cfg.ndisks; i++)
        if (make_disk(vm, &vm->cfg.disks[i], e))
            return -1;
    return 0;
}

/* What had to wait for the host is tried again. */
void vm_virtio_resumed(struct popf *vm)
{
    for (unsigned i = 0; i < vm->virtio->ndisks; i++)
        virtio_blk_retry(&vm->virtio->disk[i]);
}

struct block *vm_virtio_boot_disk(struct popf *vm)
{
    return vm->virtio && vm->virtio->ndisks ? vm->virtio->disk[0].block : NULL;
}

static void free_disks(struct popf *vm)
{
    struct vm_virtio *d = vm->virtio;
    for (unsigned i = 0; i < d->ndisks; i++) {
        struct err e;
        if (virtio_blk_free(&d->disk[i], &e))
            log_emit(&vm->log, "%s", e.msg);
    }
}

/* --- network --- */

static int parse_net(const struct popf_config *c, struct net_config *n, struct err *e)
{
    if (net_config_parse(n, c->net, e))
        return -1;
    for (unsigned i = 0; i < c->nforwards; i++)
        if (net_config_forward(n, c->forwards[i], e))
            return -1;
    for (unsigned i = 0; i < c->nallows; i++)
        if (net_config_allow(n, c->allows[i], e))
            return -1;
    n->pcap = c->pcap;
    return 0;
}

static int open_net(struct popf *vm, struct net_config *n, struct err *e)
{
    struct vm_virtio *d = vm->virtio;
    if (parse_net(&vm->cfg, n, e))
        return -1;
    if (n->kind == NET_NONE)
        return vm->cfg.nforwards ? err_set(e, "forwarded ports need --net user") : 0;
    d->net = net_open(n, &vm->loop, &vm->clk.clock, &vm->log, e);
    if (!d->net)
        return -1;
    struct virtio_net_config nc = {
        .net = d->net, .loop = &vm->loop, .mem = &vm->mem, .log = &vm->log};
    memcpy(nc.mac, n->mac, sizeof(nc.mac));
    struct virtio_net *nic = calloc(1, sizeof(*nic));
    if (!nic || virtio_net_init(nic, &nc, e)) {
        free(nic);
        return nic ? -1 : out_of_memory(e);
    }
    d->nic = nic;
    return plug_in(vm, &nic->v, SLOT_NET, e);
}

static int make_net(struct popf *vm, struct err *e)
{
    struct net_config *n = calloc(1, sizeof(*n));
    if (!n)
        return out_of_memory(e);
    int rc = vm->cfg.net ? open_net(vm, n, e) : 0;
    free(n);
    return rc;
}

static void free_net(struct vm_virtio *d)
{
    if (d->nic)
        virtio_net_free(d->nic);
    free(d->nic);
    if (d->net)
        net_close(d->net);
}

/* --- shared folders --- */

static int make_share_fs(struct popf *vm, const struct virtio_9p_config *c, struct err *e)
{
    struct vm_virtio *d = vm->virtio;
    unsigned n = d->nshares;
    struct virtio_fs_config cfg = {
        .share = c->share, .tag = c->tag, .loop = c->loop, .mem = c->mem, .log = c->log};
    if (virtio_fs_init(&d->share_fs[n], &cfg, e))
        return -1;
    d->nshares++;
    return plug_in(vm, &d->share_fs[n].v, SLOT_SHARE + n, e);
}

static int make_share(struct popf *vm, const struct popf_share *c, struct err *e)
{
    struct vm_virtio *d = vm->virtio;
    unsigned n = d->nshares;
    char tag[16];
    snprintf(tag, sizeof(tag), "share%u", n);
    struct virtio_9p_config cfg = {
        .share = {.path = c->host, .readonly = c->read_only},
        .tag = c->guest ? c->guest : tag,
        .loop = &vm->loop,
        .mem = &vm->mem,
        .log = &vm->log,
    };
    if (!c->host)
        return err_set(e, "a shared folder without a path");
    if (c->virtiofs)
        return make_share_fs(vm, &cfg, e);
    if (virtio_9p_init(&d->share[n], &cfg, e))
        return -1;
    d->nshares++;
    return plug_in(vm, &d->share[n].v, SLOT_SHARE + n, e);
}

static int make_shares(struct popf *vm, struct err *e)
{
    for (unsigned i = 0; i < vm->cfg.nshares; i++)
        if (make_share(vm, &vm->cfg.shares[i], e))
            return -1;
    return 0;
}

static void free_shares(struct vm_virtio *d)
{
    for (unsigned i = 0; i < d->nshares; i++) {
        virtio_9p_free(&d->share[i]);
        virtio_fs_free(&d->share_fs[i]);
    }
}

/* --- vsock --- */

static int make_vsock(struct popf *vm, struct err *e)
{
    struct virtio_vsock_config cfg = {
        .path = vm->cfg.vsock,
        .cid = vm->cfg.vsock_cid ? vm->cfg.vsock_cid : VSOCK_CID,
        .loop = &vm->loop,
        .mem = &vm->mem,
        .log = &vm->log,
    };
    if (!cfg.path)
        return 0;
    struct virtio_vsock *vs = calloc(1, sizeof(*vs));
    if (!vs)
        return out_of_memory(e);
    if (virtio_vsock_init(vs, &cfg, e)) {
        free(vs);
        return -1;
    }
    vm->virtio->vsock = vs;
    return plug_in(vm, &vs->v, SLOT_VSOCK, e);
}

static void free_vsock(struct vm_virtio *d)
{
    if (d->vsock)
        virtio_vsock_free(d->vsock);
    free(d->vsock);
}

/* --- rng and balloon --- */

static int make_rng(struct popf *vm, struct err *e)
{
    if (vm->cfg.no_rng)
        return 0;
    virtio_rng_init(&vm->virtio->rng, &vm->mem);
    return plug_in(vm, &vm->virtio->rng.v, SLOT_RNG, e);
}

static int make_balloon(struct popf *vm, struct err *e)
{
    if (vm->cfg.no_balloon)
        return 0;
    virtio_balloon_init(&vm->virtio->balloon, &vm->mem);
    return plug_in(vm, &vm->virtio->balloon.v, SLOT_BALLOON, e);
}

int vm_virtio_balloon(struct popf *vm, u64 bytes, struct err *e)
{
    u64 all = mem_ram_size(&vm->mem);
    if (vm->cfg.no_balloon)
        return err_set(e, "the machine has no balloon device");
    if (bytes > all)
        return err_set(e, "the machine has only %llu MiB of memory",
                       (unsigned long long)(all / MiB));
    virtio_balloon_set(&vm->virtio->balloon, (u32)((all - bytes) >> PAGE_SHIFT));
    return 0;
}

/* --- all of them --- */

int vm_virtio_init(struct popf *vm, struct err *e)
{
    vm->virtio = calloc(1, sizeof(*vm->virtio));
    if (!vm->virtio)
        return out_of_memory(e);
    static int (*const makers[])(struct popf *, struct err *) = {
        make_rng, make_balloon, make_net, make_vsock, make_console, make_shares, make_disks};
    for (unsigned i = 0; i < ARRAY_SIZE(makers); i++)
        if (makers[i](vm, e))
            return -1;
    return 0;
}

void vm_virtio_free(struct popf *vm)
{
    struct vm_virtio *d = vm->virtio;
    if (!d)
        return;
    pthread_mutex_lock(&vm->dev_lock);
    free_net(d);
    free_vsock(d);
    free_shares(d);
    for (unsigned i = 0; i < d->nports; i++)
        vm_port_free(&d->port[i]);
    free_disks(vm);
    pthread_mutex_unlock(&vm->dev_lock);
    for (unsigned i = 0; i < PCI_SLOTS; i++)
        free(d->card[i]);
    free(d->port);
    free(d->console);
    free(d);
    vm->virtio = NULL;
}

void vm_virtio_reset(struct popf *vm)
{
    for (unsigned i = 0; i < PCI_SLOTS; i++)
        if (vm->virtio->card[i])
            virtio_pci_reset(vm->virtio->card[i]);
}
