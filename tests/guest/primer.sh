#!/bin/bash
# The teaching kernel: primer.sh RING3 ENGINE KERNEL... runs each KERNEL (primer.elf, primer64.elf, ...) on ENGINE: a session
# with the shell by the serial line, compared word for word; programs chosen by the command line; how the machine ends. With
# ENGINE qemu the same is done on QEMU, which shows that the kernel runs on a PC and not just on ring3. Prints TAP.
ring3=$1 engine=$2
shift 2
out=$(mktemp -d) || exit 99
trap 'rm -rf "$out"' EXIT
n=0

if [ "$engine" = qemu ] && ! command -v qemu-system-x86_64 >/dev/null; then
    echo "1..0 # SKIP qemu-system-x86_64 is not installed (Debian: qemu-system-x86)"
    exit 0
fi
. "$(dirname "$0")/usable.sh"
[ "$engine" = qemu ] || usable_or_skip "$ring3" "$engine"

# boot KERNEL COMMAND-LINE: standard input is what is typed; $out/text and $out/marks are what came out of the serial port and
# port 402h (on QEMU behind what the BIOS says there). Sets status.
boot()
{
    if [ "$engine" = qemu ]; then
        timeout -k 5 110 qemu-system-x86_64 -accel tcg -m 32 -display none -no-reboot -serial stdio \
            -device isa-debug-exit,iobase=0xf4,iosize=4 -debugcon "file:$out/marks" -global isa-debugcon.iobase=0x402 \
            -kernel "$1" -append "$2" >"$out/raw" 2>"$out/errors"
    else
        timeout -k 5 110 "$ring3" run --engine "$engine" -m 32 --kernel "$1" --append "$2" --timeout 100 --no-reboot \
            --debugcon "file:$out/marks" >"$out/raw" 2>"$out/errors"
    fi
    status=$?
    tr -d '\r' <"$out/raw" >"$out/text"
}

# These two need something of the host. A /dev/kvm that emulates does not know all that an operating system does; whether the
# engine is right cannot be seen there.
if [ "$engine" = kvm ] || [ "$engine" = trap ]; then
    boot "$1" run=hello </dev/null
    if [ "$status" = 2 ] || grep -q -e 'emulates guest code here' "$out/errors"; then
        echo "1..0 # SKIP $(head -n 1 "$out/errors")"
        exit 0
    fi
fi

# verdict WHAT CONDITION-STATUS
verdict()
{
    n=$((n + 1))
    if [ "$2" = 0 ]; then
        echo "ok $n - $name: $1"
    else
        echo "not ok $n - $name: $1"
        echo "# status $status"
        sed 's/^/# /' "$out/errors" "$out/difference" "$out/text" 2>/dev/null | head -n 80
    fi
    : >"$out/difference"
}

# ends WHAT STATUS LAST-LINE: of the boot before.
ends()
{
    [ "$status" = "$2" ] && [ "$(tail -n 1 "$out/text")" = "$3" ]
    verdict "$1" $?
}

session_type()
{
    printf 'help\nls\ncat poem\n'
    printf 'echo  a  b\n'
    printf 'echo wrnogg\b\b\b\bong\177\n' # backspace and delete
    printf 'echo all of this\025ps\n'    # Ctrl-U
    printf 'hello\nhello with words\n\nnothing\ncat nothing\ncat screen\n'
    printf 'forktest\ncrash\n'
    printf 'count 2 &\nsleep 1000\necho done\n'
    printf 'kill 4711\nspinner &\nkill 61\nsleep 50\n'
    printf 'exit 3\n'
}

# Numbers of processes: 1 is the shell; each command that is not built in takes the next, forktest 43 more, crash eleven more. What crash
# makes the kernel say has addresses in it, and is compared without.
session_expected()
{
    cat <<END
\$ help
help             this
echo WORDS       says them
ls               the files
cat FILE         what is in one
ps               the processes
sleep MS         waits
kill ID          ends a process
NAME WORDS [&]   runs a program; with & it is not waited for
exit [STATUS]    ends the machine; also poweroff
programs: hello count forktest crash loop bench write4 readblock spinner
\$ ls
sh
hello
count
forktest
crash
loop
bench
write4
readblock
spinner
poem
files
processes
console
screen
\$ cat poem
Four traps for four letters, and two for the way:
the call in, the return. That is all there is to pay.
\$ echo  a  b
a  b
\$ echo wrnogg@ @@ @@ @@ @ong@ @
wron
\$ echo all of this@ @@ @@ @@ @@ @@ @@ @@ @@ @@ @@ @@ @@ @@ @@ @@ @ps
  ID  OF STATE   NAME
   1   0 running sh
\$ hello
hello from process 2
\$ hello with words
hello from process 3
\$ 
\$ nothing
sh: there is no command 'nothing'
\$ cat nothing
sh: there is no file 'nothing'
\$ cat screen
sh: 'screen' is not a file to be read
\$ forktest
ok - fork gives the child's number
ok - the child sees the parent's memory, and its status arrives
ok - what the child wrote is its own
ok - and the parent can still write
ok - a system call writes into a copy, too
ok - an open file is the child's own
ok - eight generations
ok - fork fails when the table of processes is full
ok - all of them come to an end
ok - without children there is nothing to wait for
ok - a program that spins can be ended
ok - and one that sleeps
ok - but not one that is not there
ok - the kernel's memory cannot be written out
ok - nor read into
ok - nor can what is not there
ok - the same for other calls
ok - what does not exist is not found
ok - there is no such call
forktest: passed
\$ crash
crash: page fault, reading
ok - reading at 0: status 142
crash: page fault, writing
ok - writing the kernel: status 142
crash: page fault, writing
ok - writing its own code: status 142
crash: general protection fault
ok - CLI: status 141
crash: general protection fault
ok - OUT: status 141
crash: divide error
ok - dividing by 0: status 128
crash: invalid opcode
ok - UD2: status 134
crash: no coprocessor
ok - floating point: status 135
crash: debug exception
ok - the trap flag: status 129
ok - null segments: status 7
ok - POPF without IF: status 8
crash: passed
\$ count 2 &
[60]
\$ sleep 1000
1
2
[60] ended with status 0
\$ echo done
done
\$ kill 4711
\$ spinner &
[61]
\$ kill 61
[61] ended with status 128
\$ sleep 50
\$ exit 3
END
}

for kernel; do
    name=$(basename "$kernel" .elf)

    session_type >"$out/typed"
    boot "$kernel" '' <"$out/typed"
    head -n 1 "$out/text" | grep -q '^primer, [36][24]-bit.*: [0-9]* pages free$'
    verdict 'it says what it is' $?
    tail -n +2 "$out/text" | tr '\b' @ | sed -E 's/^crash \([0-9]+\): ([a-z ]+) at [0-9a-f]+(, [a-z]+)?.*/crash: \1\2/' >"$out/heard"
    session_expected >"$out/expected"
    diff "$out/expected" "$out/heard" >"$out/difference"
    verdict 'a session with the shell' $?
    [ "$status" = 7 ]
    verdict 'exit 3 is status 7' $?

    # more than the kernel keeps, typed while nobody reads
    { echo 'sleep 500'; for i in $(seq 100); do echo "echo line number $i"; done; echo 'exit 0'; } >"$out/typed"
    boot "$kernel" '' <"$out/typed"
    [ "$status" = 0 ] && [ "$(grep -c '^line number' "$out/text")" = 100 ] && [ "$(grep '^line' "$out/text" | tail -n 1)" = 'line number 100' ]
    verdict 'nothing that is typed is lost' $?

    boot "$kernel" 'quiet run=hello' </dev/null
    ends 'run=hello' 0 'hello from process 1'
    boot "$kernel" 'run=loop,3' </dev/null
    [ "$status" = 0 ] && grep -q '^loop: 3 million turns, [0-9]* ms, sum d93ea4c1$' "$out/text"
    verdict 'run=loop,3' $?
    boot "$kernel" 'run=nothing' </dev/null
    ends 'run=nothing' 255 "primer: there is no program 'nothing'"
    boot "$kernel" 'run=write4' </dev/null
    [ "$status" = 0 ] && [ "$(tail -c 2 "$out/marks")" = '[]' ]
    verdict 'run=write4, with its marks' $?
    boot "$kernel" 'run=readblock' < <(sleep 1; echo k)
    ends 'run=readblock: a key wakes the reader' 0 "readblock: 1 byte, 'k'"
    boot "$kernel" 'run=bench,20' </dev/null
    [ "$status" = 0 ] && [ "$(grep -c -E '[0-9]+\.[0-9][0-9] us$' "$out/text")" = 6 ] && [ "$(tail -c 12 "$out/marks")" = '[][][][][][]' ]
    verdict 'run=bench,20' $?
done
echo "1..$n"
