// Linked in place of the .cu files when there is no CUDA compiler, so no other file needs an
// #ifdef.
#include <stdexcept>

#include "../dmmd.h"

namespace dmmd::cuda {

bool built() { return false; }

int64_t flow_workspace(const Flow<float>&) { return 0; }

const char* flow_plan(const Flow<float>&) { return "none"; }

void flow(const Flow<float>&, void*, void*) {
  throw std::runtime_error("dmmd was built without CUDA");
}

}  // namespace dmmd::cuda
