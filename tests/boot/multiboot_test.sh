#!/bin/bash
# Kernels with Multiboot headers: what they say that they were told. multiboot_test.sh RING3 DIRECTORY, where they are. Prints
# TAP. Oracle: the specifications; guest/multiboot/kernel.c has the kernel.
ring3=$1 kernels=$2
out=$(mktemp -d) || exit 99
trap 'rm -rf "$out"' EXIT
printf 'first module' >"$out/one"
printf 'the second module is longer' >"$out/two,2"
n=0

report() # GOOD WHAT
{
    n=$((n + 1))
    if [ "$1" = 1 ]; then echo "ok $n - $2"; else echo "not ok $n - $2"; sed 's/^/# /' "$out/said"; fi
}

boot() { timeout 30 "$ring3" run -m 64 --serial null --debugcon stdio --kernel "$@" </dev/null >"$out/said" 2>&1; }
says() { grep -qFx -e "$1" "$out/said" && report 1 "$kernel: $1" || report 0 "$kernel: $1"; }

for version in 1 2; do
    for kind in elf flat; do
        kernel=multiboot$version-$kind
        boot "$kernels/$kernel" --append 'quiet x=1' --initrd "$out/one with arguments,$out/two,,2"
        report $(($? == 1)) "$kernel runs to its end"
        says "magic=$([ $version = 1 ] && echo 0x2badb002 || echo 0x36d76289)"
        says 'cr0=0x00000001'
        says 'bss=0x00000000'
        says 'data=0x12345678'
        says "cmdline=$kernels/$kernel quiet x=1"
        says 'loader=ring3'
        says 'lower=0x0000027f'
        says 'upper=0x0000fc00'
        says 'ram from 1M=0x03f00000'
        says 'ram type=0x00000001'
        says "module=$out/one with arguments"
        says 'module size=0x0000000c'
        says 'module text=first module'
        says "module=$out/two,2"
        says 'module text=the second modul'
        report $(($(grep -c '^module aligned=0x00000001' "$out/said") == 2)) "$kernel: modules begin on pages"
        [ $kind = elf ] && says 'symbols=0x00000001'
        [ $version = 2 ] && says 'rsdp 1 sum=0x00000000' && says 'rsdp 2 sum=0x00000000' && says 'aligned=0x00000001'
        [ $version = 1 ] && says 'modules=0x00000002'
    done
    kernel=multiboot$version-elf
    boot "$kernels/$kernel"
    says "cmdline=$kernels/$kernel"
    kernel=multiboot$version-require
    boot "$kernels/$kernel"
    report $(($? == 2)) "$kernel is refused"
    report $(($(grep -c "^ring3: $kernels/$kernel: .*requires" "$out/said") == 1)) "$kernel: with the reason"
done
boot "$kernels/multiboot1-elf" --initrd "$out/nothing there"
report $(($? == 2)) 'a module that does not exist is an error'
grep -qF "ring3: $out/nothing: cannot open" "$out/said" && report 1 'which names the file' || report 0 'which names the file'
head -c 600 "$kernels/multiboot1-flat" >"$out/short"
boot "$out/short"
report $(($? == 2)) 'a truncated kernel is an error'
echo "1..$n"
