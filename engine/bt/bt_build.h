/*
 * bt_build.h - what tells this build of popf from another.
 */
#ifndef POPF_BT_BUILD_H
#define POPF_BT_BUILD_H

#include "base/base.h"

/* A hash of the program or library that this is linked into: machine code and constants. */
u64 bt_build_hash(void);

#endif
