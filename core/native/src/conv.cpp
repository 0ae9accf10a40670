// The causal depthwise convolution on a CPU, forward and backward.
//
// Letters: C channels, W taps; s_t = bias + sum_w taps_w x_{t-W+1+w}, y_t = s_t or SiLU(s_t), g_t the gradient of s_t.
//
//   grad_x_u    = sum_w taps_w g_{u+W-1-w}
//   grad_taps_w = sum_t g_t x_{t-W+1+w}
//   grad_bias   = sum_t g_t
//
// The W - 1 tokens before the first one are `before`, and get a gradient too. Backward computes s_t again. A task is some
// tokens (forward) or some channels (backward) of one sequence, so results depend neither on the number of threads nor
// on the rest of the batch.

#include "parts.h"
#include "rows.h"
#include "tasks.h"

namespace {

struct Arguments {
    Index num_sequences, num_tokens, num_channels, num_taps, num_threads, is_silu;
    View x, grad_y;          // [sequence, token, channel]
    void *taps, *bias;       // [W, C], [C]
    void* before;            // [sequence, W - 1, C]
    void *y, *grad_x;        // [sequence, token, channel], contiguous
    void *grad_before;       // as before
    void* grad_taps;         // [sequence, W + 1, C], the last one of the bias
};

template <typename T> T* at(void* data, Index offset) { return static_cast<T*>(data) + offset; }

// The inputs of a token: its own and those of the W - 1 before it.
template <typename T> struct Window {
    const T* rows[64];
    Window(const Arguments& to, Index sequence, Index token) {
        const Index num_before = to.num_taps - 1;
        for (Index w = 0; w <= num_before; ++w) {
            const Index t = token - num_before + w;
            rows[w] = t < 0 ? at<T>(to.before, (sequence * num_before + token + w) * to.num_channels)
                            : at<T>(to.x.data, sequence * to.x.batch + t * to.x.token);
        }
    }
};

// Calls a function with the number of taps as a constant, where it is a usual one.
template <typename Call> void with_taps(Index num_taps, Call call) {
    switch (num_taps) {
    case 2: return call(std::integral_constant<Index, 2>{});
    case 3: return call(std::integral_constant<Index, 3>{});
    case 4: return call(std::integral_constant<Index, 4>{});
    default: return call(num_taps);
    }
}

template <typename T, typename Taps>
Vector<T> sum_of(const Arguments& to, const Window<T>& window, Taps num_taps, Index c, Index left) {
    Vector<T> total = load_part(at<T>(to.bias, c), left);
#pragma GCC unroll 4
    for (Index w = 0; w < num_taps; ++w)
        total += load_part(at<T>(to.taps, w * to.num_channels + c), left) * load_part(window.rows[w] + c, left);
    return total;
}

template <typename T> struct Forward {
    static constexpr Index TOKENS = 32;
    const Arguments& to;
    Forward(Scratch&, const Arguments& arguments) : to(arguments) {}
    static Index blocks(const Arguments& to) { return (to.num_tokens + TOKENS - 1) / TOKENS; }
    static Index num_tasks(const Arguments& to) { return to.num_sequences * blocks(to); }

    void run(Index task) {
        const Index sequence = task / blocks(to), first = task % blocks(to) * TOKENS;
        const Index end = std::min(first + TOKENS, to.num_tokens);
        with_taps(to.num_taps, [&](auto num_taps) {
            for (Index t = first; t < end; ++t) {
                const Window<T> window(to, sequence, t);
                T* const y = at<T>(to.y, (sequence * to.num_tokens + t) * to.num_channels);
                for_vectors<T>(to.num_channels, [&](Index c, Index left) {
                    const Vector<T> s = sum_of(to, window, num_taps, c, left);
                    store_part(y + c, to.is_silu ? s * sigmoid<T>(s) : s, left);
                });
            }
        });
    }
};

template <typename T> struct Backward {
    static constexpr Index CHANNELS = 8 * LANES<T>;
    // tokens whose products are summed in T before they are added to a sum in double
    static constexpr Index TOKENS = 64;
    const Arguments& to;
    T *recent, *sums;  // g of the last W tokens; grad_taps and grad_bias of some tokens
    double* totals;
    Backward(Scratch& scratch, const Arguments& arguments) : to(arguments) {
        recent = scratch.take<T>(to.num_taps * CHANNELS);
        sums = scratch.take<T>((to.num_taps + 1) * CHANNELS);
        totals = scratch.take<double>((to.num_taps + 1) * CHANNELS);
    }
    static Index blocks(const Arguments& to) { return (to.num_channels + CHANNELS - 1) / CHANNELS; }
    static Index num_tasks(const Arguments& to) { return to.num_sequences * blocks(to); }

    void run(Index task) {
        const Index sequence = task / blocks(to), first = task % blocks(to) * CHANNELS;
        const Index width = std::min(CHANNELS, to.num_channels - first), num_before = to.num_taps - 1;
        const Index size = (to.num_taps + 1) * CHANNELS;
        std::fill(recent, recent + to.num_taps * CHANNELS, T(0));
        std::fill(sums, sums + size, T(0));
        std::fill(totals, totals + size, 0.0);
        with_taps(to.num_taps, [&](auto num_taps) {
            for (Index t = 0; t < to.num_tokens; ++t) {
                if (t % TOKENS == 0) flush(size);
                const Window<T> window(to, sequence, t);
                const T* const grad = at<T>(to.grad_y.data, sequence * to.grad_y.batch + t * to.grad_y.token) + first;
                T* const into = target(sequence, t - num_before) + first;
                for_vectors<T>(width, [&](Index v, Index left) {
                    Vector<T> g = load_part(grad + v, left);
                    if (to.is_silu) {
                        const Vector<T> s = sum_of(to, window, num_taps, first + v, left), open = sigmoid<T>(s);
                        g *= open * (T(1) + s * (T(1) - open));
                    }
                    store(recent + t % num_taps * CHANNELS + v, g);
#pragma GCC unroll 4
                    for (Index w = 0; w < num_taps; ++w) {
                        T* const sum = sums + w * CHANNELS + v;
                        store(sum, load(sum) + g * load_part(window.rows[w] + first + v, left));
                    }
                    T* const sum = sums + num_taps * CHANNELS + v;
                    store(sum, load(sum) + g);
                    store_part(into + v, passed(t, num_taps, first, v, left), left);
                });
            }
            // the last tokens get no more
            for (Index t = to.num_tokens; t < to.num_tokens + num_before; ++t) {
                T* const into = target(sequence, t - num_before) + first;
                std::fill(recent + t % num_taps * CHANNELS, recent + (t % num_taps + 1) * CHANNELS, T(0));
                for_vectors<T>(width, [&](Index v, Index left) {
                    store_part(into + v, passed(t, num_taps, first, v, left), left);
                });
            }
        });
        flush(size);
        for (Index w = 0; w <= to.num_taps; ++w)
            for (Index v = 0; v < width; ++v)
                at<T>(to.grad_taps, (sequence * (to.num_taps + 1) + w) * to.num_channels + first)[v] =
                    T(totals[w * CHANNELS + v]);
    }

    void flush(Index size) {
        for (Index k = 0; k < size; ++k) totals[k] += double(sums[k]), sums[k] = 0;
    }

    // Where the gradient of a token goes.
    T* target(Index sequence, Index token) const {
        const Index num_before = to.num_taps - 1;
        if (token < 0) return at<T>(to.grad_before, (sequence * num_before + token + num_before) * to.num_channels);
        return at<T>(to.grad_x, (sequence * to.num_tokens + token) * to.num_channels);
    }

    // The gradient of token t - W + 1, once g_t is known.
    template <typename Taps> Vector<T> passed(Index t, Taps num_taps, Index first, Index v, Index left) const {
        Vector<T> total{};
#pragma GCC unroll 4
        for (Index w = 0; w < num_taps; ++w) {
            const Index from = t - w;
            if (from < 0) break;
            total += load_part(at<T>(to.taps, w * to.num_channels + first + v), left) *
                     load(recent + from % num_taps * CHANNELS + v);
        }
        return total;
    }
};

}  // namespace

extern "C" {
bool conv_forward_float32(const Arguments* to) { return run_all<Forward<float>>(*to); }
bool conv_forward_float64(const Arguments* to) { return run_all<Forward<double>>(*to); }
bool conv_backward_float32(const Arguments* to) { return run_all<Backward<float>>(*to); }
bool conv_backward_float64(const Arguments* to) { return run_all<Backward<double>>(*to); }
}
