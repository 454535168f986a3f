#include "dev/i8042.h"

#define STATUS_OBF     0x01
#define STATUS_SYS     0x04
#define STATUS_CMD     0x08 /* the last byte went to port 0x64 */
#define STATUS_KEYLOCK 0x10 /* not locked */
#define STATUS_AUX     0x20
#define STATUS_TIMEOUT 0x40

#define CB_KBD_INT 0x01
#define CB_SYS     0x04
#define CB_KBD_OFF 0x10
#define CB_AUX_OFF 0x20
#define CB_XLATE   0x40

#define OUT_RESET 0x01 /* active low */
#define OUT_A20   0x02

#define KBD_ACK    0xfa
#define KBD_RESEND 0xfe
#define BREAK      0xf0

/* Scan codes of set 2 to set 1 (PS/2 technical reference, keyboard controller, table 2). */
static const u8 set2_to_set1[0x88] = {
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
    0x80, 0x81, 0x82, 0x41, 0x54, 0x85, 0x86, 0x87,
};

static void update_irq(struct i8042 *k)
{
    bool full = k->status & STATUS_OBF;
    irq_set(&k->wires.irq1, full && !(k->status & STATUS_AUX) && (k->ram[0] & CB_KBD_INT));
}

static void put(struct i8042 *k, u8 byte, u8 flags)
{
    k->status |= STATUS_OBF | flags;
    k->obuf = byte;
    update_irq(k);
}

static void empty(struct i8042 *k)
{
    k->status &= ~(STATUS_OBF | STATUS_AUX | STATUS_TIMEOUT);
    k->answer = 0;
    update_irq(k);
}

/* The next byte of the keyboard's, translated. False if it is a prefix that translation swallows.
 */
static bool next_code(struct i8042 *k, u8 *byte)
{
    u8 code = k->queue[k->head];
    k->head = (k->head + 1) % I8042_QUEUE;
    k->count--;
    *byte = code;
    if (!(k->ram[0] & CB_XLATE))
        return true;
    if (code == BREAK) {
        k->breaking = 0x80;
        return false;
    }
    if (code < sizeof(set2_to_set1))
        *byte = set2_to_set1[code];
    *byte |= k->breaking;
    k->breaking = 0;
    return true;
}

/* Fills the output buffer if it is empty: from the controller first, then from the keyboard. */
static void fill(struct i8042 *k)
{
    u8 byte;
    if (k->status & STATUS_OBF)
        return;
    if (k->replying) {
        k->replying = 0;
        k->answer = 1;
        put(k, k->reply, 0);
        return;
    }
    while (k->count && !(k->ram[0] & CB_KBD_OFF))
        if (next_code(k, &byte)) {
            put(k, byte, 0);
            return;
        }
}

static void reply(struct i8042 *k, u8 byte)
{
    k->reply = byte;
    k->replying = 1;
    fill(k);
}

/* --- the keyboard --- */

static void send(struct i8042 *k, u8 byte)
{
    if (k->count == I8042_QUEUE)
        return;
    k->queue[(k->head + k->count++) % I8042_QUEUE] = byte;
    if (byte != KBD_RESEND)
        k->last = byte;
}

void i8042_key(struct i8042 *k, u8 scancode)
{
    if (!k->scanning)
        return;
    send(k, scancode);
    fill(k);
}

static void kbd_defaults(struct i8042 *k, bool scanning)
{
    k->count = 0;
    k->breaking = 0;
    k->set = 2;
    k->leds = 0;
    k->scanning = scanning;
}

static void kbd_parameter(struct i8042 *k, u8 val)
{
    u8 command = k->kbd_command;
    k->kbd_command = 0;
    if (command == 0xf0 && val > 3) {
        send(k, KBD_RESEND);
        return;
    }
    send(k, KBD_ACK);
    if (command == 0xed)
        k->leds = val & 7;
    else if (command == 0xf0 && val == 0)
        send(k, k->set);
    else if (command == 0xf0)
        k->set = val;
}

static void kbd_write(struct i8042 *k, u8 val)
{
    if (k->kbd_command && val < 0xed) {
        kbd_parameter(k, val);
        return;
    }
    k->kbd_command = 0; /* a new command ends one that waits for its parameter */
    switch (val) {
    case 0xed: /* LEDs */
    case 0xf0: /* scan code set */
    case 0xf3: /* typematic rate */
        k->kbd_command = val;
        send(k, KBD_ACK);
        break;
    case 0xee: /* echo */
        send(k, 0xee);
        break;
    case 0xf2: /* identify */
        send(k, KBD_ACK);
        send(k, 0xab);
        send(k, 0x83);
        break;
    case 0xf4: /* enable */
        k->count = 0;
        k->scanning = 1;
        send(k, KBD_ACK);
        break;
    case 0xf5: /* defaults, disable */
    case 0xf6: /* defaults */
        kbd_defaults(k, val == 0xf6 && k->scanning);
        send(k, KBD_ACK);
        break;
    case 0xf7 ... 0xfa: /* all keys typematic, make/break, make, all three: set 3 only */
        send(k, KBD_ACK);
        break;
    case 0xfe: /* resend */
        send(k, k->last);
        break;
    case 0xff: /* reset, and the basic assurance test */
        kbd_defaults(k, true);
        send(k, KBD_ACK);
        send(k, 0xaa);
        break;
    default:
        send(k, KBD_RESEND);
        break;
    }
}

/* --- the controller --- */

static void pulse_reset(struct i8042 *k)
{
    if (k->wires.reset)
        k->wires.reset(k->wires.arg);
}

static void set_a20(struct i8042 *k, bool on)
{
    k->outport = (k->outport & ~OUT_A20) | (on ? OUT_A20 : 0);
    if (k->wires.a20)
        k->wires.a20(k->wires.arg, on);
}

static void write_outport(struct i8042 *k, u8 val)
{
    set_a20(k, val & OUT_A20);
    if (!(val & OUT_RESET))
        pulse_reset(k);
}

static u8 read_outport(const struct i8042 *k)
{
    bool full = k->status & STATUS_OBF;
    bool aux = k->status & STATUS_AUX;
    return 0xcc | k->outport | (full && !aux) << 4 | (full && aux) << 5;
}

/* Byte 0 is the command byte. Without a mouse its clock stays off, whatever is written. */
static void write_ram(struct i8042 *k, unsigned n, u8 val)
{
    if (n == 0) {
        val |= CB_AUX_OFF;
        k->status = (k->status & ~STATUS_SYS) | (val & CB_SYS);
    }
    k->ram[n] = val;
    if (n)
        return;
    update_irq(k);
    fill(k);
}

/* The byte that the command before it asked for. */
static void command_data(struct i8042 *k, u8 val)
{
    u8 command = k->command;
    k->command = 0;
    switch (command) {
    case 0xd1:
        write_outport(k, val);
        break;
    case 0xd2: /* as if the keyboard had sent it */
    case 0xd3: /* as if the mouse had; without one the byte comes from the keyboard's side */
        reply(k, val);
        break;
    case 0xd4: /* nobody takes it: a time-out */
        k->answer = 1;
        put(k, 0xfe, STATUS_AUX | STATUS_TIMEOUT);
        break;
    default:
        write_ram(k, command & 31, val);
        break;
    }
}

static void write_command(struct i8042 *k, u8 val)
{
    k->command = 0;
    switch (val) {
    case 0x20 ... 0x3f:
        reply(k, k->ram[val & 31]);
        break;
    case 0x60 ... 0x7f:
    case 0xd1 ... 0xd4:
        k->command = val;
        break;
    case 0xa9: /* test of the mouse's port: its data line is stuck low */
        reply(k, 0x03);
        break;
    case 0xaa:
        k->status |= STATUS_SYS;
        reply(k, 0x55);
        break;
    case 0xab:
        reply(k, 0x00);
        break;
    case 0xad:
    case 0xae:
        write_ram(k, 0, (k->ram[0] & ~CB_KBD_OFF) | (val == 0xad ? CB_KBD_OFF : 0));
        break;
    case 0xc0: /* input port: keyboard not locked */
        reply(k, 0x80);
        break;
    case 0xd0:
        reply(k, read_outport(k));
        break;
    case 0xdd:
    case 0xdf:
        set_a20(k, val == 0xdf);
        break;
    case 0xf0 ... 0xff: /* pulses the bits that are 0 */
        if (!(val & OUT_RESET))
            pulse_reset(k);
        break;
    default: /* 0xa7, 0xa8: there is no mouse port to switch */
        break;
    }
}

static void write_data(struct i8042 *k, u8 val)
{
    if (k->command) {
        command_data(k, val);
        return;
    }
    k->ram[0] &= ~CB_KBD_OFF; /* a byte for the keyboard switches its clock on */
    kbd_write(k, val);
    fill(k);
}

static u8 read_data(struct i8042 *k)
{
    empty(k);
    u8 val = k->obuf;
    fill(k);
    return val;
}

static u64 read_60(void *dev, u64 off, unsigned size)
{
    return read_data(dev);
}

static void write_60(void *dev, u64 off, unsigned size, u64 val)
{
    struct i8042 *k = dev;
    k->status &= ~STATUS_CMD;
    write_data(k, val);
}

static u64 read_64(void *dev, u64 off, unsigned size)
{
    struct i8042 *k = dev;
    return k->status;
}

static void write_64(void *dev, u64 off, unsigned size, u64 val)
{
    struct i8042 *k = dev;
    k->status |= STATUS_CMD;
    k->replying = 0;
    if (k->answer) /* nobody wants the last command's reply any more */
        empty(k);
    write_command(k, val);
    fill(k);
}

static const struct bus_ops data_ops = {.read = read_60, .write = write_60, .max_size = 1};
static const struct bus_ops command_ops = {.read = read_64, .write = write_64, .max_size = 1};

int i8042_attach(struct i8042 *k, struct bus *port)
{
    if (bus_add(port, 0x60, 1, &data_ops, k, "i8042") < 0 ||
        bus_add(port, 0x64, 1, &command_ops, k, "i8042") < 0)
        return -1;
    return 0;
}

void i8042_reset(struct i8042 *k)
{
    struct i8042_wires wires = k->wires;
    /* What a BIOS leaves: the self-test done, interrupt and translation on, A20 open. */
    *k = (struct i8042){.ram = {CB_KBD_INT | CB_SYS | CB_AUX_OFF | CB_XLATE},
                        .status = STATUS_SYS | STATUS_KEYLOCK,
                        .outport = OUT_RESET | OUT_A20,
                        .scanning = 1,
                        .set = 2,
                        .wires = wires};
    update_irq(k);
}

void i8042_init(struct i8042 *k, struct i8042_wires wires)
{
    k->wires = wires;
    i8042_reset(k);
}

void i8042_state(struct i8042 *k, struct state *s)
{
    state_section(s, "i8042", 1);
    state_bytes(s, k->ram, sizeof(k->ram));
    state_val(s, k->status);
    state_val(s, k->obuf);
    state_val(s, k->answer);
    state_val(s, k->reply);
    state_val(s, k->replying);
    state_val(s, k->outport);
    state_val(s, k->command);
    state_val(s, k->kbd_command);
    state_val(s, k->scanning);
    state_val(s, k->set);
    state_val(s, k->leds);
    state_val(s, k->last);
    state_val(s, k->breaking);
    state_val(s, k->head);
    state_val(s, k->count);
    state_bytes(s, k->queue, sizeof(k->queue));
    if (!s->loading)
        return;
    if (k->head >= I8042_QUEUE || k->count > I8042_QUEUE || !k->set || k->set > 3 ||
        (k->breaking & 0x7f) || (k->outport & ~(OUT_RESET | OUT_A20)))
        state_fail(s, "i8042: a register is out of range");
    if (s->failed)
        i8042_reset(k);
    else
        update_irq(k);
}
