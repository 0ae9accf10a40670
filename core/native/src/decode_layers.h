// Steps of a decoding program that any layer has: embedding, norm and product, SwiGLU. Fields are those of
// core/decoding/instructions.py.
#pragma once

#include "decode_team.h"
#include "rows_group.h"

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
        const int64_t size = norm ? rows * inputs : 0;
        float *const memory = mine.scratch(size + Pieces<float>(x, rows, inputs).size());
        Pieces<float> pieces(norm ? memory : x, rows, inputs);
        if (mine.is_first) {
            for (int64_t row = 0; norm && row < rows; ++row)
                rms_norm(x + row * inputs, static_cast<const Weight *>(norm), float(eps), memory + row * inputs, inputs);
            pieces.pack(memory + size);
        } else {
            pieces.use(memory + size);
        }
        for_output_groups(mine.first, mine.stop, rows, outputs,
                          [&](auto num_outputs, int64_t output, int64_t count, int64_t step) {
                              for (int64_t row = 0; row < rows; row += BLOCK_ROWS)
                                  group<num_outputs.value, Weight>(pieces, row, output, count, step);
                          });
    }

  private:
    template <int64_t num_outputs, typename Weight>
    void group(const Pieces<float> &pieces, int64_t first, int64_t output, int64_t count, int64_t step) const {
        float totals[GROUP_TILES * BLOCK_ROWS * num_outputs];
        const int64_t size = std::min(BLOCK_ROWS, pieces.rows - first), num_totals = count * size * num_outputs;
        sums<num_outputs, Weight>(pieces, first, weight, bias, output, count, step, totals);
        if (up) {
            float ups[GROUP_TILES * BLOCK_ROWS * num_outputs];
            sums<num_outputs, Weight>(pieces, first, up, up_bias, output, count, step, ups);
            silu(totals, num_totals);
            for (int64_t i = 0; i < num_totals; ++i) totals[i] *= ups[i];
        }
        const float *total = totals;
        for (int64_t t = output; t < output + count; ++t)
            for (int64_t r = first; r < first + size; ++r)
                for (int64_t o = t; o < t + num_outputs * step; o += step, ++total) {
                    float &target = y[r * outputs + o];
                    target = is_added ? target + *total : *total;
                }
    }

    template <int64_t num_outputs, typename Weight>
    void sums(const Pieces<float> &pieces, int64_t first, const void *matrix, const void *shift, int64_t output, int64_t count,
              int64_t step, float *totals) const {
        const Weight *const from = static_cast<const Weight *>(matrix) + output * inputs;
        multiply_group<num_outputs>(pieces, first, from, count, step, totals);
        if (!shift) return;
        for (int64_t t = output; t < output + count; ++t)
            for (int64_t r = first; r < std::min(pieces.rows, first + BLOCK_ROWS); ++r)
                for (int64_t o = t; o < t + num_outputs * step; o += step)
                    *totals++ += widened(static_cast<const Weight *>(shift)[o]);
    }
};

} // namespace
