#!/bin/bash
# The screen. The disk of guest/firmware/screen.asm draws in each mode; what `screendump` writes is compared with sums of pictures
# that are, pixel by pixel, those of another emulator (QEMU 7.2, in the six bits of a level that the hardware has) and, for text,
# those of the manual. Then `--display text` in a terminal of tmux: what it shows, what its keys send, how it leaves the terminal.
# Prints TAP.
#
# usage: screen_test.sh RING3 SCREEN CONSOLE
set -u
ring3=$(realpath "$1")
screen=$(realpath "$2")
console=$(realpath "$3")
dir=$(mktemp -d)
cd "$dir" || exit 99
count=0
failures=0
pid=
server=

finish() {
    [ -n "$pid" ] && kill "$pid" 2>/dev/null
    [ -n "$server" ] && tmux -S "$dir/tmux" kill-server 2>/dev/null
    rm -rf "$dir"
}
trap finish EXIT

result() {
    count=$((count + 1))
    if [ "$1" = 0 ]; then
        echo "ok $count - $2"
    else
        echo "not ok $count - $2"
        failures=$((failures + 1))
        [ -n "${3:-}" ] && printf '%s\n' "$3" | sed 's/^/# /' | head -n 40
    fi
}

# until SECONDS COMMAND...: waits for it to succeed
until_ok() {
    local tries=$(($1 * 20))
    shift
    while ! "$@" 2>/dev/null; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.05
    done
}

said() { grep -qaE "$1" said; }
has_socket() { [ -S mon ]; }

# ---- pictures ----

sums='13h 4b21ff604ceadc09
x 1d40b9791b0d7393
12h e63a61260b439fb5
0dh 044e32f85506ee36
04h d8793063efea9230
06h 5c5849cb31ca910e
101h 96db3759c8d56627
111h fc77c93b5da600ba
112h efd549fd625a960f
text ecd55d364475a675'

pictures() {
    local engine=$1 name sum got
    rm -f mon said
    "$ring3" run --engine "$engine" -m 32 --serial null --hda "$screen" --snapshot --debugcon file:said --monitor unix:mon \
        --timeout 120 </dev/null >log 2>&1 &
    pid=$!
    while read -r name sum; do
        until_ok 30 said "SCREEN $name\$"
        got=$("$ring3" monitor mon screendump "$name.ppm" 2>&1)
        got+=$(sha256sum "$name.ppm" 2>/dev/null | cut -c1-16)
        [ "$got" = "$sum" ]
        result $? "$engine: mode $name" "its sum is $got, not $sum; $(tail -n 3 log)"
        [ "$name" = text ] || "$ring3" monitor mon sendkey spc >/dev/null
    done <<<"$sums"
}

[ -r /usr/share/seabios/vgabios-stdvga.bin ] || {
    echo "1..0 # SKIP the video BIOS is missing: install the package seabios"
    exit 77
}
for engine in interpret trap translate; do
    pictures $engine
    [ $engine = translate ] || { kill $pid; wait $pid 2>/dev/null; }
done

# The last machine goes on: as PNG, by number, into what cannot be written.
"$ring3" screenshot -o shot.png mon 2>log
[ $? = 0 ] && [ "$(head -c 8 shot.png | od -An -tx1 | tr -d ' \n')" = 89504e470d0a1a0a ]
result $? "ring3 screenshot writes a PNG" "$(cat log)"
"$ring3" screenshot $pid 2>log
[ $? = 0 ] && cmp -s shot.png screenshot.png
result $? "without -o it is screenshot.png, and the same" "$(cat log)"
"$ring3" screenshot -o missing/shot.png mon 2>log
[ $? = 2 ] && [ "$(wc -l <log)" = 1 ] && grep -q 'missing/shot.png: No such file' log
result $? "a file that cannot be made is an error" "$(cat log)"
"$ring3" monitor mon sendkey spc >/dev/null
wait $pid
status=$?
pid=
[ $status = 1 ]
result $? "the disk is through with it" "status $status; $(tail -n 3 log)"

rm -f mon
"$ring3" run --kernel "$console" --vga none --serial null --monitor unix:mon --timeout 60 </dev/null >log 2>&1 &
pid=$!
until_ok 10 has_socket
answer=$("$ring3" screenshot mon 2>&1)
[ $? = 2 ] && [[ $answer == *"no screen"* ]]
result $? "a machine without an adapter has no screen" "$answer"
kill $pid
wait $pid 2>/dev/null
pid=

# ---- in a terminal ----

command -v tmux >/dev/null || {
    echo "ok $((count + 1)) - # SKIP --display text: install the package tmux"
    echo "1..$((count + 1))"
    exit $((failures > 0))
}
export LANG=C.UTF-8 LC_ALL=C.UTF-8
t() { tmux -S "$dir/tmux" "$@"; }
shows() { t capture-pane -p | grep -qaE -- "$1"; }
seen() { t capture-pane -p; }
# type_line TEXT: to the shell in the terminal
type_line() { t send-keys -l "$1" && t send-keys Enter; }
of_display() {
    local p
    for p in $(pgrep -x ring3); do # the terminal's guard has another name
        [ "$(readlink "/proc/$p/cwd")" = "$dir" ] && tr '\0' ' ' <"/proc/$p/cmdline" | grep -q -- --display && echo "$p"
    done | head -n 1
}

t -f /dev/null -u new-session -d -x 100 -y 30 'exec bash --norc' && server=1
until_ok 10 shows '\$'
type_line 'echo before'

# Keys, as a guest sees them: make and break codes of set 1.
rm -f said
type_line "$ring3 run --display text -m 64 --kernel $console --debugcon file:said --timeout 100; echo status \$?"
until_ok 10 said 'CONSOLE ready'
result $? "--display text runs a kernel" "$(seen)"
sent() { # sent NAME CODES KEY...: the keyboard says so
    local name=$1 codes=$2 before
    shift 2
    before=$(wc -l <said)
    t send-keys "$@"
    got() { [ "$(tail -n +$((before + 1)) said | sed -n 's/^CONSOLE key //p' | tr '\n' ' ')" = "$codes " ]; }
    until_ok 3 got
    result $? "$name is $codes" "$(tail -n +$((before + 1)) said | tr '\n' ' ')"
}
sent a '1e 9e' a
sent A '2a 1e 9e aa' A
sent '~' '2a 29 a9 aa' '~'
sent '"|' '2a 28 a8 aa 2a 2b ab aa' '"' '|'
sent Enter '1c 9c' Enter
sent Tab 'f 8f' Tab
sent Backspace 'e 8e' BSpace
sent Ctrl-C '1d 2e ae 9d' C-c
sent Alt-x '38 2d ad b8' M-x
sent Up 'e0 48 e0 c8' Up
sent 'Delete, Page Down' 'e0 53 e0 d3 e0 51 e0 d1' DC NPage
sent F1 '3b bb' F1
sent F12 '58 d8' F12
sent 'Ctrl-Right' '1d e0 4d e0 cd 9d' C-Right
sent 'Shift-Tab' '2a f 8f aa' BTab
sent 'Ctrl-A twice' '1d 1e 9e 9d' C-a C-a
sent 'Ctrl-Alt-Delete' '1d 38 e0 53 e0 d3 b8 9d' C-a d
# A pasted text arrives whole.
before=$(wc -l <said)
t send-keys -l "$(printf 'x%.0s' {1..200})"
pasted() { [ "$(tail -n +$((before + 1)) said | grep -c 'key 2d')" = 200 ]; }
until_ok 10 pasted
result $? "200 characters at once arrive" "$(tail -n +$((before + 1)) said | grep -c 'key 2d')"

t send-keys C-a h
until_ok 3 shows 'Ctrl-A x +quit'
result $? "Ctrl-A h lists keys" "$(seen)"
t send-keys C-a c
until_ok 3 shows '^\(ring3\)'
t send-keys -l 'info statsu'
t send-keys BSpace BSpace BSpace
t send-keys -l 'tus'
t send-keys Enter
until_ok 3 shows '^VM status: running'
result $? "Ctrl-A c opens the monitor in a pane" "$(seen)"
before=$(wc -l <said)
t send-keys C-a c
until_ok 3 eval '! shows "^VM status"'
result $? "and closes it" "$(seen)"
[ "$(wc -l <said)" = "$before" ]
result $? "nothing of it went to the guest" "$(tail -n +$((before + 1)) said)"
t send-keys C-a x
until_ok 5 shows '^status 0'
result $? "Ctrl-A x quits" "$(seen)"
shows '^before' && ! shows 'Ctrl-A'
result $? "the terminal shows what it showed before" "$(seen)"

# What is shown, and the ways out. The disk's text mode has every character in every colour.
rm -f said
type_line "clear; $ring3 run --display curses -m 32 --hda $screen --snapshot --debugcon file:said; echo status \$?"
until_ok 20 said 'SCREEN 13h'
for name in x 12h 0dh 04h 06h 101h 111h 112h text; do
    t send-keys Space
    until_ok 10 said "SCREEN $name\$"
    case $name in
    x) until_ok 3 shows '▀▀▀' && result 0 "graphics are half blocks" || result 1 "graphics are half blocks" "$(seen)" ;;
    esac
done
until_ok 5 shows '░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■'
result $? "all of code page 437 is shown" "$(seen)"
t capture-pane -e -p | grep -q $'\e\\[.*4[1-7]m'
result $? "in colours"
t resize-window -x 60 -y 12
until_ok 3 eval '[ "$(seen | head -n 1 | grep -cE "^.{50}")" = 1 ] && ! shows "^.{61}"'
result $? "a smaller terminal shows a part" "$(seen)"
t resize-window -x 100 -y 30

kill -TSTP "$(of_display)"
until_ok 5 shows 'Stopped'
result $? "SIGTSTP stops it" "$(seen)"
type_line 'stty -a | grep -c " echo "'
until_ok 3 shows '^1$'
result $? "with the terminal as it was" "$(seen)"
type_line fg
until_ok 5 shows '░▒▓│┤'
result $? "and it comes back with fg" "$(seen)"
for signal in TERM KILL; do
    victim=$(of_display)
    kill -$signal "$victim"
    until_ok 5 shows '(Terminated|Killed|status 1[0-9]+)'
    type_line 'clear; stty -a | grep -c " echo "'
    until_ok 3 shows '^1$'
    result $? "SIG$signal leaves the terminal as it was" "$(seen)"
    [ $signal = KILL ] && break
    rm -f said
    type_line "clear; $ring3 run --display text -m 32 --hda $screen --snapshot --debugcon file:said; echo status \$?"
    until_ok 20 said 'SCREEN 13h'
    until_ok 3 shows '▀▀▀'
done

type_line "clear; $ring3 run --display text --kernel $console --monitor pty --timeout 60"
until_ok 5 shows '^monitor: /dev/pts/|/dev/pts/'
result $? "what is said meanwhile is shown" "$(seen)"
t send-keys C-a x
until_ok 5 shows '^[^ ]*.*/dev/pts/[0-9]+'
result $? "and said again at the end" "$(seen)"

refused() {
    local words=$1 pattern=$2
    type_line "clear; $ring3 run --kernel $console $words 2>&1 | cat"
    until_ok 10 shows "$pattern"
    result $? "$words: $pattern" "$(seen)"
}
refused '--display text' 'not a terminal'
refused '--display text --serial stdio' '^ring3: --serial: the screen has the terminal'
refused '--display text --vga none' '^ring3: --display text shows the display adapter'
echo "1..$count"
exit $((failures > 0))
