// The forward filter of a discrete HMM, for many sequences at once.
//
// Letters: N sequences, T tokens, S states, V vocabulary, W states rounded up to whole panels.
//
//   joint_t = (posterior_{t-1} A) * E[:, x_t],   mass_t = sum joint_t,   posterior_t = joint_t / mass_t
//
// A task filters a block of sequences through all tokens with their posteriors in the L2 cache. A panel of A stays in the
// L1 cache while all rows of the block are multiplied by it. The order of operations of a sequence is fixed, so the result
// depends neither on the number of threads nor on the rest of the batch.

#include <limits>

#include "rows.h"
#include "tasks.h"

namespace {

// Sequences per task: enough to amortise loading a panel, few enough for the cache and for many threads.
constexpr Index BLOCK = 8 * ROWS;

// Arguments from the caller; Python declares the same structure. Every array except the tokens is contiguous.
struct Arguments {
    Index num_sequences, num_tokens, num_states, vocabulary, num_threads;
    Index next_token, next_sequence;              // strides of the tokens
    const Index* tokens;                          // [T, N], all in [0, V)
    const void *initial, *transition, *emission;  // [S], [S, S], [S, V]
    void *posterior, *masses;                     // of the last state [N, S], and [T, N]
};

// The tables in the layout that a block reads, padded to whole panels with states of probability zero.
template <typename T> struct Tables {
    Index width;
    T *initial, *panels, *likelihoods;  // [W], [W / PANEL][S][PANEL], [V][W]

    Tables(Scratch& scratch, const Arguments& to)
        : width(round_up(to.num_states, PANEL<T>)), initial(scratch.take<T>(width)),
          panels(scratch.take<T>(to.num_states * width)), likelihoods(scratch.take<T>(to.vocabulary * width)) {}

    void fill(const Arguments& to) {
        const Index S = to.num_states, V = to.vocabulary;
        copy_row(initial, static_cast<const T*>(to.initial), S, width);
        pack_panels<T>(panels, {static_cast<const T*>(to.transition), S}, S, S, S);
        std::fill(likelihoods, likelihoods + V * width, T(0));
        transpose<T>(likelihoods, width, {static_cast<const T*>(to.emission), V}, S, V);
    }
};

template <typename T> struct Problem {
    const Arguments& to;
    const Tables<T>& tables;
    Index num_threads;
};

template <typename T> class Filter {
  public:
    Filter(Scratch& scratch, const Problem<T>& problem)
        : to(problem.to), tables(problem.tables), width(tables.width), rows(scratch.take<T>(BLOCK * width)),
          next_rows(scratch.take<T>(BLOCK * width)) {}

    static Index num_tasks(const Problem<T>& problem) { return (problem.to.num_sequences + BLOCK - 1) / BLOCK; }

    void run(Index task) {
        const Index N = to.num_sequences, S = to.num_states, first = task * BLOCK, count = std::min(BLOCK, N - first);
        // pad to whole tiles by repeating the last sequence
        const Index num_rows = round_up(count, ROWS);
        for (Index t = 0; t < to.num_tokens; ++t) {
            const Index* tokens = to.tokens + t * to.next_token + first * to.next_sequence;
            for (Index r = 0; r < num_rows; ++r)
                likelihoods[r] = tables.likelihoods + tokens[std::min(r, count - 1) * to.next_sequence] * width;
            t == 0 ? begin(num_rows) : advance(num_rows);
            std::swap(rows, next_rows);
            T* masses = static_cast<T*>(to.masses) + t * N + first;
            for (Index r = 0; r < num_rows; ++r) {
                const T mass = normalise(rows + r * width);
                if (r < count) masses[r] = mass;
            }
        }
        T* posterior = static_cast<T*>(to.posterior) + first * S;
        for (Index r = 0; r < count; ++r) copy_row(posterior + r * S, rows + r * width, S, S);
    }

  private:
    void begin(Index num_rows) {
        for (Index r = 0; r < num_rows; ++r)
            for (Index s = 0; s < width; s += LANES<T>)
                store(next_rows + r * width + s, load(tables.initial + s) * load(likelihoods[r] + s));
    }

    void advance(Index num_rows) {
        for (Index column = 0; column < width; column += PANEL<T>) {
            const T* panel = tables.panels + column * to.num_states;
            for (Index first = 0; first < num_rows; first += ROWS) {
                Tile<T> sums = {};
                accumulate<T, VECTORS>(sums, rows + first * width, width, 1, panel, PANEL<T>, to.num_states);
                for_tile<VECTORS>([&](int r, int v) __attribute__((always_inline)) {
                    const Index at = column + v * LANES<T>;
                    store(next_rows + (first + r) * width + at, sums[r][v] * load(likelihoods[first + r] + at));
                });
            }
        }
    }

    T normalise(T* row) const {
        Vector<T> sums = {};
        for (Index s = 0; s < width; s += LANES<T>) sums += load(row + s);
        const T mass = sum<T>(sums);
        // the inverse of a subnormal number may be infinite
        if (mass >= std::numeric_limits<T>::min()) {
            const T inverse = 1 / mass;
            for (Index s = 0; s < width; s += LANES<T>) store(row + s, load(row + s) * inverse);
        } else {
            for (Index s = 0; s < width; s += LANES<T>) store(row + s, load(row + s) / mass);
        }
        return mass;
    }

    const Arguments& to;
    const Tables<T>& tables;
    const Index width;
    T *rows, *next_rows;          // [BLOCK, W]
    const T* likelihoods[BLOCK];  // of each sequence's token
};

// Returns false if out of memory.
template <typename T> bool filter(const Arguments& to) {
    Scratch measured;
    { Tables<T> counted(measured, to); }
    char* memory = static_cast<char*>(std::aligned_alloc(64, size_t(measured.used())));
    if (!memory) return false;
    Scratch scratch(memory);
    Tables<T> tables(scratch, to);
    tables.fill(to);
    const bool is_done = run_all<Filter<T>>(Problem<T>{to, tables, to.num_threads});
    std::free(memory);
    return is_done;
}

}  // namespace

extern "C" {
bool hmm_filter_float32(const Arguments* to) { return filter<float>(*to); }
bool hmm_filter_float64(const Arguments* to) { return filter<double>(*to); }
}
