#include "engine/engine.h"

#include <stdio.h>
#include <string.h>

#include "engine/bt/bt.h"
#include "engine/kvm/kvm.h"

const struct engine_ops *engine_find(const char *name, struct err *e)
{
    if (!strcmp(name, "interp"))
        return &engine_interp;
    if (!strcmp(name, "kvm"))
        return &engine_kvm;
    if (!strcmp(name, "bt"))
        return bt_usable(e) < 0 ? NULL : &engine_bt;
    err_set(e, "no engine is called \"%s\"; there are auto, interp, bt and kvm", name);
    return NULL;
}

const struct engine_ops *engine_auto(char *why, size_t why_size)
{
    char reason[256];
    if (kvm_measure(reason, sizeof(reason))) {
        snprintf(why, why_size, "kvm: %s", reason);
        return &engine_kvm;
    }
    struct err e;
    if (bt_usable(&e) == 0) {
        snprintf(why, why_size, "bt: %s", reason);
        return &engine_bt;
    }
    snprintf(why, why_size, "interp: %s; %s", reason, e.msg);
    return &engine_interp;
}
