# For the TAP tests beside it, which source it: usable_or_skip RING3 ENGINE ends the test as skipped, saying why, where the
# host does not permit the engine. Containers often have no /dev/kvm and forbid ptrace.
usable_or_skip()
{
    [ "$2" != interpret ] || return 0
    said=$("$1" engines | grep -A1 "^$2 " | tail -n 1)
    case $said in
    *'not usable here: '*)
        echo "1..0 # SKIP engine $2: ${said#*not usable here: }"
        exit 0
        ;;
    esac
}
