#!/bin/bash
# Machines whose engine changes while they run, against the same machines on the interpreter alone:
#     switch.sh RING3 SWITCH_TEST DIRECTORY ENGINES [seeds [steps]]
# DIRECTORY has stress64.elf, stress32.elf, escape.elf and other guests. With the clock "instructions" what they print must be the
# same, line by line, whenever the engine changed. ENGINES are names, with commas; those that are not usable here are left
# out. Prints TAP.
ring3=$1 mover=$2 programs=$3 engines=$4 seeds=${5:-1} steps=${6:-600}
out=$(mktemp -d) || exit 99
trap 'rm -rf "$out"' EXIT
n=0

result()
{
    n=$((n + 1))
    if [ "$1" = 0 ]; then
        echo "ok $n - $2"
        return
    fi
    echo "not ok $n - $2"
    diff "$out/judge" "$out/tried" | head -n 20 | sed 's/^/# /'
    sed 's/^/# /' "$out/judge.errors" "$out/tried.errors" | head -n 40
}

# both PROGRAM LINE CLOCK EVERY-US SEED
both()
{
    timeout -k 5 300 "$ring3" run --engine interpret -m 64 --kernel "$programs/$1.elf" --append "$2" --serial null \
        --debugcon stdio --timeout 240 --clock instructions --no-reboot </dev/null >"$out/judge.all" 2>"$out/judge.errors"
    echo "status $?" >>"$out/judge.all"
    timeout -k 5 300 "$mover" --engines "$engines" --kernel "$programs/$1.elf" --append "$2" --clock "$3" \
        --every-us "$4" --seed "$5" --timeout 240 >"$out/tried.all" 2>"$out/tried.errors"
    local status=$?
    if [ $status = 77 ]; then
        echo "1..0 # SKIP fewer than two of $engines can run here"
        exit 0
    fi
    echo "status $status" >>"$out/tried.all"
    grep -v '^# ' "$out/judge.all" >"$out/judge"
    grep -v '^# ' "$out/tried.all" >"$out/tried"
    changes=$(sed -n 's/^switch_test: \([0-9]*\) changes.*/\1/p' "$out/tried.errors")
    [ "${changes:-0}" -ge 1 ] && cmp -s "$out/judge" "$out/tried" && grep -q '^ok' "$out/judge"
    result $? "$1 ($2) clock $3, ${changes:-no} changes among $engines"
}

for ((seed = 1; seed <= seeds; seed++)); do
    for program in stress64 stress32 escape; do
        for clock in instructions host; do
            both $program "seed=$seed steps=$steps" $clock 3000 "$seed"
        done
    done
done
for program in fpu smc64 paging64 tasks v86 interrupts; do
    both $program "" instructions 20 7
done
echo "1..$n"
