// Chunks of a recurrence with one decay per token: tokens, powers of the decay, and decay gradients.
#pragma once

#include "rows.h"
#include "tasks.h"

namespace {

// The tokens of one sequence: a row of the batch, or a packed one.
struct Sequence {
    Index batch, first, length;
    template <typename Arguments>
    Sequence(const Arguments& to, Index index)
        : batch(to.starts ? 0 : index), first(to.starts ? to.starts[index] : 0),
          length(to.starts ? to.starts[index + 1] - first : to.num_tokens) {}
};

// The most chunks that a sequence has.
template <typename Arguments> Index most_chunks(const Arguments& to) {
    Index tokens = 0;
    for (Index s = 0; s < to.num_sequences; ++s) tokens = std::max(tokens, Sequence(to, s).length);
    return (tokens + to.chunk_size - 1) / to.chunk_size;
}

// Powers of the decay inside a chunk. c, the running sum of its logarithm, is stored as a sum of two numbers, so that the
// difference of two long sums is accurate even after a strong decay.
template <typename T> struct Powers {
    T *high, *low, *into, *out;  // c_i = high + low, e^{c_i}, e^{c_q - c_j}
    T total = 0;                 // e^{c_q}
    Powers(Scratch& scratch, Index lanes) {
        for (T** buffer : {&high, &low, &into, &out}) *buffer = scratch.take<T>(lanes);
    }

    // log_decay(i): of token i < q, as a double
    template <typename LogDecay> void add_up(Index q, LogDecay log_decay) {
        const Index padded = round_up(q, LANES<T>);
        double c = 0, lost = 0;
        for (Index i = 0; i < q; ++i) {
            const double step = log_decay(i), next = c + step, kept = next - c;
            // rounding error of the addition (Knuth's two-sum)
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

    // L_ij for LANES tokens i from `first` on; 0 for i < j
    Vector<T> between(Index first, Index j) const {
        const Vector<T> exponent = (load(high + first) - high[j]) + (load(low + first) - low[j]);
        IntVector<T> token;
        for (int lane = 0; lane < LANES<T>; ++lane) token[lane] = lane;
        const IntVector<T> is_past = token < typename Format<T>::Int(j - first);
        return is_past ? Vector<T>{} : exponential<T>(exponent);
    }
};

// grad_decay[t]: from j < t to i >= t inside the chunk (`passed[j * step + i]`, whose diagonal is cleared), from the state
// before it to i >= t (LANES partial sums per token in `read`), from j < t to the state after it (`written(j)`), and from
// state to state (`carried`). `running` is scratch space for one row.
template <typename T, typename Written>
void add_up_passing(double* grad_decay, Index q, T* passed, Index step, T* running, const T* read, Written written,
                    double carried) {
    std::fill(running, running + step, T(0));
    grad_decay[0] = 0;
    for (Index j = 0; j + 1 < q; ++j) {
        Vector<T> total = {};
        // terms that end at j do not pass over j + 1
        running[j] = 0, passed[j * step + j] = 0;
        for (Index i = j / LANES<T> * LANES<T>; i < q; i += LANES<T>) {
            const Vector<T> so_far = load(running + i) + load(passed + j * step + i);
            store(running + i, so_far);
            total += so_far;
        }
        grad_decay[j + 1] = sum<T>(total);
    }
    for (Index t = 0; t < q; ++t) {
        grad_decay[t] += carried;
        carried += written(t);
    }
    double from_before = 0;
    for (Index t = q - 1; t >= 0; --t) grad_decay[t] += from_before += sum<T>(load(read + t * LANES<T>));
}

// Prefetches the next rows one by one while the tiles of this chunk are processed: the rows of one head are pages apart,
// which hardware prefetchers do not follow.
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

}  // namespace
