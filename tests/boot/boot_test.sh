#!/bin/bash
# Boots one of Debian's kernels and judges what its user space says about the machine.
#
# usage: boot_test.sh RING3 KIND ENGINE [OPTION...]      KIND: cloud, amd64, 686; options go to `ring3 run`
#
# The guest's /init (guest/initrd/init) prints "CHECK key=value" lines under ring3.test; each is compared with what it must
# be here. Exit status 0 when all is well, 77 when there is no kernel image (scripts/guest-image.sh makes them) or
# the host does not permit the engine.
set -u
ring3=$(realpath "$1")
kind=$2
engine=$3
shift 3
cd "$(dirname "$0")/../.." || exit 99
images=${RING3_IMAGES:-.cache/guest}/$kind
memory_mib=512
log=$(mktemp) || exit 99
trap 'rm -f "$log" "$log.err"' EXIT
failures=0

if [ ! -s "$images/vmlinuz" ] || [ ! -s "$images/initrd" ]; then
    echo "no image of $kind: scripts/guest-image.sh $kind makes it"
    exit 77
fi

if "$ring3" engines | grep -A1 "^$engine " | grep 'not usable here: '; then
    exit 77
fi

fail()
{
    echo "FAILED: $*"
    failures=$((failures + 1))
}

value() { sed -n "s/^CHECK $1=//p" "$log" | tr -d '\r' | head -n 1; }

# same KEY EXPECTED
same() { [ "$(value "$1")" = "$2" ] || fail "$1 is '$(value "$1")', not '$2'"; }

# within KEY LOW HIGH
within()
{
    awk -v x="$(value "$1")" -v low="$2" -v high="$3" \
        'BEGIN { exit !(x ~ /^[0-9.]+$/ && x + 0 >= low + 0 && x + 0 <= high + 0) }' ||
        fail "$1 is '$(value "$1")', not within $2 .. $3"
}

# flag NAME...: in /proc/cpuinfo
flag()
{
    for name; do
        [[ " $(value flags) " == *" $name "* ]] || fail "the processor has no flag $name"
    done
}

before=$(date +%s)
timeout -k 5 "${RING3_BOOT_TIMEOUT:-280}" "$ring3" run --engine "$engine" -m ${memory_mib}M --no-reboot \
    --kernel "$images/vmlinuz" --initrd "$images/initrd" \
    --append "console=ttyS0 quiet panic=-1 oops=panic ring3.test" "$@" </dev/null >"$log" 2>"$log.err"
status=$?
after=$(date +%s)

[ $status = 0 ] || fail "exit status $status instead of 0"
[ -s "$log.err" ] && fail "messages on stderr: $(head -n 5 "$log.err")"
grep -q '^CHECK done' "$log" || fail "the guest did not come to the end of its checks"
if grep -q '^CHECK complaint=' "$log"; then
    fail "the kernel complained:"
    sed -n 's/^CHECK complaint=/    /p' "$log"
fi

same release "$(cat "$images/release")"
case $kind in
686) same machine i686 ;;
*) same machine x86_64 ;;
esac
same processors 1
# kvm-clock steps back behind the TSC where that is known never to stop.
case $(value clocksource) in
kvm-clock | tsc) ;;
*) fail "clocksource is '$(value clocksource)'" ;;
esac
same hypervisor KVM
[ -n "$(value model)" ] || fail "the processor has no name"
# Of the RAM the kernel keeps its own code and page structures to itself.
within memory_kib $((memory_mib * 1024 * 88 / 100)) $((memory_mib * 1024))
flag fpu tsc msr apic cx8 cmov pat mmx fxsr sse sse2 hypervisor pae
[ "$kind" = 686 ] || flag syscall nx lm
within interrupts 100 10000000
within timer_interrupts 50 10000000
# Guest time follows the host's clock: the guest cannot have been up longer than ring3 ran.
within uptime_s 0.2 $((after - before + 2))
within slept_to_s "$(awk -v u="$(value uptime_s)" 'BEGIN { print u + 0.99 }')" $((after - before + 3))
within date_s $((before - 2)) $((after + 2))
same pi 3.1415926535898
same root2 1.414213562373095
same digest f6351f5ead9a700e34275480b3856ea738122a7c57bdeb744a631251c069587a
same roundtrip "$(seq 1 5000 | md5sum | cut -d' ' -f1)"
same pipes 55
same signal 139

if [ $failures != 0 ]; then
    echo "$failures checks failed; the guest's last lines:"
    tail -n 40 "$log" | tr -d '\r' | cut -c1-200
    exit 1
fi
echo "$kind on $engine: $(value release), $(value uptime_s) s to the checks, $((after - before)) s in all"
