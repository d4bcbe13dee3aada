#!/bin/bash
# Firmware, by the boot disk of guest/firmware: from diskettes of all sizes and from a disk, on each engine, with little and much
# memory, on one and several processors, twice the same with the clock "instructions"; the order of booting; what is said when
# firmware is missing or is none.
#
# usage: firmware_test.sh RING3 BOOTDISK
set -u
ring3=$(realpath "$1")
bootdisk=$(realpath "$2")
bios=/usr/share/seabios/bios-256k.bin
[ -r "$bios" ] || {
    echo "1..0 # SKIP $bios is missing: install the package seabios"
    exit 77
}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 99
count=0
failures=0

result() {
    count=$((count + 1))
    if [ "$1" = 0 ]; then
        echo "ok $count - $2"
    else
        echo "not ok $count - $2"
        failures=$((failures + 1))
        sed 's/^/# /' log | tail -n 60
    fi
}

# image FILE BYTES: the boot disk.
image() {
    cp "$bootdisk" "$1"
    truncate -s "$2" "$1"
    printf 'the last sector' | dd of="$1" bs=1 seek=$(($2 - 512)) conv=notrunc status=none
}

# boots NAME OPTION...: all 23 lines in order, and the exit status of success.
boots() {
    local name=$1 status
    shift
    timeout -k 2 60 "$ring3" run --debugcon stdio --serial null "$@" < /dev/null > log 2>&1
    status=$?
    { [ $status = 1 ] && grep -a '^ok [0-9]' log | cut -c4-5 | tr '\n' ' ' |
        grep -q '^01 02 03 04 05 06 07 08 09 10 11 12 13 14 15 16 17 18 19 20 21 22 23 $'; }
    result $? "$name"
}

for kib in 360 720 1200 1440 2880; do
    image fd.img $((kib * 1024))
    boots "diskette of $kib KiB" --fda fd.img
done
image fd.img 1474560
image hd.img 20643840 # 40 cylinders
for engine in interpret translate trap; do
    boots "diskette, engine $engine" --engine $engine --fda fd.img
    [ $engine = trap ] || boots "disk, engine $engine" --engine $engine --hda hd.img
done
for memory in 4M 16M 1G; do
    boots "memory of $memory" -m $memory --fda fd.img
done
boots "memory of 8G" -m 8G --engine interpret --fda fd.img
boots "virtio disk" --drive file=hd.img,if=virtio
boots "4 processors" --cpus 4 --fda fd.img
boots "firmware by its name" --firmware "$bios" --fda fd.img

# Repeatable: the same instructions, whatever the host does.
for n in 1 2; do
    cp fd.img repeat.img
    boots "4 processors by turns, $n" --cpus 4 --clock instructions --stat=json:stat$n.json --fda repeat.img
done
grep -o '"instructions":[0-9]*' stat1.json > log
grep -o '"instructions":[0-9]*' stat2.json | cmp -s - log
result $? "both times the same instructions"

# The order. A blank disk is not bootable; the diskette is left behind if the disk is wanted and can be booted.
truncate -s 20643840 blank.img
boots "the diskette behind a blank disk" --fda fd.img --hda blank.img
from() {
    timeout -k 2 60 "$ring3" run --debugcon stdio --serial null --no-reboot "${@:3}" < /dev/null > log 2>&1
    grep -a '^Booting from' log | head -n 1 | grep -q "$2"
    result $? "$1"
}
from "disk first by default" "Hard Disk" --fda fd.img --hda hd.img
from "--boot a" "Floppy" --boot a --fda fd.img --hda hd.img
from "--boot once=a" "Floppy" --boot once=a --fda fd.img --hda hd.img
from "bootindex" "Floppy" --drive file=fd.img,if=floppy,bootindex=1 --drive file=hd.img,bootindex=2
from "bootindex, the other way round" "Hard Disk" --drive file=fd.img,if=floppy,bootindex=2 --drive file=hd.img,bootindex=1
# once= holds until the first reset; the boot disk resets the machine twice.
timeout -k 2 60 "$ring3" run --debugcon stdio --serial null --boot once=a,order=c --fda fd.img --hda hd.img < /dev/null > log 2>&1
grep -a '^Booting from [FH]' log | tr '\n' ' ' | grep -q 'Floppy.*Hard Disk.*Hard Disk'
result $? "--boot once=a: only once"
timeout -k 2 60 "$ring3" run --debugcon stdio --serial null --boot c,menu=on < /dev/null > log 2>&1
[ $? = 2 ]
result $? "--boot refuses what it does not know"
timeout 20 "$ring3" run --debugcon stdio --serial null --hda blank.img --timeout 3 < /dev/null > log 2>&1
[ $? = 124 ] || grep -aq 'No bootable device' log
result $? "no bootable device"
timeout 20 "$ring3" run --debugcon stdio --serial null --boot menu=on,splash-time=100 --hda hd.img < /dev/null > log 2>&1
grep -aq 'Press ESC for boot menu' log
result $? "a boot menu"

timeout 20 "$ring3" run --vga none --serial stdio --hda hd.img < /dev/null > log 2>&1
grep -aq 'Booting from Hard Disk' log && grep -aq 'the boot disk greets' log
result $? "without a display adapter the serial port is the screen"

refuse() {
    local name=$1 pattern=$2
    shift 2
    timeout 20 "$ring3" run "$@" < /dev/null > log 2>&1
    [ $? = 2 ] && [ "$(wc -l < log)" = 1 ] && grep -q "$pattern" log
    result $? "$name"
}
head -c 1000 /dev/zero > odd.bin
refuse "firmware that is not there" "ring3: --firmware: none.bin: No such file" --firmware none.bin
refuse "firmware of an odd size" "odd.bin: 1000 bytes are not a PC's firmware" --firmware odd.bin
refuse "firmware that is a directory" "is not a regular file" --firmware /
head -c 3000000 /dev/zero > large.img
refuse "a diskette that is too large" "more than a diskette holds" --fda large.img
refuse "a kernel and firmware" "leave --kernel out" --kernel odd.bin --firmware "$bios"

echo "1..$count"
[ $failures = 0 ]
