#!/bin/sh
# Makes the guests that ring3 is shown and tested with: Debian's own kernels, unpacked from their packages without being
# installed, and a small initrd of busybox and guest/initrd/init. No privilege is needed.
#
#   guest-image.sh KIND...     KIND: cloud, amd64, 686, or all; virtio (cloud with modules, for tests of devices);
#                              programs-amd64, programs-i386 for `make bench`
#
# In $RING3_IMAGES (.cache/guest):  KIND/vmlinuz, KIND/initrd, KIND/release (what `uname -r` will say); cloud/disks, an initrd with
# the modules for disks and guest/initrd/disks;
# programs-ARCH/bin and lib: programs of Debian's packages and the libraries that they need, lib/ld.so starts them.
# What is there is kept: a kernel is downloaded once. Delete the folder for a newer one.
set -u
cd "$(dirname "$0")/.." || exit 1
. scripts/packages.sh
images=${RING3_IMAGES:-.cache/guest}
# In the order in which they are loaded.
modules_disks='scsi_common scsi_mod libata ata_piix sd_mod cdrom sr_mod virtio_ring virtio virtio_pci_legacy_dev
virtio_pci_modern_dev virtio_pci virtio_blk'
umask 022

fail() { echo "guest-image: $*" >&2; exit 1; }

# package_download PACKAGE DIR: the package's .deb to DIR.
package_download()
{
    for attempt in 1 2 3; do
        # The sandbox user cannot write to a private folder; without it apt only warns.
        (cd "$2" && apt-get -q -o APT::Sandbox::User=root -o Acquire::Retries=3 download "$1") >"$2/log" 2>&1 </dev/null &&
            return 0
        sleep $attempt
    done
    tail -n 5 "$2/log" >&2
    fail "package $1 could not be downloaded (is there a network, and has 'make setup' been run?)"
}

# busybox_fetch ARCH: $images/busybox-ARCH
busybox_fetch()
{
    [ -s "$images/busybox-$1" ] && return
    work=$(mktemp -d "$images/tmp.XXXXXX") || exit 1
    package_download "busybox-static:$1" "$work"
    dpkg-deb --fsys-tarfile "$work"/*.deb | (cd "$work" && tar -x --wildcards './bin/busybox' './usr/bin/busybox' 2>/dev/null)
    for busybox in "$work/bin/busybox" "$work/usr/bin/busybox"; do
        [ -f "$busybox" ] && mv "$busybox" "$images/busybox-$1"
    done
    rm -rf "$work"
    [ -s "$images/busybox-$1" ] || fail "there is no busybox in package busybox-static:$1"
}

# kernel_fetch KIND METAPACKAGE: vmlinuz and release
kernel_fetch()
{
    [ -s "$images/$1/vmlinuz" ] && [ -s "$images/$1/release" ] && return
    package=$(apt-cache depends "$2" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
    [ -n "$package" ] || fail "apt does not know $2 (run 'make setup', or as root: dpkg --add-architecture i386; apt-get update)"
    echo "guest-image: downloading $package"
    mkdir -p "$images/$1"
    work=$(mktemp -d "$images/tmp.XXXXXX") || exit 1
    package_download "$package" "$work"
    dpkg-deb --fsys-tarfile "$work"/*.deb | (cd "$work" && tar -x --wildcards './boot/vmlinuz-*' 2>/dev/null)
    for vmlinuz in "$work"/boot/vmlinuz-*; do
        [ -s "$vmlinuz" ] || fail "there is no kernel in package $package"
        release=${vmlinuz##*/vmlinuz-}
    done
    mv "$vmlinuz" "$images/$1/vmlinuz"
    echo "$release" >"$images/$1/release"
    rm -rf "$work"
}

# initrd_make KIND ARCH COMPRESSION: all three that Debian's kernels read are in use, one a kind.
initrd_make()
{
    out=$images/$1/initrd
    [ -s "$out" ] && [ "$out" -nt guest/initrd/init ] && [ "$out" -nt scripts/guest-image.sh ] && return
    work=$(mktemp -d "$images/tmp.XXXXXX") || exit 1
    mkdir "$work/root" "$work/root/bin" "$work/root/dev" "$work/root/proc" "$work/root/sys"
    cp "$images/busybox-$2" "$work/root/bin/busybox"
    cp guest/initrd/init "$work/root/init"
    chmod 755 "$work/root/bin/busybox" "$work/root/init"
    # One owner and one time, so that the same inputs give the same image.
    find "$work/root" -exec touch -h -d '2024-01-01 00:00:00 UTC' {} +
    (cd "$work/root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 --reproducible) >"$work/cpio" ||
        fail "cpio failed"
    case $3 in
    none) mv "$work/cpio" "$work/initrd" ;;
    gzip) gzip -9n <"$work/cpio" >"$work/initrd" ;;
    zstd) zstd -q -19 <"$work/cpio" >"$work/initrd" ;;
    esac || fail "$3 failed"
    mv "$work/initrd" "$out"
    rm -rf "$work"
}

# In the order in which they are loaded.
virtio_modules='virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci failover net_failover virtio_net
virtio-rng virtio_console virtio_blk'

# virtio_make: the cloud kernel, and its busybox with modules; guest/initrd/virtio is /init
virtio_make()
{
    release=$(cat "$images/cloud/release") || exit 1
    cp -p "$images/cloud/release" "$images/cloud/vmlinuz" "$images/virtio/" || exit 1
    if [ ! -s "$images/virtio/modules/$release" ]; then
        work=$(mktemp -d "$images/tmp.XXXXXX") || exit 1
        mkdir "$work/modules"
        echo "guest-image: downloading linux-image-$release for its modules"
        package_download "linux-image-$release" "$work"
        dpkg-deb --fsys-tarfile "$work"/*.deb | (cd "$work" && tar -x './lib/modules') || fail "no modules in linux-image-$release"
        for module in $virtio_modules; do
            file=$(find "$work/lib/modules" -name "$module.ko")
            [ -n "$file" ] || fail "there is no module $module in linux-image-$release"
            cp "$file" "$work/modules/"
            echo "$module.ko" >>"$work/modules/order"
        done
        echo 1 >"$work/modules/$release"
        rm -rf "$images/virtio/modules"
        mv "$work/modules" "$images/virtio/modules"
        rm -rf "$work"
    fi
    out=$images/virtio/initrd
    [ -s "$out" ] && [ "$out" -nt guest/initrd/virtio ] && [ "$out" -nt scripts/guest-image.sh ] &&
        [ "$out" -nt "$images/virtio/modules/order" ] && return
    work=$(mktemp -d "$images/tmp.XXXXXX") || exit 1
    mkdir "$work/root" "$work/root/bin" "$work/root/dev" "$work/root/proc" "$work/root/sys"
    cp "$images/busybox-amd64" "$work/root/bin/busybox"
    cp guest/initrd/virtio "$work/root/init"
    cp -r "$images/virtio/modules" "$work/root/modules"
    chmod 755 "$work/root/bin/busybox" "$work/root/init"
    (cd "$work/root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 --reproducible) >"$work/initrd" ||
        fail "cpio failed"
    mv "$work/initrd" "$out"
    rm -rf "$work"
}

# disks_make KIND: the modules for disks, of the same package as vmlinuz, and what the tests of disks run, behind the initrd.
disks_make()
{
    out=$images/$1/disks
    [ -s "$out" ] && [ "$out" -nt "$images/$1/initrd" ] && [ "$out" -nt guest/initrd/disks ] &&
        [ "$out" -nt scripts/guest-image.sh ] && return
    work=$(mktemp -d "$images/tmp.XXXXXX") || exit 1
    mkdir "$work/root" "$work/root/modules"
    if [ ! -s "$images/$1/modules/order" ]; then
        echo "guest-image: downloading the modules of linux-image-$(cat "$images/$1/release")"
        package_download "linux-image-$(cat "$images/$1/release")" "$work"
        dpkg-deb --fsys-tarfile "$work"/*.deb | (cd "$work" && tar -x --wildcards './lib/modules/*/kernel/drivers/*')
        mkdir -p "$images/$1/modules"
        for module in $modules_disks; do
            find "$work/lib" -name "$module.ko" -exec cp {} "$images/$1/modules/" \;
            [ -s "$images/$1/modules/$module.ko" ] || fail "there is no module $module in package linux-image-$(cat "$images/$1/release")"
        done
        echo "$modules_disks" >"$images/$1/modules/order"
    fi
    cp "$images/$1/modules"/* "$work/root/modules/"
    cp guest/initrd/disks "$work/root/disks"
    chmod 755 "$work/root/disks"
    find "$work/root" -exec touch -h -d '2024-01-01 00:00:00 UTC' {} +
    (cd "$work/root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 --reproducible) >"$work/cpio" ||
        fail "cpio failed"
    cat "$images/$1/initrd" "$work/cpio" >"$work/disks" && mv "$work/disks" "$out"
    rm -rf "$work"
}

# programs_fetch ARCH: $images/programs-ARCH
programs_fetch()
{
    [ -s "$images/programs-$1/lib/ld.so" ] && return
    echo "guest-image: downloading the programs of make bench, $1"
    work=$(mktemp -d "$images/tmp.XXXXXX") || exit 1
    mkdir "$work/root" "$work/programs" "$work/programs/bin" "$work/programs/lib"
    for package in $packages_programs; do
        package_download "$package:$1" "$work"
    done
    for package in "$work"/*.deb; do
        dpkg-deb -x "$package" "$work/root" || fail "$package cannot be unpacked"
    done
    for file in $programs_files ld-linux-x86-64.so.2 ld-linux.so.2; do
        path=$(find "$work/root" \( -path "*-linux-gnu*/$file" -o -path "*/bin/$file" \) ! -type d | head -n 1)
        case $file in
        ld-linux*) target=lib/ld.so ;;
        *.so.*) target=lib/$file ;;
        *) target=bin/$file ;;
        esac
        [ -n "$path" ] && { cp -L "$path" "$work/programs/$target" || fail "$file cannot be copied"; }
    done
    for file in $programs_files ld.so; do
        [ -s "$work/programs/bin/$file" ] || [ -s "$work/programs/lib/$file" ] || fail "there is no $file in the packages"
    done
    rm -rf "$images/programs-$1"
    mv "$work/programs" "$images/programs-$1"
    rm -rf "$work"
}

image_make()
{
    mkdir -p "$images/$1" || exit 1
    case $1 in
    cloud) kernel_fetch cloud linux-image-cloud-amd64 && busybox_fetch amd64 && initrd_make cloud amd64 none && disks_make cloud ;;
    amd64) kernel_fetch amd64 linux-image-amd64 && busybox_fetch amd64 && initrd_make amd64 amd64 gzip ;;
    686) kernel_fetch 686 linux-image-686:i386 && busybox_fetch i386 && initrd_make 686 i386 zstd ;;
    virtio) image_make cloud && virtio_make ;;
    programs-amd64 | programs-i386) programs_fetch "${1#programs-}" ;;
    *) fail "unknown kind '$1' (cloud, amd64, 686, all, virtio, programs-amd64 or programs-i386)" ;;
    esac
}

[ $# -gt 0 ] || fail "which? (cloud, amd64, 686 or all)"
mkdir -p "$images" || exit 1
trap 'rm -rf "$images"/tmp.??????' EXIT
for kind in "$@"; do
    if [ "$kind" = all ]; then
        image_make cloud
        image_make amd64
        image_make 686
    else
        image_make "$kind"
    fi
done
