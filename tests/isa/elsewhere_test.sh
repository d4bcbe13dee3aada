#!/bin/bash
# elsewhere.def, checked: each test that it names exists and names the instruction.
#
# usage: elsewhere_test.sh SOURCE-DIRECTORY
set -u
cd "$1" || exit 99
failures=0
rows=0

# named MNEMONIC FILE: a program for several widths may write the family's name or build the mnemonic from a suffix
named()
{
    local family=${1%64}
    grep -qi -e "$1" -e "\"$family" -e "\b$family" "$2"
}

while IFS=$'\t' read -r mnemonic where; do
    rows=$((rows + 1))
    found=0
    while read -r kind name; do
        case $kind in
        guest) file=guest/$name.c ;;
        unit) file=tests/unit/test_$name.c ;;
        *) continue ;; # a remark
        esac
        if [ ! -f "$file" ]; then
            echo "FAILED: $mnemonic: there is no $file"
            failures=$((failures + 1))
        elif named "$mnemonic" "$file"; then
            found=1
        fi
    done < <(tr ';' '\n' <<<"$where" | awk -F: 'NF == 2 { n = split($2, names, ","); gsub(/ /, "", $1)
        for (i = 1; i <= n; i++) { gsub(/ /, "", names[i]); print $1, names[i] } }')
    if [ $found = 0 ]; then
        echo "FAILED: $mnemonic: not in $where"
        failures=$((failures + 1))
    fi
done < <(sed -n 's/^ELSEWHERE(\([A-Z0-9]*\), "\(.*\)").*/\1\t\2/p' tests/isa/elsewhere.def)

[ "$rows" -gt 0 ] || { echo "FAILED: no rows read"; exit 1; }
echo "$rows rows are tested elsewhere, $failures complaints"
exit $((failures != 0))
