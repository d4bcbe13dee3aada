#!/bin/sh
# Guests that execute junk: hostile.sh RING3 ENGINE hostile.elf [seeds]. Whatever the guest does, ring3 must end with a status
# that it documents, and not by a signal. Prints TAP. A seed repeats where the clock can be the instruction count. Junk may
# write any value to the debug exit, and then the status is the same odd number as that of some signals: what tells an orderly
# end is that its report was written.
ring3=$1 engine=$2 program=$3 seeds=${4:-12}
. "$(dirname "$0")/usable.sh"
usable_or_skip "$ring3" "$engine"
clock=instructions
[ "$engine" = trap ] && clock=host
text=$(mktemp) || exit 99
stat=$text.stat
trap 'rm -f "$text" "$stat"' EXIT
n=0
while [ "$n" -lt "$seeds" ]; do
    n=$((n + 1))
    wild=0
    [ $((n % 3)) = 0 ] && wild=50
    line="seed=$n rounds=1000 wild=$wild"
    rm -f "$stat"
    timeout -k 5 60 "$ring3" run --engine "$engine" -m 64 --kernel "$program" --append "$line" --serial null \
        --debugcon null --timeout 3 --clock $clock --no-reboot --stat=json:"$stat" </dev/null >"$text" 2>&1
    status=$?
    case $status in
    0 | 4 | 6 | 8 | *[13579]) verdict=ok ;; # odd: the debug exit
    *) verdict='not ok' ;;
    esac
    [ "$(tail -n 1 "$stat" 2>/dev/null)" = '}' ] || verdict='not ok'
    grep -q -e 'Sanitizer' -e 'runtime error' -e 'internal error' "$text" && verdict='not ok'
    echo "$verdict $n - $line ends with status $status"
    [ "$verdict" = ok ] || sed 's/^/# /' "$text"
done
echo "1..$n"
