/*
 * disk_part.h - partition tables: UEFI 2.10, 5.3 (GPT), and the PC's MBR with its extended
 * partitions.
 */
#ifndef POPF_BOOT_DISK_PART_H
#define POPF_BOOT_DISK_PART_H

#include "boot/disk.h"

#define DISK_PARTS_MAX 128

struct disk_part {
    unsigned number; /* as Linux counts, from 1; 0: the whole disk */
    bool gpt;
    u64 start, size; /* bytes, within the disk */
    char uuid[40];   /* PARTUUID; "" if there is none */
};

/* How many partitions there are, in the order of the table; without a table one: all of the disk.
 */
unsigned disk_parts(const struct disk *d, struct disk_part *p, unsigned max);

#endif
