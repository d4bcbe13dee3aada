#!/bin/sh
# Makes what bench/run.sh measures with, in DIR:
#
#   measure                  what runs and times the others
#   first.elf                the least guest
#   boot-amd64, boot-i386    initrds that only boot (bench/guest/init)
#   rows64, rows32           folders: bench (the measuring program, static), bin (busybox, true), programs (of Debian's
#                            packages), data (what they work on); the native rows run from here
#   rows64.cpio, rows32.cpio the same as initrds
#
#   image.sh DIR IMAGES      IMAGES: where scripts/guest-image.sh left busybox-ARCH and programs-ARCH
#
# Without a compiler for 32-bit programs rows32 is missing. Made anew each time: it takes a few seconds.
set -u
bench=$(cd "$(dirname "$0")" && pwd) || exit 1
dir=${1:?directory}
images=${2:?images}
cc=${CC:-gcc}
umask 022

fail() { echo "bench: $*" >&2; exit 1; }

# What is measured is written in the source: no vectors, no calls instead of loops, and the same on every host.
flags="-std=gnu17 -D_GNU_SOURCE -O2 -Wall -Wextra -fno-tree-vectorize -fno-tree-loop-distribute-patterns -static -s"

# initrd_make NAME ROOT: of the folder ROOT, with busybox in ROOT/bin
initrd_make()
{
    mkdir -p "$2/dev" "$2/proc" "$2/tmp" || exit 1
    for applet in sh true mount mkdir poweroff reboot; do
        ln -sfn busybox "$2/bin/$applet"
    done
    cp "$bench/guest/init" "$2/init"
    find "$2" -exec touch -h -d '2024-01-01 00:00:00 UTC' {} +
    (cd "$2" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 --reproducible) >"$dir/$1" || fail "cpio failed"
}

# boot_make ARCH
boot_make()
{
    mkdir -p "$work/boot-$1/bin"
    cp "$images/busybox-$1" "$work/boot-$1/bin/busybox"
    initrd_make "boot-$1" "$work/boot-$1"
}

# rows_make BITS ARCH OPTION...: the options are the compiler's
rows_make()
{
    bits=$1 arch=$2
    shift 2
    root=$work/rows$bits
    mkdir -p "$root/bin" "$root/data" "$root/programs"
    # shellcheck disable=SC2086 # a list of options
    $cc "$@" $flags -o "$root/bench" "$bench"/guest/*.c || return 1
    $cc "$@" -D_GNU_SOURCE -E -P -o "$root/data/compile.i" "$bench/guest/compute.c" || return 1
    cp "$bench/guest/words.awk" "$bench/guest/words.pl" "$root/data/"
    for kib in 8192 1024 256 128; do
        "$root/bench" --text "$root/data/text-$kib" $kib 2>/dev/null || cp "$dir/rows64/data/text-$kib" "$root/data/" || return 1
    done
    cp "$images/busybox-$arch" "$root/bin/busybox" || return 1
    [ ! -d "$images/programs-$arch" ] || cp -r "$images/programs-$arch/." "$root/programs"
    initrd_make "rows$bits.cpio" "$root"
    mv "$root" "$dir/rows$bits"
}

mkdir -p "$dir" || exit 1
work=$(mktemp -d "$dir/tmp.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
rm -rf "$dir"/rows*

$cc -std=gnu17 -D_GNU_SOURCE -O2 -o "$dir/measure" "$bench/measure.c" || fail "measure does not compile"
$cc -m32 -nostdlib -static -no-pie -Wl,-Ttext-segment=0x200000,--build-id=none,-z,noexecstack,-z,max-page-size=4096 \
    -o "$dir/first.elf" "$bench/guest/first.S" || fail "first.elf does not compile"
rows_make 64 amd64 || fail "the measuring program does not compile"
boot_make amd64
if [ -s "$images/busybox-i386" ]; then
    boot_make i386
    rows_make 32 i386 -m32 -march=i686 2>"$work/log" ||
        echo "bench: no 32-bit rows: $cc -m32 does not work here (package gcc-multilib)" >&2
fi
