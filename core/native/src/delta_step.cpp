// One token of the gated delta rule on a state with a row for each value channel. The rows are independent: four at a time
// are read, then written while they are in the L1 cache.
//
//   e = beta (v - a S k),   S <- a S + e k',   y = scale S q = scale (a (S before) q + e (k.q)),   a = exp(g)
//
// Letters as in Python: B batch, H heads, V value_dim, K key_dim; Hq, Hk, Hv heads of q, k and v. The state is contiguous, the
// others are contiguous within a batch entry: they may be slices of one projection.

#include "lanes.h"

#include <optional>
#include <vector>

namespace {

template <typename State, typename Input> struct Head {
    State *state;
    const State *q, *k;
    const Input *v;
    State decay, beta, scale;
    Input *y;
};

// `vectors` is the length of a row if it is known, for loops without a counter.
template <int64_t vectors, typename State, typename Input>
void advance(const Head<State, Input> &head, int64_t V, int64_t K) {
    using Block = Lanes<State>;
    using Vector = typename Block::Vector;
    // a copy, so that the compiler can rule out overlap with a written row
    const auto [state, q, k, v, decay, beta, scale, y] = head;
    constexpr bool is_known = vectors != 0;
    const int64_t whole = is_known ? vectors : K / Block::count, tail = is_known ? 0 : K % Block::count;
    const Vector *const q_parts = reinterpret_cast<const Vector *>(q), *const k_parts = reinterpret_cast<const Vector *>(k);
    // dot products of a row with k and with q, spread over lanes, without the tail
    const auto dots = [&](const State *row, Vector (&of_k)[4], Vector (&of_q)[4], int i) {
        const Vector *const parts = reinterpret_cast<const Vector *>(row);
        of_k[i] = of_q[i] = Vector{};
#pragma GCC unroll 16
        for (int64_t n = 0; n < whole; ++n) {
            const Vector part = parts[n];
            of_k[i] += part * k_parts[n];
            of_q[i] += part * q_parts[n];
        }
    };
    State overlap = 0;
    for (int64_t n = 0; n < K; ++n) overlap += k[n] * q[n];
    const auto finish = [&](int64_t p, State held, State read) {
        State *const row = state + p * K;
        for (int64_t n = K - tail; n < K; ++n) held += row[n] * k[n], read += row[n] * q[n];
        const State written = beta * (State(widened(v[p])) - decay * held);
        Vector *const parts = reinterpret_cast<Vector *>(row);
#pragma GCC unroll 16
        for (int64_t n = 0; n < whole; ++n) parts[n] = parts[n] * decay + k_parts[n] * written;
        for (int64_t n = K - tail; n < K; ++n) row[n] = row[n] * decay + k[n] * written;
        store(y + p, scale * (decay * read + written * overlap));
    };
    int64_t p = 0;
    Vector of_k[4], of_q[4];
    for (; p + 4 <= V; p += 4) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) dots(state + (p + i) * K, of_k, of_q, i);
        const auto held = Block::sums(of_k[0], of_k[1], of_k[2], of_k[3]);
        const auto read = Block::sums(of_q[0], of_q[1], of_q[2], of_q[3]);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) finish(p + i, held[i], read[i]);
    }
    for (; p < V; ++p) {
        dots(state + p * K, of_k, of_q, 0);
        finish(p, Block::sum(of_k[0]), Block::sum(of_q[0]));
    }
}

template <typename State, typename Input> struct Step {
    State *state;
    const Input *q, *k, *v;
    const State *g, *beta;
    Input *y;
    int64_t batch, H, V, K, q_share, k_share, v_share, q_stride, k_stride, v_stride, g_stride, beta_stride;
    State scale = 1;
    int threads = 1;

    void run() const {
        // specialised loops for common key sizes
        constexpr int64_t count = Lanes<State>::count;
        auto *const advance_head = K == 16 * count  ? advance<16, State, Input>
                                   : K == 8 * count ? advance<8, State, Input>
                                   : K == 4 * count ? advance<4, State, Input>
                                   : K == 2 * count ? advance<2, State, Input>
                                   : K == count     ? advance<1, State, Input>
                                                    : advance<0, State, Input>;
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
            constexpr bool is_narrow = sizeof(Input) < sizeof(State);
            std::vector<State> wide(is_narrow ? 2 * K : 0);
            // q or k of a head in the precision of the state
            const auto ready = [&](const Input *row, State *copy) -> const State * {
                if constexpr (is_narrow) {
                    for (int64_t n = 0; n < K; ++n) copy[n] = widened(row[n]);
                    return copy;
                } else {
                    return row;
                }
            };
#pragma omp for schedule(static) nowait
            for (int64_t index = 0; index < batch * H; ++index) {
                const int64_t entry = index / H, head = index % H;
                advance_head({state + index * V * K, ready(q + entry * q_stride + head / q_share * K, wide.data()),
                              ready(k + entry * k_stride + head / k_share * K, wide.data() + K),
                              v + entry * v_stride + head / v_share * V, std::exp(g[entry * g_stride + head]),
                              beta[entry * beta_stride + head], scale, y + index * V},
                             V, K);
            }
        }
    }
};

// The tensors of a step, as passed from Python.
struct Given {
    Tensor state, q, k, v, g, beta, y;

    // The arguments of the step; none if the loop cannot read the tensors in place.
    template <typename State, typename Input> std::optional<Step<State, Input>> as() const {
        if (state.axes != 4 || q.axes != 3 || k.axes != 3 || v.axes != 3) return std::nullopt;
        const int64_t batch = state.shape[0], H = state.shape[1], V = state.shape[2], K = state.shape[3];
        const int64_t Hq = q.shape[1], Hk = k.shape[1], Hv = v.shape[1];
        if (H * V * K * Hq * Hk * Hv == 0 || H % Hq || H % Hk || H % Hv) return std::nullopt;
        const bool fits = state.is<State>({batch, H, V, K}) && q.is<Input>({batch, Hq, K}, 1) &&
                          k.is<Input>({batch, Hk, K}, 1) && v.is<Input>({batch, Hv, V}, 1) &&
                          g.is<State>({batch, H}, 1) && beta.is<State>({batch, H}, 1) && y.is<Input>({batch, H, V});
        if (!fits) return std::nullopt;
        return Step<State, Input>{state.first<State>(), q.first<Input>(), k.first<Input>(), v.first<Input>(),
                                  g.first<State>(), beta.first<State>(), y.first<Input>(), batch, H, V, K, H / Hq, H / Hk,
                                  H / Hv, q.strides[0], k.strides[0], v.strides[0], g.strides[0], beta.strides[0]};
    }
};

template <typename State, typename Input> bool run(const Given &given, double scale, int threads) {
    auto step = given.as<State, Input>();
    if (!step) return false;
    step->scale = State(scale);
    if (step->batch * step->H * step->V * step->K < large) {
        step->run();
    } else {
        step->threads = threads;
        const OthersRun meanwhile;
        step->run();
    }
    return true;
}

} // namespace

// Advance the state and write y; returns false, doing nothing, if the loop cannot read the tensors in place. `tensors` is
// a tuple of state, q, k, v, g, beta, y.
extern "C" bool delta_rule_step(const Exchange *exchange, PyObject *tensors, double scale, int threads) {
    const auto is_read = [=](int i, Tensor &tensor) { return read(*exchange, PyTuple_GetItem(tensors, i), tensor); };
    Given given;
    return is_read(0, given.state) && is_read(1, given.q) && is_read(2, given.k) && is_read(3, given.v) &&
           is_read(4, given.g) && is_read(5, given.beta) && is_read(6, given.y) &&
           (run<float, float>(given, scale, threads) || run<float, bfloat16>(given, scale, threads) ||
            run<double, double>(given, scale, threads));
}
