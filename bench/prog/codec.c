/*
 * codec.c - hashes, checksums, compression.
 */
#include "bench.h"
#include <string.h>

/* --- SHA-256 (FIPS 180-4) --- */

static const u32 sha256_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static u32 ror(u32 x, int n)
{
    return x >> n | x << (32 - n);
}

static void sha256_block(u32 state[8], const u8 *in)
{
    u32 w[64];
    u32 a = state[0], b = state[1], c = state[2], d = state[3];
    u32 e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 16; i++, in += 4)
        w[i] = (u32)in[0] << 24 | in[1] << 16 | in[2] << 8 | in[3];
    for (int i = 16; i < 64; i++) {
        u32 x = w[i - 15], y = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (ror(x, 7) ^ ror(x, 18) ^ x >> 3) +
               (ror(y, 17) ^ ror(y, 19) ^ y >> 10);
    }
    for (int i = 0; i < 64; i++) {
        u32 t1 =
            h + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + ((e & f) ^ (~e & g)) + sha256_k[i] + w[i];
        u32 t2 = (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + t1;
        d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

u32 codec_sha256_blocks(const u8 block[64], u64 n)
{
    u32 state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    while (n--)
        sha256_block(state, block);
    return state[0];
}

static const char *sha256_setup(struct bench *b)
{
    bench_mem(b, 64);
    bench_text(b->mem, 64);
    return NULL;
}

static u64 sha256_run(struct bench *b, u64 n)
{
    u64 sum = 0;
    while (bench_again(b, &n))
        sum = codec_sha256_blocks(b->mem, 64);
    return sum;
}

/* --- CRC-32 by table --- */

#define CRC_SIZE (32 * 1024)

static void crc_table(u32 table[256])
{
    for (u32 i = 0; i < 256; i++) {
        u32 c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? c >> 1 ^ 0xedb88320 : c >> 1;
        table[i] = c;
    }
}

static NOINLINE u32 crc_update(const u32 table[256], u32 crc, const u8 *data, size_t size)
{
    crc = ~crc;
    while (size--)
        crc = table[(crc ^ *data++) & 0xff] ^ crc >> 8;
    return ~crc;
}

u32 codec_crc32(u32 crc, const u8 *data, size_t size)
{
    u32 table[256];
    crc_table(table);
    return crc_update(table, crc, data, size);
}

static const char *crc_setup(struct bench *b)
{
    bench_mem(b, CRC_SIZE + 1024);
    bench_text(b->mem, CRC_SIZE);
    crc_table((u32 *)(b->mem + CRC_SIZE));
    return NULL;
}

static u64 crc_run(struct bench *b, u64 n)
{
    u64 crc = 0;
    while (bench_again(b, &n))
        crc = crc_update((const u32 *)(b->mem + CRC_SIZE), 0, b->mem, CRC_SIZE);
    return crc;
}

/* --- compression: LZ77, greedy, one candidate per hash of four bytes, and back again --- */

#define LZ_SIZE (32 * 1024)
#define LZ_HASH 4096

struct lz {
    u8 in[LZ_SIZE], packed[LZ_SIZE + LZ_SIZE / 64 + 64], out[LZ_SIZE];
    u32 head[LZ_HASH];
};

static u32 load32(const u8 *p)
{
    u32 v;
    memcpy(&v, p, 4);
    return v;
}

static u32 match_length(const u8 *a, const u8 *b, const u8 *end)
{
    const u8 *start = b;
    while (b < end && b - start < 255 && *a == *b)
        a++, b++;
    return b - start;
}

/* Each item: a count of literals and these, then length and distance of a match (length 0: end). */
static size_t lz_pack(struct lz *lz)
{
    const u8 *in = lz->in, *end = in + LZ_SIZE, *p = in, *lit = in;
    u8 *out = lz->packed;
    memset(lz->head, 0, sizeof(lz->head));
    while (p <= end - 4) {
        u32 h = load32(p) * 2654435761u >> 20;
        const u8 *cand = in + lz->head[h];
        lz->head[h] = p - in;
        u32 len = cand < p && load32(cand) == load32(p) ? match_length(cand, p, end) : 0;
        if (!len && p + 1 - lit < 255) {
            p++;
            continue;
        }
        *out++ = p - lit;
        memcpy(out, lit, p - lit);
        out += p - lit;
        *out++ = len;
        *out++ = (p - cand) & 0xff;
        *out++ = (p - cand) >> 8;
        p += len;
        lit = p;
    }
    *out++ = end - lit;
    memcpy(out, lit, end - lit);
    out += end - lit;
    return out - lz->packed;
}

static size_t lz_unpack(struct lz *lz, size_t size)
{
    const u8 *p = lz->packed, *end = p + size;
    u8 *out = lz->out;
    while (p < end) {
        u32 lits = *p++;
        while (lits--)
            *out++ = *p++;
        if (p == end)
            break;
        u32 len = p[0];
        const u8 *from = out - (p[1] | p[2] << 8);
        p += 3;
        while (len--)
            *out++ = *from++;
    }
    return out - lz->out;
}

static const char *lz_setup(struct bench *b)
{
    bench_mem(b, sizeof(struct lz));
    bench_text(((struct lz *)b->data)->in, LZ_SIZE);
    return NULL;
}

static u64 lz_run(struct bench *b, u64 n)
{
    struct lz *lz = b->data;
    u64 packed = 0;
    while (bench_again(b, &n)) {
        packed = lz_pack(lz);
        if (lz_unpack(lz, packed) != LZ_SIZE || lz->out[LZ_SIZE - 1] != lz->in[LZ_SIZE - 1])
            return 0;
    }
    return packed;
}

const struct bench_case codec_cases[] = {
    {"sha256", "int", "SHA-256 of 4 KiB", sha256_setup, sha256_run, bench_mem_end},
    {"crc32", "int", "CRC-32 of 32 KiB by table", crc_setup, crc_run, bench_mem_end},
    {"compress", "int", "LZ77 of 32 KiB of text, packed and unpacked", lz_setup, lz_run,
     bench_mem_end},
    {0},
};
