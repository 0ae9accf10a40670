// Chains of elementwise operations in one pass over memory: RMSNorm, SiLU(a) b, and the rotation of heads.
//
// Letters: R rows, D width. All arrays are contiguous but for what is rotated. A row, or a block of rows where gradients of
// a weight are summed, has a fixed order of operations, whatever the number of threads.

#include "parts.h"

#include <cmath>

namespace {

template <typename T> T root_mean_square_inverse(const T *x, Index width, double eps) {
    Vector<T> squares{};
    for_vectors<T>(width, [&](Index d, Index left) {
        const Vector<T> value = load_part(x + d, left);
        squares += value * value;
    });
    return T(1 / std::sqrt(double(sum<T>(squares)) / double(width) + eps));
}

// y = w x / sqrt(mean(x^2) + eps)
template <typename T>
void norm_forward(const T *x, const T *weight, T *y, Index rows, Index width, double eps, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (Index r = 0; r < rows; ++r) {
        const T *const from = x + r * width;
        const T scale = root_mean_square_inverse(from, width, eps);
        for_vectors<T>(width, [&](Index d, Index left) {
            store_part(y + r * width + d, load_part(weight + d, left) * (load_part(from + d, left) * scale), left);
        });
    }
}

constexpr Index norm_block = 64;

// With n = x s, s the scale of a row: grad_x = s (w grad - n mean(w grad n)), grad_w = sum of grad n, a sum for every
// `norm_block` rows. grad_weight may be null.
template <typename T>
void norm_backward(const T *x, const T *weight, const T *grad, T *grad_x, T *grad_weight, Index rows, Index width,
                   double eps, int threads) {
    const Index blocks = (rows + norm_block - 1) / norm_block;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (Index block = 0; block < blocks; ++block) {
        T *const sums = grad_weight ? grad_weight + block * width : nullptr;
        if (sums) std::fill(sums, sums + width, T(0));
        for (Index r = block * norm_block; r < std::min(rows, (block + 1) * norm_block); ++r) {
            const T *const from = x + r * width, *const of_y = grad + r * width;
            const T scale = root_mean_square_inverse(from, width, eps);
            Vector<T> along{};
            for_vectors<T>(width, [&](Index d, Index left) {
                const Vector<T> normed = load_part(from + d, left) * scale, g = load_part(of_y + d, left);
                along += load_part(weight + d, left) * g * normed;
                if (sums) store_part(sums + d, load_part(sums + d, left) + g * normed, left);
            });
            const T mean = sum<T>(along) / T(width);
            for_vectors<T>(width, [&](Index d, Index left) {
                const Vector<T> normed = load_part(from + d, left) * scale;
                const Vector<T> g = load_part(weight + d, left) * load_part(of_y + d, left);
                store_part(grad_x + r * width + d, scale * (g - normed * mean), left);
            });
        }
    }
}

constexpr Index piece = 4096;

// A range of entries for each task.
template <typename T, typename Call> void for_pieces(Index count, int threads, Call call) {
    const Index pieces = (count + piece - 1) / piece;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (Index p = 0; p < pieces; ++p) {
        const Index first = p * piece;
        for_vectors<T>(std::min(piece, count - first), [&](Index d, Index left) { call(first + d, left); });
    }
}

// y = SiLU(a) b
template <typename T> void product_forward(const T *a, const T *b, T *y, Index count, int threads) {
    for_pieces<T>(count, threads, [&](Index k, Index left) {
        const Vector<T> value = load_part(a + k, left);
        store_part(y + k, value * sigmoid<T>(value) * load_part(b + k, left), left);
    });
}

template <typename T>
void product_backward(const T *a, const T *b, const T *grad, T *grad_a, T *grad_b, Index count, int threads) {
    for_pieces<T>(count, threads, [&](Index k, Index left) {
        const Vector<T> value = load_part(a + k, left), g = load_part(grad + k, left), open = sigmoid<T>(value);
        store_part(grad_a + k, g * load_part(b + k, left) * open * (T(1) + value * (T(1) - open)), left);
        store_part(grad_b + k, g * value * open, left);
    });
}

struct Heads {
    Index batch, tokens, groups, heads, width, turned;     // turned: the first channels of a head, an even number
    Index batch_step, token_step, group_step, head_step;   // of what is rotated, in entries
};

// Channel i < turned / 2 of each head turns with channel i + turned / 2; cosines and sines are [tokens, turned / 2].
template <typename T> void rotate(const T *x, const T *cosine, const T *sine, T *y, const Heads &of, int threads) {
    const Index rows = of.batch * of.tokens, half = of.turned / 2;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (Index row = 0; row < rows; ++row) {
        const Index b = row / of.tokens, t = row % of.tokens;
        for (Index g = 0; g < of.groups; ++g)
            for (Index h = 0; h < of.heads; ++h) {
                const T *const from = x + b * of.batch_step + t * of.token_step + g * of.group_step + h * of.head_step;
                T *const to = y + ((row * of.groups + g) * of.heads + h) * of.width;
                for_vectors<T>(half, [&](Index d, Index left) {
                    const Vector<T> first = load_part(from + d, left), second = load_part(from + half + d, left);
                    const Vector<T> c = load_part(cosine + t * half + d, left), s = load_part(sine + t * half + d, left);
                    store_part(to + d, first * c - second * s, left);
                    store_part(to + half + d, second * c + first * s, left);
                });
                std::memcpy(to + of.turned, from + of.turned, size_t(of.width - of.turned) * sizeof(T));
            }
    }
}

} // namespace

#define FOR_TYPE(T, NAME)                                                                                              \
    void norm_forward_##NAME(const T *x, const T *w, T *y, Index rows, Index width, double eps, int threads) {         \
        norm_forward(x, w, y, rows, width, eps, threads);                                                              \
    }                                                                                                                  \
    void norm_backward_##NAME(const T *x, const T *w, const T *g, T *gx, T *gw, Index rows, Index width, double eps,   \
                              int threads) {                                                                           \
        norm_backward(x, w, g, gx, gw, rows, width, eps, threads);                                                     \
    }                                                                                                                  \
    void product_forward_##NAME(const T *a, const T *b, T *y, Index count, int threads) {                              \
        product_forward(a, b, y, count, threads);                                                                      \
    }                                                                                                                  \
    void product_backward_##NAME(const T *a, const T *b, const T *g, T *ga, T *gb, Index count, int threads) {         \
        product_backward(a, b, g, ga, gb, count, threads);                                                             \
    }                                                                                                                  \
    void rotate_##NAME(const T *x, const T *c, const T *s, T *y, const Heads *of, int threads) {                       \
        rotate(x, c, s, y, *of, threads);                                                                              \
    }

extern "C" {
FOR_TYPE(float, float32)
FOR_TYPE(double, float64)
}
