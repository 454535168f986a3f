/*
 * vm_debug_monitor.c - what gdb's `monitor` offers.
 */
#include "vm/vm.h" /* and with it vm_debug.h */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu_mem.h"

#define PHYS_MAX 4096u /* bytes that one command shows */

struct call {
    struct vm_debug *d;
    struct vcpu *v;
    const char *arg[2]; /* NULL: not given */
};

/* --- info --- */

static void info(struct call *c)
{
    struct popf *vm = c->d->vm;
    struct popf_stats s;
    popf_stats(vm, &s);
    gdb_print(&c->d->gdb, "engine %s, %u CPUs, %llu MiB of memory, guest time %.3f s, %s\n",
              vm->ops->name, vm->cfg.cpus, (unsigned long long)(s.memory >> 20),
              (double)s.guest_ns / 1e9, gdb_arch_name(c->d->gdb.map.arch));
    for (unsigned i = 0; i < vm->cfg.cpus; i++) {
        char text[128];
        pthread_mutex_lock(&vm->ctl_lock);
        vm_debug_describe(&vm->vcpu[i], text, sizeof(text));
        u64 pc = vm->vcpu[i].cpu->reg[X86_SLOT_RIP];
        u16 cs = vm->vcpu[i].cpu->seg[CS].sel;
        pthread_mutex_unlock(&vm->ctl_lock);
        gdb_print(&c->d->gdb, "%s at %04x:%#llx\n", text, cs, (unsigned long long)pc);
    }
}

/* --- memory --- */

static bool number(const char *text, u64 *val)
{
    char *end;
    if (!text || *text == '-')
        return false;
    errno = 0;
    *val = strtoull(text, &end, 0);
    return !errno && end != text && !*end;
}

static void print_line(struct gdb *g, u64 at, const u8 *p, unsigned n)
{
    char hex[16 * 3 + 1] = "", chars[17] = "";
    for (unsigned i = 0; i < n; i++) {
        snprintf(hex + 3 * i, 4, " %02x", p[i]);
        chars[i] = p[i] >= ' ' && p[i] < 127 ? (char)p[i] : '.';
    }
    gdb_print(g, "%012llx:%-48s  %s\n", (unsigned long long)at, hex, chars);
}

static void phys(struct call *c)
{
    u8 buf[PHYS_MAX];
    u64 at, len;
    struct gdb *g = &c->d->gdb;
    if (!number(c->arg[0], &at) || !number(c->arg[1], &len) || !len || len > PHYS_MAX) {
        gdb_print(g, "usage: monitor phys ADDRESS LENGTH (1 to %u bytes)\n", PHYS_MAX);
        return;
    }
    if (mem_read(&c->d->vm->mem, at, buf, len)) {
        gdb_print(g, "guest-physical memory at %#llx, %llu bytes, is not all RAM\n",
                  (unsigned long long)at, (unsigned long long)len);
        return;
    }
    for (u64 done = 0; done < len; done += 16)
        print_line(g, at + done, buf + done, (unsigned)min_u64(16, len - done));
}

static void translate(struct call *c)
{
    u64 la;
    gpa_t gpa;
    struct gdb *g = &c->d->gdb;
    if (!number(c->arg[0], &la)) {
        gdb_print(g, "usage: monitor translate ADDRESS\n");
        return;
    }
    pthread_mutex_lock(&c->d->vm->ctl_lock);
    bool mapped = cpu_translate(c->v->cpu, la, &gpa);
    pthread_mutex_unlock(&c->d->vm->ctl_lock);
    if (mapped)
        gdb_print(g, "linear %#llx is guest-physical %#llx (CPU %u)\n", (unsigned long long)la,
                  (unsigned long long)gpa, c->v->cpu->id);
    else
        gdb_print(g, "linear %#llx is not mapped (CPU %u)\n", (unsigned long long)la,
                  c->v->cpu->id);
}

/* --- the machine --- */

/* The I/O thread does it, all CPUs standing; whatever --no-reboot says: the person wants it. */
static void reset(struct call *c)
{
    struct popf *vm = c->d->vm;
    pthread_mutex_lock(&vm->lock);
    vm->reset_wanted = true;
    pthread_mutex_unlock(&vm->lock);
    vm_clock_poke(vm);
    pthread_mutex_lock(&vm->lock);
    while (vm->reset_wanted && vm->life == VM_ON)
        pthread_cond_wait(&vm->changed, &vm->lock);
    pthread_mutex_unlock(&vm->lock);
    gdb_print(&c->d->gdb,
              "the machine has been reset; 'maintenance flush register-cache' shows it\n");
}

static void quit(struct call *c)
{
    gdb_print(&c->d->gdb, "the machine is switched off\n");
    popf_stop(c->d->vm);
}

static void help(struct call *c);

static const struct command {
    const char *name, *args, *what;
    void (*run)(struct call *c);
} commands[] = {
    {"help", "", "this list", help},
    {"info", "", "the machine and its CPUs", info},
    {"phys", " ADDRESS LENGTH", "guest-physical memory", phys},
    {"translate", " ADDRESS", "linear to guest-physical, for the current thread", translate},
    {"reset", "", "switch off and on again; the machine stands at its start", reset},
    {"quit", "", "switch the machine off", quit},
};

static void help(struct call *c)
{
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
        gdb_print(&c->d->gdb, "monitor %s%s - %s\n", commands[i].name, commands[i].args,
                  commands[i].what);
}

void vm_debug_monitor(struct vm_debug *d, unsigned thread, const char *line)
{
    char text[256];
    struct call c = {.d = d, .v = &d->vm->vcpu[thread]};
    snprintf(text, sizeof(text), "%s", line);
    char *rest, *name = strtok_r(text, " \t", &rest);
    for (unsigned i = 0; name && i < ARRAY_SIZE(c.arg); i++)
        c.arg[i] = strtok_r(NULL, " \t", &rest);
    for (unsigned i = 0; name && i < ARRAY_SIZE(commands); i++)
        if (!strcmp(name, commands[i].name)) {
            commands[i].run(&c);
            return;
        }
    gdb_print(&d->gdb, "unknown command; monitor help lists them\n");
}
