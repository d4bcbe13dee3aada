; A disk that draws: boot sector and program. Each mode of the display adapter in turn, set by INT 10h, drawn by registers and memory;
; then a key is waited for. What has been drawn is said on the debug console (port 402h) as "SCREEN name"; after the last one "SCREEN
; end", and isa-debug-exit (port F4h) with 0, which is exit status 1. It knows nothing of ring3 and runs as well on other PCs.
;
; Every picture but the last comes from here alone: no character of the BIOS's font, and colours of its own. So a picture is the same
; wherever an adapter works as the manual says; tests/boot/screen_test.sh has their sums.
;
; The key "s" at any of them measures: writes to the window and reads from it, for so many ticks of the BIOS's clock.
        cpu     386
        org     7c00h
        bits    16

SECTORS         equ 8                   ; of the program, behind the boot sector
DEBUGCON        equ 402h
SEQUENCER       equ 3c4h
CRTC            equ 3d4h
GRAPHICS        equ 3ceh
BUFFER          equ 0c000h

start:  jmp     0:.here
.here:  xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, 7c00h
        cld
        sti
        mov     ax, 200h + SECTORS
        mov     cx, 2
        mov     dh, 0
        mov     bx, 7e00h
        int     13h
        jc      .bad
        jmp     program
.bad:   hlt
        jmp     .bad

        times   510 - ($ - $$) db 0
        dw      0aa55h

; ---- tools ----

; Says what follows the call, up to a zero byte.
say:    pop     si
.next:  lodsb
        or      al, al
        jz      .end
        mov     dx, DEBUGCON
        out     dx, al
        jmp     .next
.end:   jmp     si

%macro  SAY     1
        call    say
        db      %1, 0
%endmacro

; A colour for each of 256 indices: red 1, green 1/4, blue what is missing.
colors: mov     dx, 3c8h
        xor     ax, ax
        out     dx, al
        inc     dx
        xor     cx, cx
.next:  mov     al, cl
        and     al, 63
        out     dx, al
        mov     al, cl
        shr     al, 2
        out     dx, al
        mov     al, cl
        not     al
        and     al, 63
        out     dx, al
        inc     cl
        jnz     .next
        ret

; The attribute controller's 16 entries one to one: what the BIOS has there differs by mode.
entries:
        mov     dx, 3dah
        in      al, dx
        mov     dx, 3c0h
        xor     cx, cx
.next:  mov     al, cl
        out     dx, al
        out     dx, al
        inc     cx
        cmp     cl, 16
        jb      .next
        mov     al, 20h
        out     dx, al
        ret

; AX: register and value, DX: its index's port.
%macro  SET     3
        mov     dx, %1
        mov     ax, %2 | %3 << 8
        out     dx, ax
%endmacro

wait_key:
        xor     ah, ah
        int     16h
        ret

mode:   xor     ah, ah
        int     10h
        mov     ah, 1                   ; no cursor
        mov     cx, 2000h
        int     10h
        call    colors
        mov     ax, 0a000h
        mov     es, ax
        xor     di, di
        ret

; ---- pictures ----

; 320 by 200, 256 colours: x + 3 y.
picture_13h:
        mov     al, 13h
        call    mode
        xor     bx, bx
.line:  mov     ax, bx
        mov     cx, 320
.pixel: stosb
        inc     al
        loop    .pixel
        add     bl, 3
        cmp     di, 320 * 200
        jb      .line
        ret

; 320 by 240, unchained: every second column, a plane at a time; shown from line 2 and column 4 on.
picture_x:
        mov     al, 13h
        call    mode
        SET     SEQUENCER, 4, 06h
        SET     CRTC, 14h, 0
        SET     CRTC, 17h, 0e3h
        SET     SEQUENCER, 2, 0fh
        xor     ax, ax
        mov     cx, 8000h
        rep     stosw
        mov     bl, 1
.plane: mov     ah, bl
        mov     al, 2
        mov     dx, SEQUENCER
        out     dx, ax
        xor     di, di
        mov     al, bl
.next:  stosb
        inc     di
        add     al, 5
        cmp     di, 80 * 220
        jb      .next
        shl     bl, 1
        cmp     bl, 10h
        jb      .plane
        SET     CRTC, 0dh, 161
        ret

; 640 by 480 and 320 by 200, 16 colours: bars by write mode 2, a frame by set/reset, diagonals by XOR, and a block that is copied by
; latches.
picture_12h:
        mov     al, 12h
        call    mode
        mov     bp, 80
        mov     si, 480
        jmp     planes
picture_0dh:
        mov     al, 0dh
        call    mode
        mov     bp, 40
        mov     si, 200
planes: call    entries
        SET     GRAPHICS, 5, 2          ; write mode 2
        SET     SEQUENCER, 2, 0fh
        mov     cx, si
.bars:  push    cx
        mov     cx, bp
.bar:   mov     ax, bp
        sub     ax, cx
        shr     ax, 1
        mov     [es:di], al             ; its lower four bits
        inc     di
        loop    .bar
        pop     cx
        loop    .bars
        SET     GRAPHICS, 5, 0          ; set/reset: a grey line at the top
        SET     GRAPHICS, 0, 7
        SET     GRAPHICS, 1, 0fh
        xor     di, di
        mov     cx, bp
        shl     cx, 3                   ; 8 lines
        rep     stosb
        SET     GRAPHICS, 1, 0
        SET     GRAPHICS, 3, 18h        ; XOR, on planes 0 and 3
        SET     SEQUENCER, 2, 9
        mov     bl, 80h
        mov     di, bp
        shl     di, 4
        mov     cx, si
        sub     cx, 32
.xor:   mov     al, [es:di]             ; the latches
        mov     [es:di], bl
        add     di, bp
        ror     bl, 1
        adc     di, 0                   ; into the next byte when the bit has gone round
        loop    .xor
        SET     GRAPHICS, 3, 0
        SET     SEQUENCER, 2, 0fh
        SET     GRAPHICS, 8, 3ch        ; a bit mask, rotated data
        SET     GRAPHICS, 3, 3
        mov     di, bp
        shl     di, 5
        mov     cx, 8
.mask:  mov     al, [es:di]
        mov     byte [es:di], 0b1h
        add     di, bp
        loop    .mask
        SET     GRAPHICS, 3, 0
        SET     GRAPHICS, 8, 0ffh
        SET     GRAPHICS, 5, 3          ; write mode 3
        SET     GRAPHICS, 0, 0eh
        mov     di, bp
        shl     di, 5
        mov     cx, 8
.mode3: mov     al, [es:di + 4]
        mov     byte [es:di + 4], 5ah
        add     di, bp
        loop    .mode3
        SET     GRAPHICS, 5, 1          ; copy lines 0 to 15 to 100
        mov     cx, bp
        shl     cx, 4
        mov     ax, bp
        mov     bx, 100
        mul     bx
        mov     di, ax
        xor     si, si
        push    ds
        push    es
        pop     ds
        rep     movsb
        pop     ds
        SET     GRAPHICS, 5, 8          ; where is colour 7 in the first line? drawn below in the same places
        SET     GRAPHICS, 2, 7
        SET     GRAPHICS, 7, 0fh
        mov     al, [es:0]
        mov     ah, [es:20]
        push    ax
        SET     GRAPHICS, 5, 0
        SET     GRAPHICS, 0, 0
        pop     ax
        mov     di, bp
        shl     di, 6
        stosw
        ret

; CGA's modes: rows of bits at B8000h, odd lines 8 KiB behind.
picture_04h:
        mov     al, 4
        call    mode
        call    entries
        jmp     cga
picture_06h:
        mov     al, 6
        call    mode
        call    entries
cga:    mov     ax, 0b800h
        mov     es, ax
        xor     di, di
        xor     ax, ax
.next:  mov     [es:di], al
        not     al
        mov     [es:di + 2000h], al
        not     al
        inc     di
        add     al, 1bh
        cmp     di, 80 * 100
        jb      .next
        ret

; Extended modes by the VBE of the BIOS, drawn in banks of 64 KiB. BX: the mode; SI: banks; the bytes count up, and each bank by one more.
vbe:    mov     ax, 4f02h
        int     10h
        cmp     ax, 4fh
        jne     .none
        call    colors
        mov     ax, 0a000h
        mov     es, ax
        xor     dx, dx                  ; the bank
.bank:  push    dx
        push    si
        mov     ax, 4f05h
        xor     bx, bx
        int     10h
        pop     si
        pop     dx
        xor     di, di
        mov     al, dl
        mov     ah, dl
        inc     ah
        mov     cx, 8000h
.fill:  stosw
        add     ax, 0305h
        loop    .fill
        inc     dx
        cmp     dx, si
        jb      .bank
        ret
.none:  SAY     {"SCREEN no VBE", 10}
        ret

picture_101h:                           ; 640 by 480, 256 colours
        mov     bx, 101h
        mov     si, 5
        jmp     vbe
picture_111h:                           ; 640 by 480, 16 bits
        mov     bx, 111h
        mov     si, 10
        jmp     vbe
picture_112h:                           ; 640 by 480, 24 or 32 bits
        mov     bx, 112h
        mov     si, 19
        jmp     vbe

; Text: all characters in all attributes, with a font of its own that has the code in its rows.
picture_text:
        mov     al, 3
        call    mode
        push    es
        push    ds
        pop     es
        mov     di, BUFFER
        xor     bx, bx
.glyph: mov     cx, 16
        mov     al, bl
.row:   stosb
        rol     al, 1
        loop    .row
        inc     bl
        jnz     .glyph
        mov     ax, 1100h               ; user font of 16 rows
        mov     bx, 1000h
        mov     cx, 256
        xor     dx, dx
        mov     bp, BUFFER
        int     10h
        pop     es
        call    colors
        call    entries
        mov     ax, 0b800h
        mov     es, ax
        xor     di, di
        xor     ax, ax
        mov     cx, 2000
.cell:  stosw
        add     ax, 0701h               ; attributes are odd and even, bright, blinking
        loop    .cell
        ret

; ---- the program ----

; "s": how many times 1000 bytes in ten ticks of 55 ms can be written to ES:0, and read, which is said.
measure:
        SAY     {"SCREEN writes "}
        call    ticks
        xor     bx, bx
.write: xor     di, di
        mov     cx, 1000
.w:     mov     [es:di], al
        inc     di
        loop    .w
        inc     bx
        call    ticks_over
        jb      .write
        call    number
        SAY     {"SCREEN reads "}
        call    ticks
        xor     bx, bx
.read:  xor     di, di
        mov     cx, 1000
.r:     mov     al, [es:di]
        inc     di
        loop    .r
        inc     bx
        call    ticks_over
        jb      .read
        call    number
        ret

; SI: the tick that begins next.
ticks:  mov     si, [46ch]
.wait:  cmp     si, [46ch]
        je      .wait
        mov     si, [46ch]
        ret

ticks_over:
        mov     dx, [46ch]
        sub     dx, si
        cmp     dx, 10
        ret

number: mov     cx, 4
.digit: rol     bx, 4
        mov     al, bl
        and     al, 15
        add     al, '0'
        cmp     al, '9'
        jbe     .out
        add     al, 'a' - '9' - 1
.out:   mov     dx, DEBUGCON
        out     dx, al
        loop    .digit
        mov     al, 10
        out     dx, al
        ret

%macro  SHOW    2
        call    %1
        SAY     {"SCREEN ", %2, 10}
        call    key
%endmacro

key:    call    wait_key
        cmp     al, 's'
        jne     .end
        call    measure
        jmp     key
.end:   ret

program:
        SHOW    picture_13h, "13h"
        SHOW    picture_x, "x"
        SHOW    picture_12h, "12h"
        SHOW    picture_0dh, "0dh"
        SHOW    picture_04h, "04h"
        SHOW    picture_06h, "06h"
        SHOW    picture_101h, "101h"
        SHOW    picture_111h, "111h"
        SHOW    picture_112h, "112h"
        SHOW    picture_text, "text"
        SAY     {"SCREEN end", 10}
        mov     dx, 0f4h
        xor     al, al
        out     dx, al
.end:   hlt
        jmp     .end

        times   512 * (SECTORS + 1) - ($ - $$) db 0
        times   65536 - ($ - $$) db 0
