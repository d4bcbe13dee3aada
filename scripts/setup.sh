#!/bin/sh
# Installs the Debian packages that are missing, and only those; and makes Debian's i386 packages known to apt, so that a
# 32-bit kernel can be downloaded (nothing of i386 is installed).
#
#   setup.sh              do it
#   setup.sh --if-needed  the same, silent when there is nothing to do
#   setup.sh --if-needed --bench   and what `make bench` compares with
#
# As root, or with sudo, packages are installed; otherwise it prints the command to run and fails. Exit status 0 means
# that everything is there.
set -u
cd "$(dirname "$0")/.." || exit 1
. scripts/packages.sh

quiet=${1:-}
[ "${2:-}" = --bench ] || packages_bench=
say() { echo "setup: $*"; }

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    # Not a Debian: the tools decide.
    for tool in meson ninja pkg-config gcc nasm cpio; do
        command -v $tool >/dev/null || { say "$tool is missing, and there is no apt-get here to install it with" >&2; exit 1; }
    done
    exit 0
fi

# shellcheck disable=SC2086 # lists of words
missing=$(packages_missing $packages_build $packages_test $packages_systems $packages_bench | tr '\n' ' ')
i386=yes
dpkg --print-foreign-architectures | grep -qx i386 || i386=no
indexed=yes
apt-cache show linux-image-686:i386 >/dev/null 2>&1 && apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1 || indexed=no
# What is already in the cache of guest images needs no package lists.
images=${RING3_IMAGES:-.cache/guest}
if [ -s "$images/686/vmlinuz" ] && [ -s "$images/amd64/vmlinuz" ] && [ -s "$images/cloud/vmlinuz" ] &&
    { [ -z "$packages_bench" ] || { [ -d "$images/programs-amd64" ] && [ -d "$images/programs-i386" ]; }; }; then
    i386=yes indexed=yes
fi

if [ -z "$missing" ] && [ $i386 = yes ] && [ $indexed = yes ]; then
    [ "$quiet" = --if-needed ] || say "nothing to do: all packages are installed"
    exit 0
fi

if [ "$(id -u)" = 0 ]; then
    root=
elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    root=sudo
else
    if [ -z "$missing" ]; then
        # Only the 32-bit kernel is out of reach: say so once, it is no reason to stop.
        [ "$quiet" = --if-needed ] || say "for the 32-bit guest, as root: dpkg --add-architecture i386 && apt-get update"
        exit 0
    fi
    say "these packages are missing: $missing" >&2
    say "as root: dpkg --add-architecture i386 && apt-get update && apt-get install --no-install-recommends $missing" >&2
    exit 1
fi

if [ $i386 = no ]; then
    say "making i386 packages known to dpkg"
    $root dpkg --add-architecture i386 || say "warning: the 32-bit guest will be missing"
    indexed=no
fi

updated=no
update()
{
    [ $updated = yes ] && return
    updated=yes
    say "updating the package lists"
    log=$(mktemp) || exit 1
    if ! $root apt-get -q -o Acquire::Retries=3 update >"$log" 2>&1 || grep -q '^[WE]:' "$log"; then
        # One source of many that does not answer is common and seldom matters; the install below decides.
        say "warning: some package lists could not be updated:"
        grep '^[WE]:' "$log" | head -n 3 | sed 's/^/    /'
    fi
    rm -f "$log"
}

install_packages()
{
    # shellcheck disable=SC2086
    $root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 \
        install --no-install-recommends $missing </dev/null >"$1" 2>&1
}

[ $indexed = no ] && update
if [ -n "$missing" ]; then
    say "installing: $missing"
    log=$(mktemp) || exit 1
    if ! install_packages "$log"; then
        # Perhaps the lists are old.
        update
        if ! install_packages "$log"; then
            tail -n 20 "$log" >&2
            say "these packages could not be installed: $missing" >&2
            rm -f "$log"
            exit 1
        fi
    fi
    rm -f "$log"
    # shellcheck disable=SC2086
    missing=$(packages_missing $missing | tr '\n' ' ')
    if [ -n "$missing" ]; then
        say "still missing after the installation: $missing" >&2
        exit 1
    fi
fi
say "done"
