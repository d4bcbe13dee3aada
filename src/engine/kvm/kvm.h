/* The engine for the host's hardware virtualization: guest code runs in the processor's guest mode, through /dev/kvm.
 */
#ifndef RING3_ENGINE_KVM_KVM_H
#define RING3_ENGINE_KVM_KVM_H

#include "engine/engine.h"

extern const struct engine engine_kvm;

#endif
