#!/bin/sh
# Measures ring3's engines beside native execution and QEMU's TCG, in one run; see bench/README.md.
#
#   run.sh                   in the environment:
#     RUNS=3                 how often; medians are reported
#     ENGINES="translate interpret"  which engines
#     ONCE="interpret"       engines that are only measured in the first run, when there are others
#     KINDS="cloud amd64 686"  which kernels are booted; may be empty
#     ROWS=yes               no: only boots. A pattern, or several with commas, for NAME or GUEST.NAME: only these rows,
#                            and no boots unless KINDS asks for them; as in ROWS='fork,32.matrix*'
#     GUESTS="64 32"         where rows are measured: 64-bit programs under the cloud kernel, 32-bit ones under the 686
#                            kernel; compat: 32-bit ones under the cloud kernel
#     MS=150                 the time that each row may take
#     COUNT=yes              no: instructions are not counted
#     NATIVE=yes             no: the host is not measured
#     QEMU=qemu-system-x86_64  empty: no comparison
#     BUILD=build            where ring3 is built; the guests are in $RING3_IMAGES (.cache/guest)
#     OUT=$BUILD/bench.json  the numbers
#
# The table goes to standard output, what is going on to standard error. Slowness is never a failure; the exit status is 1
# when an engine of ring3 did not do its work.
set -u -f
cd "$(dirname "$0")/.." || exit 1

# A new engine joins by its name here. What `ring3 engines` does not have, or cannot use here, is left out, saying so.
engines_known="translate interpret"

rows=${ROWS:-yes}
case $rows in
yes | no) kinds=${KINDS-cloud amd64 686} only='*' ;;
*) kinds=${KINDS-} only=$rows ;;
esac
runs=${RUNS:-3}
once=${ONCE-interpret}
guests=${GUESTS-64 32}
[ "$rows" = no ] && guests=
ms=${MS:-150}
build=${BUILD:-build}
qemu=${QEMU-qemu-system-x86_64}
out=${OUT:-$build/bench.json}
images=${RING3_IMAGES:-.cache/guest}
tools=$build/bench/image
machines="microvm pc q35"
boot_ram_mib=256
rows_ram_mib=512
# Only against guests that never end: nothing here takes a tenth of it.
boot_limit_s=600
rows_limit_s=3600
# Guest time of one instruction under --clock instructions (src/machine/vm.c).
instruction_ns=10

say() { echo "bench: $*" >&2; }
fail() { say "$*"; exit 1; }

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
data=$work/data
: >"$data"
failed=no

record() { echo "$*" >>"$data"; }

# field NAME LINE: the value of NAME= in what measure printed
field() { echo " $2" | sed -n "s/.* $1=\([0-9]*\).*/\1/p"; }

# --- the subjects: names of engines, qemu-MACHINE, native ---

# guest_measure SUBJECT MARKER RAM_MIB KERNEL INITRD APPEND [OPTION...]: OPTIONs are ring3's. measure's line in $result,
# output in $work/out, statistics of ring3 in $work/stat.
guest_measure()
{
    subject=$1 guest_marker=$2 ram_mib=$3 kernel=$4 initrd=$5 append=$6
    shift 6
    rm -f "$work/stat"
    limit_s=$boot_limit_s
    [ "$guest_marker" = "BENCH end" ] && limit_s=$rows_limit_s
    case $subject in
    qemu-*)
        board=${subject#qemu-}
        # For 32-bit guests QEMU has a program of its own, which is faster.
        program=$qemu
        case $kernel in
        */686/*) command -v "${qemu%x86_64}i386" >/dev/null && program=${qemu%x86_64}i386 ;;
        esac
        # microvm's ACPI has no PM timer and Linux then finds no clock to calibrate with; without ACPI it does, but the
        # machine cannot be powered off.
        [ "$board" = microvm ] && board=microvm,acpi=off,rtc=on && append="$append reboot=t bench.reset"
        set -- "$program" -accel tcg -cpu max -machine "$board" -m "$ram_mib" -nodefaults -no-user-config -display none \
            -serial stdio -no-reboot -device isa-debug-exit,iobase=0xf4,iosize=4 -kernel "$kernel"
        [ -z "$initrd" ] || set -- "$@" -initrd "$initrd" -append "$append"
        ;;
    *)
        set -- "$build/src/cli/ring3" run --engine "$subject" -m "${ram_mib}M" --no-reboot --stat="json:$work/stat" \
            --kernel "$kernel" "$@"
        [ -z "$initrd" ] || set -- "$@" --initrd "$initrd" --append "$append"
        ;;
    esac
    result=$("$tools/measure" -t "$limit_s" -m "$guest_marker" -r $((ram_mib * 1024)) -o "$work/out" "$@")
}

# complain SUBJECT WHAT: after a guest that did not do what it should
complain()
{
    say "$1: $2 (exit status $(field status "$result")); its last lines:"
    tail -n 5 "$work/out" | sed 's/^/    /' >&2
    case $1 in
    qemu-*) ;;
    *) failed=yes ;;
    esac
}

# stat_record SUBJECT ITEM: every number and word of ring3's statistics but lists, as `stat SUBJECT ITEM a.b.c VALUE`
stat_record()
{
    [ -s "$work/stat" ] || return 0
    awk -v subject="$1" -v item="$2" '
        { gsub(/^ +|,$/, "") }
        /^".*": \{$/ { split($0, part, "\""); path[++depth] = part[2]; next }
        /\[$/ { list++; next }
        /^\]/ { list--; next }
        list > 0 { next }
        /^\}/ { depth--; next }
        /^"[A-Za-z0-9_#]+": / {
            split($0, part, "\"")
            name = ""
            for (i = 1; i <= depth; i++)
                name = name path[i] "."
            value = substr($0, length(part[2]) + 5)
            gsub(/[" ]/, "", value)
            if (value == "null")
                next
            # Begins later than the wall_ns of the process.
            if (name part[2] == "wall_ns")
                part[2] = "guest_wall_ns"
            print "stat", subject, item, name part[2], value
        }' "$work/stat" >>"$data"
}

# --- boots ---

append_common="console=ttyS0 quiet panic=-1"

# boot_measure SUBJECT KIND
boot_measure()
{
    case $2 in
    686) initrd=$tools/boot-i386 ;;
    *) initrd=$tools/boot-amd64 ;;
    esac
    record tried "$1" "boot-$2"
    guest_measure "$1" "BENCH shell" $boot_ram_mib "$images/$2/vmlinuz" "$initrd" "$append_common"
    if [ "$(field marker_ns "$result")" = 0 ] || [ "$(field status "$result")" != 0 ]; then
        complain "$1" "kernel $2 did not boot"
        record fail "$1" "boot-$2" "exit status $(field status "$result")"
        return 1
    fi
    for metric in wall_ns cpu_ns marker_ns rss_kib own_kib; do
        record number "$1" "boot-$2" $metric "$(field $metric "$result")"
    done
    stat_record "$1" "boot-$2"
}

# The fastest of QEMU's machines for a kernel is found in the first run and kept: $work/machines-KIND, fastest first.
boot_measure_qemu()
{
    if [ ! -e "$work/machines-$1" ]; then
        : >"$work/tried"
        for machine in $machines; do
            boot_measure "qemu-$machine" "$1" && echo "$(field wall_ns "$result") $machine" >>"$work/tried"
        done
        sort -n "$work/tried" | sed 's/.* //' >"$work/machines-$1"
        return
    fi
    read -r machine <"$work/machines-$1" && boot_measure "qemu-$machine" "$1"
}

# first_measure SUBJECT: from exec to the guest's first instruction
first_measure()
{
    for _ in 1 2 3; do
        record tried "$1" first
        guest_measure "$1" '!' $boot_ram_mib "$tools/first.elf" "" ""
        if [ "$(field status "$result")" != 1 ] || [ "$(field marker_ns "$result")" = 0 ]; then
            complain "$1" "the least guest did not run"
            record fail "$1" first "exit status $(field status "$result")"
            return
        fi
        record number "$1" first marker_ns "$(field marker_ns "$result")"
        record number "$1" first wall_ns "$(field wall_ns "$result")"
    done
}

# --- rows ---

rows_kernel() { case $1 in 32) echo "$images/686/vmlinuz" ;; *) echo "$images/cloud/vmlinuz" ;; esac; }
rows_image() { case $1 in 64) echo "$tools/rows64" ;; *) echo "$tools/rows32" ;; esac; }

# rows_machine GUEST: the faster one of pc and q35, if a boot has told. The guest clock of microvm ticks at 250 Hz: too coarse
# for rows.
rows_machine()
{
    case $1 in 32) kind=686 ;; *) kind=cloud ;; esac
    machine=$(grep -x 'pc\|q35' "$work/machines-$kind" 2>/dev/null | head -n 1)
    echo "${machine:-q35}"
}

# rows_collect SECTION SUBJECT: from $work/out. A row that never said how it ended is found by the report.
rows_collect()
{
    tr -d '\r' <"$work/out" | awk -v section="$1" -v subject="$2" -v unit_ns="$instruction_ns" '
        function rest(    i, text) {
            text = $4
            for (i = 5; i <= NF; i++)
                text = text " " $i
            return text
        }
        $1 == "ROW" && NF == 5 {
            if (section == "count") {
                print "number", subject, $2 "." $3, "instructions", $4 / unit_ns
            } else {
                print "number", subject, $2 "." $3, "ns", $4
                print "sum", subject, $2 "." $3, $5
            }
        }
        ($1 == "SKIP" || $1 == "FAIL") && NF >= 4 { print tolower($1), subject, $2 "." $3, rest() }' >>"$data"
}

# rows_measure SUBJECT GUEST
rows_measure()
{
    record tried "$1" "$2"
    guest_measure "$1" "BENCH end" $rows_ram_mib "$(rows_kernel "$2")" "$(rows_image "$2").cpio" \
        "$append_common bench.ms=$ms bench.label=$2 bench.only=$only"
    rows_collect row "$1"
    if [ "$(field marker_ns "$result")" = 0 ]; then
        complain "$1" "the rows did not come to their end"
        record fail "$1" "rows-$2" "exit status $(field status "$result")"
        return
    fi
    for metric in wall_ns cpu_ns rss_kib own_kib; do
        record number "$1" "rows-$2" $metric "$(field $metric "$result")"
    done
    stat_record "$1" "rows-$2"
}

# How many instructions an operation takes: guest time, when guest time is the count of instructions. It is the same in every
# engine; the interpreter is never wrong about it.
rows_count()
{
    guest_measure "$1" "BENCH end" $rows_ram_mib "$(rows_kernel "$2")" "$(rows_image "$2").cpio" \
        "$append_common bench.ms=$((ms / 5 + 1)) bench.label=$2 bench.only=$only" --clock instructions
    rows_collect count count
    [ "$(field marker_ns "$result")" != 0 ] || complain "$1" "the rows did not come to their end with --clock instructions"
}

# rows_measure_native GUEST
rows_measure_native()
{
    image=$(rows_image "$1")
    if ! "$image/bench" --list --only none >/dev/null 2>&1; then
        say "no native rows $1: this host does not run such programs"
        return
    fi
    record tried native "$1"
    mkdir -p "$work/tmp"
    case $image in /*) ;; *) image=$PWD/$image ;; esac
    "$image/bench" --ms "$ms" --label "$1" --only "$only" --bin "$image/bin" --programs "$image/programs" \
        --data "$image/data" --tmp "$work/tmp" >"$work/out" 2>"$work/log"
    rows_collect row native
}

# --- preparation ---

# rows_plan: what there is to measure; guests without a row that is wanted are left out
rows_plan()
{
    planned=
    for guest in $guests; do
        if [ ! -x "$(rows_image "$guest")/bench" ]; then
            say "no rows for guest $guest: there is no $(rows_image "$guest")"
            continue
        fi
        "$tools/rows64/bench" --list --label "$guest" --only "$only" >"$work/plan" || exit 1
        [ -s "$work/plan" ] || continue
        planned="$planned $guest"
        sed 's/^PLAN \([^ ]*\) \([^ ]*\)/plan \1.\2/' "$work/plan" >>"$data"
    done
    guests=$planned
    [ -n "$guests$kinds" ] || fail "there is no row like '$only', and no boot is asked for"
}

# engine_usable NAME
engine_usable()
{
    "$build/src/cli/ring3" engines | awk -v name="$1" '
        /^[^ ]/ { current = $1 }
        /^ +usable/ && current == name { found = 1 }
        END { exit !found }'
}

[ -x "$build/src/cli/ring3" ] || fail "$build/src/cli/ring3 is not built; run 'make'"
mkdir -p "$build/bench" || exit 1
# The cloud kernel and its busybox are always of use.
fetched="cloud $kinds" programs=
for guest in $guests; do
    case $guest in
    64) programs="$programs programs-amd64" ;;
    32) fetched="$fetched 686" programs="$programs programs-i386" ;;
    compat) fetched="$fetched 686" programs="$programs programs-i386" ;;
    *) fail "there is no guest '$guest'; there are 64, 32 and compat" ;;
    esac
done
# shellcheck disable=SC2086 # lists
{
    scripts/guest-image.sh $fetched >&2 || exit 1
    [ -z "$programs" ] || scripts/guest-image.sh $programs >&2 || say "the rows of Debian's programs will be skipped"
}
bench/image.sh "$tools" "$images" || exit 1

engines=
for engine in ${ENGINES:-$engines_known}; do
    if engine_usable "$engine"; then
        engines="$engines${engines:+ }$engine"
    else
        say "engine $engine is left out: 'ring3 engines' says that it is not there or not usable"
    fi
done
[ -n "$engines" ] || fail "no engine to measure"
if [ -z "$qemu" ]; then
    say "no comparison with QEMU: not asked for"
elif ! command -v "$qemu" >/dev/null; then
    say "no comparison with QEMU: $qemu is not installed (package qemu-system-x86)"
    qemu=
fi

one_line() { tr -s '[:space:]"\\' ' ' | sed 's/^ //; s/ $//'; }
record info host "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1 | one_line)"
record info processors "$(nproc)"
record info kernel "$(uname -r)"
record info load "$(cut -d' ' -f1 /proc/loadavg)"
record info date "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
record info ring3 "$("$build/src/cli/ring3" --version | one_line) $(git rev-parse --short HEAD 2>/dev/null)"
[ -z "$qemu" ] || record info qemu "$("$qemu" --version | head -n 1 | one_line)"
record info guest "$(for kind in cloud amd64 686; do cat "$images/$kind/release"; done 2>/dev/null | one_line)"
rows_plan

# --- the runs: everything once, then everything again, so that a bad minute of the host hits all alike ---

# engines_of_run RUN
engines_of_run()
{
    for engine in $engines; do
        case " $once " in
        *" $engine "*) [ "$1" = 1 ] || [ "$engines" = "$engine" ] || continue ;;
        esac
        echo "$engine"
    done
}

run=1
while [ "$run" -le "$runs" ]; do
    for kind in $kinds; do
        say "run $run of $runs: boot $kind"
        [ -z "$qemu" ] || boot_measure_qemu "$kind"
        for engine in $(engines_of_run $run); do
            boot_measure "$engine" "$kind"
        done
    done
    if [ -n "$kinds" ]; then
        say "run $run of $runs: first instruction"
        [ -z "$qemu" ] || first_measure "qemu-$(rows_machine 64)"
        for engine in $(engines_of_run $run); do
            first_measure "$engine"
        done
    fi
    for guest in $guests; do
        if [ "${NATIVE:-yes}" = yes ]; then
            say "run $run of $runs: rows $guest, natively"
            rows_measure_native "$guest"
        fi
        if [ -n "$qemu" ]; then
            say "run $run of $runs: rows $guest, QEMU"
            rows_measure "qemu-$(rows_machine "$guest")" "$guest"
        fi
        for engine in $(engines_of_run $run); do
            say "run $run of $runs: rows $guest, $engine"
            rows_measure "$engine" "$guest"
        done
    done
    run=$((run + 1))
done
if [ "${COUNT:-yes}" = yes ]; then
    count_engine=${engines%% *}
    engine_usable interpret && count_engine=interpret
    for guest in $guests; do
        say "counting instructions of rows $guest"
        rows_count "$count_engine" "$guest"
    done
fi
record info load_end "$(cut -d' ' -f1 /proc/loadavg)"

awk -v engines="$engines" -v kinds="$kinds" -v guests="$guests" -v runs="$runs" -v json="$out" -f bench/report.awk "$data" \
    >"$work/report" || exit 1
cat "$work/report"
echo
echo "numbers: $out"
# A row that an engine did not finish, or whose result is not the host's, is a failure; the report says which.
grep -q '^Failed: ring3' "$work/report" && failed=yes
[ $failed = no ]
