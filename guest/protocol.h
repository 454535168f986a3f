/*
 * protocol.h - what `popf exec` and the agent in a guest say to one another over vsock. Used by
 * both sides.
 *
 * A connection is one command. Each direction is a row of messages: this head, then `len` bytes.
 * Everything is little-endian.
 *
 *     host                                  guest
 *     MSG_EXEC  what to run            ->
 *     MSG_STDIN bytes; none: its end   ->
 *     MSG_SIZE  struct agent_size      ->
 *     MSG_SIGNAL u32, to the program   ->
 *                                      <-   MSG_STDOUT, MSG_STDERR bytes
 *                                      <-   MSG_EXIT u32: status as wait(2) gives it; the last one
 *                                      <-   MSG_ERROR u32: errno, it could not be run; the last one
 */
#ifndef POPF_GUEST_PROTOCOL_H
#define POPF_GUEST_PROTOCOL_H

#include <stdint.h>

#define AGENT_PORT    1024u  /* the first that a guest's kernel does not reserve */
#define AGENT_MSG_MAX 32768u /* longest message after its head */
#define AGENT_ARGS    256u   /* most words of a command, and of its environment */

enum agent_msg {
    MSG_EXEC = 1,
    MSG_STDIN,
    MSG_SIZE,
    MSG_SIGNAL,
    MSG_STDOUT,
    MSG_STDERR,
    MSG_EXIT,
    MSG_ERROR,
};

struct agent_head {
    uint32_t type, len;
};

struct agent_size {
    uint16_t rows, cols;
};

/* Followed by argc words, then envc words ("NAME=value"), then a folder to run in ("": the home of
 * root); each ends with a zero byte. */
struct agent_exec {
    uint32_t argc, envc;
    uint32_t tty; /* 1: on a terminal of this size, else on pipes */
    struct agent_size size;
};

#endif
