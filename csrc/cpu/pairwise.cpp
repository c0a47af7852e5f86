// The CPU's functions: cuts a problem into work items, lets the sweep fill their sums, and adds
// these up. The cut depends on the sizes alone, never on the number of threads, and sums are added
// in the order of the items, so results are bitwise equal for any number of threads.
#include <algorithm>

#include "workspace.h"

namespace dmmd::cpu {
namespace {

// Work items that a problem of few rows is cut into, tile by tile.
constexpr int64_t kItems = 16;

/// Where results go; what is absent is not asked for.
template <class T>
struct Results {
  T *f = nullptr, *g = nullptr, *q = nullptr;

  Results of_block(const Problem<T>& a, int64_t block) const {
    return {f ? f + block * a.n * a.p : f, g ? g + block * a.n * a.d : g,
            q ? q + block * 3 * a.components : q};
  }
};

/// How a problem is cut, and how many doubles of sums each item fills.
struct Cut {
  int64_t rows, row_blocks, tiles, spans, tiles_per_span;
  int64_t f, g, q;  // doubles

  int64_t items(int64_t blocks) const { return product(blocks, row_blocks, spans); }
  int64_t sums() const { return f + g + q; }
};

/// Items of nearly equal size, of whole blocks of the rows that products are made of.
template <class T>
int64_t rows_of_item(const Sweep<T>& sweep) {
  const int64_t block = sweep.tiles ? kTileRows : 6;
  const int64_t most = sweep.regime.rows, n = std::max<int64_t>(sweep.problem.n, 1);
  if (sweep.regime.method != Method::products) return most;
  const int64_t items = (n + most - 1) / most;
  return round_up((n + items - 1) / items, block);
}

template <class T>
Cut cut(const Sweep<T>& sweep, int64_t tasks) {
  const Problem<T>& a = sweep.problem;
  Cut cut;
  cut.rows = rows_of_item(sweep);
  cut.row_blocks = (a.n + cut.rows - 1) / cut.rows;
  cut.tiles = (a.m + sweep.width - 1) / sweep.width;
  const int64_t items = std::max<int64_t>(tasks * a.blocks * cut.row_blocks, 1);
  cut.spans = sweep.want & kMatrix ? 1
                                   : std::clamp<int64_t>((kItems + items - 1) / items, 1,
                                                         std::max<int64_t>(cut.tiles, 1));
  cut.tiles_per_span = (cut.tiles + cut.spans - 1) / cut.spans;
  const int64_t rows = round_up(std::min(cut.rows, a.n), kGroup);
  cut.f = sweep.want & kPotential ? product(rows, a.p) : 0;
  cut.g = sweep.want & kGradient ? product(rows, a.d) : 0;
  cut.q = sweep.want & kParams ? 3 * a.components : 0;
  return cut;
}

/// The results of one block of rows from the sums of its items, one after the other.
template <class T>
void finish_rows(const Sweep<T>& sweep, const Cut& cut, int64_t block, int64_t row,
                 const double* sums, const Results<T>& to) {
  const Problem<T>& a = sweep.problem;
  const int64_t rows = std::min(cut.rows, a.n - row);
  const bool radial = a.kernel[0].profile != Profile::polynomial;
  const auto total = [&](int64_t at) {
    double s = 0;
    for (int64_t span = 0; span < cut.spans; ++span) s += sums[span * cut.sums() + at];
    return s;
  };
  for (int64_t i = 0; to.f && i < rows; ++i)
    for (int64_t e = 0; e < a.p; ++e)
      to.f[(block * a.n + row + i) * a.p + e] = T(total(grouped(i, e, a.p)));
  for (int64_t i = 0; to.g && i < rows; ++i) {
    const double v = a.p == 1 && a.v ? double(a.v.block(block)[row + i]) : 1.0;
    const double factor = radial ? 2 * v : v;
    for (int64_t k = 0; k < a.d; ++k)
      to.g[(block * a.n + row + i) * a.d + k] = T(factor * total(cut.f + grouped(i, k, a.d)));
  }
}

/// Sums over all pairs of each block.
template <class T>
void finish_blocks(const Sweep<T>& sweep, const Cut& cut, const double* sums,
                   const Results<T>& to) {
  const int64_t per_block = cut.row_blocks * cut.spans;
  for (int64_t block = 0; block < sweep.problem.blocks; ++block) {
    for (int64_t e = 0; to.q && e < cut.q; ++e) {
      double s = 0;
      for (int64_t i = 0; i < per_block; ++i)
        s += sums[(block * per_block + i) * cut.sums() + cut.f + cut.g + e];
      to.q[block * cut.q + e] = T(s);
    }
  }
}

template <class T>
void run(Sweep<T> sweep, bool second_order, const Results<T>& to, int64_t tasks) {
  const Problem<T>& a = sweep.problem;
  const int threads = worthwhile_threads(a, double(a.n) * double(a.m));
  const PackedSweep<T> packed(sweep, second_order, threads);

  const Cut cut = cpu::cut(sweep, tasks);
  // With one item for each block of rows, and nothing to add up over blocks, an item's sums are
  // read at once and one buffer per thread serves them all.
  const bool keeps_sums = cut.spans > 1 || cut.q;
  const int64_t items = cut.items(a.blocks);
  const auto sums = allocate<double>(product(keeps_sums ? items : threads, cut.sums()));
  const ScratchMemory<T> scratch(sweep, std::min(cut.rows, a.n), second_order, threads);
  const auto sweep_item = second_order ? isa<T>().second_order : isa<T>().first_order;

  parallel_for(items, threads, [&](int64_t i, int worker) {
    const int64_t block = i / (cut.row_blocks * cut.spans);
    const int64_t row = i / cut.spans % cut.row_blocks * cut.rows;
    const int64_t tile = std::min(i % cut.spans * cut.tiles_per_span, cut.tiles);
    double* mine = sums.get() + (keeps_sums ? i : worker) * cut.sums();
    std::fill_n(mine, cut.sums(), 0.0);
    const Item<T> item = {
        .block = block,
        .row = row,
        .row_end = std::min(row + cut.rows, a.n),
        .tile = tile,
        .tile_end = std::min(tile + cut.tiles_per_span, cut.tiles),
        .f = mine,
        .g = mine + cut.f,
        .q = mine + cut.f + cut.g,
        .scratch = scratch.of(worker),
    };
    prepare_rows(sweep, item);
    sweep_item(sweep, item);
    if (!keeps_sums) finish_rows(sweep, cut, block, row, mine, to);
  });
  if (!keeps_sums) return;
  const bool small = double(items) * double(cut.sums()) < 1e5;
  parallel_for(a.blocks * cut.row_blocks, small ? 1 : threads, [&](int64_t i, int) {
    finish_rows(sweep, cut, i / cut.row_blocks, i % cut.row_blocks * cut.rows,
                sums.get() + i * cut.spans * cut.sums(), to);
  });
  finish_blocks(sweep, cut, sums.get(), to);
}

template <class T>
void run(const Problem<T>& problem, int want, const Results<T>& to, T* matrix = nullptr) {
  const auto run_part = [&](const Problem<T>& part, int64_t block, int64_t tasks) {
    Sweep<T> sweep = sweep_of(part, want);
    sweep.matrix = matrix ? matrix + block * part.n * part.m : nullptr;
    run(sweep, false, to.of_block(part, block), tasks);
  };
  by_blocks(problem, double(problem.n) * double(problem.m), run_part);
}

}  // namespace

template <class T>
void potential(const Problem<T>& problem, T* f) {
  run(problem, kPotential, {.f = f});
}

template <class T>
void potential_grad(const Problem<T>& problem, T* g) {
  run(problem, kGradient, {.g = g});
}

template <class T>
void potential_and_grad(const Problem<T>& problem, T* f, T* g) {
  run(problem, kPotential | kGradient, {.f = f, .g = g});
}

template <class T>
void params_grad(const Problem<T>& problem, T* q) {
  run(problem, kParams, {.q = q});
}

template <class T>
void kernel_matrix(const Problem<T>& problem, T* k) {
  use_huge_pages(k, product(problem.blocks, problem.n, problem.m, sizeof(T)));
  run(problem, kMatrix, {}, k);
}

template <class T>
void tangents(const Problem<T>& problem, const Direction<T>& direction, T* f, T* g, T* q) {
  const bool all = f || q || direction.params;  // else sums for the gradient alone
  const int want = all ? kPotential | kGradient | kParams : kGradient;
  const auto run_part = [&](const Problem<T>& part, int64_t block, int64_t tasks) {
    Sweep<T> sweep = sweep_of(part, want);
    sweep.direction = direction;
    if (tasks > 1)
      for (auto array : {&Direction<T>::z, &Direction<T>::x, &Direction<T>::params})
        sweep.direction.*array = {(direction.*array).block(block), 0};
    run(sweep, true, Results<T>{f, g, q}.of_block(part, block), tasks);
  };
  by_blocks(problem, double(problem.n) * double(problem.m), run_part);
}

#define DMMD_INSTANTIATE(T)                                    \
  template void potential(const Problem<T>&, T*);              \
  template void potential_grad(const Problem<T>&, T*);         \
  template void potential_and_grad(const Problem<T>&, T*, T*); \
  template void params_grad(const Problem<T>&, T*);            \
  template void kernel_matrix(const Problem<T>&, T*);          \
  template void tangents(const Problem<T>&, const Direction<T>&, T*, T*, T*);
DMMD_INSTANTIATE(float)
DMMD_INSTANTIATE(double)

}  // namespace dmmd::cpu
