// The quadratic form of a cloud with itself, and its gradients, over each pair of points once.
//
// The cloud is cut into parts, and parts meet in rounds, as teams do in a tournament: in a round
// every part is in one pair at most, so the pairs of a round add to different rows of the gradient.
// No round waits for the last pair of the one before: a pair begins when those of its parts that
// move have had all their earlier ones, or at once where none does. Cut and order depend on sizes
// alone, so results are bitwise equal for any number of threads.
#include <thread>
#include <vector>

#include "workspace.h"

namespace dmmd::cpu {
namespace {

// Parts that a cloud is cut into, or fewer where they are worth it: to begin and to end a meeting
// costs as much as a row of 10 to 20 pairs, for each point.
constexpr int64_t kParts = 64, kFewParts = 16;

/// Points of a part: whole tiles, two at least where that leaves enough parts.
int64_t part_of(int64_t n, int64_t width) {
  const auto cut = [&](int64_t parts) { return round_up((n + parts - 1) / parts, width); };
  return std::max({cut(kParts), std::min(cut(kFewParts), 2 * width), width});
}

struct Meeting {
  int64_t rows, columns;                        // parts
  int64_t rows_before = 0, columns_before = 0;  // meetings that they have had
};

/// Every pair of `parts` parts once, and each with itself, in rounds of disjoint pairs.
std::vector<Meeting> tournament(int64_t parts) {
  std::vector<Meeting> meetings;
  for (int64_t i = 0; i < parts; ++i) meetings.push_back({i, i});
  const int64_t seats = parts + parts % 2;
  for (int64_t round = 0; round + 1 < seats; ++round) {
    for (int64_t i = 0; i < seats / 2; ++i) {
      // One seat stays, the others turn.
      int64_t a = i == 0 ? seats - 1 : (round + i) % (seats - 1);
      int64_t b = (round - i + seats - 1) % (seats - 1);
      if (a > b) std::swap(a, b);
      if (b < parts) meetings.push_back({a, b});
    }
  }
  std::vector<int64_t> had(size_t(parts), 0);
  for (Meeting& one : meetings) {
    one.rows_before = had[size_t(one.rows)]++;
    one.columns_before = one.rows == one.columns ? one.rows_before : had[size_t(one.columns)]++;
  }
  return meetings;
}

/// Working memory of one thread for the columns of a tile and the rows of a part.
template <class T>
struct PairMemory {
  int64_t columns, width, rows;
  Memory<T> column_sums;
  Memory<double> column_total, row_sums;

  PairMemory(const Sweep<T>& sweep, int64_t part, int threads)
      : columns(product(sweep.width, pitch_of<T>(sweep.problem.d))),
        width(sweep.width),
        rows(product(round_up(part, kGroup), sweep.problem.d)),
        column_sums(allocate<T>(product(threads, columns))),
        column_total(allocate<double>(product(threads, width))),
        row_sums(allocate<double>(product(threads, rows))) {
    std::fill_n(column_sums.get(), threads * columns, T(0));
    std::fill_n(column_total.get(), threads * width, 0.0);
    std::fill_n(row_sums.get(), threads * rows, 0.0);
  }
};

/// Until count has come to `value`; lets others run, who may be the ones awaited.
void await(const std::atomic<int64_t>& count, int64_t value) {
  while (count.load(std::memory_order_acquire) != value) std::this_thread::yield();
}

/// No strip of rows lies in two tiles.
template <class T>
Sweep<T>& with_short_strips(Sweep<T>& sweep) {
  sweep.regime.strip = std::min(sweep.regime.strip, sweep.width);
  return sweep;
}

template <class T>
class QuadraticForm {
 public:
  QuadraticForm(Sweep<T>& sweep, int threads)
      : sweep_(with_short_strips(sweep)),
        a_(sweep.problem),
        threads_(threads),
        packed_(sweep, false, threads),
        part_(part_of(a_.n, sweep.width)),
        parts_((a_.n + part_ - 1) / part_),
        meetings_(parts_ * (parts_ + 1) / 2),
        each_(1 + (sweep.want & kParams ? 3 * a_.components : 0)),
        sums_(allocate<double>(product(a_.blocks, meetings_, each_))),
        scratch_(sweep, std::min(part_, a_.n), false, threads),
        memory_(sweep, std::min(part_, a_.n), threads) {
    std::fill_n(sums_.get(), a_.blocks * meetings_ * each_, 0.0);
    if (!(sweep.want & kGradient)) return;
    gradient_ = allocate<double>(product(a_.blocks, sweep.moving, a_.d));
    std::fill_n(gradient_.get(), a_.blocks * sweep.moving * a_.d, 0.0);
  }

  void run() {
    const std::vector<Meeting> meetings = tournament(parts_);
    if (!gradient_) {
      return parallel_for(a_.blocks * meetings_, threads_, [&](int64_t i, int worker) {
        meet(i / meetings_, meetings[size_t(i % meetings_)], i % meetings_, worker);
      });
    }
    std::vector<std::atomic<int64_t>> had(size_t(a_.blocks * parts_));
    std::atomic<int64_t> next = 0;
    // Meetings are begun in their order, whatever the loop's, so the first that is not over can
    // always be played.
    parallel_for(a_.blocks * meetings_, threads_, [&](int64_t, int worker) {
      const int64_t i = next.fetch_add(1), number = i / a_.blocks, block = i % a_.blocks;
      const Meeting& meeting = meetings[size_t(number)];
      auto& rows = had[size_t(block * parts_ + meeting.rows)];
      auto& columns = had[size_t(block * parts_ + meeting.columns)];
      if (moves(meeting.rows)) await(rows, meeting.rows_before);
      if (moves(meeting.columns)) await(columns, meeting.columns_before);
      meet(block, meeting, number, worker);
      rows.fetch_add(1, std::memory_order_release);
      if (&rows != &columns) columns.fetch_add(1, std::memory_order_release);
    });
  }

  void finish(T* s, T* g, T* q) const {
    for (int64_t block = 0; block < a_.blocks; ++block) {
      for (int64_t e = 0; e < each_; ++e) {
        double total = 0;
        for (int64_t i = 0; i < meetings_; ++i) total += sums_[(block * meetings_ + i) * each_ + e];
        (e == 0 ? s[block] : q[block * (each_ - 1) + e - 1]) = T(2 * total);
      }
    }
    const double factor = a_.kernel[0].profile == Profile::polynomial ? 2 : 4;
    const int64_t count = g ? a_.blocks * sweep_.moving * a_.d : 0;
    for (int64_t i = 0; i < count; ++i) g[i] = T(factor * gradient_[i]);
  }

 private:
  bool moves(int64_t part) const { return part * part_ < sweep_.moving; }

  void meet(int64_t block, Meeting parts, int64_t number, int worker) {
    double* sums = sums_.get() + (block * meetings_ + number) * each_;
    double* gradient = gradient_ ? gradient_.get() + block * sweep_.moving * a_.d : nullptr;
    const int64_t tiles = part_ / sweep_.width, end = (a_.n + sweep_.width - 1) / sweep_.width;
    const SymmetricItem<T> pair = {
        .rows = {.block = block,
                 .row = parts.rows * part_,
                 .row_end = std::min((parts.rows + 1) * part_, a_.n),
                 .tile = parts.columns * tiles,
                 .tile_end = std::min((parts.columns + 1) * tiles, end),
                 .f = nullptr,
                 .g = memory_.row_sums.get() + worker * memory_.rows,
                 .q = sums + 1,
                 .scratch = scratch_.of(worker)},
        .is_diagonal = parts.rows == parts.columns,
        .value = sums,
        .gradient = gradient,
        .column_sums = memory_.column_sums.get() + worker * memory_.columns,
        .column_total = memory_.column_total.get() + worker * memory_.width,
    };
    prepare_rows(sweep_, pair.rows);
    isa<T>().symmetric(sweep_, pair);
  }

  Sweep<T>& sweep_;
  const Problem<T>& a_;
  int threads_;
  PackedSweep<T> packed_;
  int64_t part_, parts_, meetings_, each_;
  Memory<double> sums_, gradient_;
  ScratchMemory<T> scratch_;
  PairMemory<T> memory_;
};

template <class T>
Problem<T> with_itself(Problem<T> a) {
  a.x = a.z;
  a.m = a.n;
  return a;
}

}  // namespace

template <class T>
void quadratic_form(const Problem<T>& problem, T* s, T* g, int64_t moving, T* q) {
  const Problem<T> whole = with_itself(problem);
  const double pairs = 0.5 * double(whole.n) * double(whole.n);
  by_blocks(whole, pairs, [&](const Problem<T>& a, int64_t block, int64_t) {
    Sweep<T> sweep = sweep_of(a, (g ? kGradient : 0) | (q ? kParams : 0));
    sweep.moving = moving;
    QuadraticForm<T> form(sweep, worthwhile_threads(a, pairs));
    form.run();
    form.finish(s + block, g ? g + block * moving * a.d : g, q ? q + block * 3 * a.components : q);
  });
}

template void quadratic_form(const Problem<float>&, float*, float*, int64_t, float*);
template void quadratic_form(const Problem<double>&, double*, double*, int64_t, double*);

}  // namespace dmmd::cpu
