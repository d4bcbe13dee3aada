# Turns what bench/run.sh recorded into a table (standard output) and JSON (the file named by -v json=).
#
# Input lines:   boot SUBJECT KIND METRIC VALUE         start SUBJECT first METRIC VALUE
#                row SUBJECT BITS.NAME ns VALUE         count SUBJECT BITS.NAME instructions VALUE
#                what BITS.NAME GROUP TEXT...           info KEY TEXT...
# SUBJECT is native, qemu-MACHINE or an engine. Values that were measured several times become their median. Written for
# any awk (mawk, gawk, busybox): no gensub, no asort, no %d for what may exceed 2^31.

$1 == "info" {
    text = $3
    for (i = 4; i <= NF; i++)
        text = text " " $i
    info[$2] = text
    next
}
$1 == "what" {
    if (!($2 in group)) {
        group[$2] = $3
        text = $4
        for (i = 5; i <= NF; i++)
            text = text " " $i
        what[$2] = text
    }
    next
}
NF == 5 {
    key = $1 SUBSEP $2 SUBSEP $3 SUBSEP $4
    values[key, ++count[key]] = $5
    if ($1 == "row" && !($3 in row_seen)) {
        row_seen[$3] = 1
        row_names[++row_count] = $3
    }
    if ($2 ~ /^qemu-/ && !(($1, $2) in machine_seen)) {
        machine_seen[$1, $2] = 1
        machines[$1, ++machine_count[$1]] = $2
    }
}

# The median of what was measured, or "" if nothing was.
function median(section, subject, item, metric,    key, n, i, j, t, sorted) {
    key = section SUBSEP subject SUBSEP item SUBSEP metric
    n = count[key]
    if (n == 0)
        return ""
    for (i = 1; i <= n; i++) {
        t = values[key, i] + 0
        for (j = i; j > 1 && sorted[j - 1] > t; j--)
            sorted[j] = sorted[j - 1]
        sorted[j] = t
    }
    return n % 2 ? sorted[(n + 1) / 2] : (sorted[n / 2] + sorted[n / 2 + 1]) / 2
}

# QEMU's machine with the lowest median for a kernel, or "".
function machine_best(section, item, metric,    i, best, value, least) {
    best = ""
    for (i = 1; i <= machine_count[section]; i++) {
        value = median(section, machines[section, i], item, metric)
        if (value != "" && (best == "" || value < least)) {
            best = machines[section, i]
            least = value
        }
    }
    return best
}

function duration(ns) {
    if (ns == "")
        return "-"
    if (ns < 1000)
        return sprintf("%.3g ns", ns)
    if (ns < 1e6)
        return sprintf("%.3g us", ns / 1e3)
    if (ns < 1e9)
        return sprintf("%.3g ms", ns / 1e6)
    return sprintf("%.2f s", ns / 1e9)
}

function seconds(ns) { return ns == "" ? "-" : sprintf("%.2f", ns / 1e9) }
function ratio_of(a, b) { return a == "" || b == "" || b == 0 ? "" : a / b }
function ratio(value) { return value == "" ? "-" : value < 10 ? sprintf("%.2f", value) : sprintf("%.1f", value) }
function rate(value) { return value == "" ? "-" : value < 10 ? sprintf("%.1f", value) : sprintf("%.0f", value) }
function mebibytes(kib) { return kib == "" || kib == 0 ? "-" : sprintf("%.1f", kib / 1024) }
function million(value) { return value == "" ? "-" : sprintf("%.0f", value / 1e6) }
function several(value) { return value == "" ? "-" : value < 100 ? sprintf("%.3g", value) : sprintf("%.0f", value) }

# --- JSON ---

function json_number(value) { return value == "" ? "null" : sprintf("%.12g", value) }

# member("a", 1) is "a": 1 with the comma before it that is needed
function member(name, value,    text) {
    text = (json_comma ? ", " : "") "\"" name "\": " value
    json_comma = 1
    return text
}
function number_member(name, value) { return member(name, json_number(value)) }

function json_info(    key, text) {
    json_comma = 0
    text = ""
    for (key in info)
        text = text member(key, "\"" info[key] "\"")
    return text
}

# --- tables ---

function boot_line(kind, subject, name, qemu,    wall, cpu, text, line) {
    wall = median("boot", subject, kind, "wall_ns")
    if (wall == "")
        return
    cpu = median("boot", subject, kind, "cpu_ns")
    line = sprintf("%-7s %-16s %9s %9s %9s %9s %8s %8s", kind, name, seconds(median("boot", subject, kind, "marker_ns")),
        seconds(wall), seconds(cpu), mebibytes(median("boot", subject, kind, "own_kib")),
        million(median("boot", subject, kind, "instructions")), rate(median("boot", subject, kind, "mips")))
    if (subject != qemu)
        line = line sprintf(" %10s %10s", ratio(ratio_of(wall, median("boot", qemu, kind, "wall_ns"))),
            ratio(ratio_of(cpu, median("boot", qemu, kind, "cpu_ns"))))
    print line
    json_comma = 0
    text = member("kernel", "\"" kind "\"") member("subject", "\"" subject "\"")
    text = text number_member("shell_ns", median("boot", subject, kind, "marker_ns"))
    text = text number_member("wall_ns", wall) number_member("cpu_ns", cpu)
    text = text number_member("instructions", median("boot", subject, kind, "instructions"))
    text = text number_member("mips", median("boot", subject, kind, "mips"))
    text = text number_member("halted_ns", median("boot", subject, kind, "halted_ns"))
    text = text number_member("outside_ns", median("boot", subject, kind, "outside_ns"))
    text = text number_member("rss_kib", median("boot", subject, kind, "rss_kib"))
    text = text number_member("own_kib", median("boot", subject, kind, "own_kib"))
    text = text number_member("wall_per_qemu", ratio_of(wall, median("boot", qemu, kind, "wall_ns")))
    text = text number_member("cpu_per_qemu", ratio_of(cpu, median("boot", qemu, kind, "cpu_ns")))
    json_boot = json_boot (json_boot == "" ? "" : ",") "\n    {" text "}"
}

function boot_table(    i, k, qemu) {
    print "\nBoot of a Debian kernel to the shell, and off"
    printf "%-7s %-16s %9s %9s %9s %9s %8s %8s %10s %10s\n", "kernel", "", "shell, s", "wall, s", "cpu, s", "own, MiB",
        "M instr.", "MIPS", "wall/QEMU", "cpu/QEMU"
    for (k = 1; k <= kind_count; k++) {
        qemu = machine_best("boot", kind_names[k], "wall_ns")
        for (i = 1; i <= machine_count["boot"]; i++) {
            if (machines["boot", i] == qemu)
                boot_line(kind_names[k], machines["boot", i], "QEMU " substr(qemu, 6) " *", qemu)
            else
                boot_line(kind_names[k], machines["boot", i], "QEMU " substr(machines["boot", i], 6), qemu)
        }
        for (i = 1; i <= engine_count; i++)
            boot_line(kind_names[k], engine_names[i], engine_names[i], qemu)
    }
    if (machine_count["boot"] > 0)
        print "* the fastest machine of QEMU for this kernel, which the ratios are to"
}

function start_table(    i, subject, text, first, total, outside) {
    print "\nBefore and after the guest"
    printf "%-24s %22s %22s %30s\n", "", "exec to first instr.", "the least guest", "around the cloud kernel's run"
    for (i = 0; i <= engine_count; i++) {
        subject = i == 0 ? machine_best("start", "first", "marker_ns") : engine_names[i]
        if (subject == "")
            continue
        first = median("start", subject, "first", "marker_ns")
        total = median("start", subject, "first", "wall_ns")
        outside = median("boot", subject, "cloud", "outside_ns")
        printf "%-24s %22s %22s %30s\n", i == 0 ? "QEMU " substr(subject, 6) : subject, duration(first), duration(total),
            duration(outside)
        json_comma = 0
        text = member("subject", "\"" subject "\"") number_member("first_instruction_ns", first)
        text = text number_member("least_guest_ns", total) number_member("outside_ns", outside)
        json_start = json_start (json_start == "" ? "" : ",") "\n    {" text "}"
    }
}

function row_line(key, qemu,    i, text, native, tcg, own, instructions, mips, line, name) {
    name = key
    sub(/\./, " ", name)
    native = median("row", "native", key, "ns")
    tcg = qemu == "" ? "" : median("row", qemu, key, "ns")
    instructions = median("count", engine_names[1], key, "instructions")
    line = sprintf("%-13s %-42s %10s %9s %9s", name, what[key], several(instructions), duration(native), duration(tcg))
    json_comma = 0
    text = member("bits", substr(key, 1, 2)) member("name", "\"" substr(key, 4) "\"")
    text = text member("group", "\"" group[key] "\"") member("what", "\"" what[key] "\"")
    text = text number_member("instructions", instructions)
    text = text number_member("native_ns", native) number_member("qemu_ns", tcg)
    for (i = 1; i <= engine_count; i++) {
        own = median("row", engine_names[i], key, "ns")
        mips = instructions == "" || own == "" || own == 0 ? "" : instructions * 1000 / own
        line = line sprintf(" | %9s %7s %8s %7s", duration(own), ratio(ratio_of(own, tcg)), ratio(ratio_of(own, native)),
            rate(mips))
        text = text member(engine_names[i], "{")
        json_comma = 0
        text = text number_member("ns", own) number_member("per_qemu", ratio_of(own, tcg))
        text = text number_member("per_native", ratio_of(own, native)) number_member("mips", mips) "}"
        mean_add(i, "qemu", group[key], ratio_of(own, tcg))
        mean_add(i, "native", group[key], ratio_of(own, native))
        mean_add(i, "mips", group[key], mips)
    }
    print line
    json_rows = json_rows (json_rows == "" ? "" : ",") "\n    {" text "}"
}

function mean_add(i, kind, of, value) {
    if (value == "" || value <= 0)
        return
    mean_sum[i, kind, of] += log(value)
    mean_count[i, kind, of]++
}
function mean(i, kind, of) {
    return mean_count[i, kind, of] == 0 ? "" : exp(mean_sum[i, kind, of] / mean_count[i, kind, of])
}

function mean_line(of, name,    i, line, text) {
    line = sprintf("%-13s %-42s %10s %9s %9s", "mean", name, "", "", "")
    json_comma = 0
    text = member("group", "\"" of "\"")
    for (i = 1; i <= engine_count; i++) {
        line = line sprintf(" | %9s %7s %8s %7s", "", ratio(mean(i, "qemu", of)), ratio(mean(i, "native", of)),
            rate(mean(i, "mips", of)))
        text = text member(engine_names[i], "{")
        json_comma = 0
        text = text number_member("per_qemu", mean(i, "qemu", of)) number_member("per_native", mean(i, "native", of))
        text = text number_member("mips", mean(i, "mips", of)) "}"
    }
    print line
    json_means = json_means (json_means == "" ? "" : ",") "\n    {" text "}"
}

function row_table(    i, qemu, line) {
    qemu = machine_best("row", row_names[1], "ns")
    print "\nOne operation in the guest, under the cloud kernel, and the same program on the host"
    line = sprintf("%-13s %-42s %10s %9s %9s", "", "", "", "", "")
    for (i = 1; i <= engine_count; i++)
        line = line sprintf(" | %-34s", engine_names[i])
    print line
    line = sprintf("%-13s %-42s %10s %9s %9s", "row", "operation", "instr.", "native", qemu == "" ? "QEMU" : qemu)
    for (i = 1; i <= engine_count; i++)
        line = line sprintf(" | %9s %7s %8s %7s", "time", "/QEMU", "/native", "MIPS")
    print line
    for (i = 1; i <= row_count; i++)
        row_line(row_names[i], qemu)
    mean_line("compute", "geometric, of user instructions")
    mean_line("kernel", "geometric, of kernel work")
    mean_line("program", "geometric, of programs")
    print "/QEMU and /native: the time divided by theirs; below 1 is faster"
}

END {
    engine_count = split(engines, engine_names, " ")
    kind_count = split(kinds, kind_names, " ")
    printf "%s on %s, %s processors, Linux %s; %s runs, medians; load %s at the start, %s at the end\n", info["ring3"],
        info["host"], info["processors"], info["kernel"], runs, info["load"], info["load_end"]
    printf "guest: Linux %s%s\n", info["guest"], info["qemu"] == "" ? "" : "; " info["qemu"] ", -accel tcg -cpu max"
    boot_table()
    start_table()
    if (row_count > 0)
        row_table()
    printf "{\n  \"info\": {%s},\n  \"runs\": %s,\n  \"boot\": [%s\n  ],\n  \"start\": [%s\n  ],\n", json_info(), runs,
        json_boot, json_start >json
    printf "  \"rows\": [%s\n  ],\n  \"means\": [%s\n  ]\n}\n", json_rows, json_means >json
    close(json)
}
