/* bare_io.h - offsets in struct bare_io, for bare.c and bare_enter.S. */
#ifndef POPF_DIFF_BARE_IO_H
#define POPF_DIFF_BARE_IO_H

#define IO_REG      0
#define IO_RIP      128
#define IO_RFLAGS   136
#define IO_CS       144
#define IO_SS       152
#define IO_DS       160
#define IO_ES       168
#define IO_FS       176
#define IO_GS       184
#define IO_FS_BASE  192
#define IO_GS_BASE  200
#define IO_FPU_IN   208
#define IO_FPU_OUT  216
#define IO_XCR0     224
#define IO_ACTIVE   232
#define IO_HAS_FSGS 240
#define IO_HAS_AVX  248
#define IO_HOST_RSP 256
#define IO_HOST_FSB 264
#define IO_HOST_GSB 272
#define IO_HOST_DS  280
#define IO_HOST_ES  288
#define IO_HOST_FS  296
#define IO_HOST_GS  304

#endif
