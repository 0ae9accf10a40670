// One token of the gated delta rule in one head, whose state has a row for each value channel. The rows are independent: four
// at a time are read, then written while they are in the L1 cache.
#pragma once

#include "lanes.h"

namespace {

template <typename State, typename Input> struct DeltaHead {
    State *state;
    const State *q, *k;
    const Input *v;
    State decay, beta, scale;
    Input *y;
};

// `vectors` is the length of a row if it is known, for loops without a counter.
template <int64_t vectors, typename State, typename Input>
void advance_delta(const DeltaHead<State, Input> &head, int64_t V, int64_t K) {
    using Block = Lanes<State>;
    using Vector = typename Block::Vector;
    // a copy, so that the compiler can rule out overlap with a written row
    const auto [state, q, k, v, decay, beta, scale, y] = head;
    constexpr bool is_known = vectors != 0;
    const int64_t whole = is_known ? vectors : K / Block::count, tail = is_known ? 0 : K % Block::count;
    const Vector *const q_parts = reinterpret_cast<const Vector *>(q), *const k_parts = reinterpret_cast<const Vector *>(k);
    // dot products of a row with k and with q, spread over lanes, without the tail
    const auto dots = [&](const State *row, Vector (&of_k)[4], Vector (&of_q)[4], int i) {
        const Vector *const parts = reinterpret_cast<const Vector *>(row);
        of_k[i] = of_q[i] = Vector{};
#pragma GCC unroll 16
        for (int64_t n = 0; n < whole; ++n) {
            const Vector part = parts[n];
            of_k[i] += part * k_parts[n];
            of_q[i] += part * q_parts[n];
        }
    };
    State overlap = 0;
    for (int64_t n = 0; n < K; ++n) overlap += k[n] * q[n];
    const auto finish = [&](int64_t p, State held, State read) {
        State *const row = state + p * K;
        for (int64_t n = K - tail; n < K; ++n) held += row[n] * k[n], read += row[n] * q[n];
        const State written = beta * (State(widened(v[p])) - decay * held);
        Vector *const parts = reinterpret_cast<Vector *>(row);
#pragma GCC unroll 16
        for (int64_t n = 0; n < whole; ++n) parts[n] = parts[n] * decay + k_parts[n] * written;
        for (int64_t n = K - tail; n < K; ++n) row[n] = row[n] * decay + k[n] * written;
        store(y + p, scale * (decay * read + written * overlap));
    };
    int64_t p = 0;
    Vector of_k[4], of_q[4];
    for (; p + 4 <= V; p += 4) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) dots(state + (p + i) * K, of_k, of_q, i);
        const auto held = Block::sums(of_k[0], of_k[1], of_k[2], of_k[3]);
        const auto read = Block::sums(of_q[0], of_q[1], of_q[2], of_q[3]);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) finish(p + i, held[i], read[i]);
    }
    for (; p < V; ++p) {
        dots(state + p * K, of_k, of_q, 0);
        finish(p, Block::sum(of_k[0]), Block::sum(of_q[0]));
    }
}

// specialised loops for common key sizes
template <typename State, typename Input> auto *delta_advance(int64_t K) {
    constexpr int64_t count = Lanes<State>::count;
    return K == 16 * count  ? advance_delta<16, State, Input>
           : K == 8 * count ? advance_delta<8, State, Input>
           : K == 4 * count ? advance_delta<4, State, Input>
           : K == 2 * count ? advance_delta<2, State, Input>
           : K == count     ? advance_delta<1, State, Input>
                            : advance_delta<0, State, Input>;
}

} // namespace
