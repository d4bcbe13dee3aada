# Turns what bench/run.sh recorded into tables (standard output) and JSON (the file named by -v json=).
#
# Input lines:
#   info KEY TEXT...                      plan ITEM GROUP TEXT...             a row that there is
#   tried SUBJECT BOOT|first|GUEST        something was run, once
#   number SUBJECT ITEM METRIC VALUE      sum SUBJECT ITEM SUM                what a row computed
#   skip SUBJECT ITEM TEXT...             fail SUBJECT ITEM TEXT...
#   stat SUBJECT BOOT|ROWS PATH VALUE     ring3's statistics
#
# SUBJECT is native, qemu-MACHINE, an engine, or count. ITEM is GUEST.NAME for a row, BOOT is boot-KIND, ROWS is rows-GUEST.
# Values that were measured several times become their median. A row that was planned and tried and says nothing has
# failed; so has one that computed something else than the host. Written for mawk and gawk: no gensub, no asort, no %d for
# what may exceed 2^31.

function rest(from,    i, text) {
    text = $from
    for (i = from + 1; i <= NF; i++)
        text = text " " $i
    return text
}

$1 == "info" { info[$2] = rest(3) }
$1 == "plan" {
    row_names[++row_count] = $2
    group[$2] = $3
    what[$2] = rest(4)
}
$1 == "tried" {
    tried[$2, $3]++
    if ($2 ~ /^qemu-/ && tried[$2, $3] == 1)
        qemus[$3, ++qemu_count[$3]] = $2
    if ($2 ~ /^qemu-/ && !qemu_seen[$2]++)
        qemu_subjects[++qemu_subject_count] = $2
}
$1 == "number" {
    key = $2 SUBSEP $3 SUBSEP $4
    values[key, ++count[key]] = $5
    if ($2 == "count")
        counted = 1
}
$1 == "stat" {
    key = $2 SUBSEP $3 SUBSEP $4
    values[key, ++count[key]] = $5
    if ($4 ~ /^(translate|shadow)\./ && !($4 in stat_seen)) {
        stat_seen[$4] = 1
        stat_names[++stat_count] = $4
    }
}
$1 == "sum" {
    if (!(($2, $3) in sums))
        sums[$2, $3] = $4
    else if (sums[$2, $3] != $4)
        failed[$2, $3] = "its result changes from run to run"
}
$1 == "skip" { skipped[$2, $3] = rest(4) }
$1 == "fail" { failed[$2, $3] = rest(4) }

# --- numbers ---

# The median of what was measured, or "" if nothing was.
function median(subject, item, metric,    key, n, i, j, t, sorted) {
    key = subject SUBSEP item SUBSEP metric
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

# QEMU's machine with the lowest median, or "".
function qemu_best(tried_item, item, metric,    i, best, value, least) {
    best = ""
    for (i = 1; i <= qemu_count[tried_item]; i++) {
        value = median(qemus[tried_item, i], item, metric)
        if (value != "" && (best == "" || value < least)) {
            best = qemus[tried_item, i]
            least = value
        }
    }
    return best
}

function guest_of(item) { return substr(item, 1, index(item, ".") - 1) }
function name_of(item) { return substr(item, index(item, ".") + 1) }

# Why a row of a subject has no good result: "", or the reason.
function row_failure(subject, item,    guest, reference, ran) {
    guest = guest_of(item)
    ran = tried[subject, guest]
    if (ran == 0 || ((subject, item) in skipped))
        return ""
    if ((subject, item) in failed)
        return failed[subject, item]
    if (count[subject SUBSEP item SUBSEP "ns"] < ran)
        return "it did not come to its end"
    reference = (("native", item) in sums) ? "native" : rows_qemu[guest]
    if (((reference, item) in sums) && sums[reference, item] != sums[subject, item])
        return "it computed " sums[subject, item] ", not " sums[reference, item] " as " reference
    return ""
}

# The time of a row, or "" when it has none that counts.
function row_ns(subject, item) {
    return row_failure(subject, item) == "" ? median(subject, item, "ns") : ""
}

function ratio_of(a, b) { return a == "" || b == "" || b == 0 ? "" : a / b }

function mean_add(subject, to, of, value) {
    if (value == "" || value <= 0)
        return
    mean_sum[subject, to, of] += log(value)
    mean_count[subject, to, of]++
}
function mean(subject, to, of) {
    return mean_count[subject, to, of] == 0 ? "" : exp(mean_sum[subject, to, of] / mean_count[subject, to, of])
}

# --- text ---

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
function ratio(value) { return value == "" ? "-" : value < 10 ? sprintf("%.2f", value) : sprintf("%.1f", value) }
function rate(value) { return value == "" ? "-" : value < 10 ? sprintf("%.1f", value) : sprintf("%.0f", value) }
function mebibytes(kib) { return kib == "" || kib == 0 ? "-" : sprintf("%.1f", kib / 1024) }
function several(value) { return value == "" ? "-" : value < 100 ? sprintf("%.3g", value) : sprintf("%.0f", value) }

function row_text(subject, item) {
    if ((subject, item) in skipped)
        return "skipped"
    return row_failure(subject, item) != "" ? "FAILED" : duration(median(subject, item, "ns"))
}

# A table in Markdown whose columns are also columns for the eye. cell() fills, line_end() ends a line, table_print() prints;
# the first `left` columns are words.
function cell(text) {
    cells[lines + 1, ++columns] = text
    if (length(text) > widths[columns])
        widths[columns] = length(text)
}
function line_end() {
    lines++
    if (columns > columns_most)
        columns_most = columns
    columns = 0
}
function padded(text, width, left,    space) {
    space = sprintf("%" (width - length(text) + 1) "s", "")
    space = substr(space, 2)
    return left ? text space : space text
}
function table_print(title, left,    i, j, line, dashes) {
    print "\n## " title "\n"
    for (i = 1; i <= lines; i++) {
        line = "|"
        for (j = 1; j <= columns_most; j++)
            line = line " " padded(cells[i, j], widths[j], j <= left) " |"
        print line
        if (i > 1)
            continue
        line = "|"
        for (j = 1; j <= columns_most; j++) {
            dashes = sprintf("%" (widths[j] + 1) "s", "")
            gsub(/ /, "-", dashes)
            line = line (j <= left ? "-" dashes "|" : dashes ":|")
        }
        print line
    }
    split("", cells)
    split("", widths)
    lines = columns = columns_most = 0
}

# --- JSON ---

function json_number(value) { return value == "" ? "null" : sprintf("%.12g", value) }
function json_string(text) { return "\"" text "\"" }

# member("a", 1) is "a": 1 with the comma before it that is needed
function member(name, value,    text) {
    text = (json_comma ? ", " : "") "\"" name "\": " value
    json_comma = 1
    return text
}
function number_member(name, value) { return member(name, json_number(value)) }
function json_add(list, text) { json_list[list] = json_list[list] (json_list[list] == "" ? "" : ",") "\n    {" text "}" }

function json_write(    key, text, i, n, lists) {
    json_comma = 0
    text = ""
    for (key in info)
        text = text member(key, json_string(info[key]))
    printf "{\n  \"info\": {%s},\n  \"runs\": %s", text, runs >json
    n = split("boot start rows means statistics failures summary", lists, " ")
    for (i = 1; i <= n; i++)
        printf ",\n  \"%s\": [%s\n  ]", lists[i], json_list[lists[i]] >json
    print "\n}" >json
    close(json)
}

# --- boots ---

function boot_line(kind, subject, name, qemu,    item, wall, cpu, text) {
    item = "boot-" kind
    wall = median(subject, item, "wall_ns")
    cell(kind)
    cell(name)
    if (wall == "" || (((subject, item) in failed) && subject !~ /^qemu-/)) {
        cell("FAILED")
        line_end()
        return
    }
    cpu = median(subject, item, "cpu_ns")
    cell(seconds(median(subject, item, "marker_ns")))
    cell(seconds(wall))
    cell(seconds(cpu))
    cell(mebibytes(median(subject, item, "own_kib")))
    text = median(subject, item, "instructions")
    cell(text == "" ? "-" : sprintf("%.0f", text / 1e6))
    cell(rate(median(subject, item, "mips")))
    cell(subject == qemu ? "" : ratio(ratio_of(wall, median(qemu, item, "wall_ns"))))
    cell(subject == qemu ? "" : ratio(ratio_of(cpu, median(qemu, item, "cpu_ns"))))
    line_end()
    json_comma = 0
    text = member("kernel", json_string(kind)) member("subject", json_string(subject))
    text = text number_member("shell_ns", median(subject, item, "marker_ns"))
    text = text number_member("wall_ns", wall) number_member("cpu_ns", cpu)
    text = text number_member("instructions", median(subject, item, "instructions"))
    text = text number_member("mips", median(subject, item, "mips"))
    text = text number_member("halted_ns", median(subject, item, "halted_ns"))
    text = text number_member("outside_ns", outside(subject, item))
    text = text number_member("rss_kib", median(subject, item, "rss_kib"))
    text = text number_member("own_kib", median(subject, item, "own_kib"))
    text = text number_member("wall_per_qemu", ratio_of(wall, median(qemu, item, "wall_ns")))
    text = text number_member("cpu_per_qemu", ratio_of(cpu, median(qemu, item, "cpu_ns")))
    json_add("boot", text)
}

# What of a process is not in its statistics: both are wall_ns, the process' own and its statistics', measure's first.
function outside(subject, item,    key, inner) {
    inner = median(subject, item, "guest_wall_ns")
    return inner == "" ? "" : median(subject, item, "wall_ns") - inner
}

function boot_table(    i, k, item, qemu) {
    split("kernel||shell, s|wall, s|cpu, s|own, MiB|M instr.|MIPS|wall/TCG|cpu/TCG", heads, "|")
    for (i = 1; i <= 10; i++)
        cell(heads[i])
    line_end()
    for (k = 1; k <= kind_count; k++) {
        item = "boot-" kind_names[k]
        qemu = qemu_best(item, item, "wall_ns")
        for (i = 1; i <= qemu_count[item]; i++)
            boot_line(kind_names[k], qemus[item, i], "QEMU " substr(qemus[item, i], 6) (qemus[item, i] == qemu ? " *" : ""),
                qemu)
        for (i = 1; i <= engine_count; i++)
            if (tried[engine_names[i], item])
                boot_line(kind_names[k], engine_names[i], engine_names[i], qemu)
    }
    table_print("Boots: a Debian kernel to the shell, and off", 2)
    print "\n\\* the fastest machine of QEMU for this kernel, which the ratios are to"
}

function start_table(    i, subject, text, first, total, around) {
    cell("")
    cell("exec to first instruction")
    cell("the least guest")
    cell("around the cloud kernel's run")
    line_end()
    for (i = 0; i <= engine_count; i++) {
        subject = i == 0 ? qemu_best("first", "first", "marker_ns") : engine_names[i]
        if (subject == "" || !tried[subject, "first"])
            continue
        first = median(subject, "first", "marker_ns")
        total = median(subject, "first", "wall_ns")
        around = outside(subject, "boot-cloud")
        cell(i == 0 ? "QEMU " substr(subject, 6) : subject)
        cell(((subject, "first") in failed) ? "FAILED" : duration(first))
        cell(duration(total))
        cell(duration(around))
        line_end()
        json_comma = 0
        text = member("subject", json_string(subject)) number_member("first_instruction_ns", first)
        text = text number_member("least_guest_ns", total) number_member("outside_ns", around)
        json_add("start", text)
    }
    table_print("Before and after the guest", 1)
}

# --- rows ---

# Everything of one row: the line of the table, JSON, what goes into the means, and who was slower than TCG.
function row_line(item, qemu,    i, text, native, tcg, own, instructions, mips, of, engine) {
    of = group[item] "-" guest_of(item)
    native = row_ns("native", item)
    tcg = row_ns(qemu, item)
    instructions = median("count", item, "instructions")
    cell(name_of(item))
    cell(what[item])
    if (counted)
        cell(several(instructions))
    cell(row_text("native", item))
    cell(row_text(qemu, item))
    mean_add("tcg", "native", of, ratio_of(tcg, native))
    json_comma = 0
    text = member("guest", json_string(guest_of(item))) member("name", json_string(name_of(item)))
    text = text member("group", json_string(group[item])) member("what", json_string(what[item]))
    text = text number_member("instructions", instructions)
    text = text number_member("native_ns", native) number_member("qemu_ns", tcg)
    for (i = 1; i <= engine_count; i++) {
        engine = engine_names[i]
        own = row_ns(engine, item)
        mips = instructions == "" || own == "" || own == 0 ? "" : instructions * 1000 / own
        cell(row_text(engine, item))
        cell(ratio(ratio_of(own, tcg)))
        cell(ratio(ratio_of(own, native)))
        if (counted)
            cell(rate(mips))
        text = text member(engine, "{")
        json_comma = 0
        text = text number_member("ns", own) number_member("per_qemu", ratio_of(own, tcg))
        text = text number_member("per_native", ratio_of(own, native)) number_member("mips", mips) "}"
        mean_add(engine, "tcg", of, ratio_of(own, tcg))
        mean_add(engine, "native", of, ratio_of(own, native))
        if (ratio_of(own, tcg) > 1)
            slower[i] = slower[i] (slower[i] == "" ? "" : ", ") item " (" ratio(ratio_of(own, tcg)) ")"
    }
    line_end()
    json_add("rows", text)
}

function mean_line(of,    i, text) {
    cell("")
    cell("geometric mean")
    if (counted)
        cell("")
    cell("")
    cell("")
    json_comma = 0
    text = member("group", json_string(substr(of, 1, index(of, "-") - 1)))
    text = text member("guest", json_string(substr(of, index(of, "-") + 1)))
    text = text number_member("qemu_per_native", mean("tcg", "native", of))
    for (i = 1; i <= engine_count; i++) {
        cell("")
        cell(ratio(mean(engine_names[i], "tcg", of)))
        cell(ratio(mean(engine_names[i], "native", of)))
        if (counted)
            cell("")
        text = text member(engine_names[i], "{")
        json_comma = 0
        text = text number_member("per_qemu", mean(engine_names[i], "tcg", of))
        text = text number_member("per_native", mean(engine_names[i], "native", of)) "}"
    }
    line_end()
    json_add("means", text)
}

function guest_text(guest) {
    return guest == "64" ? "64-bit programs, cloud kernel" : guest == "32" ? "32-bit programs, 686 kernel" : \
        "32-bit programs, cloud kernel"
}

function row_table(of, title, guest,    i, n, qemu) {
    qemu = rows_qemu[guest]
    cell("row")
    cell("operation")
    if (counted)
        cell("instr.")
    cell("native")
    cell(qemu == "" ? "TCG" : "TCG " substr(qemu, 6))
    for (i = 1; i <= engine_count; i++) {
        cell(engine_names[i])
        cell("/TCG")
        cell("/native")
        if (counted)
            cell("MIPS")
    }
    line_end()
    n = 0
    for (i = 1; i <= row_count; i++) {
        if (guest_of(row_names[i]) != guest || group[row_names[i]] != of)
            continue
        row_line(row_names[i], qemu)
        n++
    }
    if (n > 1)
        mean_line(of "-" guest)
    if (n > 0)
        table_print(title ": " guest_text(guest), 2)
    else
        lines = columns = columns_most = 0
}

# --- statistics of an engine's translator and shadow tables ---

# A derived number: no statistic, nothing.
function derived_line(name, engine, over, under, scale,    i, any, value) {
    cell(name)
    any = 0
    for (i = 1; i <= run_count; i++) {
        value = ratio_of(median(engine, run_names[i], over), median(engine, run_names[i], under))
        cell(value == "" ? "-" : sprintf("%.3g", value * scale))
        any += value != ""
    }
    if (any) {
        line_end()
        return
    }
    columns = 0
}

function stat_cell(engine, item, name,    key, value) {
    key = engine SUBSEP item SUBSEP name
    if (count[key] == 0)
        return "-"
    value = values[key, 1]
    return value ~ /^[0-9.]+$/ ? sprintf("%.12g", median(engine, item, name)) : value
}

function stat_json(engine, item,    i, text, value) {
    json_comma = 0
    text = member("subject", json_string(engine)) member("run", json_string(item))
    text = text number_member("own_kib", median(engine, item, "own_kib"))
    for (i = 1; i <= stat_count; i++) {
        value = stat_cell(engine, item, stat_names[i])
        if (value != "-")
            text = text member(stat_names[i], value ~ /^[0-9.]+$/ ? value : json_string(value))
    }
    json_add("statistics", text)
}

function stat_table(engine,    i, j, any) {
    any = 0
    for (i = 1; i <= run_count; i++) {
        for (j = 1; j <= stat_count; j++)
            any += count[engine SUBSEP run_names[i] SUBSEP stat_names[j]]
        if (tried[engine, run_names[i]] || count[engine SUBSEP run_names[i] SUBSEP "own_kib"])
            stat_json(engine, run_names[i])
    }
    if (!any)
        return
    cell("")
    for (i = 1; i <= run_count; i++)
        cell(run_names[i])
    line_end()
    for (j = 1; j <= stat_count; j++) {
        cell(stat_names[j])
        for (i = 1; i <= run_count; i++)
            cell(stat_cell(engine, run_names[i], stat_names[j]))
        line_end()
    }
    derived_line("bytes out a byte in", engine, "translate.host_bytes", "translate.guest_bytes", 1)
    derived_line("guest instructions a block", engine, "translate.instructions", "translate.blocks", 1)
    derived_line("ns to translate an instruction", engine, "translate.translate_ns", "translate.instructions", 1)
    derived_line("translating, % of the process", engine, "translate.translate_ns", "wall_ns", 100)
    cell("monitor's own memory, MiB")
    for (i = 1; i <= run_count; i++)
        cell(mebibytes(median(engine, run_names[i], "own_kib")))
    line_end()
    table_print("Statistics: " engine, 1)
}

# --- what it comes to ---

# "64 1.23, 32 4.56" over the guests: NAME's ratio, or the mean of a group.
function over_guests(engine, name, to, of,    g, value, text, item) {
    text = ""
    for (g = 1; g <= guest_count; g++) {
        item = guest_names[g] "." name
        if (of != "")
            value = mean(engine, to, of "-" guest_names[g])
        else
            value = ratio_of(row_ns(engine, item), row_ns(to == "tcg" ? rows_qemu[guest_names[g]] : "native", item))
        if (value != "")
            text = text (text == "" ? "" : ", ") guest_names[g] " " ratio(value)
    }
    return text == "" ? "-" : text
}

function say(engine, line, value,    text) {
    print "- " line ": " value
    json_comma = 0
    text = member("subject", json_string(engine)) member("line", json_string(line)) member("value", json_string(value))
    json_add("summary", text)
}

function summary(i,    engine, k, item, qemu, value, compared) {
    engine = engine_names[i]
    print "\n## Summary: " engine "\n"
    compared = 0
    for (k = 1; k <= kind_count; k++) {
        item = "boot-" kind_names[k]
        qemu = qemu_best(item, item, "wall_ns")
        value = ratio_of(median(engine, item, "wall_ns"), median(qemu, item, "wall_ns"))
        boot_ratio[engine, item] = value
        compared += value != ""
        if (value > 1)
            slower[i] = slower[i] (slower[i] == "" ? "" : ", ") item " (" ratio(value) ")"
    }
    for (k = 1; k <= row_count; k++)
        compared += ratio_of(row_ns(engine, row_names[k]), row_ns(rows_qemu[guest_of(row_names[k])], row_names[k])) != ""
    if (failures[engine] != "")
        slower[i] = slower[i] (slower[i] == "" ? "" : "; ") "failed: " failures[engine]
    say(engine, "faster than TCG on every row", compared == 0 && slower[i] == "" ? "-" : \
        slower[i] == "" ? "yes" : "no: " slower[i])
    say(engine, "compute, geometric mean over native", over_guests(engine, "", "native", "compute"))
    say(engine, "compute, geometric mean over TCG", over_guests(engine, "", "tcg", "compute"))
    for (k = 1; k <= kind_count; k++)
        say(engine, kind_names[k] " boot / TCG", ratio(boot_ratio[engine, "boot-" kind_names[k]]))
    say(engine, "fork / TCG", over_guests(engine, "fork", "tcg", ""))
    say(engine, "exec / TCG", over_guests(engine, "exec", "tcg", ""))
    say(engine, "shell / TCG", over_guests(engine, "shell", "tcg", ""))
    say(engine, "getppid / native", over_guests(engine, "getppid", "native", ""))
}

# Every failure and every row left out, a line each.
function trouble(subject, name,    i, reason, item, text) {
    for (i = 1; i <= row_count + kind_count + 1; i++) {
        if (i <= row_count) {
            item = row_names[i]
            reason = row_failure(subject, item)
        } else {
            item = i <= row_count + kind_count ? "boot-" kind_names[i - row_count] : "first"
            reason = ((subject, item) in failed) ? failed[subject, item] : ""
        }
        if (reason != "") {
            trouble_text = trouble_text "Failed: " name " " item ": " reason "\n"
            failures[subject] = failures[subject] (failures[subject] == "" ? "" : ", ") item
            json_comma = 0
            text = member("subject", json_string(subject)) member("item", json_string(item))
            json_add("failures", text member("reason", json_string(reason)))
        }
        if ((subject, item) in skipped)
            trouble_text = trouble_text "Skipped: " name " " item ": " skipped[subject, item] "\n"
    }
}

END {
    engine_count = split(engines, engine_names, " ")
    kind_count = split(kinds, kind_names, " ")
    guest_count = split(guests, guest_names, " ")
    for (i = 1; i <= kind_count; i++)
        run_names[++run_count] = "boot-" kind_names[i]
    for (i = 1; i <= guest_count; i++) {
        run_names[++run_count] = "rows-" guest_names[i]
        rows_qemu[guest_names[i]] = qemus[guest_names[i], 1]
    }
    print "# Measurements\n"
    printf "%s on %s, %s processors, Linux %s; %s runs, medians; load %s at the start, %s at the end\n", info["ring3"],
        info["host"], info["processors"], info["kernel"], runs, info["load"], info["load_end"]
    printf "guests: Linux %s%s\n", info["guest"], info["qemu"] == "" ? "" : "; " info["qemu"] ", -accel tcg -cpu max"
    for (i = 1; i <= guest_count; i++) {
        row_table("compute", "Compute", guest_names[i])
        row_table("system", "System", guest_names[i])
        row_table("program", "Programs", guest_names[i])
    }
    if (kind_count > 0) {
        boot_table()
        start_table()
    }
    if (row_count > 0)
        print "\n/TCG and /native: the time divided by theirs; below 1 is faster"
    trouble("native", "native")
    for (i = 1; i <= engine_count; i++)
        trouble(engine_names[i], "ring3 " engine_names[i])
    for (i = 1; i <= qemu_subject_count; i++)
        trouble(qemu_subjects[i], "QEMU " substr(qemu_subjects[i], 6))
    for (i = 1; i <= engine_count; i++)
        stat_table(engine_names[i])
    for (i = 1; i <= engine_count; i++)
        summary(i)
    if (trouble_text != "")
        printf "\n%s", trouble_text
    json_write()
}
