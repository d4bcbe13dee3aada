#!/bin/sh
# Measures ring3's engines beside native execution and QEMU's TCG, in one run; see bench/README.md.
#
#   run.sh                   in the environment:
#     RUNS=3                 how often; medians are reported
#     ENGINES="interpret"    which engines
#     KINDS="cloud amd64 686"  which kernels are booted
#     ROWS=yes               no: only boots, no rows in the guest
#     MS=300                 the time that each row may take
#     QEMU=qemu-system-x86_64  empty: no comparison
#     BUILD=build            where ring3 is built; the guests are in $RING3_IMAGES (.cache/guest)
#     OUT=$BUILD/bench.json  the numbers
#
# The table goes to standard output, what is going on to standard error. Slowness is never a failure; the exit status is 1
# when an engine of ring3 did not do its work.
set -u
cd "$(dirname "$0")/.." || exit 1

# A new engine joins by its name here. What `ring3 engines` does not have, or cannot use here, is left out, saying so.
engines_known="interpret"

runs=${RUNS:-3}
kinds=${KINDS:-cloud amd64 686}
ms=${MS:-300}
build=${BUILD:-build}
qemu=${QEMU-qemu-system-x86_64}
out=${OUT:-$build/bench.json}
images=${RING3_IMAGES:-.cache/guest}
tools=$build/bench/image
machines="microvm pc q35"
ram_mib=256
limit_s=300
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

# measure OUTPUT MARKER COMMAND...: $result is measure's line
measure()
{
    output=$1 marker=$2
    shift 2
    result=$("$tools/measure" -t $limit_s -m "$marker" -r $((ram_mib * 1024)) -o "$output" "$@")
}

# --- the subjects: names of engines, or qemu-MACHINE ---

# guest_measure SUBJECT MARKER KERNEL INITRD APPEND [OPTION...]: OPTIONs are ring3's. Output in $work/out, statistics of
# ring3 in $work/stat.
guest_measure()
{
    subject=$1 guest_marker=$2 kernel=$3 initrd=$4 append=$5
    shift 5
    rm -f "$work/stat"
    case $subject in
    qemu-*)
        machine=${subject#qemu-}
        # microvm's ACPI has no PM timer and Linux then finds no clock to calibrate with; without ACPI it does, but the
        # machine cannot be powered off.
        [ "$machine" = microvm ] && machine=microvm,acpi=off,rtc=on && append="$append reboot=t bench.reset"
        set -- -accel tcg -cpu max -machine "$machine" -m $ram_mib -nodefaults -no-user-config -display none -serial stdio \
            -no-reboot -device isa-debug-exit,iobase=0xf4,iosize=4 -kernel "$kernel"
        [ -z "$initrd" ] || set -- "$@" -initrd "$initrd" -append "$append"
        measure "$work/out" "$guest_marker" "$qemu" "$@"
        ;;
    *)
        set -- run --engine "$subject" -m ${ram_mib}M --no-reboot --stat="json:$work/stat" --kernel "$kernel" "$@"
        [ -z "$initrd" ] || set -- "$@" --initrd "$initrd" --append "$append"
        measure "$work/out" "$guest_marker" "$build/src/cli/ring3" "$@"
        ;;
    esac
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

stat_number() { sed -n "s/^  \"$1\": \([0-9.]*\),*$/\1/p" "$work/stat" 2>/dev/null; }

# --- what is measured ---

append_common="console=ttyS0 quiet panic=-1"

# boot_measure SUBJECT KIND
boot_measure()
{
    case $2 in
    686) initrd=$tools/boot-i386 ;;
    *) initrd=$tools/boot-amd64 ;;
    esac
    guest_measure "$1" "BENCH shell" "$images/$2/vmlinuz" "$initrd" "$append_common"
    if [ "$(field marker_ns "$result")" = 0 ] || [ "$(field status "$result")" != 0 ]; then
        complain "$1" "kernel $2 did not boot"
        return 1
    fi
    for metric in wall_ns cpu_ns marker_ns rss_kib own_kib; do
        record boot "$1" "$2" $metric "$(field $metric "$result")"
    done
    for metric in instructions mips halted_ns; do
        value=$(stat_number $metric)
        [ -z "$value" ] || record boot "$1" "$2" $metric "$value"
    done
    run_ns=$(stat_number wall_ns)
    [ -z "$run_ns" ] || record boot "$1" "$2" outside_ns $(($(field wall_ns "$result") - run_ns))
}

# The fastest of QEMU's machines for a kernel is found in the first run and kept: $work/machine-KIND.
boot_measure_qemu()
{
    if [ ! -e "$work/machine-$1" ]; then
        : >"$work/tried"
        for machine in $machines; do
            boot_measure "qemu-$machine" "$1" && echo "$(field wall_ns "$result") $machine" >>"$work/tried"
        done
        sort -n "$work/tried" | sed -n '1s/.* //p' >"$work/machine-$1"
        return
    fi
    read -r machine <"$work/machine-$1" && boot_measure "qemu-$machine" "$1"
}

# rows_collect SECTION SUBJECT: from $work/out
rows_collect()
{
    tr -d '\r' <"$work/out" | awk -v section="$1" -v subject="$2" -v file="$work/what" -v unit_ns="$instruction_ns" '
        $1 == "ROW" && NF >= 6 {
            key = $2 "." $3
            if (section == "count")
                print "count", subject, key, "instructions", $5 / unit_ns
            else
                print "row", subject, key, "ns", $5
            what = $6
            for (i = 7; i <= NF; i++)
                what = what " " $i
            print "what", key, $4, what >>file
        }' >>"$data"
}

rows_measure()
{
    guest_measure "$1" "BENCH shell" "$images/cloud/vmlinuz" "$tools/rows" "$append_common bench.ms=$ms"
    rows_collect row "$1"
    grep -q '^BENCH end' "$work/out" || complain "$1" "the rows did not come to their end"
}

# How many instructions an operation takes: guest time, when guest time is the count of instructions.
rows_count()
{
    guest_measure "$1" "BENCH shell" "$images/cloud/vmlinuz" "$tools/rows" "$append_common bench.ms=$((ms / 5 + 1))" \
        --clock instructions
    rows_collect count "$1"
    grep -q '^BENCH end' "$work/out" || complain "$1" "the rows did not come to their end with --clock instructions"
}

rows_measure_native()
{
    mkdir -p "$work/tmp"
    {
        "$tools/bench64" --ms "$ms" --bin "$tools/bin" --tmp "$work/tmp"
        if [ -x "$tools/bench32" ] && "$tools/bench32" --ms 1 --only none >/dev/null 2>&1; then
            "$tools/bench32" --ms "$ms" --compute && "$tools/bench32" --ms "$ms" --only getppid
        else
            say "no native 32-bit rows: this host does not run 32-bit programs"
        fi
    } >"$work/out"
    rows_collect row native
}

# first_measure SUBJECT: from exec to the guest's first instruction
first_measure()
{
    for _ in 1 2 3; do
        guest_measure "$1" '!' "$tools/first.elf" "" ""
        if [ "$(field status "$result")" != 1 ] || [ "$(field marker_ns "$result")" = 0 ]; then
            complain "$1" "the least guest did not run"
            return
        fi
        record start "$1" first marker_ns "$(field marker_ns "$result")"
        record start "$1" first wall_ns "$(field wall_ns "$result")"
    done
}

# --- preparation ---

[ -x "$build/src/cli/ring3" ] || fail "$build/src/cli/ring3 is not built; run 'make'"
mkdir -p "$build/bench" || exit 1
if [ "${ROWS:-yes}" = yes ]; then
    fetched="cloud $kinds"
else
    fetched=$kinds
fi
# shellcheck disable=SC2086 # a list
scripts/guest-image.sh $fetched >&2 || exit 1
bench/image.sh "$tools" "$images" || exit 1

engines=
for engine in ${ENGINES:-$engines_known}; do
    if "$build/src/cli/ring3" engines | awk -v name="$engine" '
        /^[^ ]/ { current = $1 }
        /^ +usable/ && current == name { found = 1 }
        END { exit !found }'; then
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
record info guest "$(cat "$images/cloud/release" 2>/dev/null)"

# --- the runs: everything once, then everything again, so that a bad minute of the host hits all alike ---

run=1
while [ "$run" -le "$runs" ]; do
    for kind in $kinds; do
        say "run $run of $runs: boot $kind"
        [ -z "$qemu" ] || boot_measure_qemu "$kind"
        for engine in $engines; do
            boot_measure "$engine" "$kind"
        done
    done
    # The guest clock of microvm ticks at 250 Hz: too coarse for rows.
    rows_machine=q35
    [ ! -s "$work/tried" ] || rows_machine=$(sort -n "$work/tried" | sed -n 's/.* \(pc\|q35\)$/\1/p' | head -n 1)
    say "run $run of $runs: first instruction"
    [ -z "$qemu" ] || first_measure "qemu-${rows_machine:-q35}"
    for engine in $engines; do
        first_measure "$engine"
    done
    if [ "${ROWS:-yes}" = yes ]; then
        say "run $run of $runs: rows, natively"
        rows_measure_native
        [ -z "$qemu" ] || say "run $run of $runs: rows, QEMU"
        [ -z "$qemu" ] || rows_measure "qemu-${rows_machine:-q35}"
        for engine in $engines; do
            say "run $run of $runs: rows, $engine"
            rows_measure "$engine"
        done
    fi
    run=$((run + 1))
done
if [ "${ROWS:-yes}" = yes ]; then
    say "counting instructions"
    rows_count "${engines%% *}"
    sort -u "$work/what" >>"$data"
fi
record info load_end "$(cut -d' ' -f1 /proc/loadavg)"

awk -v engines="$engines" -v kinds="$kinds" -v runs="$runs" -v json="$out" -f bench/report.awk "$data" || exit 1
echo
echo "numbers: $out"
[ $failed = no ]
