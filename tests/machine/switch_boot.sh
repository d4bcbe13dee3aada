#!/bin/bash
# Boots one of Debian's kernels while its engine changes, five times a second on average, and judges its user space:
#     switch_boot.sh SWITCH_TEST KIND ENGINES [OPTION...]
# The guest's own checks (guest/initrd/init, ring3.test) must come out as they do on one engine. Exit status 77 without an image.
mover=$(realpath "$1") kind=$2 engines=$3
shift 3
cd "$(dirname "$0")/../.." || exit 99
images=${RING3_IMAGES:-.cache/guest}/$kind
log=$(mktemp) || exit 99
trap 'rm -f "$log" "$log.err"' EXIT
if [ ! -s "$images/vmlinuz" ] || [ ! -s "$images/initrd" ]; then
    echo "no image of $kind: scripts/guest-image.sh $kind makes it"
    exit 77
fi
timeout -k 5 280 "$mover" --kernel "$images/vmlinuz" --initrd "$images/initrd" --memory 512 --serial --engines "$engines" \
    --append "console=ttyS0 quiet panic=-1 oops=panic ring3.test" --every-us 200000 "$@" >"$log" 2>"$log.err"
status=$?
[ $status = 77 ] && exit 77
failures=0

fail()
{
    echo "FAILED: $*"
    failures=$((failures + 1))
}

# same KEY EXPECTED
same()
{
    local value
    value=$(sed -n "s/^CHECK $1=//p" "$log" | tr -d '\r' | head -n 1)
    [ "$value" = "$2" ] || fail "$1 is '$value', not '$2'"
}

[ $status = 0 ] || fail "exit status $status instead of 0"
grep -q '^CHECK done' "$log" || fail "the guest did not come to the end of its checks"
grep -q '^CHECK complaint=' "$log" && fail "the kernel complained: $(sed -n 's/^CHECK complaint=//p' "$log")"
same pi 3.1415926535898
same root2 1.414213562373095
same digest f6351f5ead9a700e34275480b3856ea738122a7c57bdeb744a631251c069587a
same roundtrip "$(seq 1 5000 | md5sum | cut -d' ' -f1)"
same pipes 55
same signal 139
changes=$(sed -n 's/^switch_test: \([0-9]*\) changes.*/\1/p' "$log.err")
[ "${changes:-0}" -ge 3 ] || fail "the engine changed ${changes:-not even} times only"
if [ $failures != 0 ]; then
    tail -n 40 "$log" "$log.err" | tr -d '\r' | cut -c1-200
    exit 1
fi
cat "$log.err"
