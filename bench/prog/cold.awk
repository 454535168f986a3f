# cold.awk - writes the functions of the case `cold`: each some dozen instructions, no two alike,
# without calls or global data, so that copies of them run at any address.
function rnd(n) {
    seed = (seed * 16807) % 2147483647
    return seed % n
}
BEGIN {
    seed = 12345
    n = 4096
    print "#include \"cold.h\""
    for (i = 0; i < n; i++) {
        printf "static COLD u32 f%d(u32 *p, u32 x)\n{\n", i
        printf "    x = x * %du + p[%d];\n", rnd(60000) * 2 + 3, rnd(16)
        printf "    p[%d] ^= x >> %d;\n", rnd(16), 1 + rnd(30)
        printf "    if (x & %du)\n", 2 ^ rnd(31)
        printf "        x += p[%d] + %du;\n", rnd(16), rnd(1000)
        printf "    else\n        x -= %du;\n", rnd(1000000)
        printf "    p[%d] += x;\n    return x ^ %du;\n}\n", rnd(16), rnd(100000)
    }
    printf "\ncold_fn *const cold_fns[COLD_FUNCTIONS] = {\n"
    for (i = 0; i < n; i++)
        printf "    f%d,\n", i
    print "};"
}
