/* The value of --boot. */
#ifndef RING3_CLI_BOOT_OPTION_H
#define RING3_CLI_BOOT_OPTION_H

#include "base/error.h"
#include "machine/boot_choice.h"

/* "d", or "order=dc,once=d,menu=on,splash-time=5000,reboot-timeout=1000,strict=on", as QEMU has it. False with a message. */
bool boot_option_parse(const char *text, struct boot_choice *boot, struct error *err);

#endif
