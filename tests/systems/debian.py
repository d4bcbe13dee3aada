#!/usr/bin/env python3
"""Debian from its disk: firmware, GRUB, kernel, systemd, login; apt, python3, gcc, the network.

usage: debian.py EMULATOR ARCHITECTURE DISK [CPUS]     ARCHITECTURE: amd64, 686; DISK: ide, virtio

The image is made by scripts/system-image.sh from Debian's packages. Outside is nothing but this host's loopback address:
a web server here has a file of random bytes and an archive with one package.
"""
import functools
import hashlib
import http.server
import os
import sys
import tempfile
import threading

from machine import Failure, Machine, emulator_check, image

GATEWAY = "10.0.2.2"  # the host, as the user network shows it


def serve(directory):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=directory))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def same(what, got, wanted):
    if got != wanted:
        raise Failure(f"{what}: {got!r} instead of {wanted!r}")
    print(f"ok - {what}: {got}")


def main():
    emulator, architecture, disk = sys.argv[1:4]
    cpus = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    emulator_check(emulator)
    archive = image("apt-amd64" if architecture == "amd64" else "apt-i386")
    with tempfile.TemporaryDirectory() as served:
        content = os.urandom(3 << 20)
        with open(os.path.join(served, "file"), "wb") as f:
            f.write(content)
        os.symlink(archive, os.path.join(served, "apt"))
        url = f"http://{GATEWAY}:{serve(served)}"
        with Machine(emulator, memory=512, cpus=cpus, disk=image(f"debian-{architecture}.img"), disk_kind=disk,
                     network=True) as m:
            visit(m, architecture, disk, cpus, url, content)


def visit(m, architecture, disk, cpus, url, content):
    m.expect(r"GRUB|Booting|Linux version", 120)
    print(f"ok - the boot loader, after {m.seconds():.0f} s")
    m.expect(r"Linux version (\S+)", 240)
    print(f"ok - the kernel, after {m.seconds():.0f} s")
    m.expect(r"login: ", 600)
    print(f"ok - the login prompt, after {m.seconds():.0f} s")
    m.send("root\n")
    m.expect(r"# ", 60)
    m.send("stty -echo cols 500; PS1=; TERM=dumb; dmesg -n 1; echo quiet now\n")
    m.expect(r"^quiet now\n", 60)

    same("uname -m", m.run("uname -m"), {"amd64": "x86_64", "686": "i686"}[architecture])
    same("processors", m.run("nproc"), str(cpus))
    same("where / is", m.run("findmnt -n -o SOURCE /"), {"ide": "/dev/sda1", "virtio": "/dev/vda1"}[disk])
    same("units that failed", m.run("systemctl --failed --no-legend | wc -l"), "0")

    # The file system: what was written is still there when nothing of it is in memory any more.
    written = m.run("seq 1 300000 >/root/numbers && sync && echo 3 >/proc/sys/vm/drop_caches && md5sum </root/numbers", 120)
    numbers = "".join(f"{n}\n" for n in range(1, 300001)).encode()
    same("a file, read back from the disk", written.split()[0], hashlib.md5(numbers).hexdigest())

    same("python3", m.run("python3 -c 'import hashlib; print(hashlib.sha256(b\"ring3\" * 1000).hexdigest())'", 120),
         hashlib.sha256(b"ring3" * 1000).hexdigest())
    m.run("printf '%s\\n' '#include <stdio.h>' '#include <math.h>' "
          "'int main(void) { printf(\"%.9f %d\\n\", 4 * atan(1), (int)sizeof(void *)); return 0; }' >/root/p.c")
    m.run("gcc -O2 -Wall -o /root/p /root/p.c -lm", 180)
    same("gcc's program", m.run("/root/p"), {"amd64": "3.141592654 8", "686": "3.141592654 4"}[architecture])

    m.run("for i in $(seq 60); do ip -4 -o addr show scope global | grep -q inet && break; sleep 1; done", 90)
    same("the network", m.run("ip -4 -o addr show scope global | sed 's/.*inet \\([^ ]*\\).*/\\1/'"), "10.0.2.15/24")
    fetched = m.run(f"wget -q -O /root/fetched {url}/file && sha256sum </root/fetched", 180)
    same("a file from the web", fetched.split()[0], hashlib.sha256(content).hexdigest())

    m.run(f"rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*; "
          f"echo 'deb [trusted=yes] {url}/apt ./' >/etc/apt/sources.list")
    m.run("apt-get -q update", 240)
    m.run("DEBIAN_FRONTEND=noninteractive apt-get -q -y install hello", 240)
    same("a package that apt installed", m.run("hello"), "Hello, world!")

    complaints = m.run("dmesg -l emerg,alert,crit | grep -v -e 'end trace' || true")
    same("the kernel's complaints", complaints, "")
    print(f"ok - all of that, after {m.seconds():.0f} s")
    m.send("poweroff\n")
    m.wait_end(180)
    print(f"ok - powered off, after {m.seconds():.0f} s")


main()
