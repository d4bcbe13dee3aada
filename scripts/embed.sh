#!/bin/sh
# Writes a file as a C array: embed_NAME and embed_NAME_size of src/cli/embed.h. An ELF file goes in without what only a
# debugger wants.
#
# usage: embed.sh NAME FILE OUTPUT
set -e
name=$1 file=$2 output=$3
if [ "$(head -c 4 "$file" | od -An -c | tr -d ' ')" = '177ELF' ]; then
    objcopy --strip-debug "$file" "$output.elf"
    file=$output.elf
fi
{
    echo '#include "cli/embed.h"'
    echo "const uint8_t embed_${name}[] = {"
    od -An -v -tx1 "$file" | sed 's/ \([0-9a-f][0-9a-f]\)/0x\1,/g'
    echo '};'
    echo "const size_t embed_${name}_size = sizeof embed_${name};"
} > "$output"
rm -f "$output.elf"
