// Steps of mixers with a recurrence: its operands, the two recurrences, norm and gate. A task is a key head of a row with all
// that belongs to it, so a thread goes from one of these steps to the next without waiting.
#pragma once

#include "decode_team.h"
#include "delta_head.h"
#include "ssd_head.h"

namespace {

// Values, keys and queries of a token: convolved, SiLU, then normed and turned where the layer does so.
struct Operands {
    float *vkq; // [rows, groups width of values | groups width of keys | groups queries width of queries], in place
    void *before; // [rows, channels, taps - 1]
    const void *taps, *bias; // [channels, taps], [channels]; null without a convolution
    Positions positions;
    int64_t groups, queries, width, num_taps;

    int64_t channels() const { return groups * (2 + queries) * width; }

    int64_t num_tasks(int64_t rows) const { return rows * groups; }

    template <typename Weight> void run(int64_t, const Share &mine) const {
        mine.each([&](int64_t task) {
            const int64_t row = task / groups, group = task % groups;
            const int64_t k = (groups + group) * width, q = (2 * groups + group * queries) * width;
            convolve<Weight>(row, group * width, width);
            convolve<Weight>(row, k, width);
            convolve<Weight>(row, q, queries * width);
            float *const x = vkq + row * channels();
            positions.apply<Weight>(row, x + k, positions.k_norm, width);
            for (int64_t n = 0; n < queries; ++n) positions.apply<Weight>(row, x + q + n * width, positions.q_norm, width);
        });
    }

  private:
    template <typename Weight> void convolve(int64_t row, int64_t channel, int64_t count) const {
        float *const x = vkq + row * channels() + channel;
        if (taps) {
            const int64_t num_before = num_taps - 1;
            Weight *past = static_cast<Weight *>(before) + (row * channels() + channel) * num_before;
            const Weight *tap = static_cast<const Weight *>(taps) + channel * num_taps;
            const Weight *const shift = bias ? static_cast<const Weight *>(bias) + channel : nullptr;
            for (int64_t c = 0; c < count; ++c, past += num_before, tap += num_taps) {
                const float now = x[c];
                float total = (shift ? widened(shift[c]) : 0) + widened(tap[num_before]) * now;
                for (int64_t t = 0; t < num_before; ++t) total += widened(tap[t]) * widened(past[t]);
                for (int64_t t = 0; t + 1 < num_before; ++t) past[t] = past[t + 1];
                if (num_before) store(past + num_before - 1, now);
                x[c] = total;
            }
        }
        silu(x, count);
    }
};

// What both recurrences have: head h of a row reads key head h / queries.
struct Recurrence {
    float *state; // [rows, heads, width, width]
    float *vkq; // as of Operands
    const void *A_log, *dt_bias; // [heads]
    float *y; // [rows, heads, width]
    int64_t groups, queries, width;

    int64_t heads() const { return groups * queries; }

    // prepare(k) of every group and prepare(q) of every head, then each(index, head, v, k, q)
    template <typename Prepare, typename Each>
    void for_heads(const Share &mine, Prepare prepare, Each each) const {
        mine.each([&](int64_t task) {
            const int64_t row = task / groups, group = task % groups;
            float *const x = vkq + row * groups * (2 + queries) * width;
            float *const v = x + group * width, *const k = v + groups * width;
            prepare(k);
            for (int64_t n = 0; n < queries; ++n) {
                const int64_t head = group * queries + n;
                float *const q = x + (2 * groups + head) * width;
                prepare(q);
                each(row * heads() + head, head, v, k, q);
            }
        });
    }
};

struct Ssd {
    Recurrence recurrence;
    const float *dt; // [rows, heads], before the bias and the softplus
    const void *D; // [heads], or null

    int64_t num_tasks(int64_t rows) const { return rows * recurrence.groups; }

    template <typename Weight> void run(int64_t, const Share &mine) const {
        const Recurrence &of = recurrence;
        const int64_t width = of.width;
        auto *const advance = ssd_advance<float, float>(width);
        const auto as_it_is = [](float *) {};
        of.for_heads(mine, as_it_is, [&](int64_t index, int64_t head, const float *v, const float *k, const float *q) {
            const auto weight = [=](const void *from) { return float(widened(static_cast<const Weight *>(from)[head])); };
            float size = dt[index] + weight(of.dt_bias);
            if (size <= 40) size = std::log1p(std::exp(size));
            const float skip = D ? weight(D) : 0, decay = std::exp(-size * std::exp(weight(of.A_log)));
            advance({of.state + index * width * width, v, size, decay, k, q, D ? &skip : nullptr, 0, of.y + index * width},
                    width, width);
        });
    }
};

struct Delta {
    Recurrence recurrence;
    const float *a, *b; // [rows, heads]: of the decay, before bias and softplus, and of the strength, before the sigmoid
    double scale, unit_eps; // unit_eps: of the lengths by which keys and queries are divided

    int64_t num_tasks(int64_t rows) const { return rows * recurrence.groups; }

    template <typename Weight> void run(int64_t, const Share &mine) const {
        const Recurrence &of = recurrence;
        const int64_t width = of.width;
        auto *const advance = delta_advance<float, float>(width);
        const auto to_unit = [&](float *x) {
            const float factor = 1 / std::sqrt(dot(x, x, width) + float(unit_eps));
            for (int64_t i = 0; i < width; ++i) x[i] *= factor;
        };
        of.for_heads(mine, to_unit, [&](int64_t index, int64_t head, const float *v, const float *k, const float *q) {
            const auto weight = [=](const void *from) { return float(widened(static_cast<const Weight *>(from)[head])); };
            float size = a[index] + weight(of.dt_bias);
            if (size <= 20) size = std::log1p(std::exp(size));
            const float decay = std::exp(-size * std::exp(weight(of.A_log))), strength = 1 / (1 + std::exp(-b[index]));
            advance({of.state + index * width * width, q, k, v, decay, strength, float(scale), of.y + index * width}, width,
                    width);
        });
    }
};

// The norm of each head and then its gate, or the reverse, in place. The gate is SiLU of its logits, or 2 sigmoid of them.
struct Gate {
    float *y, *logits; // [rows, heads, width]; the logits are overwritten
    const void *norm; // [width]
    int64_t groups, queries, width, is_sigmoid, norm_first;
    double eps;

    int64_t num_tasks(int64_t rows) const { return rows * groups; }

    template <typename Weight> void run(int64_t, const Share &mine) const {
        mine.each([&](int64_t task) {
            float *const heads = y + task * queries * width, *const gates = logits + task * queries * width;
            if (is_sigmoid)
                map(gates, queries * width, [](Vector<float> value) { return 2.0f * sigmoid(value); });
            else
                silu(gates, queries * width);
            const auto open = [&] {
                for (int64_t i = 0; i < queries * width; ++i) heads[i] *= gates[i];
            };
            if (!norm_first) open();
            for (int64_t n = 0; n < queries; ++n)
                rms_norm(heads + n * width, static_cast<const Weight *>(norm), float(eps), heads + n * width, width);
            if (norm_first) open();
        });
    }
};

} // namespace
