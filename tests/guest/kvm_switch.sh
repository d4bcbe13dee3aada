#!/bin/sh
# Machines that are moved between kvm and the other engines while they run: kvm_switch.sh RING3 SWITCH_TEST smc32.elf clocks.elf.
# They begin on kvm: a host that cannot scale the TSC can only run machines that have known its frequency from the start. What
# they print must be what they print on the interpreter, and the clocks must agree throughout. Prints TAP.
ring3=$1 mover=$2 smc=$3 clocks=$4
out=$(mktemp -d) || exit 99
trap 'rm -rf "$out"' EXIT
said=$("$ring3" engines | grep -A1 '^kvm ' | tail -n 1)
line=
case $said in
*'not usable here: '*)
    echo "1..0 # SKIP ${said#*not usable here: }"
    exit 0
    ;;
*'usable, but '*) line=fixed-tsc ;;
esac
n=0
for engines in kvm,interpret kvm,translate kvm,interpret,translate,trap; do
    for program in "$smc" "$clocks"; do
        n=$((n + 1))
        what="$(basename "$program" .elf) among $engines"
        if [ "$program" = "$clocks" ] && [ -n "$line" ]; then
            echo "ok $n - $what # SKIP this back end ignores the TSC's offset: time passes in the guest while a machine is moved"
            continue
        fi
        "$ring3" run --engine interpret -m 64 --kernel "$program" --append "$line" --serial null --debugcon stdio --timeout 60 \
            </dev/null >"$out/judge" 2>/dev/null
        timeout -k 5 120 "$mover" --any-back-end --engines "$engines" --kernel "$program" --append "$line" --every-us 2000 \
            --seed $n --timeout 100 >"$out/tried" 2>"$out/errors"
        status=$?
        changes=$(sed -n 's/^switch_test: \([0-9]*\) changes.*/\1/p' "$out/errors")
        if [ $status = 1 ] && [ "${changes:-0}" -ge 1 ] && cmp -s "$out/judge" "$out/tried"; then
            echo "ok $n - $what: $changes changes"
        else
            echo "not ok $n - $what: status $status, ${changes:-no} changes"
            diff "$out/judge" "$out/tried" | head -n 20 | sed 's/^/# /'
            sed 's/^/# /' "$out/errors"
        fi
    done
done
echo "1..$n"
