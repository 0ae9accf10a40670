// Rows of numbers at unaligned addresses, read a register at a time, and a bfloat16 type.
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
    // rounds to nearest, ties to even; preserves NaN
    target->bits = std::isnan(value) ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// As wide as a register: GCC moves wider vectors through memory in parts, four times as slowly. At least 32 bytes, which
// the sums of four need.
#if defined(__AVX512F__)
constexpr int64_t register_bytes = 64;
#else
constexpr int64_t register_bytes = 32;
#endif

// A register of numbers at an unaligned address.
template <typename T, int64_t bytes = register_bytes> struct Lanes {
    static constexpr int64_t count = bytes / sizeof(T);
    typedef T Vector __attribute__((vector_size(bytes), aligned(sizeof(T)), may_alias));

    static T sum(Vector lanes) {
        const auto two = folded<2>(lanes);
        return two[0] + two[1];
    }

    // Four sums for little more than the cost of one: every four lanes hold a part of each.
    static auto sums(Vector a, Vector b, Vector c, Vector d) {
        constexpr std::make_integer_sequence<int, count> lanes;
        return folded<4>(merged<2>(merged<1>(a, b, lanes), merged<1>(c, d, lanes), lanes));
    }

    // Adds halves until so many numbers are left: adding them one by one would be a chain of dependent additions.
    template <int left> static auto folded(Vector lanes) {
        if constexpr (count == left) {
            return lanes;
        } else {
            return Lanes<T, bytes / 2>::template folded<left>(halved(lanes, std::make_integer_sequence<int, count / 2>()));
        }
    }

  private:
    // lane by lane, so that the compiler uses parts of registers: going through memory would cost as much as the row
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

// size of a state below which a second thread, or releasing Python's GIL, does not pay off
constexpr int64_t large = 65'536;

} // namespace
