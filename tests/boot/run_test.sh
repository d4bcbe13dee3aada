#!/bin/bash
# `make run` without a terminal: the guest gives a tour of itself and the exit status is 0; and how other endings show.
#
# usage: run_test.sh RING3 BUILD-DIRECTORY
set -u
ring3=$(realpath "$1")
build=$(realpath "$2")
cd "$(dirname "$0")/../.." || exit 99
images=${RING3_IMAGES:-.cache/guest}/cloud
log=$(mktemp) || exit 99
trap 'rm -f "$log"' EXIT
failures=0

fail()
{
    echo "FAILED: $*"
    tail -n 30 "$log" | cut -c1-200
    failures=$((failures + 1))
}

[ -s "$images/vmlinuz" ] || { echo "no image: scripts/guest-image.sh cloud makes it"; exit 77; }

# boot STATUS APPEND OPTION...
boot()
{
    local expected=$1 append=$2 status
    shift 2
    timeout -k 5 200 "$ring3" run -m 256M --kernel "$images/vmlinuz" --initrd "$images/initrd" \
        --append "console=ttyS0 quiet $append" "$@" </dev/null >"$log" 2>&1
    status=$?
    [ $status = "$expected" ] || fail "exit status $status instead of $expected with '$append' $*"
}

if [ -x "$build/ring3" ]; then
    BUILD=$build timeout -k 5 200 scripts/run.sh cloud </dev/null >"$log" 2>&1 || fail "scripts/run.sh: exit status $?"
    for line in 'A tour of this machine' 'Linux ring3' 'kvm-clock' 'PCI bus' '8086:1237'; do
        grep -q "$line" "$log" || fail "the tour does not say '$line'"
    done
fi
# A kernel without an init panics; with panic=-1 it then resets the machine.
boot 0 "panic=-1 rdinit=/nonexistent root=/dev/ram0" --no-reboot
grep -q 'Kernel panic' "$log" || fail "no panic without an init"
# One that stays where it is ends by the time limit.
boot 8 "rdinit=/nonexistent root=/dev/ram0 panic=0" --timeout 20
exit $((failures != 0))
