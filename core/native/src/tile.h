// Register vectors (compiler vector extensions), their exponential, the micro-kernel, and the transpose.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace {


// A tile fills the register file: ROWS x VECTORS sums, VECTORS of the right operand, one broadcast.
#if defined(__AVX512F__)
constexpr int BYTES = 64, ROWS = 8, VECTORS = 2;
#elif defined(__AVX__)
constexpr int BYTES = 32, ROWS = 6, VECTORS = 2;
#elif defined(__aarch64__)
constexpr int BYTES = 16, ROWS = 8, VECTORS = 2;
#else
constexpr int BYTES = 16, ROWS = 6, VECTORS = 2;
#endif

using Index = std::int64_t;

template <typename T> struct Format;
template <> struct Format<float> {
    using Int = std::int32_t;
    static constexpr int mantissa = 23, bias = 127, degree = 7;
    static constexpr float lowest = -87.0f, highest = 88.0f, shift = 12582912.0f;
    static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
};
template <> struct Format<double> {
    using Int = std::int64_t;
    static constexpr int mantissa = 52, bias = 1023, degree = 13;
    static constexpr double lowest = -708.0, highest = 709.0, shift = 6755399441055744.0;
    static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
};

template <typename T> constexpr int LANES = BYTES / int(sizeof(T));
template <typename T> constexpr int PANEL = LANES<T> * VECTORS;
template <typename T> struct VectorOf {
    typedef T Type __attribute__((vector_size(BYTES)));
    typedef typename Format<T>::Int Int __attribute__((vector_size(BYTES)));
};
template <typename T> using Vector = typename VectorOf<T>::Type;
template <typename T> using IntVector = typename VectorOf<T>::Int;

template <typename T> inline Vector<T> load(const T* from) {
    Vector<T> value;
    std::memcpy(&value, from, BYTES);
    return value;
}
template <typename T> inline void store(T* to, Vector<T> value) { std::memcpy(to, &value, BYTES); }
template <typename T> inline T sum(Vector<T> value) {
    T total = 0;
    for (int lane = 0; lane < LANES<T>; ++lane) total += value[lane];
    return total;
}
inline Index round_up(Index value, Index multiple) { return (value + multiple - 1) / multiple * multiple; }

// e^x to within an ulp or two; 0 where the result would be subnormal.
template <typename T> inline Vector<T> exponential(Vector<T> x) {
    using F = Format<T>;
    const IntVector<T> vanishes = x < F::lowest;
    x = x > F::highest ? Vector<T>{} + F::highest : x;
    const Vector<T> shifted = x * T(1.44269504088896340736) + F::shift;
    const Vector<T> whole = shifted - F::shift;
    const Vector<T> rest = (x - whole * F::ln2_high) - whole * F::ln2_low;
    constexpr double inverse_factorial[] = {1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040,
        1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
    Vector<T> series = Vector<T>{} + T(inverse_factorial[F::degree]);
#pragma GCC unroll 16
    for (int k = F::degree - 1; k >= 0; --k) series = series * rest + T(inverse_factorial[k]);
    IntVector<T> bits;
    std::memcpy(&bits, &shifted, BYTES);
    bits = (bits << F::mantissa) + (typename F::Int(F::bias) << F::mantissa);
    Vector<T> power;
    std::memcpy(&power, &bits, BYTES);
    return vanishes ? Vector<T>{} : series * power;
}

// log(1 + e^x) and its derivative. With z = e^-|x|, log(1 + z) = 2 artanh(z / (2 + z)), whose series is accurate for
// small z.
template <typename T> inline Vector<T> softplus(Vector<T> x) {
    const Vector<T> z = exponential<T>(x < T(0) ? x : -x), s = z / (z + T(2)), square = s * s;
    Vector<T> series = {};
#pragma GCC unroll 20
    for (int k = sizeof(T) == 4 ? 8 : 17; k >= 0; --k) series = series * square + T(1.0 / (2 * k + 1));
    return (x < T(0) ? Vector<T>{} : x) + T(2) * s * series;
}
template <typename T> inline Vector<T> softplus_slope(Vector<T> x) {
    const Vector<T> z = exponential<T>(x < T(0) ? x : -x);
    return (x < T(0) ? z : Vector<T>{} + T(1)) / (z + T(1));
}

template <int COLUMNS, typename Each, int... K>
[[gnu::always_inline]] inline void unroll(Each each, std::integer_sequence<int, K...>) {
    (each(K / COLUMNS, K % COLUMNS), ...);
}
// each(r, v) for every register of a tile, unrolled: a loop would keep the tile in memory.
template <int COLUMNS, typename Each> [[gnu::always_inline]] inline void for_tile(Each each) {
    unroll<COLUMNS>(each, std::make_integer_sequence<int, ROWS * COLUMNS>{});
}

template <typename T, int COLUMNS = VECTORS> using Tile = Vector<T>[ROWS][COLUMNS];

// sums[r] += sum_k left[r * left_row + k * left_step] * right[k * right_step ...]
template <typename T, int COLUMNS>
[[gnu::always_inline]] inline void accumulate(Tile<T, COLUMNS>& sums, const T* left, Index left_row, Index left_step,
                                              const T* right, Index right_step, Index length) {
    // a tenth faster than one step at a time on Zen 3
#pragma GCC unroll 4
    for (Index k = 0; k < length; ++k, left += left_step, right += right_step)
        for_tile<COLUMNS>([&](int r, int v) __attribute__((always_inline)) {
            sums[r][v] += left[r * left_row] * load(right + v * LANES<T>);
        });
}

// Lanes First, First + 1, ... of one vector, each followed by the same lane of the other.
#if defined(__clang__)
template <typename V, int First, int... Lane>
inline V interleave(V a, V b, std::integer_sequence<int, Lane...>) {
    constexpr int size = sizeof...(Lane);
    return __builtin_shufflevector(a, b, (First + Lane / 2 + (Lane % 2) * size)...);
}
#else
template <typename V, int First, int... Lane>
inline V interleave(V a, V b, std::integer_sequence<int, Lane...>) {
    constexpr int size = sizeof...(Lane);
    using T = std::decay_t<decltype(a[0])>;
    return __builtin_shuffle(a, b, IntVector<T>{(First + Lane / 2 + (Lane % 2) * size)...});
}
#endif

// A square of LANES x LANES elements: each round interleaves the first half of the rows with the second half.
template <typename T> void transpose_square(T* to, Index to_step, const T* from, Index from_step) {
    constexpr int size = LANES<T>;
    using V = Vector<T>;
    constexpr std::make_integer_sequence<int, size> lanes{};
    V block[size], next[size];
#pragma GCC unroll 16
    for (int r = 0; r < size; ++r) block[r] = load(from + r * from_step);
#pragma GCC unroll 4
    for (int round = 1; round < size; round *= 2) {
#pragma GCC unroll 8
        for (int r = 0; r < size / 2; ++r) {
            next[2 * r] = interleave<V, 0>(block[r], block[r + size / 2], lanes);
            next[2 * r + 1] = interleave<V, size / 2>(block[r], block[r + size / 2], lanes);
        }
#pragma GCC unroll 16
        for (int r = 0; r < size; ++r) block[r] = next[r];
    }
#pragma GCC unroll 16
    for (int r = 0; r < size; ++r) store(to + r * to_step, block[r]);
}

}  // namespace
