"""A machine with a serial line, on ring3 or on QEMU, as the tests of whole systems see it.

A test says what it needs (disks, CDs, a kernel, a network) and then waits for words on the serial line or the screen and
types answers. The same test runs on QEMU, which tells a system that is broken from a machine that is broken. Every wait
has a limit, and every machine is ended with its test.

    with Machine(emulator, disk=image, disk_kind="virtio") as m:
        m.expect("login: ", 120)
        m.send("root\\n")

An emulator is "qemu", or the path of ring3 and an engine, as "build/ring3:translate".
"""
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

SKIPPED = 77


class Failure(Exception):
    """What was expected did not come."""


def images():
    """Where scripts/system-image.sh puts what it makes."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return os.path.join(os.environ.get("RING3_IMAGES", os.path.join(root, ".cache/guest")), "systems")


def image(name):
    path = os.path.join(images(), name)
    if not os.path.exists(path):
        print(f"no {name}: scripts/system-image.sh makes it")
        sys.exit(SKIPPED)
    return path


def emulator_check(emulator):
    """Exits with 77, and the reason, where this emulator cannot be had."""
    if emulator == "qemu":
        if shutil.which("qemu-system-x86_64") is None:
            print("qemu-system-x86_64 is not installed (Debian: qemu-system-x86)")
            sys.exit(SKIPPED)
        return
    ring3, engine = emulator.rsplit(":", 1)
    said = subprocess.run([ring3, "engines"], stdout=subprocess.PIPE, text=True, check=True).stdout
    unusable = re.search(rf"^{engine} .*\n.*not usable here: .*", said, re.M)
    if unusable:
        print(unusable.group(0))
        sys.exit(SKIPPED)


# What terminals are told besides text: colours, places, modes.
ESCAPES = re.compile(rb"\x1b(\[[0-?]*[ -/]*[@-~]|[()*+][A-Za-z0-9]|[78=>DEHMc]|\][^\x07\x1b]*(\x07|\x1b\\))")


def interrupted(number, _):
    """The test's own limit: an end like others, with what the machine said, and the machine ended."""
    signal.signal(number, signal.SIG_IGN)  # once is enough
    raise Failure(f"the test was ended by signal {number}")


class Machine:
    """One machine that runs. All times are in seconds."""

    def __init__(self, emulator, memory=512, cpus=1, disk=None, disk_kind="ide", floppy=None, cdrom=None, kernel=None,
                 initrd=None, append=None, network=False, options=()):
        signal.signal(signal.SIGTERM, interrupted)
        self.emulator = emulator
        self.directory = tempfile.mkdtemp(prefix="ring3-systems.")
        self.monitor_path = os.path.join(self.directory, "monitor")
        self.heard = b""   # all that came, without escapes
        self.matched = 0   # what lies before was matched by an expect()
        self.pending = b"" # came, and is not in heard yet
        self.started = time.monotonic()
        self.lock = threading.Condition()
        self.ended = False
        if emulator == "qemu":
            command = self._qemu(memory, cpus, disk, disk_kind, floppy, cdrom, network)
        else:
            command = self._ring3(memory, cpus, disk, disk_kind, floppy, cdrom, network)
        for option, value in (("-kernel", kernel), ("-initrd", initrd), ("-append", append)):
            if value is not None:
                command += [option, value]
        command += options
        self.command = command
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _copy(self, disk):
        """What a guest writes to its disk goes to a copy, which takes no room where the image is empty."""
        self.disk = os.path.join(self.directory, os.path.basename(disk))
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", disk, self.disk], check=True)
        return self.disk

    def _qemu(self, memory, cpus, disk, disk_kind, floppy, cdrom, network):
        command = ["qemu-system-x86_64", "-accel", "tcg", "-M", "pc", "-m", str(memory), "-smp", str(cpus), "-display",
                   "none", "-serial", "stdio", "-no-reboot", "-monitor", f"unix:{self.monitor_path},server=on,wait=off"]
        if disk:
            command += ["-drive", f"file={self._copy(disk)},if={disk_kind},format=raw"]
        if floppy:
            command += ["-drive", f"file={self._copy(floppy)},if=floppy,format=raw"]
        if cdrom:
            command += ["-cdrom", cdrom]
        return command + (["-nic", "user,model=virtio-net-pci"] if network else ["-nic", "none"])

    def _ring3(self, memory, cpus, disk, disk_kind, floppy, cdrom, network):
        ring3, engine = self.emulator.rsplit(":", 1)
        command = [ring3, "run", "--engine", engine, "-m", str(memory), "--cpus", str(cpus), "--serial", "stdio",
                   "--no-reboot", "--monitor", f"unix:{self.monitor_path}"]
        if disk:
            command += ["--drive", f"file={self._copy(disk)},if={disk_kind}"]
        if floppy:
            command += ["--drive", f"file={self._copy(floppy)},if=floppy,format=raw"]
        if cdrom:
            command += ["--cdrom", cdrom]
        return command + (["--net", "user"] if network else [])

    def _read(self):
        while True:
            some = os.read(self.process.stdout.fileno(), 65536)
            with self.lock:
                if not some:
                    self.ended = True
                else:
                    whole = self.pending + some
                    # An escape that may be cut in two waits for its other half.
                    cut = whole.rfind(b"\x1b", -40)
                    if cut >= 0 and not ESCAPES.match(whole, cut):
                        whole, self.pending = whole[:cut], whole[cut:]
                    else:
                        self.pending = b""
                    self.heard += ESCAPES.sub(b"", whole).replace(b"\r", b"")
                self.lock.notify_all()
            if not some:
                return

    # ---- the serial line ----

    def expect(self, pattern, timeout):
        """Waits for a regular expression in what has come since the last one; returns the match."""
        limit = time.monotonic() + timeout * scale()
        wanted = re.compile(pattern.encode() if isinstance(pattern, str) else pattern, re.M)
        with self.lock:
            while True:
                match = wanted.search(self.heard, self.matched)
                if match:
                    self.matched = match.end()
                    return match
                left = limit - time.monotonic()
                if self.ended:
                    raise Failure(f"the machine ended; expected {pattern!r}")
                if left <= 0:
                    raise Failure(f"{pattern!r} did not come within {timeout * scale():.0f} s")
                self.lock.wait(left)

    def send(self, text, pause=0):
        """Types; with a pause after each character for those who poll their UART now and then."""
        for part in text if pause else [text]:
            self.process.stdin.write(part.encode())
            self.process.stdin.flush()
            time.sleep(pause)

    def run(self, command, timeout=60):
        """A command to a shell on the serial line, which does not echo; returns what it printed. It must succeed."""
        before = self.matched
        self.send(f"{command}; echo '@'status $?\n")
        match = self.expect(r"^@status (\d+)$", timeout)
        with self.lock:
            said = self.heard[before:match.start()].decode(errors="replace").strip("\n")
        if match.group(1) != b"0":
            raise Failure(f"{command!r} ended with status {match.group(1).decode()}: {said[-500:]}")
        return said

    # ---- the screen and the keyboard, by the emulator's monitor ----

    def monitor(self, command):
        """One command to the monitor; returns its answer."""
        if self.emulator != "qemu":
            ring3 = self.emulator.rsplit(":", 1)[0]
            return subprocess.run([ring3, "monitor", self.monitor_path, *command.split()], stdout=subprocess.PIPE, text=True,
                                  timeout=60, check=True).stdout
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(self.monitor_path)
            s.settimeout(60)
            said = b""
            while not said.endswith(b"(qemu) "):
                said += s.recv(65536)
            s.sendall(command.encode() + b"\n")
            said = b"" # the command as it was typed, its answer, a prompt
            while not said.endswith(b"\n(qemu) "):
                said += s.recv(65536)
        return said.decode(errors="replace")

    def screen(self):
        """The text on the screen, line by line. (QEMU: all of the adapter's memory, of which the screen is a part.)"""
        if self.emulator != "qemu":
            try:
                return self.monitor("info screen").splitlines()
            except subprocess.CalledProcessError:
                return []  # in a graphics mode
        path = os.path.join(self.directory, "text")
        self.monitor(f'pmemsave 0xb8000 0x8000 "{path}"')
        with open(path, "rb") as f:
            memory = f.read()
        return [memory[y * 160:y * 160 + 160:2].replace(b"\0", b" ").decode("cp437").rstrip() for y in range(204)]

    def expect_screen(self, pattern, timeout):
        """Waits for a regular expression on the screen; returns the match."""
        limit = time.monotonic() + timeout * scale()
        while True:
            match = re.search(pattern, "\n".join(self.screen()), re.M)
            if match:
                return match
            if self.ended or self.process.poll() is not None:
                raise Failure(f"the machine ended; expected {pattern!r} on the screen")
            if time.monotonic() > limit:
                raise Failure(f"{pattern!r} did not come to the screen within {timeout * scale():.0f} s")
            time.sleep(0.5)

    def keys(self, *names):
        """Keys of the PS/2 keyboard, by the names that both monitors have."""
        for name in names:
            self.monitor(f"sendkey {name}")
            time.sleep(0.15)

    # ---- the end ----

    def wait_end(self, timeout, status=0):
        """The machine must end by itself."""
        try:
            got = self.process.wait(timeout * scale())
        except subprocess.TimeoutExpired:
            raise Failure(f"the machine did not end within {timeout * scale():.0f} s") from None
        if got != status:
            raise Failure(f"exit status {got} instead of {status}")

    def seconds(self):
        return time.monotonic() - self.started

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if kind is not None and issubclass(kind, (Failure, OSError, subprocess.SubprocessError)):
            print(f"FAILED: {value}")
            print("command:", " ".join(self.command))
            self.errors.seek(0)
            print("on stderr:", self.errors.read().decode(errors="replace")[-2000:])
            print("the serial line's last lines:")
            print(self.heard.decode(errors="replace")[-3000:])
        self.reader.join(5)
        shutil.rmtree(self.directory, ignore_errors=True)
        if kind is not None and issubclass(kind, (Failure, OSError, subprocess.SubprocessError)):
            sys.exit(1)
        return False


def scale():
    """Limits are for a machine with nothing else to do, with room; RING3_TIMEOUT_SCALE multiplies them."""
    return float(os.environ.get("RING3_TIMEOUT_SCALE", "1"))
