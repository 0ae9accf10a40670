// One token of the state-space recurrence in one pass over the state: every row is read, decayed, updated, contracted with
// C and written before the next one.
//
//   h = exp(dt A) h + dt x B',   y = h C + D x
//
// Letters as in Python: B batch, H heads, G groups, P head_dim, N state_dim. The state is contiguous; x, dt, B and C are
// contiguous within a batch entry: they may be slices of one projection.

#include "ssd_head.h"

#include <optional>
#include <vector>

namespace {

// Arguments of a step. D and dt_bias may be null.
template <typename State, typename Input> struct Step {
    State *state;
    const Input *x;
    const State *dt, *A;
    const Input *B, *C;
    const State *D, *dt_bias;
    Input *y;
    int64_t batch, H, P, N, G, x_stride, dt_stride, B_stride, C_stride;
    bool D_per_head;
    bool softplus = false;
    int threads = 1;

    void run() const {
        auto *const advance_head = ssd_advance<State, Input>(N);
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
            constexpr bool is_narrow = sizeof(Input) < sizeof(State);
            std::vector<State> wide(is_narrow ? 2 * N : 0);
            // B or C of a head in the precision of the state
            const auto ready = [&](const Input *row, State *copy) -> const State * {
                if constexpr (is_narrow) {
                    for (int64_t n = 0; n < N; ++n) copy[n] = widened(row[n]);
                    return copy;
                } else {
                    return row;
                }
            };
#pragma omp for schedule(static) nowait
            for (int64_t index = 0; index < batch * H; ++index) {
                const int64_t entry = index / H, head = index % H, group = head / (H / G);
                State size = dt[entry * dt_stride + head] + (dt_bias ? dt_bias[head] : State(0));
                if (softplus && size <= State(40)) size = std::log1p(std::exp(size));
                const int64_t D_stride = D_per_head ? 0 : 1;
                advance_head({state + index * P * N, x + entry * x_stride + head * P, size, std::exp(size * A[head]),
                              ready(B + entry * B_stride + group * N, wide.data()),
                              ready(C + entry * C_stride + group * N, wide.data() + N),
                              D ? D + head * (D_stride ? P : 1) : nullptr, D_stride, y + index * P},
                             P, N);
            }
        }
    }
};

// The tensors of a step, as passed from Python.
struct Given {
    Tensor state, x, dt, A, B, C, D, dt_bias, y;
    bool has_D, has_bias;

    // The arguments of the step; none if the loop cannot read the tensors in place.
    template <typename State, typename Input> std::optional<Step<State, Input>> as() const {
        if (state.axes != 4 || B.axes != 3) return std::nullopt;
        const int64_t batch = state.shape[0], H = state.shape[1], P = state.shape[2], N = state.shape[3], G = B.shape[1];
        if (H * P * N * G == 0 || H % G) return std::nullopt;
        const bool D_per_head = has_D && D.axes == 1;
        const bool fits = state.is<State>({batch, H, P, N}) && x.is<Input>({batch, H, P}, 1) &&
                          dt.is<State>({batch, H}, 1) && A.is<State>({H}) && B.is<Input>({batch, G, N}, 1) &&
                          C.is<Input>({batch, G, N}, 1) &&
                          (!has_D || (D_per_head ? D.is<State>({H}) : D.is<State>({H, P}))) &&
                          (!has_bias || dt_bias.is<State>({H})) && y.is<Input>({batch, H, P});
        if (!fits) return std::nullopt;
        return Step<State, Input>{
            state.first<State>(), x.first<Input>(), dt.first<State>(), A.first<State>(), B.first<Input>(),
            C.first<Input>(), has_D ? D.first<State>() : nullptr, has_bias ? dt_bias.first<State>() : nullptr,
            y.first<Input>(), batch, H, P, N, G, x.strides[0], dt.strides[0], B.strides[0], C.strides[0],
            D_per_head};
    }
};

template <typename State, typename Input> bool run(const Given &given, bool softplus, int threads) {
    auto step = given.as<State, Input>();
    if (!step) return false;
    step->softplus = softplus;
    if (step->batch * step->H * step->P * step->N < large) {
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
// a tuple of state, x, dt, A, B, C, D, dt_bias, y; D and dt_bias may be None.
extern "C" bool step(const Exchange *exchange, PyObject *tensors, bool softplus, int threads) {
    const auto item = [=](int i) { return PyTuple_GetItem(tensors, i); };
    const auto is_read = [=](int i, Tensor &tensor) { return read(*exchange, item(i), tensor); };
    Given given;
    given.has_D = !is_none(item(6)), given.has_bias = !is_none(item(7));
    return is_read(0, given.state) && is_read(1, given.x) && is_read(2, given.dt) && is_read(3, given.A) &&
           is_read(4, given.B) && is_read(5, given.C) && (!given.has_D || is_read(6, given.D)) &&
           (!given.has_bias || is_read(7, given.dt_bias)) && is_read(8, given.y) &&
           (run<float, float>(given, softplus, threads) || run<float, bfloat16>(given, softplus, threads) ||
            run<double, double>(given, softplus, threads));
}
