// What a pass is given, and the buffers of one thread.
#pragma once

#include "rows.h"
#include "tasks.h"

namespace {

// What the caller passes; the Python side declares the same structure.
struct Arguments {
    Index num_sequences, num_tokens, num_heads, num_groups, head_dim, state_dim, chunk_size, num_lanes, num_threads,
        is_softplus;
    const Index* starts;  // packed sequences: [num_sequences + 1]; null: sequence s is row s of the batch
    View x, dt, B, C, D, y;
    void *A, *dt_bias, *initial_state, *final_state;
    // the backward pass alone: dB and dC have num_lanes copies that the caller adds up, those of A, D and dt_bias one per sequence
    View grad_y, grad_x, grad_dt, grad_B, grad_C;
    void *grad_final_state, *grad_initial_state, *grad_A, *grad_D, *grad_dt_bias;
    Index grad_B_lane, grad_C_lane;
};

struct Sequence {
    Index batch, first, length;
    Sequence(const Arguments& to, Index index)
        : batch(to.starts ? 0 : index), first(to.starts ? to.starts[index] : 0),
          length(to.starts ? to.starts[index + 1] - first : to.num_tokens) {}
};

// Lengths of the buffers of one head, each rounded up to what a tile or a panel writes.
template <typename T> struct Shape {
    Index P, N, Q, Q_rows, Q_lanes, P_panels, N_panels, P_rows, N_rows;
    explicit Shape(const Arguments& to)
        : P(to.head_dim), N(to.state_dim), Q(to.chunk_size), Q_rows(round_up(Q, ROWS)),
          Q_lanes(round_up(Q_rows, LANES<T>)), P_panels(round_up(P, PANEL<T>) / PANEL<T>),
          N_panels(round_up(N, PANEL<T>) / PANEL<T>), P_rows(std::max(round_up(P, ROWS), P_panels * PANEL<T>)),
          N_rows(std::max(round_up(N, ROWS), N_panels * PANEL<T>)) {}
    Index state_size() const { return P_rows * N_rows; }
};

// Step sizes of a chunk, and powers of the decay inside it. c is kept as a sum of two numbers: the difference of two long
// sums is then as exact as the difference itself, also where a strong decay came before.
template <typename T> struct Decay {
    const Arguments& to;
    T *raw, *dt;                 // as given, with the bias; as used
    T *high, *low, *into, *out;  // c_i = high + low, e^{c_i}, e^{c_q - c_j}
    T total = 0;                 // e^{c_q}
    Decay(Scratch& scratch, const Arguments& arguments, const Shape<T>& shape) : to(arguments) {
        for (T** buffer : {&raw, &dt, &high, &low, &into, &out}) *buffer = scratch.take<T>(shape.Q_lanes);
    }

    void measure(Rows<const T> dt_rows, Index head, Index first, Index q) {
        const Index padded = round_up(q, LANES<T>);
        const T A = static_cast<const T*>(to.A)[head];
        const T bias = to.dt_bias ? static_cast<const T*>(to.dt_bias)[head] : T(0);
        for (Index i = 0; i < q; ++i) raw[i] = *dt_rows[first + i] + bias;
        std::fill(raw + q, raw + padded, T(0));
        for (Index i = 0; i < padded; i += LANES<T>)
            store(dt + i, to.is_softplus ? softplus<T>(load(raw + i)) : load(raw + i));
        double c = 0, lost = 0;
        for (Index i = 0; i < q; ++i) {
            const double step = double(dt[i]) * double(A), next = c + step, kept = next - c;
            // what the addition rounded away (Knuth's two-sum)
            lost += (c - (next - kept)) + (step - kept);
            c = next;
            high[i] = T(c);
            low[i] = T(c - double(high[i]) + lost);
            into[i] = T(c + lost);
        }
        std::fill(high + q, high + padded, high[q - 1]);
        std::fill(low + q, low + padded, low[q - 1]);
        for (Index i = 0; i < q; ++i) out[i] = T((c - double(high[i])) + (lost - double(low[i])));
        std::fill(into + q, into + padded, T(0));
        std::fill(out + q, out + padded, T(0));
        for (Index i = 0; i < padded; i += LANES<T>) {
            store(into + i, exponential<T>(load(into + i)));
            store(out + i, exponential<T>(load(out + i)));
        }
        total = into[q - 1];
    }

    // d dt / d raw of every token, in place of `raw`
    const T* slopes(Index q) {
        for (Index i = 0; i < q; i += LANES<T>)
            store(raw + i, to.is_softplus ? softplus_slope<T>(load(raw + i)) : Vector<T>{} + T(1));
        return raw;
    }

    // L_ij for LANES tokens i from `first` on; 0 for i < j
    Vector<T> between(Index first, Index j) const {
        const Vector<T> exponent = (load(high + first) - high[j]) + (load(low + first) - low[j]);
        IntVector<T> token;
        for (int lane = 0; lane < LANES<T>; ++lane) token[lane] = lane;
        const IntVector<T> is_past = token < typename Format<T>::Int(j - first);
        return is_past ? Vector<T>{} : exponential<T>(exponent);
    }
};

// Rows that are used next, touched one after the other while the tiles of this chunk are worked on: the rows of one head
// are pages apart, which no hardware prefetcher follows.
template <typename T, int NUM> class Ahead {
  public:
    Ahead(const Rows<const T> (&rows)[NUM], const Index (&widths)[NUM], Index num_tokens, Index num_tiles)
        : num_tokens_(num_tokens), per_tile_((NUM * num_tokens + num_tiles - 1) / num_tiles) {
        std::copy(rows, rows + NUM, rows_);
        std::copy(widths, widths + NUM, widths_);
    }
    void touch() {
        for (Index n = 0; n < per_tile_ && token_ < num_tokens_; ++n) {
            const char* row = reinterpret_cast<const char*>(rows_[which_][token_]);
            const Index bytes = widths_[which_] * Index(sizeof(T));
            for (Index line = 0; line < bytes; line += 64) __builtin_prefetch(row + line);
            if (++which_ == NUM) which_ = 0, ++token_;
        }
    }

  private:
    Rows<const T> rows_[NUM];
    Index widths_[NUM], num_tokens_, per_tile_, token_ = 0, which_ = 0;
};

template <typename T>
inline void store_tile(const Tile<T>& tile, Rows<T> to, Index first, Index num_rows, Index column, Index num_columns,
                       bool is_added = false) {
    for (Index r = 0; r < std::min<Index>(ROWS, num_rows); ++r) {
        T* row = to[first + r] + column;
        if (num_columns >= PANEL<T>) {
            for (int v = 0; v < VECTORS; ++v) {
                const Vector<T> before = is_added ? load(row + v * LANES<T>) : Vector<T>{};
                store(row + v * LANES<T>, before + tile[r][v]);
            }
            continue;
        }
        T values[PANEL<T>];
        for (int v = 0; v < VECTORS; ++v) store(values + v * LANES<T>, tile[r][v]);
        for (Index k = 0; k < num_columns; ++k) row[k] = (is_added ? row[k] : T(0)) + values[k];
    }
}

// state = total state + sum_k left[k][row] right[k], `state` and `right` one panel each
template <typename T>
inline void advance(T* to, const T* state, T total, const T* left, Index left_step, const T* right, Index length) {
    Tile<T> sums;
    for_tile<VECTORS>([&](int r, int v) { sums[r][v] = total * load(state + r * PANEL<T> + v * LANES<T>); });
    accumulate<T, VECTORS>(sums, left, 1, left_step, right, PANEL<T>, length);
    for_tile<VECTORS>([&](int r, int v) { store(to + r * PANEL<T> + v * LANES<T>, sums[r][v]); });
}

// A matrix [length, width] in panels of `rows` rows, from and to a contiguous array, transposed or not.
template <typename T> void state_from_panels(T* to, Index step, Index unit, const T* state, Index length, Index rows,
                                             Index width) {
    for (Index w = 0; w < width; ++w)
        for (Index k = 0; k < length; ++k)
            to[k * step + w * unit] = state[(w / PANEL<T> * rows + k) * PANEL<T> + w % PANEL<T>];
}
template <typename T> void state_to_panels(T* state, const T* from, Index step, Index unit, Index length, Index rows,
                                           Index width) {
    std::fill(state, state + round_up(width, PANEL<T>) * rows, T(0));
    if (!from) return;
    for (Index w = 0; w < width; ++w)
        for (Index k = 0; k < length; ++k)
            state[(w / PANEL<T> * rows + k) * PANEL<T> + w % PANEL<T>] = from[k * step + w * unit];
}

}  // namespace
