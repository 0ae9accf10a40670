// Products of some rows with many rows of a weight. Rows of x that do not fit into the first cache are taken in pieces: one
// piece stays there for a group of tiles, while the weight, of which there is far more, is read once.
#pragma once

#include "rows_tile.h"

namespace {

// Rows of x whose sums are kept at once, tiles in a group, and bytes of a piece of so many rows, which shares the first cache
// with the weight that is read and with what is asked for.
constexpr int64_t BLOCK_ROWS = 16, GROUP_TILES = 6, PIECE_BYTES = 1 << 15;

// Rows of x in pieces, which lie one after the other: rows a power of two apart would be in each other's place in the cache.
template <typename Sum> class Pieces {
  public:
    const int64_t rows, inputs, whole; // `whole`: numbers of a row in whole registers

    Pieces(const Sum *x, int64_t rows, int64_t inputs)
        : rows(rows), inputs(inputs), whole(inputs / lanes * lanes), x_(x), packed_(x) {
        const int64_t bytes = std::min(rows, BLOCK_ROWS) * int64_t(sizeof(Sum));
        const int64_t most = std::max(lanes, PIECE_BYTES / bytes / lanes * lanes);
        if (rows > 1) count_ = std::max<int64_t>(1, (whole + most - 1) / most);
        length_ = (whole / lanes + count_ - 1) / count_ * lanes;
    }

    bool are_several() const { return count_ > 1; }
    int64_t length() const { return length_; }

    // Numbers of the memory that `pack` needs.
    int64_t size() const { return are_several() ? rows * count_ * length_ : 0; }

    void pack(Sum *memory) {
        if (!are_several()) return;
        packed_ = memory;
        for (int64_t first = 0; first < rows; first += BLOCK_ROWS)
            for (int64_t start = 0; start < whole; start += length_)
                for (int64_t row = first; row < std::min(rows, first + BLOCK_ROWS); ++row, memory += length_)
                    std::copy_n(x_ + row * inputs + start, std::min(length_, whole - start), memory);
    }

    // What was packed into this memory before.
    void use(const Sum *memory) {
        if (are_several()) packed_ = memory;
    }

    const Sum *row(int64_t row) const { return x_ + row * inputs; }

    // The first row of a block from number `start` on; the others are `step` numbers further on.
    const Sum *piece(int64_t first, int64_t start) const {
        if (!are_several()) return row(first) + start;
        return packed_ + first * count_ * length_ + start * std::min(BLOCK_ROWS, rows - first);
    }
    int64_t step() const { return are_several() ? length_ : inputs; }

  private:
    static constexpr int64_t lanes = Lanes<Sum>::count;
    const Sum *const x_;
    const Sum *packed_;
    int64_t count_ = 1, length_;
};

template <int64_t rows, int64_t outputs, typename Use> [[gnu::always_inline]] inline void each_sum(Use use) {
#pragma GCC unroll 8
    for (int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int64_t o = 0; o < outputs; ++o) use(r, o);
}

// totals[t][r][o] = x[first + r] . weight[t + o * step] for `count` tiles, at most GROUP_TILES, and the rows of a block.
// A sum is the same in whichever group its tile is.
template <int64_t outputs, typename Sum, typename Weight>
void multiply_group(const Pieces<Sum> &x, int64_t first, const Weight *weight, int64_t count, int64_t step, Sum *totals) {
    Register<Sum> kept[GROUP_TILES][BLOCK_ROWS][outputs];
    const int64_t rows = std::min(BLOCK_ROWS, x.rows - first), inputs = x.inputs, whole = x.whole;
    int64_t start = 0;
    do {
        const int64_t stop = std::min(whole, start + x.length());
        const Sum *const piece = x.piece(first, start);
        for (int64_t t = 0; t < count; ++t) {
            const Weight *const tile = weight + t * inputs;
            // what comes next: a part further on in the same tile, or the next tile, or the first one's next piece
            const int64_t ahead = !x.are_several() ? usual_distance<Weight> : t + 1 < count ? inputs : x.length() - t * inputs;
            for_row_tiles<tile_rows<outputs>>(rows, [&](auto num_rows, int64_t row) {
                Register<Sum> sums[num_rows.value][outputs] = {};
                const auto take = [&](int64_t r, int64_t o) __attribute__((always_inline)) {
                    sums[r][o] = kept[t][row + r][o];
                };
                const auto keep = [&](int64_t r, int64_t o) __attribute__((always_inline)) {
                    kept[t][row + r][o] = sums[r][o];
                };
                if (start > 0) each_sum<num_rows.value, outputs>(take);
                accumulate(piece + row * x.step(), x.step(), tile + start, step * inputs, stop - start, ahead, sums);
                if (stop < whole)
                    each_sum<num_rows.value, outputs>(keep);
                else
                    finish(x.row(first + row), inputs, tile, step * inputs, whole, inputs, sums,
                           totals + (t * rows + row) * outputs);
            });
        }
        start = stop;
    } while (start < whole);
}

// each(outputs, first, count, step) for groups of the tiles number `first` to `stop` - 1 of a weight's rows: `outputs`, a
// constant, rows in each, from row `first` of the weight on, `step` rows apart; the next tile begins a row later. A tile's rows
// are far from each other, so that each of its streams goes through memory in order. The last tile may be single rows.
template <typename Each> void for_output_groups(int64_t first, int64_t stop, int64_t rows, int64_t outputs, Each each) {
    with_tile_outputs(rows, [&](auto tile) {
        const int64_t whole = std::min(stop, outputs / tile), step = whole - first;
        for (int64_t i = 0; i < step; i += GROUP_TILES)
            each(tile, first * tile + i, std::min(GROUP_TILES, step - i), step);
        if (whole < stop)
            for (int64_t single = whole * tile; single < outputs; ++single)
                each(std::integral_constant<int64_t, 1>{}, single, 1, 1);
    });
}

inline int64_t num_output_tiles(int64_t rows, int64_t outputs) {
    return with_tile_outputs(rows, [&](auto tile) { return (outputs + tile - 1) / tile; });
}

} // namespace
