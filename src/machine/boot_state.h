/* From the loader's description of the first processor to the vCPU. */
#ifndef RING3_MACHINE_BOOT_STATE_H
#define RING3_MACHINE_BOOT_STATE_H

#include "boot/boot.h"
#include "cpu/vcpu.h"

/* `v` has just been reset. */
void boot_state_apply(const struct boot_state *state, struct vcpu *v);

#endif
