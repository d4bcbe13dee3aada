#!/bin/bash
# The ring3 program as a user meets it: every kind of bad input gives one line and exit status 2; every way in which a
# guest can end gives its own exit status. The guests are a few bytes of 32-bit code each, made here.
#
# usage: cli_test.sh RING3
set -u
ring3=$(realpath "$1")
dir=$(mktemp -d)
chmod 755 "$dir"
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
failures=0

fail() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}

# Four bytes, little-endian, as printf escapes.
le32() {
    printf '\\x%02x\\x%02x\\x%02x\\x%02x' $(($1 & 255)) $(($1 >> 8 & 255)) $(($1 >> 16 & 255)) $(($1 >> 24 & 255))
}

# elf FILE MACHINE CODE: an ELF32 executable with one segment of 4 KiB at 1 MiB that starts with CODE (escapes).
elf() {
    {
        printf '\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0'
        printf "\\x02\\0$(printf '\\x%02x' "$2")\\0"
        printf "$(le32 1)$(le32 0x100000)$(le32 52)$(le32 0)$(le32 0)"
        printf '\x34\0\x20\0\x01\0\0\0\0\0\0\0'
        printf "$(le32 1)$(le32 4096)$(le32 0x100000)$(le32 0x100000)$(le32 4096)$(le32 4096)$(le32 7)$(le32 4096)"
        head -c $((4096 - 84)) /dev/zero
        printf "$3"
        head -c 4096 /dev/zero
    } | head -c 8192 > "$1"
}

# refuse PATTERN ARGUMENT...: one line on stderr that matches the glob, nothing on stdout, status 2.
refuse() {
    local pattern=$1 status
    shift
    timeout 30 ${as_user:-} "$ring3" "$@" < /dev/null > out 2> err
    status=$?
    [ $status = 2 ] || fail "status $status instead of 2: $*"
    [ "$(wc -l < err)" = 1 ] || fail "not one line: $*: $(cat err)"
    # shellcheck disable=SC2053
    [[ $(cat err) == "ring3: "$pattern ]] || fail "message of $*: $(cat err)"
    [ -s out ] && fail "output on stdout: $*"
}

# ends STATUS ARGUMENT...: runs with what is on stdin; leaves stdout in `out`, stderr in `err`.
ends() {
    local expected=$1 status
    shift
    timeout -k 2 60 "$ring3" run "$@" > out 2> err
    status=$?
    [ $status = "$expected" ] || fail "status $status instead of $expected: $* $(head -3 err)"
}

exit_42='\x66\xba\xf4\x00\xb0\x2a\xee\xf4' # mov dx, 0xf4; mov al, 42; out dx, al; hlt
elf exit 3 "$exit_42"
elf loop 3 '\xeb\xfe'
elf halt 3 '\xfa\xf4\xeb\xfd'
elf triple 3 '\x6a\x00\x6a\x00\x0f\x01\x1c\x24\x0f\x0b'      # push 0; push 0; lidt [esp]; ud2
elf panic 3 '\x66\xba\x05\x05\xb0\x01\xee\xeb\xfe'           # pvpanic
elf off 3 '\x66\xba\x04\x06\x66\xb8\x00\x20\x66\xef\xeb\xfe' # PM1a_CNT: S5
elf reset 3 '\x66\xba\xf9\x0c\xb0\x02\xee\xb0\x06\xee\xeb\xfe'
elf debug 3 '\x66\xba\x02\x04\xb0\x44\xee\xb0\x0a\xee\x66\xba\xf4\x00\xb0\x00\xee\xf4'
# Interrupts off, halted, while the PIT and the local APIC's timer tick in turn (54,925,402 ns), then for ever.
elf ticking 3 '\xfa\xb0\x34\xe6\x43\xb0\x00\xe6\x40\xe6\x40\xb9\x40\x0d\x03\x00\xe2\xfe\xc7\x05\xe0\x03\xe0\xfe\x0b\x00\x00\x00\xc7\x05\x20\x03\xe0\xfe\x20\x00\x03\x00\xc7\x05\x80\x03\xe0\xfe\x5a\x18\x46\x03\xf4\xeb\xfd'
# Halted, with the local APIC's TSC deadline centuries away.
elf faraway 3 '\xfa\xc7\x05\x20\x03\xe0\xfe\x20\x00\x04\x00\xb9\xe0\x06\x00\x00\xb8\xf0\xff\xff\xff\xba\xff\xff\xff\xff\x0f\x30\xf4\xeb\xfd'
# Eight data bits, then echoes the serial line until 'q', then exits with 1.
elf echo 3 '\x66\xba\xfb\x03\xb0\x03\xee\x66\xba\xfd\x03\xec\xa8\x01\x74\xf7\x66\xba\xf8\x03\xec\xee\x3c\x71\x75\xed\x66\xba\xf4\x00\xb0\x00\xee\xf4'

# --- the command line ---
refuse 'a command is missing*'
refuse "there is no command 'rnu' (did you mean 'run'?)*" rnu
refuse "'--kernel' before a command*" --kernel exit
refuse 'nothing to boot*--kernel FILE*' run
refuse "two drives at one place: the IDE primary master is to be exit and loop" run --kernel exit --hda exit --hda loop
refuse 'missing.img: No such file or directory' run --kernel exit missing.img
refuse "--drive: there is no 'fiel' (did you mean 'file'?)" run --kernel exit --drive fiel=exit
refuse "--drive: if: 'scsi' is not one of ide, virtio, floppy" run --kernel exit --drive file=exit,if=scsi
printf 'QFI\xfb%508s' '' > image.qcow2
refuse "*image.qcow2: is a qcow2 image*qemu-img convert -O raw*" run --kernel exit image.qcow2
refuse "unknown option '--kernle' (did you mean '--kernel'?)" run --kernle exit
refuse '--kernel needs a value*' run --kernel
refuse "--memory: '12Q'*" run -m 12Q --kernel exit
refuse "--memory: '0' is too little*" run -m 0 --kernel exit
refuse "--memory: '1T' is too much*" run -m 1T --kernel exit
refuse "--memory: '-1' is not a size*" run -m -1 --kernel exit
refuse "--timeout: 'soon'*" run --timeout soon --kernel exit
refuse "--serial: 'stido'* (did you mean 'stdio'?)" run --serial stido --kernel exit
refuse "--gdb: tcp:nowhere: HOST:PORT is expected*" run --gdb tcp:nowhere --kernel exit
refuse "--gdb: tcp:example.org:1: 'example.org' is neither an address in digits nor localhost" run --gdb tcp:example.org:1 --kernel exit
refuse "--gdb: tcp::70000: '70000' is not a port from 1 to 65535" run --gdb tcp::70000 --kernel exit
refuse '--gdb: tcp needs an address: tcp:HOST:PORT' run --gdb tcp --kernel exit
refuse '--stopped: nobody could let the machine begin*' run -S --kernel exit
refuse "--gdb-arch: *arm*" run --gdb-arch arm --gdb tcp::1 --kernel exit
refuse '--serial: /nonexistent/log: No such file or directory' run --serial file:/nonexistent/log --kernel exit
refuse '--trace: /nonexistent/t: *' run --trace /nonexistent/t --kernel exit
refuse "--trace-size: '1K' is too little*" run --trace-size 1K --kernel exit
refuse '--symbols: /nonexistent/map: *' run --stat --symbols /nonexistent/map --kernel exit
refuse '--stat: /nonexistent/s: *' run --stat=json:/nonexistent/s --kernel exit
refuse '*warp*' run --engine warp --kernel exit
refuse "--shadow: 'lazy' is not one of ondemand, tagged, proactive, single" run --shadow lazy --kernel exit
refuse "--patch: 'maybe' is not one of off, on" run --patch maybe --kernel exit
refuse "--trap-kernel: 'native' is not one of direct, translate, interpret" run --trap-kernel native --kernel exit
refuse '*engine trap cannot give*' run --engine trap --clock instructions --kernel exit
refuse "--heat: 'high' is not a number*" run --heat high --kernel exit
refuse "--verify: 'all' is not a number*" run --verify=all --kernel exit
refuse '--verify compares translated code: use --engine translate' run --engine interpret --verify --kernel exit
refuse '*pentium9*' run --cpu pentium9 --kernel exit
refuse "engines: 'x' is one word too many" engines x
refuse "help: there is no command 'rum' (did you mean 'run'?)" help rum

# --- files ---
refuse 'missing: *No such file or directory*' run --kernel missing
refuse 'missing: *No such file or directory*' run --kernel exit --initrd missing
refuse '*: *irectory*' run --kernel .
: > empty
refuse '*empty*' run --kernel empty
echo 'not a kernel at all' > text
refuse '*text*' run --kernel text
refuse '--symbols: text: has no symbols*' run --stat --symbols text --kernel exit
head -c 1000000 /dev/urandom > noise
refuse '*noise*' run --kernel noise
elf arm 40 "$exit_42"
refuse 'arm: *32-bit ARM*' run --kernel arm
elf aarch64 183 "$exit_42"
refuse 'aarch64: *ARM64*' run --kernel aarch64
head -c 40 exit > short_header
refuse '*short_header*' run --kernel short_header
head -c 4200 exit > short_segment
refuse '*short_segment*' run --kernel short_segment
{ head -c 510 /dev/zero; printf '\x55\xaa\xeb\x66HdrS\x0f\x02'; } > short_bzimage
refuse '*short_bzimage*' run --kernel short_bzimage
{ cat short_bzimage; head -c 60000 /dev/zero; } > odd_bzimage
refuse '*odd_bzimage*' run --kernel odd_bzimage
truncate -s 64M big
refuse '*big*' run -m 16M --kernel exit --initrd big
refuse '*exit*' run -m 1M --kernel exit
if [ "$(id -u)" = 0 ]; then
    cp exit secret
    chmod 600 secret
    as_user='setpriv --reuid=65534 --regid=65534 --clear-groups'
    if $as_user test -x "$ring3"; then
        chmod 777 "$dir"
        refuse 'secret: *Permission denied*' run --kernel secret
        refuse 'secret: *Permission denied*' run --kernel exit --initrd secret
        chmod 755 "$dir"
    fi
    as_user=
fi

# --- how guests end ---
ends 85 --kernel exit < /dev/null
[ -s err ] && fail "the end of a guest is no message: $(cat err)"
ends 0 --kernel off < /dev/null
ends 0 --no-reboot --kernel reset < /dev/null
ends 8 --timeout 0.3 --kernel reset < /dev/null
mkfifo pipe
cat reset > pipe &
ends 10 --timeout 5 --kernel pipe < /dev/null # but not a second time
grep -q '^ring3: after a reset: pipe: is not a regular file' err || fail "message after a reset: $(cat err)"
ends 8 --timeout 0.3 --kernel loop < /dev/null
ends 8 --timeout 0.3 --kernel halt < /dev/null
grep -q 'still running after 0.3 s' err || fail "message of --timeout: $(cat err)"
ends 8 --timeout 0.3 --clock instructions --kernel loop < /dev/null
ends 8 --timeout 0.3 --clock instructions --kernel halt < /dev/null
ends 8 --timeout 0.3 --clock instructions --kernel ticking < /dev/null
TIMEFORMAT='%U %S'
used=$({ time ends 8 --timeout 1 --kernel faraway < /dev/null; } 2>&1)
awk -v used="$used" 'BEGIN { split(used, s); exit s[1] + s[2] > 0.5 }' || fail "a halted guest used $used s of a second"
ends 6 --kernel panic < /dev/null
ends 4 --kernel triple < /dev/null
grep -q '^vCPU 0: triple fault at 0010:0x100008' err || fail "post-mortem: $(head -3 err)"
grep -q 'IDT entry of #DF, at 0x40: beyond the limit 0' err || fail 'post-mortem: the gate'
grep -q '0f 0b *ud2' err || fail 'post-mortem: the code'
grep -q '^cr0 .*PE' err || fail 'post-mortem: the registers'

# --- engines ---
engines=$("$ring3" engines | sed -n 's/^\([a-z][a-z]*\) .*/\1/p')
for engine in $engines; do
    "$ring3" engines | grep -A1 "^$engine " | grep -q 'usable$\|; what' || continue
    ends 85 --engine "$engine" --kernel exit < /dev/null
    ends 85 --engine "$engine" --shadow ondemand --heat 0 --kernel exit < /dev/null # for the others without effect
    ends 8 --engine "$engine" --heat 0 --timeout 0.3 --kernel loop < /dev/null
    clock=instructions
    case $engine in kvm | trap) clock=host ;; esac # they cannot count
    ends 8 --engine "$engine" --heat 0 --timeout 0.3 --clock $clock --kernel ticking < /dev/null
    ends 4 --engine "$engine" --heat 0 --kernel triple < /dev/null
    printf 'hello\nq' | ends 1 --engine "$engine" --heat 0 --kernel echo
    [ "$(cat out)" = $'hello\nq' ] || fail "echo by $engine: $(cat out)"
done
if [[ $engines == *translate* ]]; then
    ends 8 --engine translate --timeout 0.3 --kernel loop --stat=json:stat.json < /dev/null
    for text in '"instructions": null' '"translate": {' '"faults": {' '"policy": "proactive"' '"calls": {'; do
        grep -q "$text" stat.json || fail "--stat=json of translate: no $text"
    done
    ends 8 --engine translate --timeout 0.3 --kernel loop --stat < /dev/null
    grep -q '^translation$' err && grep -q '^shadow page tables, proactive$' err || fail "--stat of translate: $(cat err)"
    grep -q ' MIPS$' err && fail '--stat of translate: MIPS without a count'
    ends 8 --engine translate --timeout 0.3 --kernel loop --clock instructions --stat < /dev/null
    grep -q ' MIPS$' err || fail '--stat of translate: no count'
    ends 85 --engine translate --heat 0 --verify --kernel exit < /dev/null
    ends 8 --engine translate --heat 0 --verify=10 --timeout 0.3 --kernel loop < /dev/null
fi

# --- streams ---
printf 'hello\nq' | ends 1 --kernel echo
[ "$(cat out)" = $'hello\nq' ] || fail "echo over pipes: $(cat out)"
printf 'file\nq' > typed
ends 1 --kernel echo < typed
[ "$(cat out)" = $'file\nq' ] || fail "echo from a file: $(cat out)"
printf 'q' | ends 8 --kernel echo --serial null --timeout 0.3 # nothing arrives
[ -s out ] && fail "output of --serial null"
ends 1 --kernel debug --debugcon file:log < /dev/null
[ "$(cat log)" = D ] || fail "the debug console's file: $(cat log)"
ends 1 --kernel debug --debugcon stdio < /dev/null
[ "$(cat out)" = D ] || fail "the debug console on stdout: $(cat out)"
ends 85 --kernel exit < /dev/null <&- # standard input may be closed
"$ring3" run --kernel echo --serial pty --timeout 1 < /dev/null > out 2> err
grep -q '^char device redirected to /dev/pts/[0-9]* (label serial0)$' out || fail "announcement of a pty: $(cat out)"

# --- records ---
ends 85 --engine interpret --kernel exit --stat < /dev/null
grep -q '^io-out  *1 100.00%' err || fail "--stat: $(cat err)"
grep -q ' MIPS$' err || fail "--stat: no summary"
ends 85 --kernel exit --stat=json:stat.json --trace trace.json < /dev/null
grep -q '"io-out": {' stat.json || fail '--stat=json'
[ "$(head -c 1 trace.json)$(tail -n 1 trace.json)" = '[]' ] || fail '--trace: brackets'
grep -q '"name":"io-out","args":{"rip":"0x100006","port":"0xf4","value":"0x2a","size":1,"device":"debug exit"}' \
    trace.json || fail "--trace: $(grep io-out trace.json)"
ends 10 --kernel exit --trace /dev/full < /dev/null
(ulimit -f 100 && exec "$ring3" run --kernel exit < /dev/null > out 2> err)
[ $? = 2 ] && grep -q 'File too large' err || fail "a limit of the size of files: $(cat err)"

# --- signals: an orderly end, then death by the same signal ---
for signal in INT TERM HUP QUIT; do
    # In the background bash ignores SIGINT and SIGQUIT for us; env puts them back.
    env --default-signal=INT,QUIT "$ring3" run --kernel halt --stat=json:stat.json < /dev/null > out 2> err &
    pid=$!
    for ((n = 0; n < 200; n++)); do # until its processor's thread is there, which on a busy machine takes its time
        [ "$(ls /proc/$pid/task 2> /dev/null | wc -l)" -ge 2 ] && break
        sleep 0.1
    done
    sleep 0.4
    kill -$signal $pid
    wait $pid 2> /dev/null
    status=$?
    [ $status = $((128 + $(kill -l $signal))) ] || fail "status $status after SIG$signal"
    grep -q '"hlt"' stat.json || fail "SIG$signal: no orderly end"
done

# --- the other commands ---
"$ring3" --version | grep -Eq '^ring3 [0-9]+\.[0-9]+' || fail '--version'
for words in help 'help run' 'help engines' 'help help' --help 'run --help' 'run -h' engines 'run --engine help' \
    'run --cpu help'; do
    # shellcheck disable=SC2086
    "$ring3" $words > out 2> err || fail "ring3 $words"
    [ -s out ] && [ ! -s err ] || fail "ring3 $words says nothing, or to stderr"
done
"$ring3" help run > out
for word in --kernel --initrd --append --memory --engine --cpu --serial --debugcon --kaslr --no-reboot --timeout --clock \
    --stat --trace --log --shadow --patch --trap-kernel --heat --verify 'Ctrl-A x' 'Exit status' 'busybox'; do
    grep -q -e "$word" out || fail "help run does not mention $word"
done

[ $failures = 0 ] || exit 1
echo 'all well'
