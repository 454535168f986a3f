/*
 * The life of a machine: created, started, paused, reset, ended.
 */
#include "vm/vm.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "vm/vm_virtio.h"

#define THREAD_STACK (1u << 20)

static void give_error(struct popf_error *out, const struct err *e)
{
    if (out)
        snprintf(out->msg, sizeof(out->msg), "%s", e->msg);
}

/* --- creating --- */

static int check_config(struct popf *vm, struct err *e)
{
    struct popf_config *cfg = &vm->cfg;
    if (!cfg->kernel && !cfg->ndisks)
        return err_set(e, "no kernel was given, and no disk to boot from");
    if (cfg->cpus < 1 || cfg->cpus > POPF_CPUS_MAX)
        return err_set(e, "%u CPUs: the number must be 1 to %d", cfg->cpus, POPF_CPUS_MAX);
    cfg->memory = align_down(cfg->memory, PAGE_SIZE);
    if (cfg->memory < POPF_MEMORY_MIN || cfg->memory > POPF_MEMORY_MAX)
        return err_set(e, "%llu KiB of memory: it must be 1 MiB to 1 TiB",
                       (unsigned long long)(cfg->memory / KiB));
    int entry = boot_entry_parse(cfg->entry ? cfg->entry : "auto");
    if (entry < 0)
        return err_set(e, "unknown entry \"%s\": there are auto, 64, 32, 16, pvh", cfg->entry);
    vm->entry = (enum boot_entry)entry;
    vm->ram_low = min_u64(cfg->memory, BOOT_HOLE_START);
    vm->ram_high = cfg->memory - vm->ram_low;
    vm->log = (struct log){
        .mask = cfg->trace, .verbose = cfg->verbose, .sink = cfg->log, .arg = cfg->log_arg};
    return 0;
}

static int make_memory(struct popf *vm, struct err *e)
{
    if (mem_init(&vm->mem, e) || mem_add_ram(&vm->mem, 0, vm->ram_low, false, e))
        return -1;
    if (vm->ram_high && mem_add_ram(&vm->mem, BOOT_HOLE_END, vm->ram_high, false, e))
        return -1;
    vm->mem.shared = vm->cfg.cpus > 1;
    return 0;
}

static struct engine_bt_config bt_config(const struct popf_config *cfg)
{
    return (struct engine_bt_config){.code_size = cfg->code_cache_size,
                                     .one_block = cfg->no_regions,
                                     .no_direct = cfg->no_direct,
                                     .count = cfg->count_blocks,
                                     .perf_map = cfg->perf_map,
                                     .gdb_jit = cfg->gdb_jit,
                                     .dump = cfg->bt_dump,
                                     .dump_at = cfg->bt_dump_at,
                                     .kept_in = cfg->code_cache};
}

static int make_engine(struct popf *vm, struct err *e)
{
    char why[256];
    snprintf(why, sizeof(why), "%s: as asked", vm->cfg.engine ? vm->cfg.engine : "auto");
    bool choose = !vm->cfg.engine || !strcmp(vm->cfg.engine, "auto");
    vm->ops = choose ? engine_auto(why, sizeof(why)) : engine_find(vm->cfg.engine, e);
    if (!vm->ops)
        return choose ? err_set(e, "no engine works here: %s", why) : -1;
    log_info(&vm->log, "engine %s", why);

    if (vm->cfg.code_cache_size && (vm->cfg.code_cache_size < POPF_CODE_CACHE_MIN ||
                                    vm->cfg.code_cache_size > POPF_CODE_CACHE_MAX))
        return err_set(e, "the code cache must be 1 MiB to 1 GiB");

    vm->tsc_hz = vm_host_tsc_hz();
    struct cpu_model_config mc = {.tsc_hz = vm->tsc_hz,
                                  .apic_bus_hz = LAPIC_TIMER_HZ,
                                  .ncpus = vm->cfg.cpus,
                                  .kvm_leaves = true};
    if (vm->cfg.cpu && cpu_model_parse(&mc, vm->cfg.cpu, e))
        return -1;
    if (mc.phys_bits && vm->cfg.memory + GiB > BIT(mc.phys_bits))
        return err_set(e, "--cpu: phys-bits=%u: too few addresses for so much memory",
                       mc.phys_bits);
    vm->model = cpu_model_new(&mc, e);
    if (!vm->model)
        return -1;
    struct engine_config ec = {
        .mem = &vm->mem, .model = vm->model, .ncpus = vm->cfg.cpus, .log = &vm->log};
    ec.bt = bt_config(&vm->cfg);
    vm->engine = vm->ops->create(&ec, e);
    return vm->engine ? 0 : -1;
}

static int make_cpus(struct popf *vm, struct err *e)
{
    vm->vcpu = calloc(vm->cfg.cpus, sizeof(*vm->vcpu));
    if (!vm->vcpu)
        return err_set(e, "out of memory for %u CPUs", vm->cfg.cpus);
    for (unsigned i = 0; i < vm->cfg.cpus; i++)
        if (vm_cpu_init(vm, i, e))
            return -1;
    return 0;
}

static int power_on(struct popf *vm, struct err *e)
{
    pthread_mutex_lock(&vm->dev_lock);
    int rc = vm_power_on(vm, e);
    pthread_mutex_unlock(&vm->dev_lock);
    return rc;
}

static void init_locks(struct popf *vm)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&vm->ctl_lock, NULL);
    pthread_mutex_init(&vm->dev_lock, NULL);
    pthread_mutex_init(&vm->lock, NULL);
    pthread_cond_init(&vm->changed, &attr);
    pthread_condattr_destroy(&attr);
}

struct popf *popf_create(const struct popf_config *cfg, struct popf_error *err)
{
    struct err e = {.msg = "out of memory"};
    struct popf *vm = calloc(1, sizeof(*vm));
    if (!vm) {
        give_error(err, &e);
        return NULL;
    }
    vm->clk.timerfd = -1;
    vm->how =
        (struct popf_outcome){.end = POPF_END_STOPPED, .text = "the machine was never started"};
    init_locks(vm);
    if (vm_config_copy(vm, cfg, &e) || vm_serial_init(vm, &e) || check_config(vm, &e) ||
        vm_clock_init(vm, &e) || make_memory(vm, &e) || make_engine(vm, &e) || vm_pc_init(vm, &e) ||
        vm_virtio_init(vm, &e) || make_cpus(vm, &e) || power_on(vm, &e) || vm_debug_init(vm, &e)) {
        give_error(err, &e);
        popf_destroy(vm);
        return NULL;
    }
    return vm;
}

/* --- starting --- */

/*
 * Signals are for the caller's threads; those that an instruction of ours can raise stay
 * deliverable, because engines may live off them.
 */
static void block_signals(sigset_t *old)
{
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    sigset_t set;
    sigfillset(&set);
    for (unsigned i = 0; i < ARRAY_SIZE(own); i++)
        sigdelset(&set, own[i]);
    pthread_sigmask(SIG_SETMASK, &set, old);
}

static int spawn(pthread_t *t, bool *made, void *(*run)(void *), void *arg, struct err *e)
{
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, THREAD_STACK);
    errno = pthread_create(t, &attr, run, arg);
    *made = errno == 0;
    pthread_attr_destroy(&attr);
    return *made ? 0 : err_errno(e, "cannot start a thread (see ulimit -u)");
}

static int spawn_all(struct popf *vm, struct err *e)
{
    if (spawn(&vm->io_thread, &vm->has_io_thread, vm_clock_thread, vm, e))
        return -1;
    if (vm->cfg.serial_out && spawn(&vm->out_thread, &vm->has_out_thread, vm_serial_thread, vm, e))
        return -1;
    for (unsigned i = 0; i < vm->cfg.cpus; i++)
        if (spawn(&vm->vcpu[i].thread, &vm->vcpu[i].has_thread, vm_cpu_thread, &vm->vcpu[i], e))
            return -1;
    return 0;
}

/* `lock` held: brings `hold` up to date. */
static void update_hold(struct popf *vm)
{
    atomic_store(&vm->hold, vm->pauses || vm->reset_wanted || vm->life == VM_ENDED);
    pthread_cond_broadcast(&vm->changed);
}

static void set_starting(struct popf *vm, int delta)
{
    pthread_mutex_lock(&vm->lock);
    vm->pauses += (unsigned)delta;
    update_hold(vm);
    pthread_mutex_unlock(&vm->lock);
}

static void thaw_if_free(struct popf *vm)
{
    pthread_mutex_lock(&vm->dev_lock);
    pthread_mutex_lock(&vm->lock);
    bool run = !vm->pauses && vm->life == VM_ON;
    pthread_mutex_unlock(&vm->lock);
    if (run)
        vm_clock_thaw(vm);
    pthread_mutex_unlock(&vm->dev_lock);
}

int popf_start(struct popf *vm, struct popf_error *err)
{
    struct err e;
    pthread_mutex_lock(&vm->ctl_lock);
    pthread_mutex_lock(&vm->lock);
    bool again = vm->life != VM_NEW;
    if (!again)
        vm->life = VM_ON;
    pthread_mutex_unlock(&vm->lock);
    if (again) {
        pthread_mutex_unlock(&vm->ctl_lock);
        err_set(&e, "the machine has been started before");
        give_error(err, &e);
        return -1;
    }
    /* All CPUs wait parked until every thread is there and time has begun. */
    sigset_t old;
    set_starting(vm, 1);
    block_signals(&old);
    int rc = spawn_all(vm, &e) || vm_debug_start(vm, &e) ? -1 : 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc) {
        vm_end_text(vm, POPF_END_ERROR, "%s", e.msg);
        give_error(err, &e);
    }
    pthread_mutex_lock(&vm->lock);
    vm->pauses--;
    pthread_mutex_unlock(&vm->lock);
    thaw_if_free(vm);
    set_starting(vm, 0);
    pthread_mutex_unlock(&vm->ctl_lock);
    return rc;
}

/* --- ending --- */

static void kick_all(struct popf *vm)
{
    for (unsigned i = 0; i < vm->cfg.cpus; i++)
        vm_cpu_event(&vm->vcpu[i], EV_EXIT);
    vm_serial_wake(vm);
    vm_clock_poke(vm);
    vm_debug_poke(vm);
}

void vm_end(struct popf *vm, const struct popf_outcome *how)
{
    pthread_mutex_lock(&vm->lock);
    bool first = vm->life != VM_ENDED;
    if (first) {
        vm->life = VM_ENDED;
        vm->how = *how;
        update_hold(vm);
    }
    pthread_mutex_unlock(&vm->lock);
    if (!first)
        return;
    pthread_mutex_lock(&vm->out.lock);
    vm->out.quit = true;
    pthread_mutex_unlock(&vm->out.lock);
    kick_all(vm);
}

void vm_end_text(struct popf *vm, enum popf_end end, const char *fmt, ...)
{
    struct popf_outcome how = {.end = end};
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(how.text, sizeof(how.text), fmt, ap);
    va_end(ap);
    vm_end(vm, &how);
}

void popf_stop(struct popf *vm)
{
    vm_end_text(vm, POPF_END_STOPPED, "the machine was stopped");
}

/* `lock` held: the CPUs stand, and what the guest sent has been handed over. */
static bool is_over(const struct popf *vm)
{
    if (vm->life == VM_NEW)
        return true;
    if (vm->life == VM_ON)
        return false;
    for (unsigned i = 0, threads = 0; i < vm->cfg.cpus; i++) {
        threads += vm->vcpu[i].has_thread;
        if (i + 1 == vm->cfg.cpus && vm->parked < threads)
            return false;
    }
    /* Whoever stopped the machine may be stuck with its output himself. */
    return ((!vm->has_out_thread || vm->out_done) && vm_debug_done(vm)) ||
           vm->how.end == POPF_END_STOPPED;
}

static struct timespec deadline_in(unsigned ms)
{
    u64 at = vm_host_ns() + ms * 1000000ull;
    return (struct timespec){.tv_sec = (time_t)(at / NSEC_PER_SEC),
                             .tv_nsec = (long)(at % NSEC_PER_SEC)};
}

static int wait_until(struct popf *vm, struct popf_outcome *how, const struct timespec *until)
{
    int rc = 0;
    pthread_mutex_lock(&vm->lock);
    while (!is_over(vm) && !rc)
        rc = until ? pthread_cond_timedwait(&vm->changed, &vm->lock, until)
                   : pthread_cond_wait(&vm->changed, &vm->lock);
    bool over = is_over(vm);
    if (over && how)
        *how = vm->how;
    pthread_mutex_unlock(&vm->lock);
    return over ? 0 : -1;
}

void popf_wait(struct popf *vm, struct popf_outcome *how)
{
    wait_until(vm, how, NULL);
}

int popf_wait_ms(struct popf *vm, struct popf_outcome *how, unsigned timeout_ms)
{
    struct timespec until = deadline_in(timeout_ms);
    return wait_until(vm, how, &until);
}

void popf_destroy(struct popf *vm)
{
    if (!vm)
        return;
    if (vm->has_io_thread) {
        popf_stop(vm);
        for (unsigned i = 0; i < vm->cfg.cpus; i++)
            if (vm->vcpu[i].has_thread)
                pthread_join(vm->vcpu[i].thread, NULL);
        pthread_join(vm->io_thread, NULL);
        if (vm->has_out_thread)
            pthread_join(vm->out_thread, NULL);
    }
    vm_debug_free(vm);
    for (unsigned i = 0; vm->vcpu && i < vm->cfg.cpus; i++)
        vm_cpu_free(&vm->vcpu[i]);
    free(vm->vcpu);
    if (vm->engine)
        vm->ops->destroy(vm->engine);
    if (vm->model)
        cpu_model_free(vm->model);
    vm_virtio_free(vm);
    mem_free(&vm->mem);
    vm_clock_free(vm);
    vm_serial_free(vm);
    vm_config_free(vm);
    pthread_cond_destroy(&vm->changed);
    pthread_mutex_destroy(&vm->lock);
    pthread_mutex_destroy(&vm->dev_lock);
    pthread_mutex_destroy(&vm->ctl_lock);
    free(vm);
}

/* --- pausing --- */

void vm_hold(struct popf *vm)
{
    pthread_mutex_lock(&vm->lock);
    vm->pauses++;
    update_hold(vm);
    bool on = vm->life == VM_ON;
    pthread_mutex_unlock(&vm->lock);
    if (on)
        kick_all(vm);
}

void popf_pause(struct popf *vm)
{
    pthread_mutex_lock(&vm->ctl_lock);
    vm_hold(vm);

    pthread_mutex_lock(&vm->lock);
    while (vm->life == VM_ON && vm->parked < vm->cfg.cpus)
        pthread_cond_wait(&vm->changed, &vm->lock);
    pthread_mutex_unlock(&vm->lock);

    pthread_mutex_lock(&vm->dev_lock);
    vm_clock_freeze(vm);
    pthread_mutex_unlock(&vm->dev_lock);
    pthread_mutex_unlock(&vm->ctl_lock);
}

void popf_resume(struct popf *vm)
{
    pthread_mutex_lock(&vm->ctl_lock);
    pthread_mutex_lock(&vm->lock);
    if (vm->pauses)
        vm->pauses--;
    pthread_mutex_unlock(&vm->lock);
    thaw_if_free(vm); /* time first, then the CPUs */
    pthread_mutex_lock(&vm->dev_lock);
    vm_virtio_resumed(vm);
    pthread_mutex_unlock(&vm->dev_lock);
    pthread_mutex_lock(&vm->lock);
    update_hold(vm);
    pthread_mutex_unlock(&vm->lock);
    pthread_mutex_unlock(&vm->ctl_lock);
}

void vm_want_pause(struct popf *vm, const char *why)
{
    log_emit(&vm->log, "%s: the machine is paused", why);
    pthread_mutex_lock(&vm->lock);
    vm->pauses++;
    update_hold(vm);
    pthread_mutex_unlock(&vm->lock);
    kick_all(vm);
}

void vm_freeze_if_paused(struct popf *vm)
{
    pthread_mutex_lock(&vm->dev_lock);
    pthread_mutex_lock(&vm->lock);
    bool stands = vm->life == VM_ON && vm->pauses && vm->parked == vm->cfg.cpus;
    pthread_mutex_unlock(&vm->lock);
    if (stands)
        vm_clock_freeze(vm);
    pthread_mutex_unlock(&vm->dev_lock);
}

/* --- resetting --- */

void vm_want_reset(struct popf *vm)
{
    if (vm->cfg.no_reboot) {
        vm_end_text(vm, POPF_END_RESET, "the guest asked for a reset");
        return;
    }
    pthread_mutex_lock(&vm->lock);
    vm->reset_wanted = true;
    update_hold(vm);
    pthread_mutex_unlock(&vm->lock);
    kick_all(vm);
}

static void reset(struct popf *vm)
{
    struct err e;
    log_info(&vm->log, "reset");
    pthread_mutex_lock(&vm->dev_lock);
    vm_clock_freeze(vm);
    int rc = vm_power_on(vm, &e);
    pthread_mutex_unlock(&vm->dev_lock);
    if (rc)
        vm_end_text(vm, POPF_END_ERROR, "cannot boot again: %s", e.msg);
    else
        thaw_if_free(vm);
    pthread_mutex_lock(&vm->lock);
    vm->reset_wanted = false;
    vm->resets++;
    update_hold(vm);
    pthread_mutex_unlock(&vm->lock);
}

static bool reset_due(struct popf *vm)
{
    pthread_mutex_lock(&vm->lock);
    bool due = vm->reset_wanted && vm->life == VM_ON && vm->parked == vm->cfg.cpus;
    pthread_mutex_unlock(&vm->lock);
    return due;
}

void vm_reset_if_wanted(struct popf *vm)
{
    if (!reset_due(vm))
        return;
    pthread_mutex_lock(&vm->ctl_lock);
    if (reset_due(vm))
        reset(vm);
    pthread_mutex_unlock(&vm->ctl_lock);
}

void popf_power_button(struct popf *vm)
{
    pthread_mutex_lock(&vm->dev_lock);
    acpi_pm_power_button(&vm->pc.pm);
    pthread_mutex_unlock(&vm->dev_lock);
}
