// Which instruction set runs: the best that the library holds and the machine has.
#include <string>
#include <vector>

#include "sweep.h"
#include "threads.h"
#include "tiles.h"

#if defined(DMMD_AMX) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

#if defined(DMMD_AMX) && defined(__linux__)
/// Asks the processor, and then the system, which hands tiles out to processes that ask for them.
bool may_use_amx() {
  constexpr unsigned kBf16 = 1u << 22, kTiles = 1u << 24;  // of CPUID.(7, 0).EDX
  constexpr long kAskPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  if ((d & kBf16) == 0 || (d & kTiles) == 0 || !kChoices[0].runs_here()) return false;
  return syscall(SYS_arch_prctl, kAskPermission, kTileData) == 0;
}

/// With the best instruction set alone, for which its code is compiled too.
const TileUnit* amx() {
  static const bool may = may_use_amx();
  return may && chosen() == &kChoices[0] ? &kAmx : nullptr;
}
#else
const TileUnit* amx() { return nullptr; }
#endif

std::atomic<const TileUnit*> unit_for_tests = nullptr;

}  // namespace

const TileUnit* tile_unit() {
  const TileUnit* unit = unit_for_tests;
  return unit ? unit : amx();
}

void use_tile_unit(const TileUnit* unit) { unit_for_tests = unit; }

const char* tile_unit_name() { return tile_unit() ? tile_unit()->name : ""; }

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
