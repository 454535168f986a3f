/* known.h - sequences that once differed, kept. */
#ifndef POPF_DIFF_KNOWN_H
#define POPF_DIFF_KNOWN_H

#include "diff.h"

unsigned known_count(void);

/* The case's name and bitness. */
const char *known_name(unsigned n, bool *m64);

/* Makes d->t the case; what it does not say is as gen_state() left it. */
void known_make(struct diff *d, unsigned n);

#endif
