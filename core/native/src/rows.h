// Rows of a tensor, packed into panels and columns.
#pragma once

#include "tile.h"

namespace {

// A tensor [batch, token, head, ...] whose last axis is contiguous; strides in elements.
struct View {
    void* data;
    Index batch, token, head;
};

// Equally spaced rows, such as those of one head of one sequence.
template <typename T> struct Rows {
    T* data = nullptr;
    Index step = 0;
    Rows() = default;
    Rows(T* first, Index distance) : data(first), step(distance) {}
    Rows(const View& view, Index batch, Index first, Index head)
        : data(view.data ? static_cast<T*>(view.data) + batch * view.batch + first * view.token + head * view.head
                         : nullptr),
          step(view.token) {}
    T* operator[](Index token) const { return data + token * step; }
    Rows moved(Index elements) const {
        Rows other = *this;
        other.data += elements;
        return other;
    }
    Rows from(Index token) const { return moved(token * step); }
};

template <typename T> void copy_row(T* to, const T* from, Index width, Index padded) {
    std::memcpy(to, from, size_t(width) * sizeof(T));
    std::fill(to + width, to + padded, T(0));
}

// from[k][0..width) for k < length, into panels of `panel_length` rows.
template <typename T> void pack_panels(T* to, Rows<const T> from, Index length, Index width, Index panel_length) {
    for (Index k = 0; k < length; ++k) {
        const T* row = from[k];
        const Index whole = width / PANEL<T> * PANEL<T>;
        // with a compile-time length, this is a few moves instead of a call
        for (Index start = 0; start < whole; start += PANEL<T>)
            std::memcpy(to + start * panel_length + k * PANEL<T>, row + start, PANEL<T> * sizeof(T));
        if (whole < width) copy_row(to + whole * panel_length + k * PANEL<T>, row + whole, width - whole, PANEL<T>);
    }
}

template <typename T> void pack_rows(T* to, Rows<const T> from, Index length, Index width, Index padded) {
    for (Index k = 0; k < length; ++k) copy_row(to + k * padded, from[k], width, padded);
}

// to[w][k] = from[k][w]
template <typename T> void transpose(T* to, Index to_step, Rows<const T> from, Index length, Index width) {
    constexpr Index size = LANES<T>;
    const Index whole_length = length / size * size, whole_width = width / size * size;
    for (Index k = 0; k < whole_length; k += size)
        for (Index w = 0; w < whole_width; w += size)
            transpose_square<T>(to + w * to_step + k, to_step, from[k] + w, from.step);
    for (Index k = 0; k < length; ++k)
        for (Index w = k < whole_length ? whole_width : 0; w < width; ++w) to[w * to_step + k] = from[k][w];
}

}  // namespace
