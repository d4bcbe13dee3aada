#!/bin/bash
# Makes whole systems, as files that a PC boots: disks with Debian on them, CDs. All that is in them comes from Debian's
# packages, unmodified, as apt-get and mmdebstrap download them. What tests/systems boots, and docs/systems.md shows.
#
#   system-image.sh NAME...     NAME: debian-amd64, debian-686, grub, memtest, installer-amd64, installer-i386,
#                               apt-amd64, apt-i386, or all
#
# In $RING3_IMAGES/systems (.cache/guest/systems):
#
#   debian-amd64.img, debian-686.img   disks of 2 GiB (sparse): one ext4 partition, GRUB, systemd, apt, python3, gcc,
#                                      wget; DHCP on each network card; root logs in without a password, on ttyS0 and
#                                      tty1. debian-*.packages lists what is installed
#   grub.iso                           a CD that comes to GRUB's prompt, on the screen and on COM1
#   memtest86+{x64,ia32}.{bin,iso}     memtest86+, as a kernel and as a CD
#   installer-{amd64,i386}.iso         a CD that starts the text mode of Debian's netboot installer; installer-*/linux and
#                                      initrd.gz are the same as a kernel and its RAM disk
#   apt-{amd64,i386}/                  an archive of one package (hello), for the guest's apt
#
# No privilege is needed. As root mmdebstrap works in a chroot; as somebody else in a user namespace where that is
# permitted (/etc/subuid, newuidmap), else by fakechroot, which takes longer, and for debian-686 needs the 32-bit libraries of
# fakechroot and fakeroot (packages libfakechroot:i386 and libfakeroot:i386, which `make setup` does not install). Nothing is
# mounted: mke2fs fills the file system, and GRUB is written where the BIOS and GRUB itself look for it (below).
#
# What is there is kept while its recipe (the functions in this file that make it) is the same. Delete the folder for newer
# packages.
set -u
cd "$(dirname "$0")/.." || exit 1
. scripts/packages.sh
images=${RING3_IMAGES:-.cache/guest}/systems
suite=bookworm
disk_mib=2048
grub=/usr/lib/grub/i386-pc
# Reproducible where the tools allow it: all times in file systems are this one.
export SOURCE_DATE_EPOCH=1704067200
umask 022
started=$SECONDS

fail() { echo "system-image: $*" >&2; exit 1; }
say() { echo "system-image: $* ($((SECONDS - started)) s)"; }

need()
{
    local missing
    # shellcheck disable=SC2086
    missing=$(packages_missing $packages_systems | tr '\n' ' ')
    [ -z "$missing" ] || fail "these packages are missing: $missing(make setup installs them)"
}

# package_unpack PACKAGE DIR: the package's files, under DIR.
package_unpack()
{
    local work=$2.deb
    mkdir -p "$2" "$work"
    (cd "$work" && apt-get -q -o APT::Sandbox::User=root -o Acquire::Retries=3 download "$1") >"$work/log" 2>&1 </dev/null || {
        tail -n 5 "$work/log" >&2
        fail "package $1 could not be downloaded (is there a network, and has 'make setup' been run?)"
    }
    dpkg-deb -x "$work"/*.deb "$2" || fail "package $1 cannot be unpacked"
    rm -rf "$work"
}

# ---- Debian on a disk ----

# sources ARCHITECTURE: the archives of which this host's apt has lists, as lines of sources.list. (A mirror whose lists do not
# come down for one architecture is left out so.)
sources()
{
    local lines
    # shellcheck disable=SC2016 # apt's variables
    lines=$(apt-get indextargets --format '$(ORIGIN) $(ARCHITECTURE) deb $(REPO_URI) $(CODENAME) main' 'Created-By: Packages' 2>/dev/null |
        sed -n "s/^Debian $1 \(deb [^ ]* $suite.*\)/\1/p" | sort -u)
    if [ -z "$lines" ]; then
        echo "system-image: apt has no lists of Debian $suite for $1: run 'make setup' or 'apt-get update'" >&2
        return 1
    fi
    printf '%s\n' "$lines"
}

# Before any package is set up: what Debian's packages ask the administrator. The RAM disk has the drivers of an i440FX
# board's disks and of virtio, not those of every computer, so that firmware need not read tens of MiB.
configure_first()
{
    cat <<'END'
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d" "$1/etc/apt/apt.conf.d"
echo MODULES=list >"$1/etc/initramfs-tools/conf.d/modules"
printf '%s\n' ata_piix sd_mod sr_mod virtio_pci virtio_blk virtio_net ext4 >"$1/usr/share/initramfs-tools/modules.d/disks"
printf 'do_symlinks = yes\n' >"$1/etc/kernel-img.conf"
END
}

# And the rest: a host with a name, root without a password, the network by DHCP. By files and links alone: programs that
# change their user, such as passwd, do not work under fakechroot.
configure()
{
    cat <<'END'
set -e
units=$1/etc/systemd/system
echo HOSTNAME >"$1/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 HOSTNAME\n' >"$1/etc/hosts"
echo 'UUID=ROOT / ext4 errors=remount-ro 0 0' >"$1/etc/fstab"
sed -i 's/^root:[^:]*:/root::/' "$1/etc/shadow"
printf '[Match]\nType=ether\n\n[Network]\nDHCP=yes\n' >"$1/etc/systemd/network/20-ethernet.network"
mkdir -p "$units/multi-user.target.wants" "$units/sockets.target.wants"
ln -sf /lib/systemd/system/systemd-networkd.service "$units/multi-user.target.wants/"
ln -sf /lib/systemd/system/systemd-networkd.socket "$units/sockets.target.wants/"
ln -sf /dev/null "$units/apt-daily.timer"
ln -sf /dev/null "$units/apt-daily-upgrade.timer"
rm -f "$1/etc/machine-id" # which only root could write to
: >"$1/etc/machine-id"
mkdir -p "$1/boot/grub"
cat >"$1/boot/grub/grub.cfg" <<'CFG'
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set timeout=1
menuentry "Debian" {
    linux /vmlinuz root=UUID=ROOT ro console=tty0 console=ttyS0,115200
    initrd /initrd.img
}
menuentry "Debian, the screen in text mode" {
    linux /vmlinuz root=UUID=ROOT ro nomodeset console=ttyS0,115200 console=tty0
    initrd /initrd.img
}
CFG
END
}

# grub_core OUT PREFIX MODULE...
grub_core()
{
    local out=$1 prefix=$2
    shift 2
    grub-mkimage -O i386-pc -d "$grub" -o "$out" -p "$prefix" "$@" || fail "grub-mkimage failed"
}

# disk_make IMAGE TREE UUID: run as root, or under fakeroot. The first sector is GRUB's boot.img around the partition table;
# its core lies from sector 1, which is where boot.img looks, to before the first partition.
disk_make()
{
    local image=$1 tree=$2 uuid=$3 sectors
    truncate -s ${disk_mib}M "$image" || return 1
    echo 'start=2048, type=83, bootable' | sfdisk -q --no-reread --no-tell-kernel -X dos "$image" || return 1
    mke2fs -q -t ext4 -O ^metadata_csum_seed,^orphan_file -L root -U "$uuid" -E offset=$((2048 * 512)),hash_seed="$uuid" \
        -d "$tree" "$image" $(((disk_mib - 1) * 1024))k || return 1
    grub_core "$image.core" '(,msdos1)/boot/grub' biosdisk part_msdos ext2 normal linux linux16 multiboot serial terminal \
        echo ls cat configfile reboot halt chain
    sectors=$((($(stat -c %s "$image.core") + 511) / 512))
    [ $sectors -lt 2047 ] || return 1
    dd if="$grub/boot.img" of="$image" bs=440 count=1 conv=notrunc status=none &&
        dd if="$image.core" of="$image" bs=512 seek=1 conv=notrunc status=none && rm -f "$image.core"
}

# Stops when this user cannot install 32-bit packages.
i386_need()
{
    if [ "$(id -u)" != 0 ] && ! unshare --user --map-users=auto true 2>/dev/null &&
        [ ! -e /usr/lib/i386-linux-gnu/fakechroot/libfakechroot.so ]; then
        fail "debian-686: as this user it needs user namespaces (an entry in /etc/subuid), or, as root:" \
            "apt-get install libfakechroot:i386 libfakeroot:i386"
    fi
}

# debian_make NAME ARCHITECTURE KERNEL UUID
debian_make()
{
    local name=$1 arch=$2 kernel=$3 uuid=$4 archives hooks work as=
    work=$(mktemp -d "$images/tmp.XXXXXX") || exit 1
    say "$name: installing Debian packages by mmdebstrap"
    # In files: a namespace's root may not read where we do, but it reads what it is given.
    hooks=$work/first
    configure_first >"$work/first"
    configure | sed "s/HOSTNAME/$name/g; s/ROOT/$uuid/g" >"$work/then"
    chmod 755 "$work"
    archives=$(sources "$arch") || exit 1
    printf '%s\n' "$archives" | mmdebstrap --quiet --variant=minbase --architectures="$arch" \
        --include="systemd-sysv,udev,kmod,$kernel,initramfs-tools,python3-minimal,gcc,libc6-dev,wget,iproute2,procps,ca-certificates" \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --aptopt='Acquire::Retries "3"' \
        --essential-hook="$(cat "$hooks")" --customize-hook="$(cat "$work/then")" \
        "$suite" "$work/root.tar" - >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; fail "$name: mmdebstrap failed"; }
    say "$name: making the disk"
    [ "$(id -u)" = 0 ] || as=fakeroot
    # shellcheck disable=SC2016
    images=$images disk_mib=$disk_mib grub=$grub $as bash -c '
        '"$(declare -f disk_make grub_core fail)"'
        mkdir "$1/root" && tar -C "$1/root" -xf "$1/root.tar" --numeric-owner --exclude=./dev/* && rm -f "$1/root.tar" &&
            find "$1/root" -type f ! -perm -400 -exec chmod u+r {} + && # mke2fs reads as who we are
            disk_make "$1/disk" "$1/root" "$2"' disk "$work" "$uuid" || fail "$name: no disk could be made"
    sed -n '/^Package: /{s///;h}; /^Version: /{s///;H;x;s/\n/ /;p}' "$work/root/var/lib/dpkg/status" >"$images/$name.packages"
    mv "$work/disk" "$images/$name.img"
    rm -rf "$work"
}

# ---- CDs ----

# cd_make OUT TREE: bootable by a BIOS, with GRUB
cd_make()
{
    grub-mkrescue -d "$grub" -o "$1.part" "$2" -- -volume_date all_file_dates ="$SOURCE_DATE_EPOCH" >"$2.log" 2>&1 || {
        tail -n 5 "$2.log" >&2
        fail "grub-mkrescue failed"
    }
    rm -f "$2.log"
    mv "$1.part" "$1"
}

grub_terminal()
{
    printf '%s\n' 'serial --unit=0 --speed=115200' 'terminal_input console serial' 'terminal_output console serial'
}

grub_make()
{
    local work
    work=$(mktemp -d "$images/tmp.XXXXXX") || exit 1
    [ -s "$images/memtest86+ia32.bin" ] || image_make memtest
    mkdir -p "$work/cd/boot/grub"
    cp "$images/memtest86+ia32.bin" "$work/cd/memtest.bin"
    grub_terminal >"$work/cd/boot/grub/grub.cfg"
    cd_make "$images/grub.iso" "$work/cd"
    rm -rf "$work"
}

memtest_make()
{
    local work width
    work=$(mktemp -d "$images/tmp.XXXXXX") || exit 1
    package_unpack memtest86+ "$work/root"
    for width in x64 ia32; do
        cp "$work/root/boot/memtest86+$width.bin" "$work/root/usr/lib/memtest86+/memtest86+$width.iso" "$images/" ||
            fail "package memtest86+ is not what it was"
    done
    rm -rf "$work"
}

# installer_make ARCHITECTURE
installer_make()
{
    local work from
    work=$(mktemp -d "$images/tmp.XXXXXX") || exit 1
    package_unpack "debian-installer-12-netboot-$1" "$work/root"
    from=$work/root/usr/lib/debian-installer/images/12/$1/text/debian-installer/$1
    mkdir -p "$work/cd/boot/grub" "$images/installer-$1"
    cp "$from/linux" "$from/initrd.gz" "$work/cd/" || fail "the installer's package is not what it was"
    cp "$from/linux" "$from/initrd.gz" "$images/installer-$1/" || exit 1
    {
        grub_terminal
        printf 'set timeout=1\n'
        printf 'menuentry "Install on the screen" {\n linux /linux vga=normal nomodeset\n initrd /initrd.gz\n}\n'
        printf 'menuentry "Install on the serial line" {\n linux /linux console=ttyS0,115200\n initrd /initrd.gz\n}\n'
    } >"$work/cd/boot/grub/grub.cfg"
    rm -rf "$work/root"
    cd_make "$images/installer-$1.iso" "$work/cd"
    rm -rf "$work"
}

# ---- an archive for the guest's apt ----

# apt_make ARCHITECTURE
apt_make()
{
    local work deb
    work=$(mktemp -d "$images/tmp.XXXXXX") || exit 1
    (cd "$work" && apt-get -q -o APT::Sandbox::User=root -o Acquire::Retries=3 download "hello:$1") >"$work/log" 2>&1 </dev/null || {
        tail -n 5 "$work/log" >&2
        fail "package hello:$1 could not be downloaded"
    }
    rm -f "$work/log"
    for deb in "$work"/*.deb; do
        dpkg-deb -f "$deb"
        printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$(basename "$deb")" "$(stat -c %s "$deb")" \
            "$(sha256sum <"$deb" | cut -d' ' -f1)"
    done >"$work/Packages"
    rm -rf "$images/apt-$1"
    chmod 755 "$work"
    mv "$work" "$images/apt-$1"
}

# ---- all ----

# What an image is called that makes a name complete.
image_file()
{
    case $1 in
    debian-*) echo "$1.img" ;;
    installer-* | grub) echo "$1.iso" ;;
    memtest) echo memtest86+ia32.iso ;;
    apt-*) echo "$1/Packages" ;;
    *) fail "unknown name '$1' (see the top of scripts/system-image.sh)" ;;
    esac
}

# The functions that make it: its recipe.
image_recipe()
{
    case $1 in
    debian-*) declare -f debian_make disk_make grub_core configure configure_first ;;
    installer-*) declare -f installer_make cd_make grub_terminal ;;
    grub) declare -f grub_make memtest_make cd_make grub_terminal ;;
    memtest) declare -f memtest_make ;;
    apt-*) declare -f apt_make ;;
    esac
}

# image_make NAME
image_make()
{
    local file key
    file=$(image_file "$1") || exit 1
    key="$1 $(image_recipe "$1" | sha256sum)"
    [ -s "$images/$file" ] && [ "$(cat "$images/$1.key" 2>/dev/null)" = "$key" ] && return
    rm -f "$images/$1.key"
    say "making $1"
    case $1 in
    debian-amd64) debian_make "$1" amd64 linux-image-amd64 6d1f6d57-1f0a-4d3c-8a3e-0b6b8f2d6401 ;;
    debian-686) i386_need && debian_make "$1" i386 linux-image-686 6d1f6d57-1f0a-4d3c-8a3e-0b6b8f2d0686 ;;
    grub) grub_make ;;
    memtest) memtest_make ;;
    installer-*) installer_make "${1#installer-}" ;;
    apt-*) apt_make "${1#apt-}" ;;
    esac
    echo "$key" >"$images/$1.key"
}

[ $# -gt 0 ] || fail "which? (debian-amd64, debian-686, grub, memtest, installer-amd64, installer-i386, apt-amd64, apt-i386, all)"
need
mkdir -p "$images" || exit 1
images=$(realpath "$images")
trap 'rm -rf "$images"/tmp.??????' EXIT
for name; do
    if [ "$name" = all ]; then
        for each in memtest grub apt-amd64 apt-i386 installer-amd64 installer-i386 debian-amd64 debian-686; do
            image_make $each
        done
    else
        image_make "$name"
    fi
done
