#!/bin/bash
# Repeatable runs are the same on every engine: clock.sh RING3 ENGINE PROGRAM... runs each program with guest time counted in
# instructions, on the interpreter and on ENGINE, mixed with interpretation and translated at first sight. The output must be
# the same byte for byte, and so must the number of instructions and the guest's time. Programs for several processors (smp*)
# get three. Prints TAP.
ring3=$1 engine=$2
shift 2
out=$(mktemp -d) || exit 99
trap 'rm -rf "$out"' EXIT
n=0

# once ENGINE PROGRAM FILE [option...]
once()
{
    local engine=$1 program=$2 file=$3
    shift 3
    case $(basename "$program") in smp*) set -- "$@" --cpus 3 --append "cpus=3 rounds=100" ;; esac
    timeout -k 5 120 "$ring3" run --engine "$engine" -m 64 --kernel "$program" --append "seed=1 steps=200" --serial null \
        --debugcon stdio --timeout 100 --clock instructions --no-reboot --stat="json:$file.stat" "$@" \
        </dev/null >"$file" 2>&1
    {
        echo "status $?"
        grep -o -e '"instructions": *[0-9]*' -e '"guest_ns": *[0-9]*' "$file.stat" | awk '!seen[$1]++' # the machine's come first
    } >>"$file"
}

for program; do
    name=$(basename "$program" .elf)
    once interpret "$program" "$out/judge"
    for heat in 4 0; do
        n=$((n + 1))
        once "$engine" "$program" "$out/tried" --heat $heat
        if cmp -s "$out/judge" "$out/tried" && grep -q instructions "$out/judge"; then
            echo "ok $n - $name, heat $heat"
        else
            echo "not ok $n - $name, heat $heat"
            diff "$out/judge" "$out/tried" | head -n 20 | sed 's/^/# /'
        fi
    done
done
echo "1..$n"
