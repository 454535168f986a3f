# plot.awk - from summary.csv (kind,group,case,native_ns,target,median,min,max) to an SVG: for each
# program a row, with the slowdown against native on a logarithmic scale, a mark per target at its
# median and a line from its least to its greatest.
BEGIN {
    FS = ","
    split("#1b6ca8 #c0392b #7d7d7d #2e8b57 #8e5ea2", colours, " ")
    row = 17
    left = 110
    width = 620
    decades = 4 # from 10^-0.5
    panel_gap = 70
}
NR == 1 || $1 == "micro" || $1 ~ /^boot/ { next }
{
    if (!($1 in kind_rows))
        kinds[++nkinds] = $1
    if (!(($1, $2, $3) in seen)) {
        seen[$1, $2, $3] = 1
        if ($2 != last_group[$1])
            rows[$1, ++kind_rows[$1]] = "-" $2
        last_group[$1] = $2
        rows[$1, ++kind_rows[$1]] = $3
    }
    if (!($5 in colour)) {
        names[++nnames] = $5
        colour[$5] = colours[(nnames - 1) % 5 + 1]
    }
    med[$1, $3, $5] = $6
    lo[$1, $3, $5] = $7
    hi[$1, $3, $5] = $8
}
function x_of(ratio, d) {
    d = ratio > 0 ? log(ratio) / log(10) + 0.5 : 0
    d = d < 0 ? 0 : d > decades ? decades : d
    return left + d * width / decades
}
function text(x, y, anchor, style, s) {
    printf "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" %s>%s</text>\n", x, y, anchor, style, s
}
function line(x1, y1, x2, y2, style) {
    printf "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" %s/>\n", x1, y1, x2, y2, style
}
function grid(y1, y2, i, x, ticks, n) {
    n = split("0.5 1 2 5 10 20 50 100 200 500 1000 2000", ticks, " ")
    for (i = 1; i <= n; i++) {
        x = x_of(ticks[i])
        line(x, y1, x, y2, ticks[i] == 1 ? "stroke=\"#333\"" : "stroke=\"#ddd\"")
        text(x, y2 + 14, "middle", "fill=\"#555\"", ticks[i])
    }
}
function legend(y, i, x) {
    x = left
    for (i = 1; i <= nnames; i++) {
        printf "<circle cx=\"%d\" cy=\"%d\" r=\"4\" fill=\"%s\"/>\n", x, y - 4, colour[names[i]]
        text(x + 9, y, "start", "", names[i])
        x += 30 + 8 * length(names[i])
    }
}
function marks(kind, name, y, i, k) {
    for (i = 1; i <= nnames; i++) {
        if (!((kind, name, names[i]) in med))
            continue
        line(x_of(lo[kind, name, names[i]]), y, x_of(hi[kind, name, names[i]]), y,
             "stroke-width=\"2\" stroke-opacity=\"0.5\" stroke=\"" colour[names[i]] "\"")
        printf "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"><title>%s, %s: %s</title></circle>\n",
               x_of(med[kind, name, names[i]]), y, colour[names[i]], name, names[i],
               med[kind, name, names[i]]
    }
}
function panel(kind, y, i, r, top) {
    text(left, y, "start", "font-weight=\"bold\"",
         kind "-bit programs: slowdown against native (1 = native)")
    top = y + 10
    grid(top, top + kind_rows[kind] * row)
    for (i = 1; i <= kind_rows[kind]; i++) {
        y = top + (i - 0.5) * row
        r = rows[kind, i]
        if (substr(r, 1, 1) == "-") {
            text(left - 8, y + 4, "end", "font-style=\"italic\" fill=\"#777\"", substr(r, 2))
            line(left, y, left + width, y, "stroke=\"#bbb\" stroke-dasharray=\"2 3\"")
        } else {
            text(left - 8, y + 4, "end", "", r)
            marks(kind, r, y)
        }
    }
}
END {
    height = 50
    for (i = 1; i <= nkinds; i++)
        height += kind_rows[kinds[i]] * row + panel_gap
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" ", left + width + 40, height
    print "font-family=\"sans-serif\" font-size=\"11\">"
    print "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
    legend(24)
    y = 54
    for (i = 1; i <= nkinds; i++) {
        panel(kinds[i], y)
        y += kind_rows[kinds[i]] * row + panel_gap
    }
    print "</svg>"
}
