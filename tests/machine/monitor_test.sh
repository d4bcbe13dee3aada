#!/bin/bash
# The monitor's console, its clients and `ring3 top`, on a machine that runs console.elf: monitor_test.sh RING3 PROGRAM
# ENGINES. What commands do to the guest is judged by what the guest says of it. Prints TAP.
ring3=$(realpath "$1") program=$(realpath "$2") engines=$3
out=$(mktemp -d) || exit 99
cd "$out" || exit 99
n=0
pid=
trap '[ -n "$pid" ] && kill "$pid" 2>/dev/null; rm -rf "$out"' EXIT

ok()
{
    n=$((n + 1))
    if [ "$1" = 0 ]; then
        echo "ok $n - $2"
    else
        echo "not ok $n - $2"
        echo "$answer" | head -n 10 | sed 's/^/# /'
    fi
}

# ask COMMAND...: the answer is in $answer, the status in $status
ask()
{
    answer=$(timeout 20 "$ring3" monitor sock "$@" 2>&1)
    status=$?
}

# says TEXT COMMAND...: the answer has a line that matches the pattern
says()
{
    local pattern=$1
    shift
    ask "$@"
    [ $status = 0 ] && grep -qE -- "$pattern" <<<"$answer"
    ok $? "$*: $pattern"
}

# refuses TEXT COMMAND...
refuses()
{
    local pattern=$1
    shift
    ask "$@"
    [ $status = 2 ] && [ "$(wc -l <<<"$answer")" = 1 ] && grep -qE -- "^Error: .*$pattern" <<<"$answer"
    ok $? "'$(printf %.40s "$*")' is refused: $pattern"
}

# wait_for PATTERN: until the guest has said it
wait_for()
{
    for ((i = 0; i < 200; i++)); do
        grep -qE "$1" said && return 0
        sleep 0.05
    done
    return 1
}

guest_says()
{
    answer=$(cat said)
    wait_for "$1"
    ok $? "the guest sees: $1"
}

number() { awk '{print $2}' <<<"$answer"; }
guest_ns() { ask stats json; sed -n 's/.*"guest_ns": \([0-9]*\).*/\1/p' <<<"$answer"; }

start()
{
    rm -f said
    "$ring3" run -m 64 --kernel "$program" --serial null --debugcon file:said --monitor unix:sock --timeout 200 "$@" \
        </dev/null >run.out 2>run.err &
    pid=$!
    for ((i = 0; i < 200; i++)); do
        [ -S sock ] && [ -s said ] && wait_for ready && return
        kill -0 $pid 2>/dev/null || return 1
        sleep 0.05
    done
    return 1
}

head -c 65536 /dev/zero >"blank disk"
start --net user --drive media=cdrom --drive "file=$out/blank disk,id=disk,snapshot=on"
started=$?
answer=$(cat run.err)
ok $started "a machine with --monitor unix:sock"
if [ $started != 0 ]; then
    echo "Bail out! there is no machine to talk to"
    exit 1
fi
counter=0x$(sed -n 's/^CONSOLE counter \([0-9a-f]*\).*/\1/p' said)
text=0x$(sed -n 's/.* text \([0-9a-f]*\) .*/\1/p' said)
code=0x$(sed -n 's/.* code \([0-9a-f]*\).*/\1/p' said)

says '^ring3 [0-9]+\.' info version
says '^VM status: running' info status
says '^info registers ' info
says '^stop\|s ' help
says '^\* CPU #0: pc=0x[0-9a-f]{16} cpl 0, 64-bit mode, running' info cpus
says '^rip  [0-9a-f]{16}  cpl 0' info registers
says '^cr0  .*PG' info registers -a
says '"what the monitor shows' x/s "$text"
says ': 0x77 0x68 0x61 0x74$' x/4xb "$text"
says "'w' 'h' 'a' 't'" xp/4c "$text"
says "'w' 'h' 'a' 't'" xp /4c "$text"
says ':  48 ff 07 +inc .*\[rdi\]' x/1i "$code"
says 'in al, 0x64' x/3i "$code"
says 'gpa: '"$(printf '%#x' "$text")" gva2gpa "$text"
says '^0x2a$' print '(1 << 5) + 2*5'
says '^-1$' p/d -- -1
says '^0x' p '$rsp & ~0xf'
says '^[0-9a-f]{16}-[0-9a-f]{16} [0-9a-f]{16} .rw' info mem
says '^0000000000000000: 0000000000000000 ' info tlb
says 'RAM$' info mtree
says '0402-0402 i/o' info mtree
says '^ide2: CD-ROM, empty$' info drives
says '^disk: disk, .*blank disk, 65536 bytes, snapshot$' info drives
says '^$' change ide2 "$out/blank disk"
says '^ide2: CD-ROM, .*/blank disk, 65536 bytes, read-only$' info drives
refuses 'No such file' change ide2 "$out/missing"
says '^ide2: CD-ROM, .*/blank disk' info drives
says '^$' eject -f ide2
says '^ide2: CD-ROM, empty$' info drives
refuses 'no drive' eject ide7
refuses 'only the medium of a CD-ROM' eject disk
refuses 'which' eject
refuses 'which' change ide2
says '^master irr=' info pic
says '^pin 2 ' info ioapic
says '^lint0 .*extint' info lapic
says '^VGA text, 400 lines' info vga
ask info screen
[ $status = 0 ] && [ "$(wc -l <<<"$answer")" -le 25 ]
ok $? "info screen: at most 25 lines of text"
says 'Host bridge: PCI device 8086:1237' info pci
says 'Ethernet controller: PCI device 1af4:1041' info pci
says 'BAR4: I/O at 0x' info pci
says '^virtio-net0: ([0-9a-f]{2}:){5}[0-9a-f]{2}, user' info network
refuses 'started directly' boot_set dc
refuses 'which order' boot_set
says '^io-in ' info stats
says '^translate|^interpret|^trap|^kvm' engine
says '^\* (translate|interpret|trap|kvm) ' info engines

refuses "no command 'fooo'" fooo
refuses "did you mean 'stop'" stpo
refuses "no subject 'x'" info x
refuses 'one word too many' stop now
refuses 'not a format' x/3y 0
refuses 'from 1 to' x/99999999 0
refuses 'no such register' x '$foo'
refuses 'division by zero' print 1/0
refuses 'parenthesis' print '(1'
refuses 'nested' print "$(printf '(%.0s' {1..200})"
refuses 'too long|at most' "$(printf 'x%.0s' {1..999})$(printf ' y%.0s' {1..20})" 
refuses 'no key' sendkey nokey
refuses 'not a time' sendkey a 0
refuses 'no engine' engine warp
refuses 'takes no format' stop/3
refuses 'one of off' log loud
refuses 'processors' cpu 5
says 'not mapped' x 0xffff900000000000
says 'device memory' xp 0xfec00000

ask stop
says 'paused' info status
ask xp/1g "$counter"
first=$(number)
before=$(guest_ns)
sleep 2
ask xp/1g "$counter"
[ -n "$first" ] && [ "$(number)" = "$first" ] && [ "$(guest_ns)" = "$before" ]
ok $? 'stopped: neither the guest nor its time goes on'
ask stop
ask cont
sleep 0.2
ask xp/1g "$counter"
[ "$(number)" != "$first" ]
ok $? 'cont: it goes on'
after=$(guest_ns)
[ -n "$before" ] && [ $((after - before)) -gt 0 ] && [ $((after - before)) -lt 1900000000 ]
ok $? "the guest did not see the pause: $((after - before)) ns"

ask sendkey a
guest_says '^CONSOLE key 1e$'
guest_says '^CONSOLE key 9e$'
ask sendkey ctrl-alt-delete 20
guest_says '^CONSOLE key 1d$'
guest_says '^CONSOLE key e0$'
guest_says '^CONSOLE key d3$'
ask system_powerdown
guest_says '^CONSOLE button$'
ask nmi
guest_says '^CONSOLE nmi$'

IFS=,
for engine in $engines; do
    unset IFS
    ask engine "$engine"
    if [ $status != 0 ] && [ "$engine" != interpret ] && [ "$engine" != translate ]; then
        refused=$answer # by this host, or for this processor model: then the engine before must go on
        n=$((n + 1))
        echo "ok $n # SKIP engine $engine: $refused"
        says '^[a-z]+$' engine
        says 'running' info status
        continue
    fi
    says "^$engine\$" engine
    ask xp/1g "$counter"
    first=$(number)
    sleep 0.3
    ask xp/1g "$counter"
    [ -n "$first" ] && [ "$(number)" != "$first" ]
    ok $? "it goes on with $engine"
done
unset IFS

answer=$(printf 'info status\nfoo\n\n# a remark\ninfo version\n' | "$ring3" monitor sock 2>&1)
[ $? = 2 ] && [ "$(grep -c . <<<"$answer")" = 3 ] && grep -q 'no command' <<<"$answer"
ok $? 'lines from a pipe'
answer=$("$ring3" monitor "$pid" info status)
[ "$answer" = 'VM status: running' ]
ok $? 'the process number finds the socket'
exec 3> >(timeout 20 "$ring3" monitor sock >held)
says 'running' info status
exec 3>&-
answer=$("$ring3" top -b -n 2 -d 0.2 sock)
[ "$(grep -c '^ring3 top - sock, engine ' <<<"$answer")" = 2 ] && grep -qE '^io-in +[1-9][0-9]* ' <<<"$answer"
ok $? 'top: two screens'
for arguments in '' '-x sock' '-n 0 sock' '-d 0 sock' 'nosock' '999999999'; do
    # shellcheck disable=SC2086
    answer=$("$ring3" top $arguments 2>&1)
    [ $? = 2 ] && [ "$(wc -l <<<"$answer")" = 1 ]
    ok $? "top $arguments: refused"
done
answer=$("$ring3" monitor nosock info 2>&1)
[ $? = 2 ] && [ "$(wc -l <<<"$answer")" = 1 ]
ok $? 'monitor: no socket'

ask system_reset
for ((i = 0; i < 100; i++)); do
    [ "$(grep -c '^CONSOLE ready' said)" = 2 ] && break
    sleep 0.05
done
answer=$(cat said)
[ "$(grep -c '^CONSOLE ready' said)" = 2 ]
ok $? 'system_reset starts the guest anew'
ask sendkey esc
wait $pid
status=$? pid=
answer=$(cat said run.err)
[ $status = 1 ] && grep -q '^ok' said && [ ! -s run.err ]
ok $? "Esc ends the guest: status $status"
[ ! -e sock ]
ok $? 'the socket is gone'

start --clock instructions
ask stop
ask quit
wait $pid
status=$? pid=
[ $status = 0 ]
ok $? "quit while stopped: status $status"
answer=$(printf 'info status\nquit\n' | timeout 20 "$ring3" run -m 64 --kernel "$program" --serial null --monitor stdio 2>&1)
status=$?
[ $status = 0 ] && grep -q '^(ring3) VM status: running' <<<"$answer"
ok $? "--monitor stdio from a pipe: status $status"
for bad in 'stdio' 'unix:' 'nowhere' 'unix:/no/such/directory/sock'; do
    answer=$("$ring3" run -m 64 --kernel "$program" --monitor "$bad" 2>&1 </dev/null)
    [ $? = 2 ] && [ "$(wc -l <<<"$answer")" = 1 ]
    ok $? "--monitor $bad is refused"
done
echo "1..$n"
