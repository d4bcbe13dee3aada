#!/bin/sh
# One of guest/'s programs on the engine kvm: kvm.sh RING3 PROGRAM anywhere|processor [option...]. Prints TAP.
# "anywhere": back ends that emulate guests can run it, too; "processor": only hosts whose processor executes guest code. Where
# /dev/kvm cannot be used, or not for this, the test is skipped with the reason.
ring3=$1 program=$2 needs=$3
shift 3
if ! said=$("$ring3" engines | grep -A1 '^kvm ' | tail -n 1); then
    echo "Bail out! ring3 does not know the engine kvm"
    exit 1
fi
case $said in
*'not usable here: '*)
    echo "1..0 # SKIP ${said#*not usable here: }"
    exit 0
    ;;
*'usable, but '*)
    if [ "$needs" = processor ]; then
        echo "1..0 # SKIP this program needs a processor: ${said#*auto takes: }"
        exit 0
    fi
    set -- "$@" --append fixed-tsc # clocks.c
    ;;
esac
exec sh "$(dirname "$0")/run.sh" "$ring3" kvm "$program" "$@"
