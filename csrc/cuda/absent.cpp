// Linked in place of the .cu files when there is no CUDA compiler, so no other file needs an
// #ifdef.
#include <stdexcept>

#include "../dmmd.h"

namespace dmmd::cuda {

bool built() { return false; }

void potential(const Problem<float>&, float*, void*) {
  throw std::runtime_error("dmmd was built without CUDA");
}

void potential_grad(const Problem<float>&, float*, void*) {
  throw std::runtime_error("dmmd was built without CUDA");
}

}  // namespace dmmd::cuda
