#!/bin/bash
# What the primer costs a classical monitor, unmodified and paravirtual: primer_traps.sh PRIMER_TRAPS ENGINE DIRECTORY. Checks
# the lecture's numbers and that hypercalls save what docs/hypercalls.md says they save; that page has the table that is printed
# here as comments. Prints TAP.
traps=$1 engine=$2 programs=$3
out=$(mktemp -d) || exit 99
trap 'rm -rf "$out"' EXIT
n=0 rounds=${ROUNDS:-40}

# measure KERNEL COMMAND-LINE [time]: puts the counts of the last pair of marks into $out/line.
measure()
{
    timeout -k 5 150 "$traps" "$engine" "$programs/$1.elf" "$2" $3 2>"$out/errors" >"$out/lines"
    status=$?
    tail -n 1 "$out/lines" >"$out/line"
}

# count KEY: from $out/line
count()
{
    tr ' ' '\n' <"$out/line" | awk -v key="$1" 'found { print; exit } $0 == key { found = 1 }'
}

verdict()
{
    n=$((n + 1))
    if [ "$2" = 0 ]; then
        echo "ok $n - $1"
    else
        echo "not ok $n - $1"
        sed 's/^/# /' "$out/line" "$out/errors" | head -n 40
    fi
}

# is WHAT KEY=NUMBER...
is()
{
    local what=$1 pair verdict=$status
    shift
    for pair; do
        [ "$(count "${pair%=*}")" = "${pair#*=}" ] || verdict=1
    done
    verdict "$what" "$verdict"
}

# readblock KERNEL: by the host's clock a tick may come before the program has begun to wait, and another one runs for a
# while; then once more.
readblock()
{
    for _ in 1 2 3 4 5; do
        measure "$1" run=readblock
        [ "$(count cr3)" != 2 ] || break
    done
}

for bits in '' 64; do
    measure "primer$bits" run=write4
    is "write4, primer$bits: six traps, of which four are stores" traps=6 gates=1 privileged=1 mmio=4 cr3=0 shadow=2
    measure "primer$bits-pv" run=write4
    is "write4, primer$bits-pv: three" traps=3 gates=2 privileged=1 mmio=0 cr3=0 shadow=2
    readblock "primer$bits"
    is "readblock, primer$bits: two loads of CR3" cr3=2
    readblock "primer$bits-pv"
    is "readblock, primer$bits-pv: two switches" cr3=2
done

# nanoseconds KERNEL WHAT: for one round, when nobody counts
nanoseconds()
{
    measure "$1" "run=bench,$rounds,$2" time
    echo $(($(count ns) / times))
}

printf '# %-8s %10s %12s %10s %10s %12s\n' 'each' 'traps' 'PTE stores' 'us' 'pv: traps' 'us'
for what in call switch fork exec copy console; do
    times=$rounds
    { [ $what = call ] || [ $what = switch ]; } && times=$((rounds * 10))
    plain_ns=$(nanoseconds primer $what) pv_ns=$(nanoseconds primer-pv $what)
    measure primer "run=bench,$rounds,$what"
    plain_status=$status plain=$(count traps)
    measure primer-pv "run=bench,$rounds,$what"
    # the unmodified kernel stores what the other one has written for it
    awk -v what=$what -v times=$times -v plain="$plain" -v plain_ns="$plain_ns" -v pv="$(count traps)" -v pv_ns="$pv_ns" \
        -v entries="$(count entries)" 'BEGIN { printf "# %-8s %10.1f %12.1f %10.1f %10.1f %12.1f\n", what,
            plain / times, entries / times, plain_ns / 1000, pv / times, pv_ns / 1000 }'
    # what stays the same may be off by ticks of the timer
    case $what in
    call | switch) [ "$plain_status$status" = 00 ] && [ "$(count traps)" -le $((plain * 11 / 10 + 60)) ] ;;
    fork | exec) [ "$plain_status$status" = 00 ] && [ "$(count traps)" -lt $((plain * 3 / 4)) ] ;;
    copy) [ "$plain_status$status" = 00 ] && [ "$(count traps)" -lt $((plain * 3 / 4)) ] ;;
    console) [ "$plain_status$status" = 00 ] && [ "$(count traps)" -lt $((plain / 10)) ] ;;
    esac
    verdict "bench $what: $plain traps, paravirtual $(count traps)" $?
done
echo "1..$n"
