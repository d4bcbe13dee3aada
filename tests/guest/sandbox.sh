#!/bin/bash
# Whether guest code that runs on the host's processor stays in: sandbox.sh RING3 sandbox.elf. With the patches a guest cannot even
# tell; without them it can get into 64-bit code and make the host's system calls, and must be stopped there. All of it also as
# a user without rights, where that can be tried. Prints TAP.
ring3=$1 program=$2
. "$(dirname "$0")/usable.sh"
usable_or_skip "$ring3" trap
out=$(mktemp -d) || exit 99
chmod 755 "$out"
trap 'rm -rf "$out"' EXIT
n=0

verdict()
{
    n=$((n + 1))
    if [ "$2" = 0 ]; then echo "ok $n - $1"; else echo "not ok $n - $1"; sed 's/^/# /' "$out"/text "$out"/errors | tail -20; fi
}

guest() # OPTION...
{
    timeout -k 5 60 $as "$ring3" run --engine trap -m 64 --kernel "$program" --serial null --debugcon stdio --no-reboot \
        --timeout 50 --stat=json "$@" </dev/null >"$out/text" 2>"$out/errors"
    status=$?
}

count()
{
    sed -n "s/^ *\"$1\": \([0-9]*\),*$/\1/p" "$out/errors" | head -1
}

attempt() # whom
{
    guest
    [ $status = 1 ] && ! grep -q '^not ok' "$out/text"
    verdict "$1: a guest cannot tell where it is" $?
    [ "$(count stray)" = 0 ]
    verdict "$1: nothing strays" $?
    guest --append escape
    [ $status = 1 ] && [ "$(count stray)" = 0 ]
    verdict "$1: no way into 64-bit code" $?
    guest --append escape --patch off
    [ $status = 1 ] && [ "$(count stray)" -gt 0 ]
    verdict "$1: without patches there is one, and it is closed behind it" $?
    grep -a -q -v -e '^ok' -e '^1\.\.' "$out/text"
    [ $? = 1 ]
    verdict "$1: nothing was written by a system call of the host's" $?
}

# Somebody kills sandboxes: the guest ends as after a triple fault, or goes on if the sandbox had none of its registers.
killed()
{
    "$ring3" run --engine trap -m 64 --kernel "$(dirname "$program")/stress32.elf" --append 'seed=1 steps=1000000' \
        --serial null --debugcon null --no-reboot --timeout 4 </dev/null >"$out/text" 2>"$out/errors" &
    local pid=$! processes=0 child
    sleep 1
    for child in $(cat /proc/$pid/task/*/children); do
        processes=$((processes + 1))
        [ $((processes % 2)) = "$1" ] && kill -9 "$child"
    done
    wait $pid
    status=$?
    [ $processes -gt 1 ] && { [ $status = 4 ] || [ $status = 8 ]; }
    verdict "half of $processes processes are killed: status $status" $?
}

as=""
killed 0
killed 1
attempt "$(id -un)"
if [ "$(id -u)" = 0 ] && setpriv --reuid=65534 --regid=65534 --clear-groups test -r "$program" -a -x "$ring3"; then
    as="setpriv --reuid=65534 --regid=65534 --clear-groups"
    attempt nobody
fi
echo "1..$n"
