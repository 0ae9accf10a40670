// Rows of numbers at any address, taken a register at a time, and bfloat16 beside the numbers that processors know.
#pragma once

#include "tensors.h"

#include <cmath>
#include <cstring>
#include <utility>

namespace {

struct bfloat16 {
    uint16_t bits;
};

template <> constexpr int number_kind<bfloat16> = 4;

template <typename T> T widened(T value) { return value; }

float widened(bfloat16 value) {
    const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
}

template <typename T> void store(T *target, T value) { *target = value; }

void store(bfloat16 *target, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    // to nearest, ties to even; a NaN stays one
    target->bits = std::isnan(value) ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// As wide as a register: where vectors are wider, GCC moves them through memory in parts, four times as slowly. Not below
// 32 bytes, which the sums of four need.
#if defined(__AVX512F__)
constexpr int64_t register_bytes = 64;
#else
constexpr int64_t register_bytes = 32;
#endif

// A register of numbers at any address.
template <typename T, int64_t bytes = register_bytes> struct Lanes {
    static constexpr int64_t count = bytes / sizeof(T);
    typedef T Vector __attribute__((vector_size(bytes), aligned(sizeof(T)), may_alias));

    static T sum(Vector lanes) {
        const auto two = folded<2>(lanes);
        return two[0] + two[1];
    }

    // The sums of four, for little more than that of one: every four lanes come to hold a part of each.
    static auto sums(Vector a, Vector b, Vector c, Vector d) {
        constexpr std::make_integer_sequence<int, count> lanes;
        return folded<4>(merged<2>(merged<1>(a, b, lanes), merged<1>(c, d, lanes), lanes));
    }

    // Halves are added to halves until so many are left: one number after the other would wait for every addition.
    template <int left> static auto folded(Vector lanes) {
        if constexpr (count == left) {
            return lanes;
        } else {
            return Lanes<T, bytes / 2>::template folded<left>(halved(lanes, std::make_integer_sequence<int, count / 2>()));
        }
    }

  private:
    // lane by lane, so that the compiler sees parts of registers: through memory they would cost as much as the row
    template <int... i> static auto halved(Vector lanes, std::integer_sequence<int, i...>) {
        const typename Lanes<T, bytes / 2>::Vector low = {lanes[i]...}, high = {lanes[i + count / 2]...};
        return low + high;
    }

    // Of every four lanes, the first two of a and of b plus their last two, in the order a b a b (step 1) or a a b b (2).
    template <int step, int... i> static Vector merged(Vector a, Vector b, std::integer_sequence<int, i...>) {
        constexpr auto from = [](int lane) { return lane / 4 * 4 + (step == 1 ? lane % 4 / 2 : lane % 2); };
        const Vector low = {(i / step % 2 ? b : a)[from(i)]...};
        const Vector high = {(i / step % 2 ? b : a)[from(i) + 2]...};
        return low + high;
    }
};

// numbers in a state below which a second thread, or another thread of Python, costs more than it saves
constexpr int64_t large = 65'536;

} // namespace
