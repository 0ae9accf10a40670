// Arguments of a pass, and the buffers of one thread.
#pragma once

#include "chunks.h"
#include "panels.h"

namespace {

// Arguments from the caller; Python declares the same structure.
struct Arguments {
    Index num_sequences, num_tokens, num_heads, num_groups, head_dim, state_dim, chunk_size, num_lanes, num_threads,
        is_softplus;
    const Index* starts;  // packed sequences: [num_sequences + 1]; null: sequence s is row s of the batch
    View x, dt, B, C, D, y;
    void *A, *dt_bias, *initial_state, *final_state;
    // backward pass only: dB and dC have num_lanes copies and those of A, D and dt_bias one per sequence; the caller sums them
    View grad_y, grad_x, grad_dt, grad_B, grad_C;
    void *grad_final_state, *grad_initial_state, *grad_A, *grad_D, *grad_dt_bias;
    Index grad_B_lane, grad_C_lane;
};

// Lengths of the buffers of one head, rounded up to what a tile or panel writes.
template <typename T> struct Shape {
    Index P, N, Q, Q_rows, Q_lanes, P_panels, N_panels, P_rows, N_rows;
    explicit Shape(const Arguments& to)
        : P(to.head_dim), N(to.state_dim), Q(to.chunk_size), Q_rows(round_up(Q, ROWS)),
          Q_lanes(round_up(Q_rows, LANES<T>)), P_panels(round_up(P, PANEL<T>) / PANEL<T>),
          N_panels(round_up(N, PANEL<T>) / PANEL<T>), P_rows(std::max(round_up(P, ROWS), P_panels * PANEL<T>)),
          N_rows(std::max(round_up(N, ROWS), N_panels * PANEL<T>)) {}
    Index state_size() const { return P_rows * N_rows; }
};

// Step sizes of a chunk, and powers of the decay inside it.
template <typename T> struct Decay : Powers<T> {
    const Arguments& to;
    T *raw, *dt;  // as given, plus the bias; as used
    Decay(Scratch& scratch, const Arguments& arguments, const Shape<T>& shape)
        : Powers<T>(scratch, shape.Q_lanes), to(arguments), raw(scratch.take<T>(shape.Q_lanes)),
          dt(scratch.take<T>(shape.Q_lanes)) {}

    void measure(Rows<const T> dt_rows, Index head, Index first, Index q) {
        const Index padded = round_up(q, LANES<T>);
        const T A = static_cast<const T*>(to.A)[head];
        const T bias = to.dt_bias ? static_cast<const T*>(to.dt_bias)[head] : T(0);
        for (Index i = 0; i < q; ++i) raw[i] = *dt_rows[first + i] + bias;
        std::fill(raw + q, raw + padded, T(0));
        for (Index i = 0; i < padded; i += LANES<T>)
            store(dt + i, to.is_softplus ? softplus<T>(load(raw + i)) : load(raw + i));
        this->add_up(q, [&](Index i) { return double(dt[i]) * double(A); });
    }

    // d dt / d raw of every token, in place of `raw`
    const T* slopes(Index q) {
        for (Index i = 0; i < q; i += LANES<T>)
            store(raw + i, to.is_softplus ? softplus_slope<T>(load(raw + i)) : Vector<T>{} + T(1));
        return raw;
    }
};

}  // namespace
