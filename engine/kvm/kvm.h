/*
 * kvm.h - the engine over /dev/kvm, and whether it is worth taking.
 */
#ifndef POPF_KVM_H
#define POPF_KVM_H

#include "base/base.h"

/*
 * True if /dev/kvm can be used and runs a kernel-mode loop at hardware speed: measured for a few
 * milliseconds, because on some hosts KVM is itself software and thousands of times too slow. `why`
 * gets one line either way ("no /dev/kvm", "no permission to open /dev/kvm; join group kvm", ...).
 */
bool kvm_measure(char *why, size_t why_size);

#endif
