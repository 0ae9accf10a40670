// Products of a few rows with a few rows of a weight, summed in registers.
#pragma once

#include "lanes.h"

#include <type_traits>

namespace {

// Rows of x, and rows of the weight, whose products are summed at once: as many sums as registers hold, since each number
// read is then used several times. Each sum is a separate chain of additions. Sixteen registers hold three rows of the
// weight beside four of x, or four beside one or two.
constexpr int64_t TILE_ROWS = 4;
constexpr bool HAS_MANY_REGISTERS = register_bytes == 64;
template <int64_t rows> constexpr int64_t tile_outputs = HAS_MANY_REGISTERS || rows < 3 ? 4 : 3;

// use(tile_outputs<rows>), a constant
template <typename Use> auto with_tile_outputs(int64_t rows, Use use) {
    if (rows < 3) return use(std::integral_constant<int64_t, tile_outputs<1>>{});
    return use(std::integral_constant<int64_t, tile_outputs<TILE_ROWS>>{});
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
// does, and being asked for every half of a line of float32 costs it a tenth of its speed.
template <typename Number> [[gnu::always_inline]] inline void ask_ahead(const Number *from) {
    if constexpr (HAS_MANY_REGISTERS || sizeof(Number) == 2) __builtin_prefetch(from + 2048 / int64_t(sizeof(Number)));
}

// totals[r][o] = x[r] . weight[o]; rows of x follow one another, those of the weight are `step` numbers apart.
template <int64_t rows, int64_t outputs, typename Sum, typename Weight>
[[gnu::always_inline]] inline void multiply(const Sum *x, const Weight *weight, int64_t step,
                                            int64_t inputs, Sum (&totals)[rows][outputs]) {
    using Block = Lanes<Sum>;
    Register<Sum> sums[rows][outputs] = {};
    int64_t i = 0;
    for (; i + Block::count <= inputs; i += Block::count) {
        Register<Sum> weights[outputs];
#pragma GCC unroll 4
        for (int64_t o = 0; o < outputs; ++o) {
            weights[o] = read_lanes<Sum>(weight + o * step + i);
            ask_ahead(weight + o * step + i);
        }
#pragma GCC unroll 4
        for (int64_t r = 0; r < rows; ++r) {
            const Register<Sum> value = read_lanes<Sum>(x + r * inputs + i);
#pragma GCC unroll 4
            for (int64_t o = 0; o < outputs; ++o) sums[r][o] += value * weights[o];
        }
    }
#pragma GCC unroll 4
    for (int64_t r = 0; r < rows; ++r) {
        if constexpr (outputs > 2) {
            const auto four = Block::sums(sums[r][0], sums[r][1], sums[r][2], sums[r][outputs - 1]);
#pragma GCC unroll 4
            for (int64_t o = 0; o < outputs; ++o) totals[r][o] = four[o];
        } else {
#pragma GCC unroll 4
            for (int64_t o = 0; o < outputs; ++o) totals[r][o] = Block::sum(sums[r][o]);
        }
        for (int64_t o = 0; o < outputs; ++o)
            for (int64_t k = i; k < inputs; ++k) totals[r][o] += x[r * inputs + k] * widened(weight[o * step + k]);
    }
}

// each(rows, first) for blocks of rows, `rows` a constant: whole tiles, then what is left.
template <typename Each> void for_row_tiles(int64_t rows, Each each) {
    int64_t row = 0;
    for (; row + TILE_ROWS <= rows; row += TILE_ROWS) each(std::integral_constant<int64_t, TILE_ROWS>{}, row);
    if (rows - row == 3) each(std::integral_constant<int64_t, 3>{}, row);
    if (rows - row == 2) each(std::integral_constant<int64_t, 2>{}, row);
    if (rows - row == 1) each(std::integral_constant<int64_t, 1>{}, row);
}

// each(outputs, first, step) for the tiles number `first` to `stop` - 1 of a weight's rows: `outputs` rows, a constant, from row
// `first` on, `step` rows apart. A tile's rows are far from each other, so that each of its streams goes through memory in
// order. The last tile may be single rows.
template <typename Each> void for_output_tiles(int64_t first, int64_t stop, int64_t rows, int64_t outputs, Each each) {
    with_tile_outputs(rows, [&](auto tile) {
        const int64_t whole = std::min(stop, outputs / tile), step = whole - first;
        for (int64_t i = 0; i < step; ++i) each(tile, first * tile + i, step);
        if (whole < stop)
            for (int64_t single = whole * tile; single < outputs; ++single)
                each(std::integral_constant<int64_t, 1>{}, single, 1);
    });
}

inline int64_t num_output_tiles(int64_t rows, int64_t outputs) {
    return with_tile_outputs(rows, [&](auto tile) { return (outputs + tile - 1) / tile; });
}

} // namespace
