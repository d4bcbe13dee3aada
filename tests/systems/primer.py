#!/usr/bin/env python3
"""The teaching kernel (guest/primer) as the system of a whole PC: its loader, IDE, PS/2, the screen, processors by the MP
table.

usage: primer.py EMULATOR DIRECTORY BITS CPUS HOW     DIRECTORY: where primer.img is; BITS: 32, 64; HOW: disk, kernel
"""
import os
import sys

from machine import Failure, Machine, emulator_check

HELD = ["fork gives the child's number", "an open file is the child's own", "there is no such call"]


def session(m, bits, cpus):
    said = m.expect(r"^primer, (\d+)-bit, (\d+) processors?, (\d+) KiB of disk", 60)
    if said.groups() != (bits.encode(), str(cpus).encode(), b"2048"):
        raise Failure(f"it says {said.group(0)!r}")
    print(f"ok - {said.group(0).decode()}, after {m.seconds():.1f} s")
    m.expect(r"^\$ ", 30)
    m.send("forktest\n")
    for check in HELD:
        m.expect(rf"^ok - {check}$", 60)
    m.expect(r"^forktest: passed$", 60)
    print("ok - processes")
    m.send("crash\n")
    m.expect(r"^crash: passed$", 60)
    print("ok - what must not work does no harm")
    # two that only compute, and one that answers meanwhile
    m.send("loop 40 &\nloop 40 &\necho still here\n")
    m.expect(r"^still here$", 30)
    for _ in range(2):
        m.expect(r"loop: 40 million turns, (\d+) ms, sum (\w+)$", 120)
    print("ok - programs that only compute")
    m.send("\n")

    # files: made, copied, removed, and the first of them larger than the cache of sectors
    m.send("write note some words for the disk\ncopy kernel large\ncopy large second\nrm large\nls\ncat note\n")
    m.expect(r"^note 24$", 60)
    m.expect(r"^second (\d+)$", 30)
    m.expect(r"^some words for the disk$", 30)
    print("ok - files on the disk")

    # by the keyboard, and to be seen on the screen
    m.keys("e", "c", "h", "o", "spc", "shift-q", "8", "6", "ret")
    m.expect(r"^Q86$", 30)
    m.expect_screen(r"^Q86$", 10)
    print("ok - keyboard and screen")


def main():
    emulator, directory, bits, cpus, how = sys.argv[1:6]
    emulator_check(emulator)
    cpus = int(cpus)
    name = "primer" if bits == "32" else "primer64"
    disk = os.path.join(directory, f"{name}.img")
    kernel = os.path.join(directory, f"{name}-pc.elf") if how == "kernel" else None
    # Firmware lists the first processor of a socket: several sockets, or a processor of when there was nothing else.
    sockets = [] if cpus == 1 or how == "kernel" else ["-smp", f"{cpus},sockets={cpus}"] if emulator == "qemu" else \
        ["--cpu", "pentium3"]
    with open(disk, "rb") as f:
        before = f.read()
    with Machine(emulator, memory=32, cpus=cpus, disk=disk, kernel=kernel, options=sockets) as m:
        session(m, bits, cpus)
        m.send("exit\n")
        m.wait_end(30)
        with open(m.disk, "rb") as f:
            after = f.read()
        kernel_file = before[32 * 512:32 * 512 + 100000]
        if b"some words for the disk\n" not in after or after.count(kernel_file) < 2:
            raise Failure("what was written is not on the disk")
        print("ok - it is on the disk")
        # and there after a start of another machine
        with Machine(emulator, memory=32, cpus=cpus, disk=m.disk, kernel=kernel, options=sockets) as again:
            again.expect(r"^\$ ", 60)
            again.send("cat note\nrm note\nrm second\nls\n")
            again.expect(r"^some words for the disk$", 30)
            again.expect(r"^console$", 30)
            again.send("exit\n")
            again.wait_end(30)
            print("ok - and is found by the next start")


main()
