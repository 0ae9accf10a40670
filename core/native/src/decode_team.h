// What the steps of a decoding program have in common: the share of a thread, its memory, and functions of rows of floats.
#pragma once

#include "rows_tile.h"
#include "tile.h"

#include <vector>

namespace {

// One of the threads that go through a program together. What a thread computes is the same whoever computes it, so results
// do not depend on the number of threads.
class Worker {
  public:
    Worker(int64_t number, int64_t count) : number_(number), count_(count) {}

    // each(task) for this thread's share of the tasks
    template <typename Each> void share(int64_t tasks, Each each) const {
        for (int64_t task = first(tasks); task < stop(tasks); ++task) each(task);
    }
    int64_t first(int64_t tasks) const { return tasks * number_ / count_; }
    int64_t stop(int64_t tasks) const { return tasks * (number_ + 1) / count_; }

    // Memory of this thread until the next call; kept for the next token.
    float *scratch(int64_t size) const {
        thread_local std::vector<float> memory;
        if (int64_t(memory.size()) < size) memory.resize(size);
        return memory.data();
    }

  private:
    int64_t number_, count_;
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
    const int64_t *length; // tokens before this one
    const float *cos, *sin; // [tokens, pairs], or null
    const void *q_norm, *k_norm; // or null
    int64_t pairs;
    double eps;

    template <typename Weight> void apply(float *head, const void *norm, int64_t width) const {
        if (norm) rms_norm(head, static_cast<const Weight *>(norm), float(eps), head, width);
        if (cos) rotate(head, cos + *length * pairs, sin + *length * pairs, pairs);
    }
};

} // namespace
