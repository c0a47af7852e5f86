// Sums over one cloud without pairs. The cloud is cut into spans of rows by its sizes alone, and
// their sums are added in double and in order, so results are bitwise equal for any number of
// threads.
#include <algorithm>

#include "memory.h"
#include "sweep.h"
#include "threads.h"

namespace dmmd::cpu {
namespace {

// Numbers of a span at least, and the most spans of a block: their sums must stay few.
constexpr int64_t kSpan = 1 << 15;
constexpr int64_t kMostSpans = 64;
// Numbers from which on a result goes past the caches.
constexpr int64_t kStreamed = 1 << 20;

template <class T>
struct Spans {
  const Cloud<T>& a;
  int64_t length, rows, count;  // of a line; rows of a span; spans of a block

  explicit Spans(const Cloud<T>& a) : a(a) {
    const int64_t together = rows_per_line(std::max<int64_t>(a.d, 1));
    length = product(together, a.d);
    const int64_t least = std::max(kSpan / std::max<int64_t>(a.d, 1), a.n / kMostSpans + 1);
    rows = round_up(std::max<int64_t>(least, 32), together);
    count = (a.n + rows - 1) / rows;
  }

  int threads() const {
    return double(a.blocks) * double(a.n) * double(a.d) < 1e5 ? 1 : std::max(1, a.threads);
  }
  /// Numbers that a thread works in: lines of the origin and of the pull, and those of a span.
  int64_t scratch() const { return product(kTogether + 3, length); }

  void fill_line(const T* from, T* to) const {
    for (int64_t j = 0; j < length; ++j) to[j] = from[j % a.d];
  }

  RowSpan<T> span(int64_t block, int64_t i, T* scratch) const {
    const int64_t row = i * rows;
    fill_line(a.o.block(block), scratch);
    RowSpan<T> span;
    span.x = a.x.block(block) + row * a.d;
    span.weights = a.w ? a.w.block(block) + row : nullptr;
    span.rows = std::min(rows, a.n - row);
    span.d = a.d;
    span.origin = scratch;
    span.line = scratch + 2 * length;
    return span;
  }
};

}  // namespace

template <class T>
void row_sums(const Cloud<T>& a, T* s, T* q) {
  const Spans<T> spans(a);
  const int threads = spans.threads();
  const int64_t each = a.d + 1;
  const auto partial = allocate<double>(product(a.blocks, spans.count, each));
  const auto scratch = allocate<T>(product(threads, spans.scratch()));
  parallel_for(a.blocks * spans.count, threads, [&](int64_t i, int worker) {
    double* mine = partial.get() + i * each;
    std::fill_n(mine, each, 0.0);
    RowSpan<T> span =
        spans.span(i / spans.count, i % spans.count, scratch.get() + worker * spans.scratch());
    span.sums = mine;
    span.squares = mine + a.d;
    isa<T>().sum_rows(span);
  });
  for (int64_t block = 0; block < a.blocks; ++block) {
    for (int64_t k = 0; k < each; ++k) {
      double total = 0;
      for (int64_t i = 0; i < spans.count; ++i)
        total += partial[(block * spans.count + i) * each + k];
      (k < a.d ? s[block * a.d + k] : q[block]) = T(total);
    }
  }
}

template <class T>
void row_sums_grad(const Cloud<T>& a, Batched<const T> along_s, Batched<const T> along_q, T* g) {
  const Spans<T> spans(a);
  const int threads = spans.threads();
  const auto scratch = allocate<T>(product(threads, spans.scratch()));
  const int64_t numbers = product(a.blocks, a.n, a.d);
  const bool streams = numbers >= kStreamed && spans.length % kWidest == 0 &&
                       a.n * a.d % kWidest == 0 && reinterpret_cast<uintptr_t>(g) % 64 == 0;
  use_huge_pages(g, numbers * int64_t(sizeof(T)));
  parallel_for(a.blocks * spans.count, threads, [&](int64_t i, int worker) {
    const int64_t block = i / spans.count, row = i % spans.count * spans.rows;
    T* mine = scratch.get() + worker * spans.scratch();
    RowPull<T> pull;
    pull.span = spans.span(block, i % spans.count, mine);
    spans.fill_line(along_s.block(block), mine + spans.length);
    pull.pull = mine + spans.length;
    pull.slope = 2 * *along_q.block(block);
    pull.g = g + (block * a.n + row) * a.d;
    pull.streams = streams;
    isa<T>().pull_rows(pull);
  });
}

#define DMMD_INSTANTIATE(T)                        \
  template void row_sums(const Cloud<T>&, T*, T*); \
  template void row_sums_grad(const Cloud<T>&, Batched<const T>, Batched<const T>, T*);
DMMD_INSTANTIATE(float)
DMMD_INSTANTIATE(double)

}  // namespace dmmd::cpu
