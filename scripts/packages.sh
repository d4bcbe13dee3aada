# The Debian packages that ring3 is built, run and tested with, and what is missing of them. To be sourced.

# Building build/ring3.
packages_build='meson ninja-build pkg-config gcc libc6-dev libzydis-dev libcmocka-dev libjansson-dev liblzma-dev
libzstd-dev liblz4-dev zlib1g-dev libbz2-dev nasm'
# Guest images, tests and fuzzing.
packages_test='gcc-multilib busybox-static cpio zstd gzip clang libclang-rt-14-dev'
# For make bench, to compare with.
packages_bench='qemu-system-x86'

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
