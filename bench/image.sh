#!/bin/sh
# Makes what bench/run.sh measures with, in DIR:
#
#   bench64, bench32         the measuring programs, static; also in the guests
#   first.elf                the least guest
#   measure                  what runs and times the others
#   bin/busybox, bin/true    for the native rows: the busybox of the guests
#   boot-amd64, boot-i386    initrds that only boot (bench/guest/init)
#   rows                     the initrd with the measuring programs
#
#   image.sh DIR IMAGES      IMAGES: where scripts/guest-image.sh left busybox-amd64 and busybox-i386
#
# Without a compiler for 32-bit programs bench32 is missing. Made anew each time: it takes two seconds.
set -u
bench=$(cd "$(dirname "$0")" && pwd) || exit 1
dir=${1:?directory}
images=${2:?images}
cc=${CC:-gcc}
umask 022

fail() { echo "bench: $*" >&2; exit 1; }

# What is measured is written in the source: no vectors, no calls instead of loops, and the same on every host.
flags="-std=gnu17 -D_GNU_SOURCE -O2 -Wall -Wextra -fno-tree-vectorize -fno-tree-loop-distribute-patterns -static -s"

# initrd_make NAME BUSYBOX PROGRAM...
initrd_make()
{
    name=$1
    mkdir "$work/$name" "$work/$name/bin" "$work/$name/dev" "$work/$name/proc" "$work/$name/tmp" || exit 1
    cp "$2" "$work/$name/bin/busybox"
    for applet in sh true mount mkdir poweroff reboot; do
        ln -s busybox "$work/$name/bin/$applet"
    done
    cp "$bench/guest/init" "$work/$name/init"
    shift 2
    for program in "$@"; do
        cp "$program" "$work/$name/"
    done
    find "$work/$name" -exec touch -h -d '2024-01-01 00:00:00 UTC' {} +
    (cd "$work/$name" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 --reproducible) >"$dir/$name" ||
        fail "cpio failed"
}

mkdir -p "$dir/bin" || exit 1
work=$(mktemp -d "$dir/tmp.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT

# shellcheck disable=SC2086 # lists of options
{
    $cc -std=gnu17 -D_GNU_SOURCE -O2 -o "$dir/measure" "$bench/measure.c" || fail "measure does not compile"
    $cc $flags -o "$dir/bench64" "$bench"/guest/*.c || fail "the measuring programs do not compile"
    rm -f "$dir/bench32"
    $cc -m32 -march=i686 $flags -o "$dir/bench32" "$bench"/guest/*.c 2>"$work/log" ||
        echo "bench: no 32-bit rows: $cc -m32 does not work here (package gcc-multilib)" >&2
    $cc -m32 -nostdlib -static -no-pie -Wl,-Ttext-segment=0x200000,--build-id=none,-z,noexecstack,-z,max-page-size=4096 \
        -o "$dir/first.elf" "$bench/guest/first.S" || fail "first.elf does not compile"
}
cp "$images/busybox-amd64" "$dir/bin/busybox" || exit 1
ln -sfn busybox "$dir/bin/true"
initrd_make boot-amd64 "$images/busybox-amd64"
[ ! -s "$images/busybox-i386" ] || initrd_make boot-i386 "$images/busybox-i386"
if [ -x "$dir/bench32" ]; then
    initrd_make rows "$images/busybox-amd64" "$dir/bench64" "$dir/bench32"
else
    initrd_make rows "$images/busybox-amd64" "$dir/bench64"
fi
