# The Debian packages that ring3 is built, run and tested with, and what is missing of them. To be sourced.

# Building build/ring3.
packages_build='meson ninja-build pkg-config gcc libc6-dev libzydis-dev libcmocka-dev libjansson-dev liblzma-dev libpng-dev
libncurses-dev libzstd-dev liblz4-dev zlib1g-dev libbz2-dev libslirp-dev nasm'
# Guest images, tests and fuzzing; the browser is for the pages of `ring3 report`.
packages_test='seabios gcc-multilib busybox-static cpio zstd gzip clang gdb libclang-rt-14-dev chromium-headless-shell tmux strace'
# Images of whole systems (scripts/system-image.sh), and what tests/systems drives them with.
packages_systems='mmdebstrap fakeroot fakechroot uidmap e2fsprogs fdisk grub-pc-bin grub-common xorriso mtools
python3-minimal'
# For make bench, to compare with.
packages_bench='qemu-system-x86'
# Programs that make bench runs on the host and in guests, with their libraries. guest-image.sh downloads them for amd64
# and i386 and takes out what is named in programs_files; they are not installed.
packages_programs='cpp-12 perl-base xz-utils libc6 libcrypt1 libgmp10 libisl23 libmpc3 libmpfr6 liblzma5 libzstd1 zlib1g'
programs_files='cc1 perl xz libc.so.6 libm.so.6 libcrypt.so.1 libgmp.so.10 libisl.so.23 libmpc.so.3 libmpfr.so.6
liblzma.so.5 libzstd.so.1 libz.so.1'

# Prints the names of those packages in "$@" that are not installed.
packages_missing()
{
    for package in "$@"; do
        case $(dpkg-query -W -f '${db:Status-Abbrev}\n' "$package" 2>/dev/null) in
        *ii*) ;;
        *) echo "$package" ;;
        esac
    done
}
