/*
 * blob.h - files that are part of the program: see blob.S.
 */
#ifndef POPF_BLOB_H
#define POPF_BLOB_H

#include <stddef.h>

struct blob {
    const unsigned char *data;
    size_t len;
};

extern const struct blob blob_build_root;            /* cli/build_root.sh */
extern const struct blob blob_agent64, blob_agent32; /* guest/agent.c; len 0: not built */

#endif
