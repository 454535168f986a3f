/*
 * translator.h - what tests that run machines under bt share.
 */
#ifndef POPF_TEST_TRANSLATOR_H
#define POPF_TEST_TRANSLATOR_H

#include <stdbool.h>
#include <stdio.h>
#include "popf.h"

/* False, and TAP is told, where bt does not run: in builds with address sanitizers. */
static bool have_translator(const char *kernel)
{
    struct popf_config cfg = POPF_CONFIG_INIT;
    struct popf_error err = {{0}};
    cfg.kernel = kernel;
    cfg.engine = "bt";
    struct popf *vm = popf_create(&cfg, &err);
    if (!vm) {
        printf("1..0 # SKIP %s\n", err.msg);
        return false;
    }
    popf_destroy(vm);
    return true;
}

#endif
