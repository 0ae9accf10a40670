// Conversion of tiles and states of a chunked recurrence from and to panels.
#pragma once

#include "rows.h"

namespace {

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
