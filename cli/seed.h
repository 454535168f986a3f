/*
 * seed.h - a NoCloud seed: the small read-only disk, an ISO 9660 file system labelled "cidata", by
 * which cloud-init in a guest learns its name, users and keys. See cloud-init's documentation of
 * the NoCloud data source.
 */
#ifndef POPF_SEED_H
#define POPF_SEED_H

#include "popf.h"

#define SEED_KEYS_MAX 16

struct seed {
    const char *from; /* a folder with user-data and, if they are there, meta-data, network-config
                         and vendor-data; or a file, which is the user-data. NULL: a user */
    const char *user, *password; /* password NULL: none */
    const char *const *keys;     /* files with public keys */
    unsigned nkeys;
    const char *hostname; /* NULL: the guest keeps its own */
};

/* Writes the disk. -1 and *err if something cannot be read or written. */
int seed_write(const struct seed *s, const char *path, struct popf_error *err);

/* iso.c: an ISO 9660 image with Rock Ridge names, of files in one folder. */
struct iso_file {
    const char *name; /* at most 64 bytes */
    const void *data;
    size_t len;
};

#define ISO_FILES_MAX 16

/* To be freed; its size goes to *len, a multiple of 2048. NULL if there are too many files. */
void *iso_make(const char *label, const struct iso_file *files, unsigned n, size_t *len);

#endif
