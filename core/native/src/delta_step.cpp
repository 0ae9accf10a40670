// One token of the gated delta rule on a state with a row for each value channel. The rows are independent: four at a time
// are read, then written while they are in the L1 cache.
//
//   e = beta (v - a S k),   S <- a S + e k',   y = scale S q = scale (a (S before) q + e (k.q)),   a = exp(g)
//
// Letters as in Python: B batch, H heads, V value_dim, K key_dim; Hq, Hk, Hv heads of q, k and v. The state is contiguous, the
// others are contiguous within a batch entry: they may be slices of one projection.

#include "delta_head.h"

#include <optional>
#include <vector>

namespace {

template <typename State, typename Input> struct Step {
    State *state;
    const Input *q, *k, *v;
    const State *g, *beta;
    Input *y;
    int64_t batch, H, V, K, q_share, k_share, v_share, q_stride, k_stride, v_stride, g_stride, beta_stride;
    State scale = 1;
    int threads = 1;

    void run() const {
        auto *const advance_head = delta_advance<State, Input>(K);
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
