// Softmax attention of one token to those in a cache of keys and values, which takes it in.
#pragma once

#include "decode_team.h"

#include <limits>

namespace {

// Tokens of a task, and those whose scores are held at once: their keys and values stay near the core for all queries. A block
// is read as some streams side by side, each in order: memory answers several pages faster than one after the other.
constexpr int64_t PART_TOKENS = 2048, BLOCK_TOKENS = 1024;
static_assert(BLOCK_TOKENS % LANES<float> == 0, "scores are whole registers");

// A task is some tokens of a key head of a row, read once for all queries of the group: weights relative to the highest score
// so far (Milakov and Gimelshein, arXiv 1805.02867). The task that ends last puts the parts of its head together, in order.
struct Attend {
    const float *qkv; // [rows, groups, queries + 2, width]: queries, key and value of each group
    void *keys, *values; // [rows, groups, slots, width]
    float *heads;
    float *parts; // [tasks, queries, width + 2]: weighted sum of values, sum of weights and highest score, of each task
    int64_t *num_done; // [rows, groups]: tasks of each head that have ended; zeros between tokens
    Positions positions;
    int64_t groups, queries, width, slots;

    int64_t num_tasks(int64_t rows) const { return rows * groups * most_parts(rows); }

    template <typename Weight> int64_t num_bytes(int64_t rows) const {
        int64_t total = 0;
        for (int64_t row = 0; row < rows; ++row) total += num_seen(row);
        return 2 * groups * total * width * int64_t(sizeof(Weight));
    }

    template <typename Weight> void run(int64_t rows, const Share &mine) const {
        const int64_t most = most_parts(rows);
        mine.each([&](int64_t task) {
            const int64_t head = task / most, part = task % most, row = head / groups;
            if (part >= num_parts(row)) return; // of a longer row
            attend<Weight>(row, head, part * PART_TOKENS, parts + task * size_of_part(), mine);
            if (__atomic_add_fetch(num_done + head, 1, __ATOMIC_ACQ_REL) == num_parts(row))
                put_together(head, num_parts(row), parts + head * most * size_of_part());
        });
    }

  private:
    int64_t num_seen(int64_t row) const { return std::min(positions.lengths[row] + 1, slots); }
    int64_t num_parts(int64_t row) const { return (num_seen(row) + PART_TOKENS - 1) / PART_TOKENS; }
    int64_t size_of_part() const { return queries * (width + 2); }

    int64_t most_parts(int64_t rows) const {
        int64_t most = 0;
        for (int64_t row = 0; row < rows; ++row) most = std::max(most, num_parts(row));
        return most;
    }

    template <typename Weight> void attend(int64_t row, int64_t head, int64_t first, float *part, const Share &mine) const {
        float *const q = mine.scratch((queries + 1) * width + queries * BLOCK_TOKENS), *const k = q + queries * width;
        float *const scores = k + width;
        const float *const group = qkv + head * (queries + 2) * width;
        std::copy_n(group, (queries + 1) * width, q);
        for (int64_t n = 0; n < queries; ++n) positions.apply<Weight>(row, q + n * width, positions.q_norm, width);
        for (int64_t i = 0; i < queries * width; ++i) q[i] /= std::sqrt(float(width));

        Weight *const all_keys = static_cast<Weight *>(keys) + head * slots * width;
        Weight *const all_values = static_cast<Weight *>(values) + head * slots * width;
        const int64_t slot = positions.lengths[row] % slots, stop = std::min(num_seen(row), first + PART_TOKENS);
        if (first <= slot && slot < stop) {
            positions.apply<Weight>(row, k, positions.k_norm, width);
            for (int64_t i = 0; i < width; ++i) {
                store(all_keys + slot * width + i, k[i]);
                store(all_values + slot * width + i, group[(queries + 1) * width + i]);
            }
        }
        std::fill_n(part, size_of_part(), 0.0f);
        float *const sums = part + queries * width, *const highest = sums + queries;
        std::fill_n(highest, queries, -std::numeric_limits<float>::infinity());
        for (int64_t s = first; s < stop; s += BLOCK_TOKENS) {
            const int64_t count = std::min(BLOCK_TOKENS, stop - s);
            for_row_tiles<TILE_ROWS>(queries, [&](auto num_queries, int64_t n) {
                score<num_queries.value>(q + n * width, all_keys + s * width, count, scores + n * BLOCK_TOKENS);
                float factors[num_queries.value];
                for (int64_t r = 0; r < num_queries.value; ++r)
                    factors[r] = to_weights(scores + (n + r) * BLOCK_TOKENS, count, highest[n + r], sums[n + r]);
                add<num_queries.value>(scores + n * BLOCK_TOKENS, factors, all_values + s * width, count, part + n * width);
            });
        }
    }

    // scores[n][s] = q[n] . keys[s]
    template <int64_t num_queries, typename Weight>
    void score(const float *q, const Weight *from, int64_t count, float *scores) const {
        const auto tile = [&](auto num_keys, int64_t s, int64_t step) {
            float totals[num_queries][num_keys.value];
            multiply<num_queries, num_keys.value>(q, from + s * width, step * width, width, totals);
            for (int64_t n = 0; n < num_queries; ++n)
                for (int64_t i = 0; i < num_keys.value; ++i) scores[n * BLOCK_TOKENS + s + i * step] = totals[n][i];
        };
        constexpr int64_t streams = tile_outputs<num_queries>;
        const int64_t step = count / streams;
        for (int64_t s = 0; s < step; ++s) tile(std::integral_constant<int64_t, streams>{}, s, step);
        for (int64_t s = step * streams; s < count; ++s) tile(std::integral_constant<int64_t, 1>{}, s, 1);
    }

    // Scores to exp(score - highest), in place, 0 up to the end of the last register, with `highest` and `sum` brought up to
    // date; returns what earlier weights have to be multiplied by.
    static float to_weights(float *scores, int64_t count, float &highest, float &sum) {
        const float lowest = -std::numeric_limits<float>::infinity(), before = highest;
        std::fill_n(scores + count, round_up(count, LANES<float>) - count, lowest);
        Vector<float> most = load(scores);
        for (int64_t s = 0; s < count; s += LANES<float>) {
            const Vector<float> next = load(scores + s);
            most = next > most ? next : most;
        }
        for (int64_t lane = 0; lane < LANES<float>; ++lane) highest = std::max(highest, most[lane]);
        Vector<float> total = {};
        for (int64_t s = 0; s < count; s += LANES<float>) {
            const Vector<float> weights = exponential<float>(load(scores + s) - highest);
            store(scores + s, weights);
            total += weights;
        }
        const float factor = std::exp(before - highest);
        sum = factor * sum + ::sum<float>(total);
        return factor;
    }

    // sums[n] = factors[n] sums[n] + weights[n] . values, a few registers of channels at a time
    template <int64_t num_queries, typename Weight>
    void add(const float *weights, const float *factors, const Weight *from, int64_t count, float *sums) const {
        constexpr int64_t size = Lanes<float>::count, most = register_bytes == 64 ? 16 : 8;
        constexpr int64_t vectors = num_queries <= 2 ? most / 2 : most / 4;
        int64_t i = 0;
        for (; i + vectors * size <= width; i += vectors * size)
            add_to<num_queries, vectors>(weights, factors, from + i, count, sums + i);
        for (; i + size <= width; i += size) add_to<num_queries, 1>(weights, factors, from + i, count, sums + i);
        for (; i < width; ++i)
            for (int64_t n = 0; n < num_queries; ++n) {
                float &total = sums[n * width + i];
                total *= factors[n];
                for (int64_t s = 0; s < count; ++s) total += weights[n * BLOCK_TOKENS + s] * widened(from[s * width + i]);
            }
    }

    template <int64_t num_queries, int64_t vectors, typename Weight>
    void add_to(const float *weights, const float *factors, const Weight *from, int64_t count, float *sums) const {
        constexpr int64_t size = Lanes<float>::count;
        Register<float> totals[num_queries][vectors];
        for (int64_t n = 0; n < num_queries; ++n)
            for (int64_t v = 0; v < vectors; ++v) totals[n][v] = factors[n] * read_lanes<float>(sums + n * width + v * size);
        const auto add_one = [&](int64_t s) __attribute__((always_inline)) {
            const Weight *const value = from + s * width;
#pragma GCC unroll 8
            for (int64_t v = 0; v < vectors; ++v) {
                const Register<float> part = read_lanes<float>(value + v * size);
                ask_for(value + v * size + usual_distance<Weight>);
#pragma GCC unroll 4
                for (int64_t n = 0; n < num_queries; ++n) totals[n][v] += weights[n * BLOCK_TOKENS + s] * part;
            }
        };
        constexpr int64_t streams = tile_outputs<num_queries>;
        const int64_t step = count / streams;
        for (int64_t s = 0; s < step; ++s)
#pragma GCC unroll 4
            for (int64_t i = 0; i < streams; ++i) add_one(s + i * step);
        for (int64_t s = step * streams; s < count; ++s) add_one(s);
        for (int64_t n = 0; n < num_queries; ++n)
            for (int64_t v = 0; v < vectors; ++v)
                *reinterpret_cast<Register<float> *>(sums + n * width + v * size) = totals[n][v];
    }

    // The weighted means of a head from its parts.
    void put_together(int64_t head, int64_t count, const float *all) const {
        num_done[head] = 0;
        for (int64_t n = 0; n < queries; ++n) {
            const auto sum_of = [&](int64_t part) { return all[part * size_of_part() + queries * width + n]; };
            const auto highest_of = [&](int64_t part) { return all[part * size_of_part() + queries * (width + 1) + n]; };
            float highest = highest_of(0), total = 0;
            for (int64_t part = 1; part < count; ++part) highest = std::max(highest, highest_of(part));
            for (int64_t part = 0; part < count; ++part) total += std::exp(highest_of(part) - highest) * sum_of(part);
            float *const means = heads + (head * queries + n) * width;
            std::fill_n(means, width, 0.0f);
            for (int64_t part = 0; part < count; ++part) {
                const float share = std::exp(highest_of(part) - highest) / total;
                const float *const sums = all + part * size_of_part() + n * width;
                for (int64_t i = 0; i < width; ++i) means[i] += share * sums[i];
            }
        }
    }
};

} // namespace
