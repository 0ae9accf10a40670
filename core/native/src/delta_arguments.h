// Arguments of a pass of the gated delta rule, and the lengths of its buffers.
#pragma once

#include "chunks.h"
#include "panels.h"

namespace {

// Arguments from the caller; Python declares the same structure.
struct Arguments {
    Index num_sequences, num_tokens, num_heads, key_dim, value_dim, chunk_size, num_threads;
    Index q_share, k_share, v_share;  // consecutive heads that read one head of q, k, v
    Index heads_per_task;             // of the backward pass
    double scale;
    const Index* starts;  // packed sequences: [num_sequences + 1]; null: sequence s is row s of the batch
    View q, k, v, g, beta, y;
    void *initial_state, *final_state;
    // Backward pass only. Heads of different tasks that share q, k or v accumulate into separate copies of the gradient, so
    // many elements apart; the caller sums them.
    View grad_y, grad_q, grad_k, grad_v, grad_g, grad_beta;
    Index grad_q_copy, grad_k_copy, grad_v_copy;
    void *grad_final_state, *grad_initial_state;
};

// Lengths of the buffers of one head, rounded up to what a tile or panel writes.
template <typename T> struct Shape {
    Index K, V, Q, Q_rows, Q_lanes, K_panels, V_panels, K_rows, V_rows;
    explicit Shape(const Arguments& to)
        : K(to.key_dim), V(to.value_dim), Q(to.chunk_size), Q_rows(round_up(Q, ROWS)),
          Q_lanes(round_up(Q_rows, PANEL<T>)), K_panels(round_up(K, PANEL<T>) / PANEL<T>),
          V_panels(round_up(V, PANEL<T>) / PANEL<T>), K_rows(std::max(round_up(K, ROWS), K_panels * PANEL<T>)),
          V_rows(std::max(round_up(V, ROWS), V_panels * PANEL<T>)) {}
    Index state_size() const { return K_rows * V_rows; }
};

// Products of all pairs of tokens of a chunk: to[j][i] = left_j . right_i for i in or after the tile of j. `left` is stored
// by rows, `right` by columns.
template <typename T>
void multiply_pairs(T* to, const T* left, Index left_row, const T* right, Index length, Index q, Index Q_lanes) {
    for (Index j = 0; j < q; j += ROWS)
        for (Index i = j / PANEL<T> * PANEL<T>; i < q; i += PANEL<T>) {
            Tile<T> sums = {};
            accumulate<T, VECTORS>(sums, left + j * left_row, left_row, 1, right + i, Q_lanes, length);
            for_tile<VECTORS>([&](int r, int v) { store(to + (j + r) * Q_lanes + i + v * LANES<T>, sums[r][v]); });
        }
}

// Columns past the last token take part in products that are never read; zeros keep these fast.
template <typename T> void clear_columns(T* columns, Index Q_lanes, Index q, Index length) {
    for (Index n = 0; n < length; ++n) std::fill(columns + n * Q_lanes + q, columns + (n + 1) * Q_lanes, T(0));
}

// The tile of U from token i on, given that of E: u_i = beta_i (e_i - sum_{j<i} M_ij u_j), with overlap[j][i] = -M_ij and
// the rows before i in the panel `written`. Leaves x = u / beta in the tile, and stores u.
template <typename T>
inline void solve_tile(Tile<T>& tile, T* written, const T* overlap, Index Q_lanes, const T* beta, Index i) {
    accumulate<T, VECTORS>(tile, overlap + i, 1, Q_lanes, written, PANEL<T>, i);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
        Vector<T> u[VECTORS];
        for (int v = 0; v < VECTORS; ++v) {
            u[v] = beta[i + r] * tile[r][v];
            store(written + (i + r) * PANEL<T> + v * LANES<T>, u[v]);
        }
#pragma GCC unroll 8
        for (int later = r + 1; later < ROWS; ++later)
            for (int v = 0; v < VECTORS; ++v) tile[later][v] += overlap[(i + r) * Q_lanes + i + later] * u[v];
    }
}

}  // namespace
