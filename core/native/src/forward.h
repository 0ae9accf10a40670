// The forward pass of several heads of one sequence.
#pragma once

#include "buffers.h"

namespace {

template <typename T> class Forward {
  public:
    Forward(Scratch& scratch, const Arguments& arguments)
        : to(arguments), shape(arguments), decay(scratch, arguments, shape), num_heads(heads_per_task(arguments)),
          x(scratch.take<T>(shape.P_panels * PANEL<T> * shape.Q)), D(scratch.take<T>(shape.P_panels * PANEL<T>)),
          B(scratch.take<T>(shape.Q_rows * shape.N_rows)), B_written(scratch.take<T>(shape.Q * shape.N_rows)),
          C_columns(scratch.take<T>(shape.N * shape.Q_lanes)), scores(scratch.take<T>(shape.Q_rows * shape.Q_lanes)),
          mixing(scratch.take<T>(shape.Q * shape.Q_lanes)), states(scratch.take<T>(num_heads * shape.state_size())) {}

    static Index num_tasks(const Arguments& to) { return to.num_sequences * (to.num_heads / heads_per_task(to)); }

    void run(Index task) {
        const Index tasks_per_sequence = to.num_heads / num_heads, index = task / tasks_per_sequence;
        const Sequence sequence(to, index);
        const Index first_head = task % tasks_per_sequence * num_heads;
        const Index state_size = shape.P * shape.N, offset = (index * to.num_heads + first_head) * state_size;
        const T* initial = static_cast<const T*>(to.initial_state);
        T* final = static_cast<T*>(to.final_state);
        for (Index k = 0; k < num_heads; ++k)
            state_to_panels(states + k * shape.state_size(), initial ? initial + offset + k * state_size : nullptr, 1,
                            shape.N, shape.N, shape.N_rows, shape.P);
        for (Index first = 0; first < sequence.length; first += shape.Q) {
            Index packed_group = -1;
            for (Index k = 0; k < num_heads; ++k) {
                const Index head = first_head + k;
                const bool is_last = k + 1 == num_heads;
                run_chunk(sequence, head, first, group_of(head) == packed_group, states + k * shape.state_size(),
                          is_last ? first_head : head + 1, is_last ? first + shape.Q : first);
                packed_group = group_of(head);
            }
        }
        for (Index k = 0; k < num_heads; ++k)
            state_from_panels(final + offset + k * state_size, 1, shape.N, states + k * shape.state_size(), shape.N,
                              shape.N_rows, shape.P);
    }

  private:
    // Heads that one task takes through a chunk before the next chunk: a token's heads are adjacent in memory, and this
    // many states fit in the L2 cache.
    static Index heads_per_task(const Arguments& to) {
        const Index state_bytes = to.head_dim * to.state_dim * Index(sizeof(T));
        Index most = std::max<Index>(1, std::min(to.num_heads, STATES_BYTES / state_bytes));
        while (most > 1 && (to.num_heads % most || to.num_sequences * (to.num_heads / most) < to.num_threads)) --most;
        return most;
    }

    Index group_of(Index head) const { return head / (to.num_heads / to.num_groups); }

    void run_chunk(const Sequence& sequence, Index head, Index first, bool is_group_packed, T* state, Index next_head,
                   Index next_first) {
        const Index q = std::min(shape.Q, sequence.length - first), P = shape.P, N = shape.N;
        const auto rows = [&](const View& view, Index token, Index of) {
            return Rows<const T>(view, sequence.batch, sequence.first + token, of);
        };
        const Rows<const T> x_rows = rows(to.x, first, head), dt_rows = rows(to.dt, first, head);
        const Rows<const T> B_rows = rows(to.B, first, group_of(head)), C_rows = rows(to.C, first, group_of(head));
        const Rows<T> y_rows(to.y, sequence.batch, sequence.first + first, head);
        Ahead<T, 4> ahead({rows(to.x, next_first, next_head), rows(to.B, next_first, group_of(next_head)),
                           rows(to.C, next_first, group_of(next_head)), rows(to.y, next_first, next_head)},
                          {P, N, N, P}, std::max<Index>(0, std::min(shape.Q, sequence.length - next_first)),
                          shape.P_panels * (round_up(q, ROWS) + shape.N_rows) / ROWS);
        const Rows<const T> D_row(to.D, 0, 0, head);
        for (Index p = 0; p < P; ++p) D[p] = D_row.data ? *D_row[p] : T(0);
        decay.measure(dt_rows, head, 0, q);
        pack_panels<T>(x, x_rows, q, P, shape.Q);
        if (!is_group_packed) {
            pack_rows<T>(B, B_rows, q, N, shape.N_rows);
            transpose<T>(C_columns, shape.Q_lanes, C_rows, q, N);
            score(q);
        }
        // mixing[j][i] = L_ij dt_j C_i.B_j, zero for i < j in the tile that holds the diagonal
        for (Index j = 0; j < q; ++j)
            for (Index i = j / ROWS * ROWS / LANES<T> * LANES<T>; i < q; i += LANES<T>)
                store(mixing + j * shape.Q_lanes + i,
                      load(scores + j * shape.Q_lanes + i) * decay.between(i, j) * decay.dt[j]);
        for (Index j = 0; j < q; ++j) {
            const T factor = decay.out[j] * decay.dt[j];
            for (Index n = 0; n < shape.N_rows; ++n) B_written[j * shape.N_rows + n] = B[j * shape.N_rows + n] * factor;
        }
        for (Index panel = 0; panel < shape.P_panels; ++panel) {
            const T* x_panel = x + panel * PANEL<T> * shape.Q;
            T* state_panel = state + panel * PANEL<T> * shape.N_rows;
            for (Index i = 0; i < q; i += ROWS) {
                Tile<T> sums = {};
                accumulate<T, VECTORS>(sums, C_columns + i, 1, shape.Q_lanes, state_panel, PANEL<T>, N);
                for_tile<VECTORS>([&](int r, int v) {
                    sums[r][v] = sums[r][v] * decay.into[i + r] +
                                 load(D + panel * PANEL<T> + v * LANES<T>) *
                                     load(x_panel + std::min(i + r, q - 1) * PANEL<T> + v * LANES<T>);
                });
                accumulate<T, VECTORS>(sums, mixing + i, 1, shape.Q_lanes, x_panel, PANEL<T>, std::min(i + ROWS, q));
                store_tile<T>(sums, y_rows, i, q - i, panel * PANEL<T>, P - panel * PANEL<T>);
                ahead.touch();
            }
            for (Index n = 0; n < N; n += ROWS) {
                T* rows = state_panel + n * PANEL<T>;
                advance(rows, rows, decay.total, B_written + n, shape.N_rows, x_panel, q);
                ahead.touch();
            }
        }
    }

    // scores[j][i] = C_i.B_j on and below the diagonal
    void score(Index q) {
        for (Index j = 0; j < q; j += ROWS)
            for (Index i = j / LANES<T> * LANES<T>; i < q; i += LANES<T>) {
                Tile<T, 1> sums = {};
                accumulate<T, 1>(sums, B + j * shape.N_rows, shape.N_rows, 1, C_columns + i, shape.Q_lanes, shape.N);
                for_tile<1>([&](int r, int) { store(scores + (j + r) * shape.Q_lanes + i, sums[r][0]); });
            }
    }

    static constexpr Index STATES_BYTES = 256 * 1024;
    const Arguments& to;
    const Shape<T> shape;
    Decay<T> decay;
    const Index num_heads;
    T *x, *D, *B, *B_written, *C_columns, *scores, *mixing, *states;
};

}  // namespace
