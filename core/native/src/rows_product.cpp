// y = x W' + b for a few rows of x, as in decoding: the weight, of which there is far more than of x, is read from memory
// once, in order.
//
// x [rows, inputs], W [outputs, inputs], b [outputs] and y [rows, outputs] are contiguous. Sums of bfloat16 are in float32.

#include "rows_group.h"

#include <vector>

namespace {

template <typename Sum, typename Weight> struct Product {
    const Pieces<Sum> &x;
    const Weight *weight, *bias; // the bias may be null
    Weight *y;
    int64_t outputs;

    // All rows of x times a group of tiles of the weight, which are in cache from the first rows of x on.
    template <int64_t num_outputs> void group(int64_t output, int64_t count, int64_t step) const {
        for (int64_t first = 0; first < x.rows; first += BLOCK_ROWS) {
            Sum totals[GROUP_TILES * BLOCK_ROWS * num_outputs];
            multiply_group<num_outputs>(x, first, weight + output * x.inputs, count, step, totals);
            const Sum *total = totals;
            for (int64_t t = output; t < output + count; ++t)
                for (int64_t r = first; r < std::min(x.rows, first + BLOCK_ROWS); ++r)
                    for (int64_t o = t; o < t + num_outputs * step; o += step)
                        store(y + r * outputs + o, *total++ + (bias ? widened(bias[o]) : Sum(0)));
        }
    }

    // A share of the tiles for each thread.
    void run(int threads) const {
        const int64_t tiles = num_output_tiles(x.rows, outputs);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
        for (int64_t thread = 0; thread < threads; ++thread)
            for_output_groups(tiles * thread / threads, tiles * (thread + 1) / threads, x.rows, outputs,
                              [&](auto num_outputs, int64_t output, int64_t count, int64_t step) {
                                  group<num_outputs.value>(output, count, step);
                              });
    }
};

template <typename Sum, typename Weight>
void run(const void *x, const void *weight, const void *bias, void *y, int64_t rows, int64_t inputs, int64_t outputs,
         int threads) {
    const auto *const given = static_cast<const Weight *>(x);
    const auto product = [&](const Sum *read) {
        Pieces<Sum> pieces(read, rows, inputs);
        std::vector<Sum> memory(pieces.size());
        pieces.pack(memory.data());
        Product<Sum, Weight>{pieces, static_cast<const Weight *>(weight), static_cast<const Weight *>(bias),
                             static_cast<Weight *>(y), outputs}
            .run(inputs * outputs < large ? 1 : threads);
    };
    if constexpr (std::is_same_v<Sum, Weight>) {
        product(given);
    } else {
        std::vector<Sum> wide(rows * inputs);
        for (int64_t k = 0; k < rows * inputs; ++k) wide[k] = widened(given[k]);
        product(wide.data());
    }
}

} // namespace

// `kind` is 0 for float32, 1 for bfloat16 and 2 for float64: of all four arrays. The bias may be null.
extern "C" void rows_product(const void *x, const void *weight, const void *bias, void *y, int64_t rows, int64_t inputs,
                             int64_t outputs, int kind, int threads) {
    auto *const chosen = kind == 0 ? run<float, float> : kind == 1 ? run<float, bfloat16> : run<double, double>;
    chosen(x, weight, bias, y, rows, inputs, outputs, threads);
}
