#!/bin/bash
# Debian's kernel with disks: disk_test.sh RING3 ENGINE. An IDE disk, a CD-ROM and virtio disks are read whole and written through
# a file system; what the guest read is what the images hold; snapshots write nothing; no file of the host but the images is
# written to (where strace is permitted); runs by the clock of instructions repeat. 77 while there is no kernel image.
set -u
ring3=$(realpath "$1") engine=$2
here=$(dirname "$(realpath "$0")")
. "$here/../guest/usable.sh"
usable_or_skip "$ring3" "$engine"
images=$(realpath "${RING3_IMAGES:-$here/../../.cache/guest}")
kernel=$images/cloud
[ -s "$kernel/disks" ] || { echo "there is no $kernel/disks: scripts/guest-image.sh cloud makes it"; exit 77; }
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 99
failures=0

fail()
{
    echo "FAILED: $*"
    failures=$((failures + 1))
}

# guest WORDS OPTION...: what it says, without the prefix, to `said`.
guest()
{
    local words=$1
    shift
    timeout 200 "$ring3" run --engine "$engine" -m 256 --kernel "$kernel/vmlinuz" --initrd "$kernel/disks" \
        --append "console=ttyS0 quiet rdinit=/disks ring3.do=$words" "$@" </dev/null >log 2>errors ||
        fail "status $? with $*: $(cat errors; tail -n 3 log)"
    tr -d '\r' <log | sed -n 's/^DISK //p' >said
    grep -q '^done$' said || fail "it did not come to its end with $*: $(tail -n 3 log)"
    grep -q '^complaints=0$' said || fail "the kernel complains with $*: $(grep complaint said)"
}

expect()
{
    grep -qx "$1" said || fail "'$1' is not in: $(cat said)"
}

sum() { sha256sum <"$1" | cut -d' ' -f1; }

head -c 12M /dev/urandom >disk
head -c 10M /dev/urandom >other
head -c 5000000 /dev/urandom >odd # not a multiple of 512
head -c 3M /dev/urandom >cd
cp disk disk.before
cp other other.before

# All kinds, read whole. The positional argument is the first disk.
guest list,sum,sr0:,sum,vda:,sum,vdb:,sum,complaints disk --cdrom cd --drive file=other,if=virtio --drive file=odd,if=virtio,readonly=on
expect "sda=24576 sectors, removable 0, read-only 0"
expect "sr0=6144 sectors, removable 1, read-only 1"
expect "vda=20480 sectors, removable 0, read-only 0"
expect "vdb=9766 sectors, removable 0, read-only 1"
for pair in sda=disk sr0=cd vda=other; do
    expect "${pair%=*}.sum=$(sum "${pair#*=}")"
    expect "${pair%=*}.direct=$(sum "${pair#*=}")"
done
expect "vdb.sum=$( (cat odd; head -c $((9766 * 512 - 5000000)) /dev/zero) | sha256sum | cut -d' ' -f1)"
cmp -s disk disk.before && cmp -s other other.before || fail "reading has changed an image"

# Snapshots: the guest sees what it has written, the images do not.
guest files,vda:,files,complaints --hda disk --drive file=other,if=virtio --snapshot
files=$(sed -n 's/^sda.files=//p' said)
[ -n "$files" ] && expect "vda.files=$files"
cmp -s disk disk.before && cmp -s other other.before || fail "a snapshot has changed an image"

# Written for good; the only files that are opened for writing are the two images (and what is not a file).
tracer=()
if strace -f -qq -e trace=none true 2>/dev/null; then
    tracer=(strace -f -qq -e 'trace=open,openat,openat2,creat,truncate,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,link,linkat,symlink,symlinkat' -o trace)
fi
plain=$ring3
[ ${#tracer[@]} = 0 ] || { printf '#!/bin/sh\nexec %s "$@"\n' "${tracer[*]@Q} ${ring3@Q}" >traced && chmod 755 traced && ring3=./traced; }
guest files,vda:,files,complaints --hda disk --drive file=other,if=virtio
ring3=$plain
expect "sda.files=$files"
expect "vda.files=$files"
cmp -s disk disk.before && fail "nothing was written by IDE"
cmp -s other other.before && fail "nothing was written by virtio"
if [ -s trace ]; then
    grep -E 'O_WRONLY|O_RDWR|O_CREAT|creat\(|truncate\(|rename|unlink|mkdir|link' trace | grep -v ' = -1 ' >writes
    grep -vE '"(disk|other|/dev/(null|ptmx|tty|kvm))"|O_TMPFILE' writes >unexpected && fail "other files were touched: $(cat unexpected)"
    grep -c . writes | sed 's/$/ calls open files for writing; they are the images/'
else
    echo "strace is not permitted here: which files are touched is not shown"
fi

# Two runs by the clock of instructions are the same.
for run in 1 2; do
    guest sum,complaints --clock instructions --cpu x86-64-v2 --hda cd --drive file=odd,if=virtio --snapshot
    cp log log$run
done
cmp -s log1 log2 || fail "two runs with --clock instructions differ: $(diff log1 log2 | head -n 5)"

[ $failures = 0 ] && echo "disks are read and written as they should be"
exit $((failures != 0))
