#pragma once

#include "../../csrc/dmmd.h"

namespace dmmd {

/// body() with each instruction set of the machine.
template <class Body>
void for_instruction_sets(Body body) {
  for (const char* isa : {"portable", "avx2", "avx512"})
    if (cpu::limit_instruction_set(isa)) body();
}

}  // namespace dmmd
