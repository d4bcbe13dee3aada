#!/bin/bash
# Builds the fuzz targets with clang, the sanitizers and coverage, and runs them.
#
#   fuzz.sh                       all targets in turn, ten minutes each, until stopped or one finds something
#   fuzz.sh TARGET                one target until stopped
#   fuzz.sh --seconds N           each target once for N seconds: what `make test` does
#
# What a target learns is kept in .cache/fuzz/TARGET; an input that breaks something is left in .cache/fuzz/found with the
# command to run it again. Exit status 0 when nothing was found.
set -u
cd "$(dirname "$0")/.." || exit 1
build=${BUILD:-build}-fuzz
corpus=.cache/fuzz
seconds=0
target=
case ${1:-} in
--seconds) seconds=${2:?seconds} ;;
*) target=${1:-} ;;
esac

command -v clang >/dev/null || { echo "fuzz: clang is missing; run 'make setup'" >&2; exit 1; }
if [ ! -f "$build/build.ninja" ]; then
    CC=clang meson setup "$build" -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false -Doptimization=1 \
        "-Dc_args=['-fsanitize=fuzzer-no-link', '-fno-sanitize-recover=undefined']" >"/tmp/ring3-fuzz.$$" 2>&1 </dev/null || {
        cat "/tmp/ring3-fuzz.$$" >&2
        rm -f "/tmp/ring3-fuzz.$$"
        exit 1
    }
    rm -f "/tmp/ring3-fuzz.$$"
fi
names=()
for source in tests/fuzz/*_fuzz.c; do
    name=$(basename "$source" .c)
    [ -z "$target" ] || [ "$target" = "$name" ] || continue
    names+=("$name")
done
[ ${#names[@]} -gt 0 ] || { echo "fuzz: there is no target $target" >&2; exit 1; }
ninja -C "$build" -j "${JOBS:-2}" --quiet "${names[@]/#/tests/fuzz/}" || exit 1

# A few inputs to begin with: libFuzzer finds the rest by itself.
seed()
{
    mkdir -p "$corpus/$1" "$corpus/found"
    [ -e "$corpus/$1/seed-0" ] && return
    for i in 0 1 2 3 4 5; do
        awk -v n=$i 'BEGIN { srand(n + 1); for (i = 0; i < 512; i++) printf "%c", int(rand() * 128) }' >"$corpus/$1/seed-$i"
    done
    case $1 in
    decompress_fuzz)
        for tool in gzip zstd xz lz4 bzip2; do
            command -v $tool >/dev/null && head -c 4096 scripts/fuzz.sh | $tool >"$corpus/$1/seed-$tool" 2>/dev/null
        done
        ;;
    esac
}

# run TARGET SECONDS
run()
{
    local leaks options=(-max_total_time="$2" -timeout=20 -rss_limit_mb=3000 -max_len=8192 -print_final_stats=1
        -artifact_prefix="$corpus/found/$1-")
    [ "$2" = 0 ] && options=("${options[@]:1}")
    # Those keep a machine from input to input, and what it owns hangs off memory that the leak checker does not look into.
    case $1 in
    gdb_fuzz | monitor_fuzz | interpret_fuzz | translate_fuzz) leaks=0 ;;
    *) leaks=1 ;;
    esac
    export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=$leaks
    seed "$1"
    if [ "$seconds" = 0 ]; then
        "$build/tests/fuzz/$1" "${options[@]}" "$corpus/$1"
    else
        "$build/tests/fuzz/$1" "${options[@]}" "$corpus/$1" >"$corpus/$1.log" 2>&1
    fi
    local status=$?
    if [ $status != 0 ]; then
        [ "$seconds" = 0 ] || tail -n 60 "$corpus/$1.log"
        echo "fuzz: $1 found something; again with: $build/tests/fuzz/$1 $corpus/found/$1-..."
        return 1
    fi
    [ "$seconds" = 0 ] || echo "fuzz: $1: $(sed -n 's/^stat::number_of_executed_units: *//p' "$corpus/$1.log") inputs in $2 s"
}

if [ "$seconds" != 0 ]; then
    failed=0
    for name in "${names[@]}"; do
        run "$name" "$seconds" || failed=1
    done
    exit $failed
fi
if [ -n "$target" ]; then
    run "$target" 0
    exit
fi
while true; do
    for name in "${names[@]}"; do
        run "$name" 600 || exit 1
    done
done
