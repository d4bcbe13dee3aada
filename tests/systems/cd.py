#!/usr/bin/env python3
"""Systems from CDs, floppy images or as kernels: GRUB's prompt, memtest86+ through a pass, Debian's installer to its first
menu.

usage: cd.py EMULATOR WHAT
    grub                 GRUB's CD to its prompt: commands, and memtest86+ started from there by the 16-bit Linux protocol
    memtest WIDTH HOW    a pass of memtest86+ (x64, ia32) over a small memory; HOW: cd (on the screen), kernel (on COM1)
    installer ARCH HOW   the text installer (amd64, i386) to its first menu; HOW: cd (on the screen), kernel (on COM1)
"""
import os
import re
import sys

from machine import Failure, Machine, emulator_check, image


def grub(emulator):
    with Machine(emulator, memory=64, cdrom=image("grub.iso")) as m:
        m.expect(r"^grub> ", 120)
        print(f"ok - GRUB's prompt, after {m.seconds():.0f} s")
        m.send("ls\n", 0.05)
        m.expect(r"\(cd[0-9]*\)", 60)
        m.expect(r"^grub> ", 60)
        m.send("cat /boot/grub/grub.cfg\n", 0.05)
        m.expect(r"terminal_output console serial", 60)
        m.expect(r"^grub> ", 60)
        print("ok - it reads its CD")
        m.send("linux16 /memtest.bin console=ttyS0,115200\n", 0.05)
        m.expect(r"^grub> ", 60)
        m.send("boot\n", 0.05)
        m.expect(r"Memtest86\+ v6", 60)
        m.expect(r"Using: Core #0", 60)
        print(f"ok - memtest86+ from there, after {m.seconds():.0f} s")


def memtest(emulator, width, how):
    if how == "cd":
        with Machine(emulator, memory=16, cdrom=image(f"memtest86+{width}.iso")) as m:
            m.expect_screen(r"Memtest86\+ v6", 120)
            print(f"ok - memtest86+'s screen, after {m.seconds():.0f} s")
            errors = m.expect_screen(r"Pass: *[1-9]\d* .*\n?.*Errors: *(\d+)|\*\*\*\* Pass complete, no errors", 900)
            if errors.group(1) not in (None, "0"):
                raise Failure(f"memtest86+ found errors: {errors.group(0)}")
            print(f"ok - a pass without errors, after {m.seconds():.0f} s")
            m.keys("esc")
            m.wait_end(60)
            print("ok - Esc resets the machine")
        return
    with Machine(emulator, memory=16, kernel=image(f"memtest86+{width}.bin"), append="console=ttyS0,115200") as m:
        m.expect(r"Memtest86\+ v6", 120)
        print(f"ok - memtest86+ as a kernel, after {m.seconds():.0f} s")
        errors = m.expect(r"Pass: *[1-9]\d* .*|Pass complete, no errors", 900)
        print(f"ok - a pass without errors, after {m.seconds():.0f} s: {errors.group(0).decode(errors='replace')}")


def installer(emulator, architecture, how):
    title, languages = r"Select a language|Choose the language", r"English"
    if how == "cd":
        with Machine(emulator, memory=1024, cdrom=image(f"installer-{architecture}.iso")) as m:
            m.expect(r"Install on the screen", 120)
            print(f"ok - the boot menu, after {m.seconds():.0f} s")
            m.expect_screen(title, 600)
            m.expect_screen(languages, 60)
            print(f"ok - the first menu on the screen, after {m.seconds():.0f} s")
            m.keys("ret")
            m.expect_screen(r"Select your location|territory or area", 120)
            print(f"ok - and the second one, by the keyboard, after {m.seconds():.0f} s")
        return
    folder = f"installer-{architecture}"
    with Machine(emulator, memory=1024, kernel=image(os.path.join(folder, "linux")),
                 initrd=image(os.path.join(folder, "initrd.gz")), append="console=ttyS0,115200") as m:
        m.expect(r"Linux version (\S+)", 120)
        print(f"ok - the kernel, after {m.seconds():.0f} s")
        m.expect(title, 600)
        m.expect(languages, 60)
        print(f"ok - the first menu on the serial line, after {m.seconds():.0f} s")
        m.send("\r")
        m.expect(r"Select your location|territory or area", 120)
        print(f"ok - and the second one, after {m.seconds():.0f} s")


emulator_check(sys.argv[1])
{"grub": grub, "memtest": memtest, "installer": installer}[sys.argv[2]](sys.argv[1], *sys.argv[3:])
