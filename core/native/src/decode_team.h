// What the steps of a decoding program have in common: how threads share their tasks, memory, and functions of rows of floats.
#pragma once

#include "rows_tile.h"
#include "tile.h"

#include <atomic>
#include <thread>
#include <vector>

namespace {

// The tasks of a step. Threads take them as they come: one that the system has put aside holds nobody up, unless it is in
// the middle of some. What a task computes is the same whoever does it and with whichever others, so results do not depend
// on threads.
struct alignas(64) Tasks {
    int64_t total = 0, least = 1; // least: of what is taken at once
    std::atomic<int64_t> taken{0}, done{0};

    void reset(int64_t count, int64_t at_least) {
        total = count, least = at_least;
        taken.store(0, std::memory_order_relaxed), done.store(0, std::memory_order_relaxed);
    }

    // each(first, stop) for what this thread takes: ever smaller parts, so that all threads end together
    template <typename Each> void take(int64_t threads, Each each) {
        int64_t first = taken.load(std::memory_order_relaxed);
        while (first < total) {
            const int64_t part = threads == 1 ? total : std::max(least, (total - first) / (2 * threads));
            const int64_t stop = std::min(total, first + part);
            if (!taken.compare_exchange_weak(first, stop, std::memory_order_relaxed)) continue;
            each(first, stop);
            done.fetch_add(stop - first, std::memory_order_release);
            first = taken.load(std::memory_order_relaxed);
        }
    }

    void wait() const {
        for (int64_t turn = 0; done.load(std::memory_order_acquire) < total; ++turn)
            if (turn > MOST_TURNS) std::this_thread::yield();
    }

  private:
    // some ten microseconds: longer, and the thread that is waited for may need this core
    static constexpr int64_t MOST_TURNS = 10000;
};

// Some tasks of a step, and the memory of the thread that does them.
class Share {
  public:
    Share(int64_t first, int64_t stop, bool is_first) : first(first), stop(stop), is_first(is_first) {}

    const int64_t first, stop;
    const bool is_first; // of those that the thread takes of this step

    template <typename Each> void each(Each run) const {
        for (int64_t task = first; task < stop; ++task) run(task);
    }

    // Memory of this thread until the next step; kept for the next token.
    float *scratch(int64_t size) const {
        thread_local std::vector<float> memory;
        if (int64_t(memory.size()) < size) memory.resize(size);
        return memory.data();
    }
};

// x[i] = function(x[i], i) for whole registers; the last one is filled up with zeros.
template <typename Function> void map(float *x, int64_t size, Function function) {
    for (int64_t i = 0; i < size; i += LANES<float>) {
        const size_t bytes = std::min<int64_t>(LANES<float>, size - i) * sizeof(float);
        Vector<float> value = {};
        std::memcpy(&value, x + i, bytes);
        value = function(value);
        std::memcpy(x + i, &value, bytes);
    }
}

inline Vector<float> sigmoid(Vector<float> x) { return 1.0f / (1.0f + exponential<float>(-x)); }

inline void silu(float *x, int64_t size) {
    map(x, size, [](Vector<float> value) { return value * sigmoid(value); });
}

inline float dot(const float *x, const float *y, int64_t size) {
    Vector<float> sums[4] = {};
    int64_t i = 0;
    for (; i + 4 * LANES<float> <= size; i += 4 * LANES<float>)
#pragma GCC unroll 4
        for (int64_t v = 0; v < 4; ++v) sums[v] += load(x + i + v * LANES<float>) * load(y + i + v * LANES<float>);
    for (; i + LANES<float> <= size; i += LANES<float>) sums[0] += load(x + i) * load(y + i);
    float total = sum<float>((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; i < size; ++i) total += x[i] * y[i];
    return total;
}

// weight x / sqrt(mean(x^2) + eps); x and y may be the same
template <typename Weight> void rms_norm(const float *x, const Weight *weight, float eps, float *y, int64_t size) {
    const float scale = 1 / std::sqrt(dot(x, x, size) / float(size) + eps);
    for (int64_t i = 0; i < size; ++i) y[i] = widened(weight[i]) * (x[i] * scale);
}

// Turn channel i with channel i + pairs; what follows them carries no position.
inline void rotate(float *head, const float *cos, const float *sin, int64_t pairs) {
    for (int64_t i = 0; i < pairs; ++i) {
        const float first = head[i], second = head[i + pairs];
        head[i] = first * cos[i] - second * sin[i];
        head[i + pairs] = second * cos[i] + first * sin[i];
    }
}

// How queries and keys of a layer get their positions: normed if there are norms, turned if there is a table.
struct Positions {
    const int64_t *lengths; // [rows]: tokens before this one
    const float *cos, *sin; // [tokens, pairs], or null
    const void *q_norm, *k_norm; // or null
    int64_t pairs;
    double eps;

    template <typename Weight> void apply(int64_t row, float *head, const void *norm, int64_t width) const {
        if (norm) rms_norm(head, static_cast<const Weight *>(norm), float(eps), head, width);
        if (cos) rotate(head, cos + lengths[row] * pairs, sin + lengths[row] * pairs, pairs);
    }
};

} // namespace
