#!/bin/bash
# Everything that says whether ring3 works: what `make test` runs.
#
#   test.sh         all of it
#   test.sh asan    only the sanitized part
#   test.sh long    whole systems that take minutes each: `make test-long`
#
# Order: quick things first, whole kernels and fuzzing last. The last line counts; the exit status is 0 only if all passed.
# What failed is said once more just above it: the names of the tests, and the last lines that each of them printed.
set -u
cd "$(dirname "$0")/.." || exit 1
build=${BUILD:-build}
what=${1:-all}
passed=0 failed=0 skipped=0 cases=0
notes=()
tail_lines=60
started=$SECONDS
failures=$(mktemp) || exit 1
trap 'rm -f "$failures"' EXIT

heading() { echo; echo "== $* =="; }

# count LOG SUMMARY: adds up what `meson test` says at its end, and the single cmocka and TAP cases in its log.
count()
{
    local ok bad skip
    ok=$(sed -n 's/^Ok: *\([0-9]*\).*/\1/p' "$2" | tail -n 1)
    skip=$(sed -n 's/^Skipped: *\([0-9]*\).*/\1/p' "$2" | tail -n 1)
    bad=$(awk -F: '/^(Fail|Unexpected Pass|Timeout): / { n += $2 } END { print n + 0 }' "$2")
    passed=$((passed + ${ok:-0}))
    skipped=$((skipped + ${skip:-0}))
    failed=$((failed + bad))
    [ -f "$1" ] && cases=$((cases + $(grep -cE '^(\[       OK \]|ok [0-9]+)' "$1")))
}

# remember SUITE RECORDS: the tests of meson's records (a JSON object in each line) that failed, with the end of what they
# printed, for the last screen.
remember()
{
    [ -f "$2" ] && python3 - "$1" "$2" "$tail_lines" >>"$failures" <<'EOF'
import json, sys
suite, records, lines = sys.argv[1], sys.argv[2], int(sys.argv[3])
for record in open(records, encoding='utf-8', errors='replace'):
    test = json.loads(record)
    if test['result'] in ('OK', 'EXPECTEDFAIL', 'SKIP'):
        continue
    print(f"\n-- {suite}: {test['name']}: {test['result']} (status {test['returncode']}, {test['duration']:.1f} s)")
    text = (test.get('stdout') or '') + (test.get('stderr') or '')
    text = text.rstrip().split('\n')
    early = [line for line in text[:-lines] if line.startswith('not ok')] # TAP: the end need not be what went wrong
    print('\n'.join(early[:20] + text[-lines:]))
EOF
}

# suite NAME BUILD MESON-TEST-ARGUMENT...
suite()
{
    local name=$1 dir=$2 out status
    shift 2
    heading "$name"
    out=$(mktemp) || exit 1
    # A cold cache of one's own is slow, but a hanging test is stopped by its own limit, not by this script.
    meson test -C "$dir" --no-rebuild --print-errorlogs --logbase "$name" "$@" </dev/null 2>&1 | tee "$out" | grep -v '^$'
    status=${PIPESTATUS[0]}
    count "$dir/meson-logs/$name.txt" "$out"
    if [ "$status" != 0 ] && ! grep -qE '^(Fail|Timeout): *[1-9]' "$out"; then
        failed=$((failed + 1))
    fi
    if [ "$status" != 0 ]; then
        notes+=("$name failed: see $dir/meson-logs/$name.txt")
        remember "$name" "$dir/meson-logs/$name.json"
    fi
    rm -f "$out"
}

# step NAME COMMAND...: one more test
step()
{
    local name=$1 out status
    shift
    heading "$name"
    out=$(mktemp) || exit 1
    "$@" 2>&1 | tee "$out"
    status=${PIPESTATUS[0]}
    if [ "$status" = 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        notes+=("$name failed")
        { echo; echo "-- $name: status $status"; tail -n "$tail_lines" "$out"; } >>"$failures"
    fi
    rm -f "$out"
}

build_or_stop()
{
    scripts/build.sh "$@" || { echo "make test: $1 does not build"; exit 1; }
}

sanitized()
{
    export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0:allocator_may_return_null=1
    export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
    heading "sanitized build"
    MESON_OPTIONS='-Db_sanitize=address,undefined -Doptimization=1' build_or_stop "$build-asan"
    suite sanitized "$build-asan" --suite unit --suite isa --suite guest
}

if [ "$what" = asan ]; then
    sanitized
elif [ "$what" = long ]; then
    heading "build"
    build_or_stop "$build"
    step images scripts/system-image.sh all
    suite systems "$build" --suite systems
    suite long "$build" --suite long
else
    heading "build"
    build_or_stop "$build"
    suite unit "$build" --suite unit --suite cli
    suite isa "$build" --suite isa
    suite guest "$build" --suite guest
    sanitized
    step fuzz scripts/fuzz.sh --seconds 10
    step images scripts/guest-image.sh all virtio
    suite boot "$build" --suite boot
    step images scripts/system-image.sh memtest grub
    suite systems "$build" --suite systems
fi

[ -s "$failures" ] && { heading "what failed"; cat "$failures"; }
echo
for note in "${notes[@]}"; do
    echo "$note"
done
echo "make test: $((passed + failed + skipped)) tests ($cases cases within them): $passed passed, $failed failed," \
    "$skipped skipped, in $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s"
[ $failed = 0 ] && [ $passed -gt 0 ]
