// Rows whose length need not be a whole number of vectors.
#pragma once

#include "tile.h"

namespace {

// The first `left` entries of a vector; the others are zero.
template <typename T> Vector<T> load_part(const T* from, Index left) {
    if (left >= LANES<T>) return load(from);
    Vector<T> value{};
    std::memcpy(&value, from, size_t(left) * sizeof(T));
    return value;
}
template <typename T> void store_part(T* to, Vector<T> value, Index left) {
    if (left >= LANES<T>) return store(to, value);
    std::memcpy(to, &value, size_t(left) * sizeof(T));
}

// A vector whose entries from `left` on are `rest`.
template <typename T> Vector<T> with_rest(Vector<T> value, Index left, T rest) {
    for (Index lane = left; lane < LANES<T>; ++lane) value[lane] = rest;
    return value;
}

// call(first, number of entries) for every vector of a row
template <typename T, typename Call> void for_vectors(Index length, Call call) {
    Index d = 0;
    for (; d + LANES<T> <= length; d += LANES<T>) call(d, Index(LANES<T>));
    if (d < length) call(d, length - d);
}

template <typename T> Vector<T> sigmoid(Vector<T> x) { return T(1) / (T(1) + exponential<T>(-x)); }

}  // namespace
