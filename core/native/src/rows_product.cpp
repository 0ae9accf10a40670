// y = x W' + b for a few rows of x, as in decoding: the weight, of which there is far more than of x, is read from memory
// once, in order.
//
// x [rows, inputs], W [outputs, inputs], b [outputs] and y [rows, outputs] are contiguous. Sums of bfloat16 are in float32.

#include "lanes.h"

#include <algorithm>
#include <type_traits>
#include <vector>

namespace {

// Rows of x, and rows of the weight, whose products are summed at once: as many sums as registers hold, since each number
// read is then used several times. Every sum is a chain of additions of its own.
constexpr int64_t ROWS = 4, OUTPUTS = register_bytes == 64 ? 4 : 2;

template <typename Sum> using Register = typename Lanes<Sum>::Vector;

template <typename Sum> Register<Sum> read_lanes(const Sum *from) {
    return *reinterpret_cast<const Register<Sum> *>(from);
}

template <typename Sum> Register<Sum> read_lanes(const bfloat16 *from) {
    typedef uint16_t Half __attribute__((vector_size(register_bytes / 2), aligned(2), may_alias));
    typedef uint32_t Bits __attribute__((vector_size(register_bytes)));
    const Bits bits = __builtin_convertvector(*reinterpret_cast<const Half *>(from), Bits) << 16;
    Register<Sum> wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
}

template <typename Sum, typename Weight> struct Product {
    const Sum *x;
    const Weight *weight, *bias; // the bias may be null
    Weight *y;
    int64_t rows, inputs, outputs;

    template <int64_t num_rows, int64_t num_outputs> void tile(int64_t row, int64_t output) const {
        using Block = Lanes<Sum>;
        const Sum *const left = x + row * inputs;
        const Weight *const right = weight + output * inputs;
        Register<Sum> sums[num_rows][num_outputs] = {};
        int64_t i = 0;
        for (; i + Block::count <= inputs; i += Block::count) {
            Register<Sum> weights[num_outputs];
#pragma GCC unroll 4
            for (int64_t o = 0; o < num_outputs; ++o) weights[o] = read_lanes<Sum>(right + o * inputs + i);
#pragma GCC unroll 4
            for (int64_t r = 0; r < num_rows; ++r) {
                const Register<Sum> value = read_lanes<Sum>(left + r * inputs + i);
#pragma GCC unroll 4
                for (int64_t o = 0; o < num_outputs; ++o) sums[r][o] += value * weights[o];
            }
        }
#pragma GCC unroll 4
        for (int64_t r = 0; r < num_rows; ++r)
#pragma GCC unroll 4
            for (int64_t o = 0; o < num_outputs; ++o) {
                Sum total = Block::sum(sums[r][o]);
                for (int64_t k = i; k < inputs; ++k) total += left[r * inputs + k] * widened(right[o * inputs + k]);
                if (bias) total += widened(bias[output + o]);
                store(y + (row + r) * outputs + output + o, total);
            }
    }

    // All rows of x times some rows of the weight, which are in cache from the first rows of x on.
    template <int64_t num_outputs> void column(int64_t output) const {
        int64_t row = 0;
        for (; row + ROWS <= rows; row += ROWS) tile<ROWS, num_outputs>(row, output);
        if (rows - row == 3) tile<3, num_outputs>(row, output);
        if (rows - row == 2) tile<2, num_outputs>(row, output);
        if (rows - row == 1) tile<1, num_outputs>(row, output);
    }

    void run(int threads) const {
        const int64_t columns = (outputs + OUTPUTS - 1) / OUTPUTS;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
        for (int64_t number = 0; number < columns; ++number) {
            const int64_t first = number * OUTPUTS, stop = std::min(first + OUTPUTS, outputs);
            if (stop - first == OUTPUTS)
                column<OUTPUTS>(first);
            else
                for (int64_t output = first; output < stop; ++output) column<1>(output);
        }
    }
};

template <typename Sum, typename Weight>
void run(const void *x, const void *weight, const void *bias, void *y, int64_t rows, int64_t inputs, int64_t outputs,
         int threads) {
    const auto *const given = static_cast<const Weight *>(x);
    const auto product = [&](const Sum *read) {
        Product<Sum, Weight>{read, static_cast<const Weight *>(weight), static_cast<const Weight *>(bias),
                             static_cast<Weight *>(y), rows, inputs, outputs}
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
