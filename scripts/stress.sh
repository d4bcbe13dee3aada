#!/bin/bash
# Random seeds of the stress programs on every engine, against the interpreter, until the time is over.
#
# usage: stress.sh [SECONDS [ENGINE...]]      60 seconds and all engines that are usable here, unless told otherwise
#
# Reports every difference with its seed; the exit status is 0 if there was none.
set -u
cd "$(dirname "$0")/.." || exit 1
build=${BUILD:-build}
seconds=${1:-60}
shift
engines=("$@")
scripts/build.sh "$build" || exit 1
programs=$build/guest
if [ ${#engines[@]} = 0 ]; then
    mapfile -t engines < <("$build/ring3" engines | awk '/^[a-z]/ { name = $1 } /^ +usable/ { print name }')
fi
echo "stress: engines ${engines[*]}, $seconds s"
started=$SECONDS seeds=0 failed=0 told=0
while [ $((SECONDS - started)) -lt "$seconds" ]; do
    seed=$((RANDOM * 32768 + RANDOM + 1))
    for engine in "${engines[@]}"; do
        FIRST_SEED=$seed tests/guest/stress.sh "$build/ring3" "$engine" "$programs" 1 4000 >"/tmp/ring3-stress.$$" 2>&1
        if grep -q '^not ok' "/tmp/ring3-stress.$$" || ! grep -q '^ok' "/tmp/ring3-stress.$$"; then
            failed=$((failed + 1))
            echo "stress: $engine, seed $seed:"
            cat "/tmp/ring3-stress.$$"
        fi
    done
    seeds=$((seeds + 1))
    if [ $((SECONDS - told)) -ge 30 ]; then
        told=$SECONDS
        echo "stress: $seeds seeds in $((SECONDS - started)) s, $failed differences"
    fi
done
rm -f "/tmp/ring3-stress.$$"
echo "stress: $seeds seeds in $((SECONDS - started)) s, $failed differences"
[ $failed = 0 ]
