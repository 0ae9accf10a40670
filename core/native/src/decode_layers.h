// Steps of a decoding program that any layer has: embedding, norm and product, SwiGLU. Fields are those of
// core/decoding/instructions.py.
#pragma once

#include "decode_team.h"

namespace {

struct Embed {
    const int64_t *tokens;
    const void *table;
    float *x;
    int64_t vocabulary, width;

    bool is_known(int64_t rows) const {
        return std::all_of(tokens, tokens + rows, [this](int64_t token) { return token >= 0 && token < vocabulary; });
    }

    int64_t num_tasks(int64_t rows) const { return rows; }

    template <typename Weight> void run(int64_t, const Share &mine) const {
        mine.each([&](int64_t row) {
            const Weight *const from = static_cast<const Weight *>(table) + tokens[row] * width;
            for (int64_t i = 0; i < width; ++i) x[row * width + i] = widened(from[i]);
        });
    }
};

// y = norm(x) W' + b, or y + that, or silu(norm(x) W' + b) (norm(x) U' + c). The weight is read from memory once, in order;
// norms are computed by every thread: that takes less time than waiting for the others.
struct Product {
    const float *x;
    const void *norm, *weight, *bias, *up, *up_bias; // norm, biases and up may be null
    float *y;
    int64_t inputs, outputs, is_added;
    double eps;

    int64_t num_tasks(int64_t rows) const { return num_output_tiles(rows, outputs); }

    int64_t num_weights() const { return (up ? 2 : 1) * inputs * outputs; }

    template <typename Weight> void run(int64_t rows, const Share &mine) const {
        const float *read = x;
        if (norm) {
            float *const normed = mine.scratch(rows * inputs);
            for (int64_t row = 0; mine.is_first && row < rows; ++row)
                rms_norm(x + row * inputs, static_cast<const Weight *>(norm), float(eps), normed + row * inputs, inputs);
            read = normed;
        }
        for_output_tiles(mine.first, mine.stop, rows, outputs, [&](auto num_outputs, int64_t output, int64_t step) {
            for_row_tiles(rows, [&](auto num_rows, int64_t row) {
                tile<num_rows.value, num_outputs.value, Weight>(read + row * inputs, row, output, step);
            });
        });
    }

  private:
    template <int64_t num_rows, int64_t num_outputs, typename Weight>
    void tile(const float *read, int64_t row, int64_t output, int64_t step) const {
        float totals[num_rows][num_outputs];
        sums<Weight>(read, weight, bias, output, step, totals);
        if (up) {
            float ups[num_rows][num_outputs];
            sums<Weight>(read, up, up_bias, output, step, ups);
            silu(&totals[0][0], num_rows * num_outputs);
            for (int64_t r = 0; r < num_rows; ++r)
                for (int64_t o = 0; o < num_outputs; ++o) totals[r][o] *= ups[r][o];
        }
        for (int64_t r = 0; r < num_rows; ++r)
            for (int64_t o = 0; o < num_outputs; ++o) {
                float &target = y[(row + r) * outputs + output + o * step];
                target = is_added ? target + totals[r][o] : totals[r][o];
            }
    }

    template <typename Weight, int64_t num_rows, int64_t num_outputs>
    void sums(const float *read, const void *matrix, const void *shift, int64_t output, int64_t step,
              float (&totals)[num_rows][num_outputs]) const {
        const Weight *const from = static_cast<const Weight *>(matrix) + output * inputs;
        multiply<num_rows, num_outputs>(read, from, step * inputs, inputs, totals);
        if (!shift) return;
        for (int64_t r = 0; r < num_rows; ++r)
            for (int64_t o = 0; o < num_outputs; ++o)
                totals[r][o] += widened(static_cast<const Weight *>(shift)[output + o * step]);
    }
};

} // namespace
