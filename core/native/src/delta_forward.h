// The forward pass of several heads of one sequence.
//
// The columns of the state, one for each value channel, are independent: a panel of them is taken through the whole chunk
// while it is in the L1 cache.
#pragma once

#include "delta_arguments.h"

namespace {

template <typename T> class Forward {
  public:
    Forward(Scratch& scratch, const Arguments& arguments)
        : to(arguments), shape(arguments), powers(scratch, shape.Q_lanes), num_heads(heads_per_task(arguments)),
          beta(scratch.take<T>(shape.Q_lanes)), k(scratch.take<T>(shape.Q_rows * shape.K_rows)),
          k_left(scratch.take<T>(shape.Q * shape.K_rows)), k_columns(scratch.take<T>(shape.K * shape.Q_lanes)),
          q_columns(scratch.take<T>(shape.K * shape.Q_lanes)), v(scratch.take<T>(shape.V_panels * PANEL<T> * shape.Q)),
          k_scores(scratch.take<T>(shape.Q_rows * shape.Q_lanes)), q_scores(scratch.take<T>(shape.Q_rows * shape.Q_lanes)),
          overlap(scratch.take<T>(shape.Q_rows * shape.Q_lanes)), mixing(scratch.take<T>(shape.Q_rows * shape.Q_lanes)),
          written(scratch.take<T>(shape.Q_rows * PANEL<T>)), states(scratch.take<T>(num_heads * shape.state_size())) {}

    static Index num_tasks(const Arguments& to) { return to.num_sequences * (to.num_heads / heads_per_task(to)); }

    void run(Index task) {
        const Index tasks_per_sequence = to.num_heads / num_heads, index = task / tasks_per_sequence;
        const Sequence sequence(to, index);
        const Index first_head = task % tasks_per_sequence * num_heads;
        const Index state_size = shape.K * shape.V, offset = (index * to.num_heads + first_head) * state_size;
        const T* initial = static_cast<const T*>(to.initial_state);
        T* final = static_cast<T*>(to.final_state);
        for (Index n = 0; n < num_heads; ++n)
            state_to_panels(states + n * shape.state_size(), initial ? initial + offset + n * state_size : nullptr, 1,
                            shape.K, shape.K, shape.K_rows, shape.V);
        for (Index first = 0; first < sequence.length; first += shape.Q) {
            packed_k = packed_q = -1;
            for (Index n = 0; n < num_heads; ++n) {
                const bool is_last = n + 1 == num_heads;
                run_chunk(sequence, first_head + n, first, states + n * shape.state_size(),
                          is_last ? first_head : first_head + n + 1, is_last ? first + shape.Q : first);
            }
        }
        for (Index n = 0; n < num_heads; ++n)
            state_from_panels(final + offset + n * state_size, 1, shape.K, states + n * shape.state_size(), shape.K,
                              shape.K_rows, shape.V);
    }

  private:
    // Heads that one task takes through a chunk before the next chunk: a token's heads are adjacent in memory, and this
    // many states fit in the L2 cache.
    static Index heads_per_task(const Arguments& to) {
        const Index state_bytes = to.key_dim * to.value_dim * Index(sizeof(T));
        Index most = std::max<Index>(1, std::min(to.num_heads, STATES_BYTES / state_bytes));
        while (most > 1 && (to.num_heads % most || to.num_sequences * (to.num_heads / most) < to.num_threads)) --most;
        return most;
    }

    void run_chunk(const Sequence& sequence, Index head, Index first, T* state, Index next_head, Index next_first) {
        const Index q = std::min(shape.Q, sequence.length - first), K = shape.K, V = shape.V;
        const auto rows = [&](const View& view, Index token, Index of) {
            return Rows<const T>(view, sequence.batch, sequence.first + token, of);
        };
        const Rows<T> y_rows(to.y, sequence.batch, sequence.first + first, head);
        Ahead<T, 4> ahead({rows(to.q, next_first, next_head / to.q_share), rows(to.k, next_first, next_head / to.k_share),
                           rows(to.v, next_first, next_head / to.v_share), rows(to.y, next_first, next_head)},
                          {K, K, V, V}, std::max<Index>(0, std::min(shape.Q, sequence.length - next_first)),
                          shape.V_panels * (round_up(q, ROWS) + shape.K_rows) / ROWS);
        const Rows<const T> g_rows = rows(to.g, first, head), beta_rows = rows(to.beta, first, head);
        powers.add_up(q, [&](Index i) { return double(*g_rows[i]); });
        for (Index i = 0; i < q; ++i) beta[i] = *beta_rows[i];
        std::fill(beta + q, beta + shape.Q_lanes, T(0));
        const Index k_head = head / to.k_share, q_head = head / to.q_share;
        const bool is_k_new = k_head != packed_k, is_q_new = q_head != packed_q;
        if (is_k_new) {
            pack_rows<T>(k, rows(to.k, first, k_head), q, K, shape.K_rows);
            transpose<T>(k_columns, shape.Q_lanes, rows(to.k, first, k_head), q, K);
            clear_columns(k_columns, shape.Q_lanes, q, K);
            multiply_pairs<T>(k_scores, k, shape.K_rows, k_columns, K, q, shape.Q_lanes);
        }
        if (is_q_new) {
            transpose<T>(q_columns, shape.Q_lanes, rows(to.q, first, q_head), q, K);
            clear_columns(q_columns, shape.Q_lanes, q, K);
        }
        if (is_k_new || is_q_new) multiply_pairs<T>(q_scores, k, shape.K_rows, q_columns, K, q, shape.Q_lanes);
        packed_k = k_head, packed_q = q_head;
        mix(q);
        for (Index j = 0; j < q; ++j)
            for (Index n = 0; n < shape.K_rows; ++n) k_left[j * shape.K_rows + n] = k[j * shape.K_rows + n] * powers.out[j];
        pack_panels<T>(v, rows(to.v, first, head / to.v_share), q, V, shape.Q);
        const T scale = T(to.scale);
        for (Index panel = 0; panel < shape.V_panels; ++panel) {
            const T* v_panel = v + panel * PANEL<T> * shape.Q;
            T* state_panel = state + panel * PANEL<T> * shape.K_rows;
            for (Index i = 0; i < q; i += ROWS) {
                Tile<T> sums = {};
                accumulate<T, VECTORS>(sums, k_columns + i, 1, shape.Q_lanes, state_panel, PANEL<T>, K);
                for_tile<VECTORS>([&](int r, int v) __attribute__((always_inline)) {
                    sums[r][v] = load(v_panel + std::min(i + r, q - 1) * PANEL<T> + v * LANES<T>) -
                                 powers.into[i + r] * sums[r][v];
                });
                solve_tile<T>(sums, written, overlap, shape.Q_lanes, beta, i);
                Tile<T> outputs = {};
                accumulate<T, VECTORS>(outputs, q_columns + i, 1, shape.Q_lanes, state_panel, PANEL<T>, K);
                for_tile<VECTORS>([&](int r, int v) __attribute__((always_inline)) {
                    outputs[r][v] *= scale * powers.into[i + r];
                });
                accumulate<T, VECTORS>(outputs, mixing + i, 1, shape.Q_lanes, written, PANEL<T>, std::min(i + ROWS, q));
                store_tile<T>(outputs, y_rows, i, q - i, panel * PANEL<T>, V - panel * PANEL<T>);
                ahead.touch();
            }
            for (Index n = 0; n < K; n += ROWS) {
                T* state_rows = state_panel + n * PANEL<T>;
                advance(state_rows, state_rows, powers.total, k_left + n, shape.K_rows, written, q);
                ahead.touch();
            }
        }
    }

    // overlap[j][i] = -L_ij k_i.k_j, mixing[j][i] = scale L_ij q_i.k_j; zero for i < j in the tile that holds the diagonal
    void mix(Index q) {
        const T scale = T(to.scale);
        for (Index j = 0; j < q; ++j)
            for (Index i = j / ROWS * ROWS / LANES<T> * LANES<T>; i < q; i += LANES<T>) {
                const Index here = j * shape.Q_lanes + i;
                const Vector<T> L = powers.between(i, j);
                store(overlap + here, -L * load(k_scores + here));
                store(mixing + here, scale * L * load(q_scores + here));
            }
    }

    static constexpr Index STATES_BYTES = 256 * 1024;
    const Arguments& to;
    const Shape<T> shape;
    Powers<T> powers;
    const Index num_heads;
    T *beta, *k, *k_left, *k_columns, *q_columns, *v, *k_scores, *q_scores, *overlap, *mixing, *written, *states;
    Index packed_k = -1, packed_q = -1;
};

}  // namespace
