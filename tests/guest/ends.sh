#!/bin/sh
# Every way to end, with the status and the words that must come of it: ends.sh RING3 ENGINE ends.elf. Prints TAP.
ring3=$1 engine=$2 program=$3
out=$(mktemp -d) || exit 99
trap 'rm -rf "$out"' EXIT
n=0
. "$(dirname "$0")/usable.sh"
usable_or_skip "$ring3" "$engine"

# check WHAT STATUS PATTERN COMMAND-LINE [option...]: PATTERN must be in what was printed; - for nothing in particular.
check()
{
    what=$1 expected=$2 pattern=$3 line=$4
    shift 4
    n=$((n + 1))
    "$ring3" run --engine "$engine" -m 64 --kernel "$program" --append "$line" --serial null --debugcon stdio \
        --timeout 30 "$@" </dev/null >"$out/text" 2>&1
    status=$?
    if [ "$status" = "$expected" ] && { [ "$pattern" = - ] || grep -q -e "$pattern" "$out/text"; }; then
        echo "ok $n - $what"
    else
        echo "not ok $n - $what"
        echo "# status $status, expected $expected; expected to find: $pattern"
        sed 's/^/# /' "$out/text"
    fi
}

# boots WHAT METHOD: three boots without --no-reboot, one with it.
boots()
{
    check "$1 starts the guest again, twice" 1 '- boot 3$' "$2"
    n=$((n + 1))
    if grep -q '^not ok' "$out/text"; then
        echo "not ok $n - $1: all is as after power-on"
        sed 's/^/# /' "$out/text"
    else
        echo "ok $n - $1: all is as after power-on"
    fi
    check "$1 with --no-reboot ends the run" 0 '- boot 1$' "$2" --no-reboot
}

check 'isa-debug-exit 0' 1 - exit=0
check 'isa-debug-exit 21' 43 - exit=21
check 'isa-debug-exit 255: eight bits are left' 255 - exit=255
check 'a triple fault is status 4' 4 'triple fault' triple
check 'a triple fault without a stack' 4 'triple fault' shutdown-sp
check '... and what led there is printed' 4 '#DF' shutdown-sp
check 'a triple fault is not a reset' 4 'triple fault' triple --no-reboot
check 'pvpanic is status 6' 6 - panic
check 'ACPI power-off is status 0' 0 - poweroff
check 'PM1a without SLP_EN does nothing' 0 - acpi
check 'a guest that spins ends by --timeout' 8 'timeout' spin --timeout 0.5
check 'a guest that halts for ever ends by --timeout' 8 'timeout' halt --timeout 0.5
check 'a missing kernel is status 2' 2 'cannot open' exit=0 --kernel /nonexistent/kernel
boots 'port CF9h' cf9
boots 'port CF9h, soft' cf9-soft
boots 'the keyboard controller' kbc
boots 'port 92h' port92
echo "1..$n"
