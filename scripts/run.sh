#!/bin/sh
# Boots one of the guests of guest-image.sh: with a terminal to a shell, without one to a tour that ends by itself.
#
#   run.sh [KIND [OPTION...]]     KIND: cloud (the default), amd64, 686; options go to `ring3 run`
#
# RING3_APPEND is added to the kernel's command line. The exit status is ring3's: 0 when the guest powered off.
set -u
cd "$(dirname "$0")/.." || exit 1
build=${BUILD:-build}
kind=${1:-cloud}
[ $# -gt 0 ] && shift
images=${RING3_IMAGES:-.cache/guest}

[ -x "$build/ring3" ] || { echo "run: $build/ring3 is not built; run 'make'" >&2; exit 1; }
scripts/guest-image.sh "$kind" || exit 1
append="console=ttyS0 panic=-1"
if [ -t 0 ] && [ -t 1 ]; then
    append="$append loglevel=5"
else
    append="$append quiet ring3.tour"
fi
exec "$build/ring3" run -m 512M --kernel "$images/$kind/vmlinuz" --initrd "$images/$kind/initrd" \
    --append "$append${RING3_APPEND:+ $RING3_APPEND}" "$@"
