#!/bin/sh
# Runs one of guest/'s programs and passes its TAP on: run.sh RING3 ENGINE PROGRAM [option...].
# The program must end through isa-debug-exit with 0: process status 1. Anything else is said as TAP says it.
ring3=$1 engine=$2 program=$3
shift 3
errors=$(mktemp) || exit 99
trap 'rm -f "$errors"' EXIT
"$ring3" run --engine "$engine" -m 64 --kernel "$program" --serial null --debugcon stdio --timeout 60 "$@" \
    </dev/null 2>"$errors"
status=$?
sed 's/^/# /' "$errors"
case $status in
1 | 3) exit 0 ;; # 3: failed checks, which the lines say
esac
echo "Bail out! ring3 ended with status $status"
