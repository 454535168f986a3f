/*
 * Serial ports (and the virtio console) between a UART and the caller. Output goes through a ring
 * to a thread that calls serial_out, so that a slow reader holds up only the CPU that sends, and
 * that one with nothing locked. Input waits in a small ring until the UART has room.
 */
#include "vm/vm.h"

#include <stdlib.h>
#include <string.h>

#include "vm/vm_virtio.h"

#define IER_RDI    1
#define FCR_ENABLE 1

int vm_serial_init(struct popf *vm, struct err *e)
{
    pthread_mutex_init(&vm->out.lock, NULL);
    pthread_cond_init(&vm->out.filled, NULL);
    pthread_cond_init(&vm->out.drained, NULL);
    if (!vm->cfg.serial_out)
        return 0;
    for (unsigned i = 0; i < POPF_OUT_PORTS; i++) {
        vm->out.ring[i] = malloc(VM_OUT_SIZE);
        if (!vm->out.ring[i])
            return err_set(e, "out of memory for the serial ports");
    }
    return 0;
}

void vm_serial_free(struct popf *vm)
{
    for (unsigned i = 0; i < POPF_OUT_PORTS; i++)
        free(vm->out.ring[i]);
    pthread_mutex_destroy(&vm->out.lock);
    pthread_cond_destroy(&vm->out.filled);
    pthread_cond_destroy(&vm->out.drained);
}

/* out.lock held. Returns how many bytes fitted. */
static size_t fill(struct vm_out *o, unsigned p, const u8 *buf, size_t n, u32 limit)
{
    bool was_empty = o->head[p] == o->tail[p];
    size_t i = 0;
    while (i < n && o->head[p] - o->tail[p] < limit)
        o->ring[p][o->head[p]++ % VM_OUT_SIZE] = buf[i++];
    if (was_empty)
        pthread_cond_signal(&o->filled);
    return i;
}

void vm_serial_tx(void *arg, const u8 *buf, size_t n)
{
    const struct vm_serial_end *end = arg;
    struct vm_out *o = &end->vm->out;
    unsigned p = end->port;
    if (!o->ring[p])
        return;
    pthread_mutex_lock(&o->lock);
    fill(o, p, buf, n, VM_OUT_SIZE);
    if (o->head[p] - o->tail[p] >= VM_OUT_SIZE / 2)
        atomic_store(&o->full, true);
    pthread_mutex_unlock(&o->lock);
}

size_t vm_serial_send(struct popf *vm, unsigned port, const u8 *buf, size_t n)
{
    struct vm_out *o = &vm->out;
    if (!o->ring[port])
        return n;
    pthread_mutex_lock(&o->lock);
    size_t took = fill(o, port, buf, n, VM_OUT_SIZE);
    o->console_full |= took < n;
    pthread_mutex_unlock(&o->lock);
    return took;
}

void vm_serial_wait_room(struct popf *vm)
{
    struct vm_out *o = &vm->out;
    if (likely(!atomic_load_explicit(&o->full, memory_order_relaxed)))
        return;
    pthread_mutex_lock(&o->lock);
    while (atomic_load(&o->full) && !atomic_load(&vm->hold))
        pthread_cond_wait(&o->drained, &o->lock);
    pthread_mutex_unlock(&o->lock);
}

/* Both ways: senders look at `hold` again, the output thread at the end of the machine. */
void vm_serial_wake(struct popf *vm)
{
    pthread_mutex_lock(&vm->out.lock);
    pthread_cond_broadcast(&vm->out.drained);
    pthread_cond_broadcast(&vm->out.filled);
    pthread_mutex_unlock(&vm->out.lock);
}

/* Takes out what can be had in one piece: the port, or -1 if there is nothing. out.lock held. */
static int take(struct popf *vm, u8 *buf, size_t size, size_t *len)
{
    struct vm_out *o = &vm->out;
    for (int p = 0; p < POPF_OUT_PORTS; p++) {
        size_t n = min_u64(o->head[p] - o->tail[p], size);
        if (!n)
            continue;
        for (size_t i = 0; i < n; i++)
            buf[i] = o->ring[p][o->tail[p]++ % VM_OUT_SIZE];
        if (o->head[p] - o->tail[p] < VM_OUT_SIZE / 2 && atomic_exchange(&o->full, false))
            pthread_cond_broadcast(&o->drained);
        if (p == POPF_CONSOLE_PORT && o->console_full) {
            o->console_full = false;
            loop_post(&vm->loop, &o->console_post, vm_virtio_console_room, vm);
        }
        *len = n;
        return p;
    }
    return -1;
}

void *vm_serial_thread(void *arg)
{
    struct popf *vm = arg;
    struct vm_out *o = &vm->out;
    u8 buf[4096];
    pthread_mutex_lock(&o->lock);
    for (;;) {
        size_t len;
        int port = take(vm, buf, sizeof(buf), &len);
        if (port >= 0) {
            pthread_mutex_unlock(&o->lock);
            vm->cfg.serial_out(vm->cfg.serial_arg, (unsigned)port, buf, len);
            pthread_mutex_lock(&o->lock);
        } else if (o->quit) {
            break;
        } else {
            pthread_cond_wait(&o->filled, &o->lock);
        }
    }
    pthread_mutex_unlock(&o->lock);

    pthread_mutex_lock(&vm->lock);
    vm->out_done = true;
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
    return NULL;
}

/*
 * Linux empties the receiver when it opens the port, and would lose what was piped in before: input
 * is held back until it has switched the FIFO and receive interrupts on. Other guests may poll, and
 * get it at once.
 */
static bool reader_ready(const struct popf *vm, unsigned port)
{
    const struct uart *u = &vm->pc.com[port];
    return !vm->pc.boots_linux || ((u->ier & IER_RDI) && (u->fcr & FCR_ENABLE));
}

void vm_serial_feed(struct popf *vm, unsigned port)
{
    struct vm_in *in = &vm->in[port];
    bool console = port == POPF_CONSOLE_PORT;
    if (in->head == in->tail || (!console && !reader_ready(vm, port)))
        return;
    while (in->head != in->tail) {
        u32 at = in->tail % VM_IN_SIZE;
        size_t n = min_u64(in->head - in->tail, VM_IN_SIZE - at);
        size_t took = console ? vm_virtio_console_in(vm, in->ring + at, n)
                              : uart_rx(&vm->pc.com[port], in->ring + at, n);
        in->tail += took;
        if (took < n)
            break; /* vm_serial_room() goes on, or the console's want() */
    }
}

void vm_serial_room(void *arg)
{
    const struct vm_serial_end *end = arg;
    vm_serial_feed(end->vm, end->port);
}

size_t popf_serial_input(struct popf *vm, unsigned port, const void *buf, size_t len)
{
    if (port >= POPF_OUT_PORTS)
        return 0;
    const u8 *b = buf;
    struct vm_in *in = &vm->in[port];
    size_t n = 0;
    pthread_mutex_lock(&vm->dev_lock);
    while (n < len && in->head - in->tail < VM_IN_SIZE)
        in->ring[in->head++ % VM_IN_SIZE] = b[n++];
    vm_serial_feed(vm, port);
    pthread_mutex_unlock(&vm->dev_lock);
    return n;
}
