/*
 * acpi_aml.h - an encoder for the little AML that a DSDT needs (ACPI 6.4, chapter 20 "ACPI Machine
 * Language" and section 6.4 "Resource Data Types").
 *
 * What has a length (a scope, a package, a buffer) is opened, filled, and closed with the mark that
 * opening it returned, innermost first. Names are written as in ASL: "\\_SB.PCI0", "^FOO", "CRS".
 * Running out of host memory is remembered in `failed`, so that one test at the end is enough.
 */
#ifndef POPF_ACPI_AML_H
#define POPF_ACPI_AML_H

#include "base/base.h"

struct aml {
    u8 *buf; /* freed by aml_free() */
    size_t len, cap;
    bool failed;
};

void aml_init(struct aml *a);
void aml_free(struct aml *a);

/* --- data objects --- */

void aml_int(struct aml *a, u64 v);
void aml_string(struct aml *a, const char *s);
void aml_buffer(struct aml *a, const void *bytes, size_t n);

/* A name, as a reference to an object. */
void aml_ref(struct aml *a, const char *path);

/* EISAID("PNP0A03"): three letters and four hexadecimal digits. */
void aml_eisaid(struct aml *a, const char *id);

/* Name (path, ...): the data object written next is its value. */
void aml_name(struct aml *a, const char *path);
void aml_name_int(struct aml *a, const char *path, u64 v);
void aml_name_eisaid(struct aml *a, const char *path, const char *id);

/* --- things with a length; aml_end() closes them --- */

size_t aml_scope(struct aml *a, const char *path);
size_t aml_device(struct aml *a, const char *path);
size_t aml_method(struct aml *a, const char *path, unsigned args);
size_t aml_package(struct aml *a, u8 elements);
void aml_end(struct aml *a, size_t mark);

/* --- statements --- */

/* Store (Arg<n>, path) */
void aml_store_arg(struct aml *a, unsigned n, const char *path);

/* Return (path) */
void aml_return_ref(struct aml *a, const char *path);

/* --- Name (_CRS, ResourceTemplate () {...}) --- */

size_t aml_crs(struct aml *a);
void aml_crs_end(struct aml *a, size_t mark);

void aml_res_io(struct aml *a, u16 base, u8 len);
void aml_res_irq(struct aml *a, unsigned irq); /* ISA, 0..15; edge, active high, exclusive */
void aml_res_mem32(struct aml *a, u32 base, u32 len);

/* A window that a bridge passes on to its children; `width` is 16, 32 or 64, max is inclusive. */
enum aml_window { AML_MEM = 0, AML_IO = 1, AML_BUS = 2 };
void aml_res_window(struct aml *a, enum aml_window type, unsigned width, u64 min, u64 max);

#endif
