#!/bin/sh
# Runs one of guest/'s programs and passes its TAP on: run.sh RING3 ENGINE PROGRAM [option...].
# The program must print a plan and end through isa-debug-exit with 0 (process status 1), or with 1 (status 3) when its lines
# say what failed. Anything else, such as a sanitizer's report, is a bail-out.
ring3=$1 engine=$2 program=$3
shift 3
. "$(dirname "$0")/usable.sh"
usable_or_skip "$ring3" "$engine"
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
"$ring3" run --engine "$engine" -m 64 --kernel "$program" --serial null --debugcon stdio --timeout 60 "$@" \
    </dev/null >"$work/tap" 2>"$work/errors"
status=$?
sed -i '/^ring3: engine kvm: /d' "$work/errors" # what it says where it emulates
cat "$work/tap"
sed 's/^/# /' "$work/errors"
if ! grep -q '^1\.\.' "$work/tap" || [ -s "$work/errors" ] || { [ "$status" != 1 ] && [ "$status" != 3 ]; }; then
    echo "Bail out! ring3 ended with status $status"
fi
