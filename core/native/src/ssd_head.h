// One token of the state-space recurrence in one head: every row of the state is read, decayed, updated, contracted with C and
// written before the next one.
#pragma once

#include "lanes.h"

namespace {

template <typename State, typename Input> struct SsdHead {
    State *state;
    const Input *x;
    State size, decay;
    const State *B, *C, *D;
    int64_t D_stride;
    Input *y;
};

// The rows of one head, each read sequentially: reading several together is half as fast once the state is not in cache.
// `vectors` is the length of a row, if known at compile time: B and C then stay in registers.
template <int64_t vectors, typename State, typename Input>
void advance_ssd(const SsdHead<State, Input> &head, int64_t P, int64_t N) {
    using Block = Lanes<State>;
    using Vector = typename Block::Vector;
    // a copy, so that the compiler can rule out overlap with a written row
    const auto [state, inputs, size, decay, B, C, D, D_stride, y] = head;
    constexpr bool is_known = vectors != 0;
    const int64_t whole = is_known ? vectors : N / Block::count, tail = is_known ? 0 : N % Block::count;
    const Vector *const B_parts = reinterpret_cast<const Vector *>(B), *const C_parts = reinterpret_cast<const Vector *>(C);
    Vector b[is_known ? vectors : 1], c[is_known ? vectors : 1];
#pragma GCC unroll 16
    for (int64_t v = 0; v < vectors; ++v) b[v] = B_parts[v] * size, c[v] = C_parts[v];
    // advances the row; its sum is spread over lanes and excludes the tail
    const auto pass = [&](int64_t p) {
        Vector *const parts = reinterpret_cast<Vector *>(state + p * N);
        const State x = widened(inputs[p]), gain = is_known ? x : size * x;
        Vector sums[2] = {}; // two sums, to break the chain of dependent additions
#pragma GCC unroll 16
        for (int64_t v = 0; v < whole; ++v) {
            const Vector value = parts[v] * decay + (is_known ? b[v] : B_parts[v]) * gain;
            parts[v] = value;
            sums[v % 2] += value * (is_known ? c[v] : C_parts[v]);
        }
        return sums[0] + sums[1];
    };
    const auto finish = [&](int64_t p, State total) {
        State *const row = state + p * N;
        const State x = widened(inputs[p]), gain = size * x;
        for (int64_t n = N - tail; n < N; ++n) {
            row[n] = row[n] * decay + gain * B[n];
            total += row[n] * C[n];
        }
        store(y + p, D ? total + D[p * D_stride] * x : total);
    };
    int64_t p = 0;
    for (; p + 4 <= P; p += 4) {
        const Vector first = pass(p), second = pass(p + 1), third = pass(p + 2), fourth = pass(p + 3);
        const auto totals = Block::sums(first, second, third, fourth);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) finish(p + i, totals[i]);
    }
    for (; p < P; ++p) finish(p, Block::sum(pass(p)));
}

// specialised loops for common state sizes
template <typename State, typename Input> auto *ssd_advance(int64_t N) {
    constexpr int64_t count = Lanes<State>::count;
    return N == 16 * count  ? advance_ssd<16, State, Input>
           : N == 8 * count ? advance_ssd<8, State, Input>
           : N == 4 * count ? advance_ssd<4, State, Input>
           : N == 2 * count ? advance_ssd<2, State, Input>
           : N == count     ? advance_ssd<1, State, Input>
                            : advance_ssd<0, State, Input>;
}

} // namespace
