; A disk that says what firmware has made of the machine: boot sector and program, for a diskette or a hard disk.
;
; The boot sector loads what follows by INT 13h, sector by sector, and jumps there. The program speaks TAP on the debug console
; (port 402h), greets on the screen by INT 10h, and ends through isa-debug-exit (port F4h): 0 when all is well, 1 otherwise, which are
; exit statuses 1 and 3. It knows nothing of ring3 and runs as well on other PCs that have these two ports.
;
; It resets the machine on its way: byte 50h of CMOS says how far it has come.
;
;     CMOS 50h   0    first start: services, tables, shadow RAM, then an INIT of the processor that firmware is to come back from,
;                     then a reset by the keyboard controller
;                A5h  second start: memory is as before the reset, the bridge is not; then a triple fault
;                A6h  third start: the end
;
; The image's last sector holds "the last sector"; the one before it is written to.
        cpu     686
        org     7c00h
        bits    16

PROGRAM         equ 8000h
SECTORS         equ 16                  ; of the program
BUFFER          equ 0c000h
PARAMETERS      equ 0c400h
DEBUGCON        equ 402h
CMOS_STEP       equ 50h
MARK            equ 1000h               ; in memory that firmware leaves alone, to be found again after a reset
VECTOR_67       equ 467h

; ---- the boot sector ----

start:  jmp     0:.here
.here:  xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, 7c00h
        mov     [drive], dl
        cld
        sti
        mov     ah, 8                   ; geometry
        push    es
        xor     di, di
        int     13h
        pop     es
        jc      .bad
        and     cx, 3fh
        mov     [sectors], cx
        movzx   ax, dh
        inc     ax
        mov     [heads], ax
        mov     bx, PROGRAM
        mov     eax, 1
.next:  call    read_sector
        jc      .bad
        add     bx, 512
        inc     eax
        cmp     eax, SECTORS
        jbe     .next
        cmp     dword [PROGRAM], 'prog'
        jne     .bad
        jmp     PROGRAM + 4
.bad:   mov     si, text_bad
        call    print
        mov     al, 1
        out     0f4h, al
        hlt

; Sector EAX (counted from 0) to ES:BX, or from there. Carry: failed.
write_sector:
        mov     byte [function], 3
        jmp     move_sector
read_sector:
        mov     byte [function], 2
move_sector:
        pushad
        xor     edx, edx
        movzx   ecx, word [sectors]
        div     ecx
        push    dx                      ; sector - 1
        xor     edx, edx
        movzx   ecx, word [heads]
        div     ecx                     ; EAX cylinder, EDX head
        mov     dh, dl
        mov     ch, al
        mov     cl, ah
        shl     cl, 6
        pop     ax
        inc     ax
        or      cl, al
        mov     dl, [drive]
        mov     ah, [function]
        mov     al, 1
        int     13h
        popad
        ret

; The string at SI to the debug console.
print:  pusha
        mov     dx, DEBUGCON
.next:  lodsb
        test    al, al
        jz      .done
        out     dx, al
        jmp     .next
.done:  popa
        ret

drive:          db 0
function:       db 0
sectors:        dw 0
heads:          dw 0
text_bad:       db 'Bail out! the boot sector cannot read its disk', 10, 0

        times   446 - ($ - $$) db 0
        db      80h, 0, 2, 0, 7fh, 0, 10h, 0 ; one active partition, so that no BIOS doubts
        dd      1, 1000
        times   510 - ($ - $$) db 0
        dw      0aa55h

; ---- the program ----

        section program vstart=PROGRAM
        db      'prog'
main:   mov     al, CMOS_STEP
        call    cmos_read
        cmp     al, 0a5h
        je      second
        cmp     al, 0a6h
        je      third
        mov     si, text_plan
        call    print
        call    greet

; -- services --

        int     12h
        cmp     ax, 600
        setae   al
        mov     si, text_base
        call    report

        mov     si, text_e820
        call    memory_map
        call    report

        mov     ah, 88h                 ; extended memory, KiB
        int     15h
        setnc   al
        mov     si, text_88
        call    report

        mov     ah, 0                   ; ticks come while we wait
        int     1ah
        mov     bx, dx
        mov     cx, 40                  ; other interrupts wake us, too
.tick:  hlt
        push    cx
        mov     ah, 0
        int     1ah
        pop     cx
        cmp     dx, bx
        loope   .tick
        setne   al
        mov     si, text_tick
        call    report

        mov     ah, 2                   ; the clock, in BCD
        int     1ah
        setnc   al
        cmp     ch, 24h
        setb    ah
        and     al, ah
        mov     si, text_rtc
        call    report

; -- disk --

        call    last_sector
        mov     bx, BUFFER
        call    read_sector
        setnc   al
        mov     si, BUFFER
        mov     di, text_last
        mov     cx, text_last_end - text_last
        repe    cmpsb
        sete    ah
        and     al, ah
        mov     si, text_disk
        call    report

        mov     di, BUFFER              ; the one before it: written, read back
        mov     cx, 256
        mov     ax, 1234h
.fill:  stosw
        add     ax, 77
        loop    .fill
        call    last_sector
        dec     eax
        mov     bx, BUFFER
        call    write_sector
        setnc   dl
        push    dx
        mov     di, BUFFER
        mov     cx, 256
        push    ax
        xor     ax, ax
        rep     stosw
        pop     ax
        call    read_sector
        pop     dx
        mov     si, BUFFER
        mov     cx, 256
        mov     bx, 1234h
.same:  lodsw
        cmp     ax, bx
        jne     .other
        add     bx, 77
        loop    .same
.other: test    cx, cx
        sete    al
        and     al, dl
        mov     si, text_write
        call    report

        call    last_sector             ; the first behind the end
        inc     eax
        mov     bx, BUFFER
        call    read_sector
        setc    al
        mov     si, text_beyond
        call    report

        mov     ax, 0                   ; INT 15h, AH = 87h: a block to 1 MiB and back, through protected mode
        mov     di, BUFFER
        mov     cx, 256
.clear: stosw
        loop    .clear
        mov     dword [BUFFER], 'abov'
        mov     dword [move_source], BUFFER
        mov     dword [move_target], 100000h
        call    block_move
        setnc   dl
        mov     dword [BUFFER], 0
        mov     dword [move_source], 100000h
        mov     dword [move_target], BUFFER
        call    block_move
        setnc   al
        and     al, dl
        cmp     dword [BUFFER], 'abov'
        sete    ah
        and     al, ah
        mov     si, text_move
        call    report

; -- what firmware leaves for systems --

        mov     eax, 'RSD '
        mov     cx, 20
        call    find_table
        mov     si, text_rsdp
        call    report
        mov     eax, '_MP_'
        mov     cx, 16
        call    find_table
        mov     si, text_mp
        call    report
        mov     eax, '_SM_'
        mov     cx, 31
        call    find_table
        mov     si, text_smbios
        call    report

        mov     dx, 510h                ; the firmware configuration device's signature
        xor     ax, ax
        out     dx, ax
        mov     cx, 4
        mov     dx, 511h
.sign:  shr     ebx, 8
        in      al, dx
        shl     eax, 24
        or      ebx, eax
        loop    .sign
        cmp     ebx, 'QEMU'
        sete    al
        mov     si, text_fwcfg
        call    report

; -- shadow RAM: DC000h by PAM4 (5Dh), high nibble --

        mov     bl, 33h                 ; RAM
        call    pam
        mov     dword [es:0], 'ram1'
        cmp     dword [es:0], 'ram1'
        sete    al
        mov     si, text_pam_rw
        call    report_pam
        mov     bl, 11h                 ; reads RAM, writes go to the bus
        call    pam
        mov     dword [es:0], 'rom1'
        cmp     dword [es:0], 'ram1'
        sete    al
        mov     si, text_pam_r
        call    report_pam
        mov     bl, 22h                 ; reads the bus, writes go to RAM
        call    pam
        mov     dword [es:0], 'ram2'
        cmp     dword [es:0], -1
        sete    al
        mov     si, text_pam_w
        call    report_pam
        mov     bl, 0                   ; the bus
        call    pam
        mov     dword [es:0], 'bus1'
        cmp     dword [es:0], -1
        sete    al
        mov     si, text_pam_none
        call    report_pam
        mov     bl, 33h
        call    pam
        cmp     dword [es:0], 'ram2'
        sete    al
        mov     si, text_pam_again
        call    report_pam

; -- INIT: CMOS 0Fh = 0Ah lets firmware jump to the address at 40:67h, with memory as it was --

        mov     dword [MARK], 'kept'
        mov     word [VECTOR_67], resumed
        mov     word [VECTOR_67 + 2], 0
        mov     [saved_sp], sp
        mov     ax, 0a0fh               ; byte 0Fh
        call    cmos_write
        cli
        call    kbc_reset
        hlt
resumed:
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, [saved_sp]
        cld
        cmp     dword [MARK], 'kept'
        sete    al
        mov     si, text_resumed
        call    report
        mov     ax, 0fh
        call    cmos_write
        call    pam_read                ; chips are as they were
        cmp     al, 33h
        sete    al
        mov     si, text_chips
        call    report
        mov     ax, 0a500h | CMOS_STEP  ; nothing to be resumed: the machine starts anew
        call    cmos_write
        call    kbc_reset
        jmp     fail

second: mov     al, [MARK + 4]          ; how many reports there were
        mov     [number], al
        mov     al, [MARK + 5]
        mov     [failed], al
        cmp     dword [MARK], 'kept'
        sete    al
        mov     si, text_reset
        call    report
        call    pam_read
        cmp     al, 33h
        setne   al
        mov     si, text_closed
        call    report
        mov     ax, 0a600h | CMOS_STEP
        call    cmos_write
        lidt    [no_table]
        int3                            ; and its fault, and that one's

third:  mov     al, [MARK + 4]
        mov     [number], al
        mov     al, [MARK + 5]
        mov     [failed], al
        mov     al, 1
        mov     si, text_triple
        call    report
        mov     ax, 0000h | CMOS_STEP
        call    cmos_write
        mov     al, [failed]
        out     0f4h, al
        hlt
fail:   mov     al, 1
        out     0f4h, al
        hlt

; ---- parts ----

; "ok N - text at SI" or "not ok ...": AL is 1 or 0.
report_pam:
        push    word 0
        pop     es
report: pusha
        push    si
        mov     si, text_ok
        test    al, al
        jnz     .well
        mov     si, text_not_ok
        mov     byte [failed], 1
.well:  call    print
        inc     byte [number]
        mov     al, [number]
        mov     [MARK + 4], al
        mov     ah, [failed]
        mov     [MARK + 5], ah
        aam                             ; two digits
        add     ax, '00'
        xchg    al, ah
        mov     [digits], ax
        mov     si, digits
        call    print
        pop     si
        call    print
        mov     si, text_newline
        call    print
        popa
        ret

; A line on the screen, if there is one.
greet:  mov     si, text_greeting
.next:  lodsb
        test    al, al
        jz      .done
        mov     ah, 0eh
        mov     bx, 7
        int     10h
        jmp     .next
.done:  ret

; AL: whether INT 15h, E820h describes RAM at 0 and something else as well.
memory_map:
        xor     ebx, ebx
        xor     bp, bp                  ; pieces; bit 15: RAM at 0
.next:  mov     eax, 0e820h
        mov     edx, 'PAMS'
        mov     ecx, 20
        mov     di, BUFFER
        push    bp
        int     15h
        pop     bp
        jc      .done
        cmp     eax, 'PAMS'
        jne     .done
        inc     bp
        cmp     dword [BUFFER], 0
        jne     .not0
        cmp     dword [BUFFER + 4], 0
        jne     .not0
        cmp     dword [BUFFER + 16], 1
        jne     .not0
        or      bp, 8000h
.not0:  test    ebx, ebx
        jnz     .next
.done:  mov     ax, bp
        cmp     ax, 8003h
        setae   al
        ret

; The number of the last sector: in EAX.
last_sector:
        pushad
        mov     dl, [drive]
        test    dl, 80h
        jnz     .disk
        mov     ah, 8
        xor     di, di
        push    es
        int     13h
        pop     es
        movzx   eax, ch
        inc     ax
        movzx   ecx, word [heads]
        mul     ecx
        movzx   ecx, word [sectors]
        mul     ecx
        jmp     .done
.disk:  mov     ah, 48h                 ; by its size
        mov     si, PARAMETERS
        mov     word [si], 26
        int     13h
        mov     eax, [PARAMETERS + 16]
.done:  dec     eax
        mov     [scratch], eax
        popad
        mov     eax, [scratch]
        ret

; 512 bytes from [move_source] to [move_target].
block_move:
        pushad
        mov     di, move_table
        mov     cx, 24
        xor     ax, ax
        rep     stosw
        mov     si, move_table
        mov     eax, [move_source]
        mov     word [si + 16], 0ffffh
        mov     [si + 18], eax
        mov     byte [si + 21], 93h
        shr     eax, 24
        mov     [si + 23], al
        mov     eax, [move_source]
        shr     eax, 16
        mov     [si + 20], al
        mov     eax, [move_target]
        mov     word [si + 24], 0ffffh
        mov     [si + 26], ax
        shr     eax, 16
        mov     [si + 28], al
        mov     byte [si + 29], 93h
        mov     cx, 256
        mov     ah, 87h
        int     15h
        popad
        ret

; AL: whether the signature EAX lies on a paragraph of F0000h..FFFFFh (or E0000h..) with a sum of 0 over CX bytes.
find_table:
        push    es
        mov     dx, 0e000h
.next:  mov     es, dx
        cmp     [es:0], eax
        jne     .no
        push    cx
        push    ax
        xor     bx, bx
        xor     al, al
.sum:   add     al, [es:bx]
        inc     bx
        loop    .sum
        test    al, al
        pop     ax
        pop     cx
        jz      .found
.no:    inc     dx
        jnz     .next
        pop     es
        mov     al, 0
        ret
.found: pop     es
        mov     al, 1
        ret

; PAM4 becomes BL; ES is DC00h.
pam:    mov     dx, 0cf8h
        mov     eax, 8000005ch
        out     dx, eax
        mov     dx, 0cfdh
        mov     al, bl
        out     dx, al
        push    word 0dc00h
        pop     es
        ret
pam_read:
        mov     dx, 0cf8h
        mov     eax, 8000005ch
        out     dx, eax
        mov     dx, 0cfdh
        in      al, dx
        ret

cmos_read:
        out     70h, al
        in      al, 71h
        ret
cmos_write:                             ; AL index, AH value
        out     70h, al
        mov     al, ah
        out     71h, al
        ret

kbc_reset:
        in      al, 64h
        test    al, 2
        jnz     kbc_reset
        mov     al, 0feh
        out     64h, al
        mov     cx, 0
.wait:  in      al, 80h
        loop    .wait
        ret

no_table:       dw 0
                dd 0
number:         db 0
failed:         db 0
saved_sp:       dw 0
scratch:        dd 0
digits:         db '00', 0
move_source:    dd 0
move_target:    dd 0
text_plan:      db '1..23', 10, 0
text_ok:        db 'ok ', 0
text_not_ok:    db 'not ok ', 0
text_newline:   db 10, 0
text_greeting:  db 'the boot disk greets', 13, 10, 0
text_base:      db ' - base memory', 0
text_e820:      db ' - memory map', 0
text_88:        db ' - extended memory', 0
text_tick:      db ' - timer ticks', 0
text_rtc:       db ' - time of day', 0
text_disk:      db ' - the last sector is there', 0
text_write:     db ' - a sector written is read again', 0
text_beyond:    db ' - there is none behind the last', 0
text_move:      db ' - blocks moved to 1 MiB and back', 0
text_rsdp:      db ' - ACPI RSDP', 0
text_mp:        db ' - MP floating pointer', 0
text_smbios:    db ' - SMBIOS entry point', 0
text_fwcfg:     db ' - firmware configuration', 0
text_pam_rw:    db ' - shadow RAM: reads and writes', 0
text_pam_r:     db ' - shadow RAM: reads only', 0
text_pam_w:     db ' - shadow RAM: writes only', 0
text_pam_none:  db ' - shadow RAM: neither', 0
text_pam_again: db ' - shadow RAM: what was written while it could not be read', 0
text_resumed:   db ' - INIT, and firmware came back', 0
text_chips:     db ' - INIT leaves chips alone', 0
text_reset:     db ' - a reset leaves memory alone', 0
text_closed:    db ' - a reset closes shadow RAM', 0
text_triple:    db ' - a triple fault resets', 0
text_last:      db 'the last sector'
text_last_end:
move_table:     times 48 db 0

        times   SECTORS * 512 - ($ - $$) db 0
