#!/usr/bin/env python3
"""Makes the primer's disk: the loader, a volume (volume.h), the kernel and the programs as its files.

usage: disk.py OUT LOADER COMMAND-LINE NAME=FILE...
"""
import struct
import sys

SECTOR, SECTORS = 512, 4096
LOADER_SECTORS, LABEL, DIRECTORY, FILES, DATA = 16, 16, 17, 64, 32

out, loader, command_line = sys.argv[1:4]
disk = bytearray(SECTOR * SECTORS)
with open(loader, "rb") as f:
    code = f.read()
if len(code) > LOADER_SECTORS * SECTOR or code[510:512] != b"\x55\xaa":
    sys.exit(f"disk.py: {loader} is not the loader")
disk[:len(code)] = code
# One partition, for those who look whether there is one: all that is behind the directory.
disk[446:462] = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0xda, b"\xfe\xff\xff", DATA, SECTORS - DATA)
if len(command_line) > 127:
    sys.exit("disk.py: the command line is too long")
struct.pack_into("<16sI12x128s", disk, LABEL * SECTOR, b"primer volume 1", SECTORS, command_line.encode())

at = DATA
if len(sys.argv) - 4 > FILES:
    sys.exit("disk.py: too many files")
for i, pair in enumerate(sys.argv[4:]):
    name, path = pair.split("=", 1)
    with open(path, "rb") as f:
        content = f.read()
    room = (len(content) + SECTOR - 1) // SECTOR
    if len(name) > 15 or at + room > SECTORS:
        sys.exit(f"disk.py: {name} does not fit")
    struct.pack_into("<16sIII4x", disk, DIRECTORY * SECTOR + i * 32, name.encode(), at, room, len(content))
    disk[at * SECTOR:at * SECTOR + len(content)] = content
    at += room
with open(out, "wb") as f:
    f.write(disk)
