#!/bin/bash
# The stress programs and escape on an engine and on the interpreter, line by line: stress.sh RING3 ENGINE DIRECTORY [seeds [steps]].
# DIRECTORY has stress64.elf, stress32.elf and escape.elf. The clock counts instructions, so a seed makes the same run everywhere; the first
# step whose sum differs is looked for by a second run that prints each. For the interpreter itself the other side is a run
# with the host's clock: no sum depends on when interrupts come. Prints TAP.
#
# FIRST_SEED (1) says where the seeds begin; STRESS_OPTIONS are further options for ring3.
ring3=$1 engine=$2 programs=$3 seeds=${4:-4} steps=${5:-1500}
first=${FIRST_SEED:-1}
. "$(dirname "$0")/usable.sh"
usable_or_skip "$ring3" "$engine"
out=$(mktemp -d) || exit 99
trap 'rm -rf "$out"' EXIT
n=0

# once ENGINE CLOCK PROGRAM LINE FILE
once()
{
    # shellcheck disable=SC2086
    timeout -k 5 300 "$ring3" run --engine "$1" -m 64 --kernel "$programs/$3.elf" --append "$4" --serial null \
        --debugcon stdio --timeout 240 --clock "$2" --no-reboot $STRESS_OPTIONS </dev/null >"$5" 2>"$5.errors"
    echo "status $?" >>"$5"
    grep -v '^# ' "$5" >"$5.compared"
}

for ((seed = first; seed < first + seeds; seed++)); do
    for program in stress64 stress32 escape; do
        n=$((n + 1))
        clock=instructions
        { [ "$engine" = interpret ] || [ "$engine" = trap ]; } && clock=host
        line="seed=$seed steps=$steps"
        once interpret instructions $program "$line" "$out/judge"
        once "$engine" $clock $program "$line" "$out/tried"
        if cmp -s "$out/judge.compared" "$out/tried.compared" && grep -q '^ok' "$out/judge" && [ ! -s "$out/tried.errors" ]; then
            echo "ok $n - $program $line"
            continue
        fi
        echo "not ok $n - $program $line"
        once interpret instructions $program "$line trace=1" "$out/judge"
        once "$engine" $clock $program "$line trace=1" "$out/tried"
        diff "$out/judge.compared" "$out/tried.compared" >"$out/difference"
        for side in '<' '>'; do
            grep "^$side" "$out/difference" | head -n 2 | sed 's/^/# /'
        done
        sed 's/^/# /' "$out/judge.errors" "$out/tried.errors" | head -n 60
    done
done
echo "1..$n"
