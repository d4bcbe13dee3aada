#!/bin/sh
# guest/disks.c with a disk: disks.sh RING3 ENGINE PROGRAM [option...]. Passes its TAP on.
image=$(mktemp) || exit 99
trap 'rm -f "$image"' EXIT
truncate -s 64M "$image"
sh "$(dirname "$0")/run.sh" "$@" --drive "file=$image,format=raw"
