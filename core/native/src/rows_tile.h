// Products of a few rows with a few rows of a weight, summed in registers.
#pragma once

#include "lanes.h"

#include <type_traits>

namespace {

// Rows of x, and rows of the weight, whose products are summed at once: as many sums as registers hold, since each number
// read is then used several times. Each sum is a separate chain of additions. Sixteen registers hold three rows of the
// weight beside four of x, or four beside one or two; thirty-two hold four beside four, or three beside eight.
constexpr int64_t TILE_ROWS = 4;
constexpr bool HAS_MANY_REGISTERS = register_bytes == 64;
template <int64_t rows>
constexpr int64_t tile_outputs = rows < 3 || (HAS_MANY_REGISTERS && rows <= TILE_ROWS) ? 4 : 3;
template <int64_t outputs> constexpr int64_t tile_rows = HAS_MANY_REGISTERS && outputs == 3 ? 2 * TILE_ROWS : TILE_ROWS;

// use(tile_outputs<rows>), a constant
template <typename Use> auto with_tile_outputs(int64_t rows, Use use) {
    if (rows < 3) return use(std::integral_constant<int64_t, tile_outputs<1>>{});
    if (rows <= TILE_ROWS) return use(std::integral_constant<int64_t, tile_outputs<TILE_ROWS>>{});
    return use(std::integral_constant<int64_t, tile_outputs<2 * TILE_ROWS>>{});
}

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

// Asks memory for what is read later: processors with wide registers do not look beyond a page by themselves. AMD's Zen 3
// does, and being asked for every half of a line of float32 costs it a tenth of its speed. Zen 4 has few places for lines
// that are on their way to the first cache, so they are brought to the second one there; compilers before GCC 12.3 call it
// a Zen 3 with AVX-512.
template <typename Number> [[gnu::always_inline]] inline void ask_for(const Number *what) {
#if defined(__AVX512F__) && (defined(__znver3__) || defined(__znver4__) || defined(__znver5__))
    __builtin_prefetch(what, 0, 2);
#else
    if constexpr (HAS_MANY_REGISTERS || sizeof(Number) == 2) __builtin_prefetch(what);
#endif
}

template <typename Number> constexpr int64_t usual_distance = 2048 / int64_t(sizeof(Number));

// Keeps the compiler from reading a value again for every use: reading takes as long as a multiplication.
template <typename Vector> [[gnu::always_inline]] inline Vector in_register(Vector value) {
#if defined(__AVX512F__)
    asm("" : "+v"(value));
#endif
    return value;
}

// sums[r][o] += x[r] . weight[o], lane by lane, of `length` numbers, whole registers; rows of x are `x_step` numbers apart,
// those of the weight `step`. What is `ahead` numbers further on in the weight is asked for.
template <int64_t rows, int64_t outputs, typename Sum, typename Weight>
[[gnu::always_inline]] inline void accumulate(const Sum *x, int64_t x_step, const Weight *weight, int64_t step,
                                              int64_t length, int64_t ahead, Register<Sum> (&sums)[rows][outputs]) {
    for (int64_t i = 0; i < length; i += Lanes<Sum>::count) {
        Register<Sum> weights[outputs];
#pragma GCC unroll 4
        for (int64_t o = 0; o < outputs; ++o) {
            weights[o] = in_register(read_lanes<Sum>(weight + o * step + i));
            ask_for(weight + o * step + i + ahead);
        }
#pragma GCC unroll 8
        for (int64_t r = 0; r < rows; ++r) {
            const Register<Sum> value = in_register(read_lanes<Sum>(x + r * x_step + i));
#pragma GCC unroll 4
            for (int64_t o = 0; o < outputs; ++o) sums[r][o] += value * weights[o];
        }
    }
}

// totals[r * outputs + o] = the sum of the lanes of sums[r][o], and x[r] . weight[o] from number `begin` on.
template <int64_t rows, int64_t outputs, typename Sum, typename Weight>
[[gnu::always_inline]] inline void finish(const Sum *x, int64_t x_step, const Weight *weight, int64_t step, int64_t begin,
                                          int64_t end, const Register<Sum> (&sums)[rows][outputs], Sum *totals) {
    using Block = Lanes<Sum>;
#pragma GCC unroll 8
    for (int64_t r = 0; r < rows; ++r, totals += outputs) {
        if constexpr (outputs > 2) {
            const auto four = Block::sums(sums[r][0], sums[r][1], sums[r][2], sums[r][outputs - 1]);
#pragma GCC unroll 4
            for (int64_t o = 0; o < outputs; ++o) totals[o] = four[o];
        } else {
#pragma GCC unroll 4
            for (int64_t o = 0; o < outputs; ++o) totals[o] = Block::sum(sums[r][o]);
        }
        for (int64_t o = 0; o < outputs; ++o)
            for (int64_t k = begin; k < end; ++k) totals[o] += x[r * x_step + k] * widened(weight[o * step + k]);
    }
}

// totals[r][o] = x[r] . weight[o]; rows of x follow one another, those of the weight are `step` numbers apart.
template <int64_t rows, int64_t outputs, typename Sum, typename Weight>
[[gnu::always_inline]] inline void multiply(const Sum *x, const Weight *weight, int64_t step,
                                            int64_t inputs, Sum (&totals)[rows][outputs]) {
    Register<Sum> sums[rows][outputs] = {};
    const int64_t whole = inputs / Lanes<Sum>::count * Lanes<Sum>::count;
    accumulate(x, inputs, weight, step, whole, usual_distance<Weight>, sums);
    finish(x, inputs, weight, step, whole, inputs, sums, &totals[0][0]);
}

// use(rows), a constant, for 1 to `most` rows.
template <int64_t most, typename Use> void with_rows(int64_t rows, Use use) {
    if constexpr (most > 0) {
        if (rows == most) use(std::integral_constant<int64_t, most>{});
        else with_rows<most - 1>(rows, use);
    }
}

// each(rows, first) for blocks of rows, `rows` a constant: whole tiles, then what is left.
template <int64_t most, typename Each> void for_row_tiles(int64_t rows, Each each) {
    int64_t row = 0;
    for (; row + most <= rows; row += most) each(std::integral_constant<int64_t, most>{}, row);
    with_rows<most - 1>(rows - row, [&](auto rest) { each(rest, row); });
}

} // namespace
