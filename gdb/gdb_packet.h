/*
 * gdb_packet.h - framing: what gdb.c and gdb_packet.c share. A packet is $BODY#SUM; SUM is the sum
 * of BODY's bytes modulo 256, in hex. In binary data '}' escapes the next byte, which is xored with
 * 0x20.
 */
#ifndef POPF_GDB_PACKET_H
#define POPF_GDB_PACKET_H

#include "gdb/gdb.h"

/* gdb.c: a whole packet has come; p[n] is 0. */
void gdb_packet(struct gdb *g, char *p, size_t n);
/* gdb.c: a Ctrl-C has come. */
void gdb_break(struct gdb *g);

/* A reply is begun, filled, and sent. What does not fit is cut off. */
void gdb_begin(struct gdb *g);
void gdb_put(struct gdb *g, const char *fmt, ...) PRINTF(2, 3);
void gdb_put_hex(struct gdb *g, const void *buf, size_t n);
void gdb_put_binary(struct gdb *g, const void *buf, size_t n);
void gdb_send(struct gdb *g);

void gdb_reply(struct gdb *g, const char *text);

/* Hex digits, as many as there are, lowest 64 bits; *p moves behind them. False if there is none.
 */
bool gdb_hex(const char **p, u64 *val);
/* 2 * n hex digits. */
bool gdb_hex_bytes(const char **p, void *buf, size_t n);

#endif
