/*
 * direct_stub.h - what direct_stub.S knows of the page behind it, struct stub_data: offsets from
 * the stub's start.
 */
#ifndef POPF_DIRECT_STUB_H
#define POPF_DIRECT_STUB_H

#define STUB_DATA    4096
#define STUB_COMMAND 56 /* sizeof(struct command) */
#define STUB_SAVED   (STUB_DATA + 3584)
#define STUB_FRAME   (STUB_SAVED + 96)
#define STUB_END     (STUB_FRAME + 40)

#define HOST_CS64 0x33 /* Linux' selectors of user code */
#define HOST_CS32 0x23
#define HOST_DS   0x2b

#endif
