// Softmax attention of one token to those in a cache of keys and values, which takes it in.
#pragma once

#include "decode_team.h"

namespace {

// A task is a key head of a row: its keys and values are read once for all queries of the group.
struct Attend {
    const float *qkv; // [rows, groups, queries + 2, width]: queries, key and value of each group
    void *keys, *values; // [rows, groups, slots, width]
    float *heads;
    Positions positions;
    int64_t groups, queries, width, slots;

    int64_t num_tasks(int64_t rows) const { return rows * groups; }

    template <typename Weight> void run(int64_t, const Share &mine) const {
        mine.each([&](int64_t task) { attend<Weight>(task, mine); });
    }

  private:
    template <typename Weight> void attend(int64_t task, const Share &mine) const {
        const int64_t length = *positions.length, seen = std::min(length + 1, slots);
        float *const q = mine.scratch((queries + 1) * width + queries * slots), *const k = q + queries * width;
        float *const scores = k + width;
        const float *const group = qkv + task * (queries + 2) * width;
        std::copy_n(group, (queries + 1) * width, q);
        for (int64_t n = 0; n < queries; ++n) positions.apply<Weight>(q + n * width, positions.q_norm, width);
        positions.apply<Weight>(k, positions.k_norm, width);

        Weight *const all_keys = static_cast<Weight *>(keys) + task * slots * width;
        Weight *const all_values = static_cast<Weight *>(values) + task * slots * width;
        const int64_t slot = length % slots;
        for (int64_t i = 0; i < width; ++i) {
            store(all_keys + slot * width + i, k[i]);
            store(all_values + slot * width + i, group[(queries + 1) * width + i]);
        }
        score(q, all_keys, seen, scores);
        float *const means = heads + task * queries * width;
        for (int64_t n = 0; n < queries; ++n) to_weights(scores + n * slots, seen);
        int64_t n = 0;
        for (; n + 4 <= queries; n += 4) mean<4>(scores + n * slots, all_values, seen, means + n * width);
        if (queries - n == 3) mean<3>(scores + n * slots, all_values, seen, means + n * width);
        if (queries - n == 2) mean<2>(scores + n * slots, all_values, seen, means + n * width);
        if (queries - n == 1) mean<1>(scores + n * slots, all_values, seen, means + n * width);
    }

    // scores[n][s] = q[n] . keys[s] / sqrt(width), four keys at a time
    template <typename Weight> void score(const float *q, const Weight *from, int64_t seen, float *scores) const {
        const float scale = 1 / std::sqrt(float(width));
        constexpr int64_t size = Lanes<float>::count;
        const int64_t whole = width / size * size;
        for (int64_t s = 0; s < seen; s += 4) {
            // what would be past the end is the last key, whose score is not kept
            const Weight *key[4];
            for (int64_t i = 0; i < 4; ++i) key[i] = from + std::min(s + i, seen - 1) * width;
            for (int64_t n = 0; n < queries; ++n) {
                const float *const query = q + n * width;
                Register<float> sums[4] = {};
                for (int64_t i = 0; i < whole; i += size) {
                    const Register<float> part = read_lanes<float>(query + i);
#pragma GCC unroll 4
                    for (int64_t j = 0; j < 4; ++j) sums[j] += part * read_lanes<float>(key[j] + i);
                }
                const auto totals = Lanes<float>::sums(sums[0], sums[1], sums[2], sums[3]);
                for (int64_t j = 0; j < std::min<int64_t>(4, seen - s); ++j) {
                    float total = totals[j];
                    for (int64_t i = whole; i < width; ++i) total += query[i] * widened(key[j][i]);
                    scores[n * slots + s + j] = scale * total;
                }
            }
        }
    }

    // The softmax of scores, in place.
    static void to_weights(float *scores, int64_t seen) {
        const float highest = *std::max_element(scores, scores + seen);
        map(scores, seen, [=](Vector<float> value) { return exponential<float>(value - highest); });
        float total = 0;
        for (int64_t s = 0; s < seen; ++s) total += scores[s];
        const float share = 1 / total;
        for (int64_t s = 0; s < seen; ++s) scores[s] *= share;
    }

    // Weighted means of the values for some queries.
    template <int64_t count, typename Weight>
    void mean(const float *weights, const Weight *from, int64_t seen, float *means) const {
        constexpr int64_t size = Lanes<float>::count;
        int64_t i = 0;
        for (; i + 4 * size <= width; i += 4 * size) mean_of<count, 4>(weights, from, seen, means, i);
        for (; i + size <= width; i += size) mean_of<count, 1>(weights, from, seen, means, i);
        for (; i < width; ++i)
            for (int64_t n = 0; n < count; ++n) {
                float total = 0;
                for (int64_t s = 0; s < seen; ++s) total += weights[n * slots + s] * widened(from[s * width + i]);
                means[n * width + i] = total;
            }
    }

    template <int64_t count, int64_t vectors, typename Weight>
    void mean_of(const float *weights, const Weight *from, int64_t seen, float *means, int64_t channel) const {
        constexpr int64_t size = Lanes<float>::count;
        Register<float> sums[count][vectors] = {};
        for (int64_t s = 0; s < seen; ++s) {
            Register<float> value[vectors];
#pragma GCC unroll 4
            for (int64_t v = 0; v < vectors; ++v) value[v] = read_lanes<float>(from + s * width + channel + v * size);
#pragma GCC unroll 4
            for (int64_t n = 0; n < count; ++n)
#pragma GCC unroll 4
                for (int64_t v = 0; v < vectors; ++v) sums[n][v] += weights[n * slots + s] * value[v];
        }
        for (int64_t n = 0; n < count; ++n)
            for (int64_t v = 0; v < vectors; ++v)
                *reinterpret_cast<Register<float> *>(means + n * width + channel + v * size) = sums[n][v];
    }
};

} // namespace
