#!/bin/bash
# No acknowledged write is lost when the monitor is killed, and a snapshot writes nothing: disk_kill.sh RING3 ENGINE PROGRAM TIMES
#
# PROGRAM (guest/disks.c) writes blocks in rounds, flushes, and acknowledges each. The monitor is killed with SIGKILL at a
# random moment; then every acknowledged block must be on the image, of that round or of a later one, which had been begun. Each
# run begins with an empty image. A failure is repeated with SEED, as far as the host's timing permits.
set -u
ring3=$(realpath "$1") engine=$2 program=$(realpath "$3") times=$4
. "$(dirname "$0")/usable.sh"
usable_or_skip "$ring3" "$engine"
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 99
failures=0 acknowledged=0 seed=${SEED:-$$}
RANDOM=$seed

# run_and_kill OPTIONS...: runs the program until it is killed, after 0.1 to 1 s; what it acknowledged is in `said`.
run_and_kill()
{
    "$ring3" run --engine "$engine" -m 64 --kernel "$program" --append rounds --serial null --debugcon stdio "$@" </dev/null >said 2>errors &
    local pid=$!
    sleep "0.$((RANDOM % 900 + 100))"
    kill -KILL $pid
    wait $pid 2>/dev/null
    if [ -s errors ]; then
        echo "FAILED: $(cat errors)"
        failures=$((failures + 1))
    fi
}

# Every line of every block: in its place, whole, and of no round before the last that was acknowledged.
check_image()
{
    grep -a '^acknowledged [0-9a-f]* [0-9a-f]*$' said >whole # the last line may have been cut off
    acknowledged=$((acknowledged + $(wc -l <whole)))
    tr -d '\0' <image | awk '
        function value(text,  i, n) {
            for (i = 1; i <= length(text); i++)
                n = n * 16 + index("0123456789abcdef", substr(text, i, 1)) - 1
            return n
        }
        FILENAME != "-" { last[value($2)] = value($3); next }
        !/^block [0-9a-f]+ round [0-9a-f]+\.\.$/ { print "FAILED: a line is broken: " $0; bad = 1; next }
        {
            block = value($2)
            round = value(substr($4, 1, 8))
            lines[block]++
            if (block in last && round < last[block]) {
                print "FAILED: block " block " is of round " round ", and round " last[block] " was acknowledged"
                bad = 1
            }
        }
        END {
            for (block in last)
                if (lines[block] != 128) {
                    print "FAILED: block " block " has " lines[block] + 0 " lines"
                    bad = 1
                }
            exit bad
        }' whole - || failures=$((failures + 1))
}

for i in $(seq "$times"); do
    rm -f image
    truncate -s 1M image
    run_and_kill --hda image
    check_image
done
[ $acknowledged -gt "$times" ] || { echo "FAILED: only $acknowledged writes were acknowledged"; failures=$((failures + 1)); }

before=$(sha256sum <image)
for i in $(seq 20); do # until it was not killed too early on a busy host
    run_and_kill --drive file=image,snapshot=on
    [ ! -s said ] || break
done
[ -s said ] || { echo "FAILED: nothing was written with a snapshot"; failures=$((failures + 1)); }
[ "$before" = "$(sha256sum <image)" ] || { echo "FAILED: a snapshot has changed the image"; failures=$((failures + 1)); }

echo "$times kills, $acknowledged acknowledged writes, $failures failures (SEED=$seed)"
exit $((failures != 0))
