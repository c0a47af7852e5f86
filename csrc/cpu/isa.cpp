// Which instruction set runs: the best that the library holds and the machine has.
#include <string>
#include <vector>

#include "sweep.h"
#include "threads.h"

namespace dmmd::cpu {
namespace {

struct Choice {
  const Isa<float>* floats;
  const Isa<double>* doubles;
  bool (*runs_here)();
};

// Best first.
const Choice kChoices[] = {
#ifdef DMMD_AVX512
    {&avx512::floats, &avx512::doubles,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
     }},
#endif
#ifdef DMMD_AVX2
    {&avx2::floats, &avx2::doubles,
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#endif
    {&portable::floats, &portable::doubles, [] { return true; }},
};

const Choice* best() {
  for (const Choice& choice : kChoices)
    if (choice.runs_here()) return &choice;
  return nullptr;
}

std::atomic<const Choice*>& chosen() {
  static std::atomic<const Choice*> choice = best();
  return choice;
}

}  // namespace

template <>
const Isa<float>& isa() {
  return *chosen().load(std::memory_order_relaxed)->floats;
}

template <>
const Isa<double>& isa() {
  return *chosen().load(std::memory_order_relaxed)->doubles;
}

const char* instruction_set() { return isa<float>().name; }

const char* instruction_sets() {
  static const std::string names = [] {
    std::string all;
    for (const Choice& choice : kChoices)
      all += (all.empty() ? "" : ", ") + std::string(choice.floats->name);
    return all;
  }();
  return names.c_str();
}

bool limit_instruction_set(const char* name) {
  for (const Choice& choice : kChoices) {
    if (choice.floats->name != std::string(name)) continue;
    if (!choice.runs_here()) return false;
    chosen() = &choice;
    return true;
  }
  return false;
}

const char* thread_model() { return kThreadModel; }

}  // namespace dmmd::cpu
