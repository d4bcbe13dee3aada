#!/bin/bash
# Boots the same guest many times, two at a time, to find what happens only sometimes.
#
# usage: boot-many.sh COUNT [KIND [ENGINE]]       KIND: cloud (the default), amd64, 686
#
# Prints a line a boot and the log of each that fails; the exit status says whether one did.
set -u
cd "$(dirname "$0")/.." || exit 1
count=${1:?usage: boot-many.sh COUNT [KIND [ENGINE]]}
kind=${2:-cloud}
engine=${3:-auto}
build=${BUILD:-build}
parallel=${JOBS:-2}
[ -x "$build/ring3" ] || { echo "boot-many: $build/ring3 is not built; run 'make'" >&2; exit 1; }
scripts/guest-image.sh "$kind" || exit 1
logs=$(mktemp -d) || exit 1
trap 'rm -rf "$logs"' EXIT

one()
{
    if tests/boot/boot_test.sh "$build/ring3" "$kind" "$engine" >"$logs/$1" 2>&1; then
        echo "boot $1: $(tail -n 1 "$logs/$1")"
    else
        echo "boot $1: FAILED"
        sed 's/^/    /' "$logs/$1"
        : >"$logs/$1.failed"
    fi
}

for ((i = 1; i <= count; i++)); do
    while [ "$(jobs -rp | wc -l)" -ge "$parallel" ]; do
        wait -n
    done
    one "$i" &
done
wait
failed=$(find "$logs" -name '*.failed' | wc -l)
echo "$count boots of $kind, $failed failed"
[ "$failed" = 0 ]
