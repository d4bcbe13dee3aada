#!/bin/bash
# Boots Debian's cloud kernel with virtio devices and judges what its user space has done with them: a network card on a user network,
# a console, an entropy device. The servers are on 127.0.0.1.
#
# usage: net_test.sh RING3 ENGINE [OPTION...]      options go to `ring3 run`
#
# Exit status 0 when all is well, 77 when there is no image (scripts/guest-image.sh virtio makes it) or the host does not permit
# the engine.
set -u
ring3=$(realpath "$1")
engine=$2
shift 2
cd "$(dirname "$0")/../.." || exit 99
images=${RING3_IMAGES:-.cache/guest}
busybox=$(realpath -m "$images/busybox-amd64")
images=$(realpath -m "$images/virtio")
work=$(mktemp -d) || exit 99
log=$work/serial
failures=0
server=
append=

cleanup()
{
    [ -z "$server" ] || kill "$server" 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT

if [ ! -s "$images/vmlinuz" ] || [ ! -s "$images/initrd" ] || [ ! -x "$busybox" ]; then
    echo "no image of virtio: scripts/guest-image.sh virtio makes it"
    exit 77
fi
if "$ring3" engines | grep -A1 "^$engine " | grep 'not usable here: '; then
    exit 77
fi

fail()
{
    echo "FAILED: $*"
    failures=$((failures + 1))
}

value() { sed -n "s/^CHECK $1=//p" "$log" | tr -d '\r' | head -n 1; }

# same KEY EXPECTED
same() { [ "$(value "$1")" = "$2" ] || fail "$1 is '$(value "$1")', not '$2'"; }

# wait_for KEY: until the guest has said it
wait_for()
{
    for ((i = 0; i < 1200; i++)); do
        grep -q "^CHECK $1" "$log" 2>/dev/null && return
        kill -0 "$guest" 2>/dev/null || break
        sleep 0.1
    done
    fail "the guest did not say $1"
    return 1
}

# port_free: a port of 127.0.0.1 that nobody listens on
port_free()
{
    while port=$((20000 + RANDOM % 40000)); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

# guest_start NAME OPTION...: the image with $work/NAME as /test; its console is ours
guest_start()
{
    local name=$1
    shift
    mkdir "$work/$name.d" && mv "$work/$name" "$work/$name.d/test"
    (cd "$work/$name.d" && echo test | cpio --quiet -o -H newc -R 0:0) >"$work/$name.cpio" || exit 99
    cat "$images/initrd" "$work/$name.cpio" >"$work/$name.initrd"
    rm -f "$log"
    timeout -k 5 "${RING3_BOOT_TIMEOUT:-280}" "$ring3" run --engine "$engine" -m 256M --no-reboot --kernel "$images/vmlinuz" \
        --initrd "$work/$name.initrd" --append "console=ttyS0 quiet panic=-1 oops=panic $append" --serial "file:$log" \
        "$@" <"$work/typed" >"$work/hvc0" 2>"$work/err" &
    guest=$!
}

guest_end()
{
    wait "$guest"
    status=$?
    [ $status = 0 ] || fail "exit status $status instead of 0"
    [ -s "$work/err" ] && fail "messages on stderr: $(head -n 5 "$work/err")"
    grep -q '^CHECK done' "$log" || fail "the guest did not come to its end"
    if grep -q '^CHECK complaint=\|^CHECK module=' "$log"; then
        fail "the kernel complained:"
        grep '^CHECK complaint=\|^CHECK module=' "$log"
    fi
}

# ---- the host's server ----
mkdir "$work/www"
head -c 8000000 /dev/urandom >"$work/www/data"
for ((i = 0; i < 10; i++)); do
    port=$(port_free)
    "$busybox" httpd -f -p "127.0.0.1:$port" -h "$work/www" &
    server=$!
    sleep 0.3
    kill -0 "$server" 2>/dev/null && break
done

# ---- all of it ----
cat >"$work/all" <<SCRIPT
echo "CHECK mac=\$(cat /sys/class/net/eth0/address)"
ifconfig eth0 up
udhcpc -q -n -i eth0 >/dev/null 2>&1
echo "CHECK address=\$(ifconfig eth0 | sed -n 's/.*inet addr:\([0-9.]*\).*/\1/p')"
echo "CHECK router=\$(route -n | awk '\$1 == "0.0.0.0" { print \$2 }')"
echo "CHECK server=\$(cat /etc/resolv.conf)"
ping -c 2 -s 5000 -W 5 10.0.2.2 >/dev/null && echo "CHECK ping=yes"
echo "CHECK data=\$(wget -q -O - http://10.0.2.2:$port/data | md5sum | cut -d' ' -f1)"
echo "CHECK rng=\$(cat /sys/class/misc/hw_random/rng_current)"
dd if=/dev/hwrng of=/tmp/a bs=1000 count=1 2>/dev/null; dd if=/dev/hwrng of=/tmp/b bs=1000 count=1 2>/dev/null
cmp -s /tmp/a /tmp/b || echo "CHECK random=\$(cat /tmp/a /tmp/b | wc -c)"
exec 5<>/dev/hvc0; stty -echo <&5
mkdir /tmp/www; seq 1 1000000 >/tmp/www/numbers
httpd -p 80 -h /tmp/www
seq 1 3000 >&5
echo "CHECK ready"
read -r line <&5
echo "CHECK typed=\$line"
echo "CHECK interrupts=\$(awk '/virtio/ && \$2 + \$3 > 0' /proc/interrupts | wc -l)"
SCRIPT
mkfifo "$work/typed"
exec 9<>"$work/typed"
forward=$(port_free)
guest_start all --net "user,hostfwd=tcp:127.0.0.1:$forward-:80" --virtio-rng --virtio-console stdio "$@"
if wait_for ready; then
    numbers=$("$busybox" timeout 60 "$busybox" wget -q -O - "http://127.0.0.1:$forward/numbers" | md5sum | cut -d' ' -f1)
    [ "$numbers" = "$(seq 1 1000000 | md5sum | cut -d' ' -f1)" ] || fail "what came through the forwarded port is not what was sent"
    echo "good evening" >&9
fi
guest_end
same mac 52:54:00:12:34:56
same address 10.0.2.15
same router 10.0.2.2
same server "nameserver 10.0.2.3"
same ping yes
same data "$(md5sum <"$work/www/data" | cut -d' ' -f1)"
same rng virtio_rng.0
same random 2000
same typed "good evening"
same interrupts 5 # receive and transmit of two devices, entropy
tr -d '\r' <"$work/hvc0" | cmp -s - <(seq 1 3000) || fail "the console lost something: $(wc -l <"$work/hvc0") lines of 3000"

# ---- restricted ----
cat >"$work/restricted" <<SCRIPT
ifconfig eth0 up
udhcpc -q -n -i eth0 >/dev/null 2>&1
echo "CHECK address=\$(ifconfig eth0 | sed -n 's/.*inet addr:\([0-9.]*\).*/\1/p')"
nc -w 2 10.7.0.2 $port </dev/null && echo "CHECK refused=no" || echo "CHECK refused=yes"
httpd -p 80 -h /
echo "CHECK ready"
read -r line </dev/hvc0
SCRIPT
guest_start restricted --net "user,restrict=on,net=10.7.0.0/16,hostfwd=tcp:127.0.0.1:$forward-:80" \
    --nic user,model=virtio-net-pci,mac=02:00:00:00:00:07 --virtio-console stdio "$@"
if wait_for ready; then
    "$busybox" timeout 60 "$busybox" wget -q -O "$work/test" "http://127.0.0.1:$forward/test" || fail "no answer at the forwarded port"
    cmp -s "$work/test" "$work/restricted.d/test" || fail "another answer at the forwarded port"
    echo >&9
fi
guest_end
same address 10.7.0.15
same refused yes

# ---- without ACPI and messages: what the board says by itself of its interrupts ----
cat >"$work/bare" <<SCRIPT
ifconfig eth0 up
udhcpc -q -n -i eth0 >/dev/null 2>&1
echo "CHECK data=\$(wget -q -O - http://10.0.2.2:$port/data | md5sum | cut -d' ' -f1)"
echo "CHECK interrupt=\$(awk '/virtio/ && \$2 > 0 { print \$1 }' /proc/interrupts)"
echo "CHECK done"
reboot -f # the power stays on without ACPI
SCRIPT
append="acpi=off pci=nomsi"
guest_start bare --net user
guest_end
same data "$(md5sum <"$work/www/data" | cut -d' ' -f1)"
same interrupt 11:

if [ $failures != 0 ]; then
    echo "$failures checks failed; the guest's last lines:"
    tail -n 30 "$log" | tr -d '\r' | cut -c1-200
    exit 1
fi
echo "network, console and entropy on $engine: all is well"
