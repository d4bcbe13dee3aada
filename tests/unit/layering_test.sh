#!/bin/bash
# The architecture, checked: who includes whom, where output and exits may be, how long files are, and that no room keeps
# state of its own.
#
# usage: layering_test.sh SOURCE-DIRECTORY BUILD-DIRECTORY
set -u
cd "$1" || exit 99
build=$2
failures=0

fail()
{
    echo "FAILED: $*"
    failures=$((failures + 1))
}

# ---- who includes whom: room, and the rooms whose headers it may include beside its own ----
declare -A may=(
    [base]=""
    [memory]="base"
    [cpu]="base memory mmu host"
    [mmu]="base memory cpu"
    [engine]="base memory cpu mmu host"
    [device]="base memory host"
    [host]="base"
    [boot]="base memory cpu"
    [machine]="base memory cpu mmu engine device host boot"
    [monitor]="base memory cpu mmu engine host machine"
    [gdb]="base memory cpu mmu host machine monitor"
    [cli]="base memory cpu mmu engine device host boot machine monitor gdb"
)
for directory in src/*/; do
    room=$(basename "$directory")
    if [ -z "${may[$room]+known}" ]; then
        fail "src/$room is not a room that this test knows"
        continue
    fi
    while IFS=: read -r file line include; do
        from=${include#*\"}
        from=${from%%/*}
        case " $room ${may[$room]} " in
        *" $from "*) ;;
        *) [ -d "src/$from" ] && fail "$file:$line: $room may not include $from/" ;;
        esac
    done < <(grep -rnoE '^ *#include +"[a-z0-9_]+/' "$directory" --include='*.[chS]' --include='*.def')
done
# An engine's folder is known to engine.c only.
while read -r hit; do
    fail "only src/engine/engine.c may include an engine's folder: $hit"
done < <(grep -rnE '^ *#include +"engine/(interpret|translate|trap|kvm)/' src --include='*.[ch]' |
    grep -vE '^src/engine/(engine\.c|interpret/|translate/|trap/|kvm/)')

# ---- errors are values: nothing below cli prints or exits ----
while read -r hit; do
    fail "output or exit below src/cli: $hit"
done < <(grep -rnE '(^|[^a-z_>.])(printf|puts|putchar|perror|exit|_exit|abort) *\(' src --include='*.[ch]' |
    grep -vE '^src/cli/|^src/base/(check|log)\.c:|^src/engine/(stats|postmortem)\.c:' |
    grep -vE '^src/(host/tty|engine/trap/sandbox)\.c:.*_exit' | # of the processes that they start
    grep -vE '^[^:]*:[0-9]+: *(\*|/\*|//)|->exit\(|format\(printf')

# ---- length: about 800 lines are meant, 1000 are the limit; tables and tests may be longer ----
while read -r lines file; do
    [ "$lines" -lt 1000 ] || fail "$file has $lines lines: look for the missing idea"
done < <(find src -name '*.[chS]' -exec wc -l {} + | awk '$2 != "total" { print $1, $2 }')

# ---- state: everything hangs off a machine or a processor ----
# Variables that are allowed, and why.
allowed='
context_print       src/base/check.c, thread-local: what a failing check prints
context_opaque      the same
host_flags          src/cpu/host_x87.c, thread-local: what the x87 unit holds
registry            src/host/signals.c: signal handlers belong to the process
'
for room in "${!may[@]}"; do
    [ "$room" = cli ] && continue
    library=$build/src/$room/lib$room.a
    [ -f "$library" ] || continue
    while read -r symbol; do
        grep -q "^${symbol%%.*} " <<<"$allowed" || fail "src/$room keeps state in the variable '$symbol'"
    done < <(objdump -t "$library" 2>/dev/null |
        awk '$NF !~ /^\./ && / (\.data|\.bss|\.tdata|\.tbss|\*COM\*)[^ \t]*[ \t]/ && !/\.data\.rel\.ro/ { print $NF }' | grep -v '^__odr_asan' | sort -u)
done

[ $failures = 0 ] && echo "the rooms keep to the architecture"
exit $((failures != 0))
