#!/bin/bash
# gdb itself debugs guest/debuggee.c: gdb_test.sh RING3 ENGINE PROGRAM 32|64 [option...]. Prints TAP.
#
# gdb says `CHECK name value` for what it sees; each is compared with what it must be. The guest checks on its side that it
# notices nothing.
ring3=$1 engine=$2 program=$3 bits=$4
shift 4
. "$(dirname "$0")/../guest/usable.sh"
command -v gdb >/dev/null || { echo "1..0 # SKIP gdb is not installed"; exit 0; }
usable_or_skip "$ring3" "$engine"
case " $* " in *" --cpus 2 "*) cpus=2 ;; *) cpus=1 ;; esac
out=$(mktemp -d) || exit 99
machine=
trap '[ -n "$machine" ] && kill "$machine" 2>/dev/null; rm -rf "$out"' EXIT
own=
[ "$engine" = kvm ] && own=own=off
n=0 arch=auto pc='$rip' ax='$rax'
[ "$bits" = 32 ] && arch=i386 pc='$eip' ax='$eax'

# Over TCP with --clock instructions, else over a Unix socket. A port may be somebody else's.
start()
{
    timeout 100 "$ring3" run --engine "$engine" -m 64 --kernel "$program" --append "wait cpus=$cpus $own" --serial null \
        --debugcon file:"$out/tap" --gdb "$to" --gdb-arch $arch -S "$@" </dev/null >"$out/errors" 2>&1 &
    machine=$!
    for _ in $(seq 300); do
        [ -S "$out/gdb" ] && return
        case $to in tcp*) grep -q ":$(printf %04X $port) [0-9:]* 0A " /proc/net/tcp && return ;; esac
        kill -0 $machine 2>/dev/null || return 1
        sleep 0.1
    done
}
case " $* " in
*' --clock instructions '*)
    for try in 1 2 3 4 5; do
        port=$((20000 + (RANDOM + $$) % 20000)) to=tcp:127.0.0.1:$port target=127.0.0.1:$port
        start "$@" && break
    done
    ;;
*)
    to=unix:$out/gdb target=$out/gdb
    start "$@"
    ;;
esac

# step LABEL NAME: one instruction; must come to LABEL
steps() { echo "stepi"; echo "printf \"CHECK $2 %d\\n\", $pc == (unsigned long)&$1"; }
{
    cat <<END
set confirm off
set pagination off
set remotetimeout 30
set architecture $([ "$bits" = 32 ] && echo i386 || echo i386:x86-64)
target remote $target
printf "CHECK start %d\n", $pc == (unsigned long)&_start
printf "CHECK cr0_pe %d\n", \$cr0 & 1
# Ctrl-C, while it runs
shell (sleep 3; kill -INT \$PPID) &
continue
printf "CHECK interrupted %d\n", spins[0] != 0 && !go_on
set var go_on = 1
tbreak ready
continue
printf "CHECK ready %d\n", $pc == (unsigned long)&ready
# breakpoints: software, hardware, with a condition, both hit in turn
break called if n == 3
hbreak asks
continue
printf "CHECK condition n=%d watched=%d\n", n, watched
backtrace 2
# watchpoints, seen after the instruction
delete 2
watch watched
continue
printf "CHECK watch %d\n", watched
delete 4
rwatch watched
continue
printf "CHECK rwatch %d\n", watched
delete 5
awatch watched
continue
printf "CHECK awatch %d\n", watched
delete 6
finish
printf "CHECK finish %d\n", (unsigned)$ax
# memory is changed
set var watched = watched + 0x10000
printf "CHECK written 0x%x\n", watched
set var watched = watched - 0x10000
continue
printf "CHECK hbreak watched=%d\n", watched
watch asked
continue
printf "CHECK asked %d\n", asked
set var poked = asked
delete
maintenance packet Qqemu.PhyMemMode:1
printf "CHECK physical %d\n", *(unsigned *)&watched == watched
maintenance packet Qqemu.PhyMemMode:0
# single steps
break step_rep
continue
delete
printf "CHECK rep %d\n", $pc == (unsigned long)&step_rep
END
    steps step_after_rep rep_step
    echo 'printf "CHECK rep copied %d\n", to[63] == (unsigned char)(63 * 3)'
    steps step_sti cli_step
    steps step_after_sti sti_step
    echo "stepi 2"
    echo "printf \"CHECK ss %d\\n\", $pc == (unsigned long)&step_ss"
    steps step_after_ss ss_step
    steps step_end nop_step
    cat <<END
# code that changes under a breakpoint
break *(unsigned long)patched_at
continue
printf "CHECK patched once %d\n", *(unsigned char *)patched_at
continue
printf "CHECK patched twice %d\n", *((unsigned char *)patched_at + 1)
continue
printf "CHECK patched thrice %x\n", *(unsigned char *)patched_at
delete
END
    [ "$cpus" = 2 ] && cat <<END
break tick if cpu == 1
continue
printf "CHECK thread %d\n", \$_thread
delete
info threads
set var \$before = spins[0]
set scheduler-locking on
stepi 40
printf "CHECK locked %d\n", spins[0] == \$before
set scheduler-locking off
thread 1
printf "CHECK other thread %d\n", \$_thread
thread 2
tbreak tick if cpu == 0
continue
printf "CHECK first thread %d\n", \$_thread
END
    cat <<END
monitor info status
detach
END
} >"$out/script"
timeout 90 gdb -q -nx -batch -x "$out/script" "$program" >"$out/said" 2>&1
wait "$machine"
status=$?
machine=

# expect LINE: gdb must have said it
expect()
{
    n=$((n + 1))
    if grep -qFx -e "$1" "$out/said"; then
        echo "ok $n - $1"
    else
        echo "not ok $n - $1"
    fi
}

expect 'CHECK start 1'
expect 'CHECK cr0_pe 1'
grep -qE 'received signal SIGINT' "$out/said" && expect 'CHECK interrupted 1' || expect 'a stop by SIGINT'
expect 'CHECK ready 1'
expect 'CHECK condition n=3 watched=3'
expect 'CHECK watch 6'
expect 'CHECK rwatch 6'
expect 'CHECK awatch 6'
expect 'CHECK finish 20'
expect 'CHECK written 0x1000a'
expect 'CHECK hbreak watched=55'
expect 'CHECK asked 55'
expect 'CHECK physical 1'
expect 'CHECK rep 1'
expect 'CHECK rep_step 1'
expect 'CHECK rep copied 1'
expect 'CHECK cli_step 1'
expect 'CHECK sti_step 1'
expect 'CHECK ss 1'
expect 'CHECK ss_step 1'
expect 'CHECK nop_step 1'
expect 'CHECK patched once 184'
expect 'CHECK patched twice 2'
expect 'CHECK patched thrice b8'
if [ "$cpus" = 2 ]; then
    expect 'CHECK thread 2'
    expect 'CHECK locked 1'
    expect 'CHECK other thread 1'
    expect 'CHECK first thread 1'
fi
expect 'VM status: paused'
n=$((n + 1))
if [ "$status" = 1 ] && ! grep -q '^not ok' "$out/tap" && grep -q '^1\.\.' "$out/tap"; then
    echo "ok $n - the guest went on to its end and has noticed nothing"
else
    echo "not ok $n - the guest went on to its end and has noticed nothing (status $status)"
fi
echo "1..$n"
sed 's/^/# gdb: /' "$out/said"
sed 's/^/# guest: /' "$out/tap"
sed 's/^/# ring3: /' "$out/errors"
