// One token of the state-space recurrence in one pass over the state: every row of it is read, decayed, added to,
// contracted with C and written before the next one is touched.
//
//   h = exp(dt A) h + dt x B',   y = h C + D x
//
// Letters as in Python: B batch, H heads, G groups, P head_dim, N state_dim. The state is contiguous [B, H, P, N];
// x, B and C are contiguous within a batch entry and lie `stride` elements apart between entries.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

struct bfloat16 {
    uint16_t bits;
};

template <typename T> T widened(T value) { return value; }

float widened(bfloat16 value) {
    const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
}

template <typename T> void store(T *target, T value) { *target = value; }

void store(bfloat16 *target, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    // to nearest, ties to even; a NaN stays one
    target->bits = std::isnan(value) ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// 64 bytes of numbers at any address; the compiler splits them where registers are narrower.
template <typename T, int64_t bytes = 64> struct Lanes {
    static constexpr int64_t count = bytes / sizeof(T);
    typedef T Vector __attribute__((vector_size(bytes), aligned(sizeof(T)), may_alias));

    // halves are added to halves: one number after the other would wait for every addition
    static T sum(Vector lanes) {
        if constexpr (count == 2) {
            return lanes[0] + lanes[1];
        } else {
            using Half = Lanes<T, bytes / 2>;
            typename Half::Vector low, high;
            std::memcpy(&low, &lanes, bytes / 2);
            std::memcpy(&high, reinterpret_cast<const char *>(&lanes) + bytes / 2, bytes / 2);
            return Half::sum(low + high);
        }
    }
};

// The rows of one head, each read front to back, as the memory likes it: taking several together is half as fast once
// the state lies outside the cache. `vectors` is the length of a row if it is known: B and C then stay in registers.
template <int64_t vectors, typename State>
void advance(State *state, const State *gains, const State *B, const State *C, State decay, int64_t P, int64_t N,
             State *y) {
    using Block = Lanes<State>;
    using Vector = typename Block::Vector;
    const int64_t whole = vectors ? vectors : N / Block::count;
    Vector b[vectors ? vectors : 1], c[vectors ? vectors : 1];
    for (int64_t v = 0; v < vectors; ++v) {
        b[v] = reinterpret_cast<const Vector *>(B)[v];
        c[v] = reinterpret_cast<const Vector *>(C)[v];
    }
    for (int64_t p = 0; p < P; ++p) {
        State *const row = state + p * N;
        Vector *const parts = reinterpret_cast<Vector *>(row);
        Vector sums = {};
#pragma GCC unroll 8
        for (int64_t v = 0; v < whole; ++v) {
            const Vector value = parts[v] * decay + (vectors ? b[v] : reinterpret_cast<const Vector *>(B)[v]) * gains[p];
            parts[v] = value;
            sums += value * (vectors ? c[v] : reinterpret_cast<const Vector *>(C)[v]);
        }
        State total = Block::sum(sums);
        for (int64_t n = whole * Block::count; n < N; ++n) {
            row[n] = row[n] * decay + gains[p] * B[n];
            total += row[n] * C[n];
        }
        y[p] = total;
    }
}

template <typename State, typename Input>
void step(State *state, const Input *x, const State *dt, const State *A, const Input *B, const Input *C, const State *D,
          const State *dt_bias, Input *y, int64_t batch, int64_t H, int64_t G, int64_t P, int64_t N, int64_t x_stride,
          int64_t dt_stride, int64_t B_stride, int64_t C_stride, int64_t D_per_head, int64_t softplus, int threads) {
    // the state sizes in use get a loop of their own
    constexpr int64_t count = Lanes<State>::count;
    auto *const rows_of_a_head = N == 8 * count   ? advance<8, State>
                                 : N == 4 * count ? advance<4, State>
                                 : N == 2 * count ? advance<2, State>
                                                  : advance<0, State>;
#pragma omp parallel num_threads(threads)
    {
        std::vector<State> wide(2 * N + 2 * P);
        State *const b_row = wide.data(), *const c_row = b_row + N, *const gains = c_row + N, *const sums = gains + P;
#pragma omp for schedule(static)
        for (int64_t index = 0; index < batch * H; ++index) {
            const int64_t entry = index / H, head = index % H, group = head / (H / G);
            const Input *const token = x + entry * x_stride + head * P;
            State size = dt[entry * dt_stride + head] + (dt_bias ? dt_bias[head] : State(0));
            if (softplus && size <= State(40)) size = std::log1p(std::exp(size));
            const State decay = std::exp(size * A[head]);
            for (int64_t n = 0; n < N; ++n) {
                b_row[n] = widened(B[entry * B_stride + group * N + n]);
                c_row[n] = widened(C[entry * C_stride + group * N + n]);
            }
            for (int64_t p = 0; p < P; ++p) gains[p] = size * widened(token[p]);
            rows_of_a_head(state + index * P * N, gains, b_row, c_row, decay, P, N, sums);
            for (int64_t p = 0; p < P; ++p) {
                const State skip = D ? D[D_per_head ? head : head * P + p] * widened(token[p]) : State(0);
                store(y + index * P + p, sums[p] + skip);
            }
        }
    }
}

} // namespace

#define LAB_STEP(name, State, Input)                                                                                   \
    extern "C" void name(State *state, const Input *x, const State *dt, const State *A, const Input *B,                \
                         const Input *C, const State *D, const State *dt_bias, Input *y, int64_t batch, int64_t H,     \
                         int64_t G, int64_t P, int64_t N, int64_t x_stride, int64_t dt_stride, int64_t B_stride,       \
                         int64_t C_stride, int64_t D_per_head, int64_t softplus, int threads) {                        \
        step<State, Input>(state, x, dt, A, B, C, D, dt_bias, y, batch, H, G, P, N, x_stride, dt_stride, B_stride,     \
                           C_stride, D_per_head, softplus, threads);                                                   \
    }

LAB_STEP(step_float32, float, float)
LAB_STEP(step_bfloat16, float, bfloat16)
LAB_STEP(step_float64, double, double)
