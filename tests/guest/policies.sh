#!/bin/bash
# The engine trap under every shadow policy, and with each way to run the guest's kernel: policies.sh RING3 DIRECTORY. The programs
# must pass, and stress32 must print the interpreter's sums. Prints TAP; what each cost is in its comments.
ring3=$1 programs=$2
. "$(dirname "$0")/usable.sh"
usable_or_skip "$ring3" trap
out=$(mktemp -d) || exit 99
trap 'rm -rf "$out"' EXIT
n=0

verdict()
{
    n=$((n + 1))
    if [ "$2" = 0 ]; then echo "ok $n - $1"; else echo "not ok $n - $1"; sed 's/^/# /' "$out/text" | tail -20; fi
}

# guest PROGRAM LINE OPTION...: $out/text is what it printed, $out/stat the counters. Sets status.
guest()
{
    local program=$1 line=$2
    shift 2
    timeout -k 5 120 "$ring3" run -m 64 --kernel "$programs/$program.elf" --append "$line" --serial null --debugcon stdio \
        --no-reboot --timeout 110 --stat=json:"$out/stat" "$@" </dev/null >"$out/text" 2>&1
    status=$?
}

count()
{
    sed -n "s/^ *\"$1\": \([0-9]*\),*$/\1/p" "$out/stat" | head -1
}

line="seed=3 steps=120"
guest stress32 "$line" --engine interpret
grep -v '^# ' "$out/text" >"$out/judge"
grep -q '^STRESS end' "$out/judge"
verdict "stress32 on the interpreter" $?
for policy in single ondemand tagged proactive; do
    for program in paging32 gates32 tasks smc32; do
        guest $program "" --engine trap --shadow $policy
        [ $status = 1 ] && grep -q '^1\.\.' "$out/text" && ! grep -q '^not ok' "$out/text"
        verdict "$program, $policy" $?
    done
    guest stress32 "$line" --engine trap --shadow $policy
    grep -v '^# ' "$out/text" >"$out/tried"
    cmp -s "$out/judge" "$out/tried"
    verdict "stress32, $policy" $?
    echo "#   resumes $(count resumes) maps $(count maps) unmaps $(count unmaps) commits $(count commits) clears $(count clears)"
done
for kernel in translate interpret; do
    for program in stress32 tasks; do
        guest $program "$line" --engine trap --trap-kernel $kernel
        grep -v '^# ' "$out/text" >"$out/tried"
        if [ $program = stress32 ]; then cmp -s "$out/judge" "$out/tried"; else [ $status = 1 ]; fi
        verdict "$program, kernel by $kernel" $?
    done
done
echo "1..$n"
