#!/bin/sh
# Configures a build directory when it is new, and builds.
#
#   build.sh DIR [TARGET...]      DIR is made with the options in MESON_OPTIONS
#   build.sh --clean DIR          removes DIR, DIR-asan and DIR-fuzz
set -u
cd "$(dirname "$0")/.." || exit 1
. scripts/packages.sh

if [ "$1" = --clean ]; then
    dir=${2:?directory}
    case $dir in
    /* | . | .. | */..*) echo "build: refusing to clean $dir" >&2; exit 1 ;;
    esac
    rm -rf "$dir" "$dir-asan" "$dir-fuzz"
    exit 0
fi

dir=${1:?directory}
shift
if command -v dpkg-query >/dev/null; then
    # shellcheck disable=SC2086
    missing=$(packages_missing $packages_build | tr '\n' ' ')
else
    missing=
    command -v meson >/dev/null && command -v ninja >/dev/null || missing='meson ninja-build'
fi
if [ -n "$missing" ]; then
    echo "build: these packages are missing: $missing" >&2
    echo "build: run 'make setup', or as root: apt-get install --no-install-recommends $missing" >&2
    exit 1
fi

if [ ! -f "$dir/build.ninja" ]; then
    # shellcheck disable=SC2086
    meson setup "$dir" ${MESON_OPTIONS:--Dwhole=true} >"/tmp/ring3-setup.$$" 2>&1 </dev/null || {
        cat "/tmp/ring3-setup.$$" >&2
        rm -f "/tmp/ring3-setup.$$"
        exit 1
    }
    rm -f "/tmp/ring3-setup.$$"
fi
ninja -C "$dir" -j "${JOBS:-2}" --quiet "$@" || exit 1
if [ $# = 0 ] && [ -x "$dir/src/cli/ring3" ]; then
    ln -sfn src/cli/ring3 "$dir/ring3"
    echo "$dir/ring3 is built"
fi
