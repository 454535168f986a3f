# report.awk - from raw.csv (run,kind,target,case,group,value,check) to tables on standard output
# and a summary in the file named by the variable `csv`.
#
# A ratio is taken within one round (target / native of the same round); medians, least and greatest
# are over the rounds.
BEGIN {
    FS = ","
    split("int fp code sys smp", group_list, " ")
    title["int"] = "compute, integer and memory"
    title["fp"] = "compute, floating point and vectors"
    title["code"] = "code that is cold, patched, made"
    title["sys"] = "system"
    title["smp"] = "two CPUs"
    # Adams and Agesen 2006, the software VMM on a Pentium 4, in round figures.
    split("syscall 2300 in 210 cr8wr 35 call/ret 51 pgfault 3900 divzero 3200 ptemod 390", p, " ")
    for (i = 1; i in p; i += 2)
        paper[p[i]] = p[i + 1]
    print "kind,group,case,native_ns,target,median,min,max" >csv
}
NR == 1 || $1 == 0 { next }
{
    if (!(($2, $3) in seen_target)) {
        seen_target[$2, $3] = 1
        targets[$2] = targets[$2] " " $3
    }
    if (!(($2, $4) in seen_case)) {
        seen_case[$2, $4] = 1
        cases[$2, $5] = cases[$2, $5] " " $4
    }
    value[$1, $2, $3, $4] = $6
    check[$1, $2, $3, $4] = $7
    if ($1 > rounds)
        rounds = $1
}

# --- statistics: fill v[1..n], then stats(n) sets med, lo, hi ---

function stats(n, i, k, t) {
    for (i = 2; i <= n; i++) {
        t = v[i]
        for (k = i - 1; k >= 1 && v[k] > t; k--)
            v[k + 1] = v[k]
        v[k + 1] = t
    }
    lo = v[1]
    hi = v[n]
    med = n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
    return n
}
function values(kind, target, name, r, n) {
    n = 0
    for (r = 1; r <= rounds; r++)
        if ((r, kind, target, name) in value)
            v[++n] = value[r, kind, target, name] + 0
    return n ? stats(n) : 0
}
# target / base, round by round
function ratios(kind, target, base, name, r, n) {
    n = 0
    for (r = 1; r <= rounds; r++)
        if ((r, kind, target, name) in value && value[r, kind, base, name] + 0 > 0)
            v[++n] = value[r, kind, target, name] / value[r, kind, base, name]
    return n ? stats(n) : 0
}

# --- text ---

function short(x) {
    return x >= 100 ? sprintf("%.0f", x) : x >= 10 ? sprintf("%.1f", x) : sprintf("%.2f", x)
}
function spread() {
    return sprintf("%6s [%s..%s]", short(med), short(lo), short(hi))
}
function nanoseconds(x) {
    return x >= 1e6 ? sprintf("%.4g ms", x / 1e6) : x >= 1e3 ? sprintf("%.4g us", x / 1e3) \
        : sprintf("%.3g ns", x)
}
function cell(s) {
    printf " %-22s", s
}
function has(kind, target) {
    return (kind, target) in seen_target
}

# --- programs ---

function verify(kind, target, name, r) {
    for (r = 1; r <= rounds; r++)
        if ((r, kind, target, name) in check && (r, kind, "native", name) in check &&
            check[r, kind, target, name] != check[r, kind, "native", name]) {
            wrong = wrong sprintf("  %s-bit %s, %s: %s, native %s\n", kind, name, target,
                                  check[r, kind, target, name], check[r, kind, "native", name])
            return
        }
}
function program_row(kind, group, name, n, t, i) {
    values(kind, "native", name)
    native = med
    printf "%-10s %9s", name, nanoseconds(native)
    n = split(targets[kind], t, " ")
    for (i = 1; i <= n; i++) {
        if (t[i] == "native")
            continue
        verify(kind, t[i], name)
        if (!ratios(kind, t[i], "native", name)) {
            cell("     -")
            continue
        }
        cell(spread())
        printf "%s,%s,%s,%.3f,%s,%.3f,%.3f,%.3f\n", kind, group, name, native, t[i], med, lo, hi >csv
        logs[kind, group, t[i]] += log(med)
        count[kind, group, t[i]]++
    }
    if (has(kind, "qemu") && has(kind, "bt") && ratios(kind, "qemu", "bt", name)) {
        printf " %8s", short(med)
        logs[kind, group, "gain"] += log(med)
        count[kind, group, "gain"]++
    }
    print ""
}
function mean(kind, groups, target, g, n, i, sum, k) {
    n = split(groups, g, " ")
    sum = k = 0
    for (i = 1; i <= n; i++) {
        sum += logs[kind, g[i], target]
        k += count[kind, g[i], target]
    }
    return k ? short(exp(sum / k)) : "-"
}
function mean_row(kind, label, groups, n, t, i) {
    printf "%-20s", label
    n = split(targets[kind], t, " ")
    for (i = 1; i <= n; i++)
        if (t[i] != "native")
            cell(sprintf("%6s", mean(kind, groups, t[i])))
    if (has(kind, "qemu") && has(kind, "bt"))
        printf " %8s", mean(kind, groups, "gain")
    print ""
}
function head(kind, n, t, i) {
    printf "%-10s %9s", "case", "native"
    n = split(targets[kind], t, " ")
    for (i = 1; i <= n; i++)
        if (t[i] != "native")
            cell("  " t[i])
    print has(kind, "qemu") && has(kind, "bt") ? "  qemu/bt" : ""
}
function program_tables(kind, g, n, c, i) {
    print "\n" kind "-bit programs in a " kind "-bit guest: slowdown against native, median [least..greatest]\n"
    head(kind)
    for (g = 1; g in group_list; g++) {
        n = split(cases[kind, group_list[g]], c, " ")
        if (!n)
            continue
        print "-- " title[group_list[g]]
        for (i = 1; i <= n; i++)
            program_row(kind, group_list[g], c[i])
        mean_row(kind, "   geometric mean", group_list[g])
    }
    mean_row(kind, "all compute", "int fp")
    two_cpus(kind)
}
function two_cpus(kind, n, t, i, r, k) {
    n = split(targets[kind], t, " ")
    for (i = 1; i <= n; i++) {
        k = 0
        for (r = 1; r <= rounds; r++)
            if (value[r, kind, t[i], "sha-two"] > 0)
                v[++k] = 2 * value[r, kind, t[i], "sha-one"] / value[r, kind, t[i], "sha-two"]
        if (k && stats(k))
            printf "two threads, %-8s %s times the throughput of one\n", t[i] ":", spread()
    }
}

# --- the others ---

function micro_table(n, t, i, c, k, m) {
    print "\nmicro-operations of Adams and Agesen 2006: host cycles, median [least..greatest]\n"
    printf "%-10s %9s", "operation", "paper's"
    n = split(targets["micro"], t, " ")
    for (i = 1; i <= n; i++)
        cell("  " t[i])
    print ""
    m = split(cases["micro", "micro"], c, " ")
    for (k = 1; k <= m; k++) {
        printf "%-10s %9s", c[k], paper[c[k]]
        for (i = 1; i <= n; i++) {
            if (values("micro", t[i], c[k])) {
                cell(spread())
                printf "micro,micro,%s,,%s,%.1f,%.1f,%.1f\n", c[k], t[i], med, lo, hi >csv
            } else {
                cell("     -")
            }
        }
        print ""
    }
}
function boot_table(kind, n, t, i, best, w) {
    print "\n" kind ": kernel start to shell and off, whole process, median [least..greatest]\n"
    printf "%-14s %-26s %-26s %-26s %s\n", "", "  wall clock, ms", "  processor, ms",
           "  peak memory, MiB", "against QEMU's quickest"
    n = split(targets[kind], t, " ")
    best = 0
    for (i = 1; i <= n; i++)
        if (t[i] ~ /^qemu/ && values(kind, t[i], "wall") && (!best || med < best))
            best = med
    for (i = 1; i <= n; i++) {
        printf "%-14s", t[i]
        for (w = 1; w <= 3; w++) {
            values(kind, t[i], w == 1 ? "wall" : w == 2 ? "cpu" : "rss")
            printf " %-26s", spread()
            if (w == 1)
                wall = med
            printf "%s,boot,%s,,%s,%.1f,%.1f,%.1f\n", kind, w == 1 ? "wall" : w == 2 ? "cpu" : "rss",
                   t[i], med, lo, hi >csv
        }
        print best ? " " short(wall / best) : ""
    }
}
END {
    if ("64" in targets)
        program_tables("64")
    if ("32" in targets)
        program_tables("32")
    if ("micro" in targets)
        micro_table()
    if ("boot64" in targets)
        boot_table("boot64")
    if ("boot32" in targets)
        boot_table("boot32")
    if (wrong)
        printf "\nWRONG RESULTS:\n%s", wrong
}
