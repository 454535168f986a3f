/*
 * bt_genoffsets.c - compiled to assembly by the build; the lines marked @ become bt_offsets.h.
 */
#include "engine/bt/bt_emit.h"

#define OFFSET(name, value) __asm__ volatile("@" #name " %c0" : : "i"((s32)(value)))

void bt_genoffsets(void);
void bt_genoffsets(void)
{
    OFFSET(CPU_REG, GS_CPU(reg));
    OFFSET(CPU_AFLAGS, GS_CPU(aflags));
    OFFSET(CPU_HOST_RSP, GS_WORD(BT_HOST_RSP));
    OFFSET(CPU_ESP, GS_WORD(BT_ESP));
    OFFSET(CPU_RFOURTEEN, GS_WORD(BT_R14));
    OFFSET(CPU_RESUME, GS_WORD(BT_RESUME));
    OFFSET(CPU_LINK, GS_WORD(BT_LINK));
    OFFSET(CPU_IN_CODE, GS_WORD(BT_IN_CODE));
    OFFSET(CPU_SELF, GS_WORD(BT_SELF));
}
