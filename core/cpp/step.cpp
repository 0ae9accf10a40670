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
#include <utility>
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
    static T sum(Vector lanes) { return sum(lanes, std::make_integer_sequence<int, count / 2>()); }

  private:
    // lane by lane, so that the compiler sees halves of a register: through memory they would cost as much as the row
    template <int... i> static T sum(Vector lanes, std::integer_sequence<int, i...>) {
        if constexpr (count == 2) {
            return lanes[0] + lanes[1];
        } else {
            using Half = Lanes<T, bytes / 2>;
            const typename Half::Vector low = {lanes[i]...}, high = {lanes[i + count / 2]...};
            return Half::sum(low + high);
        }
    }
};

// as Python packs them; D and dt_bias may be null
template <typename State, typename Input> struct Arguments {
    State *state;
    const Input *x;
    const State *dt, *A;
    const Input *B, *C;
    const State *D, *dt_bias;
    Input *y;
    int64_t batch, H, P, N, G, x_stride, dt_stride, B_stride, C_stride, D_per_head, softplus, threads;
};

template <typename State, typename Input> struct Head {
    State *state;
    const Input *x;
    State size, decay;
    const State *B, *C, *D;
    int64_t D_stride;
    Input *y;
};

// The rows of one head, each read front to back, as the memory likes it: taking several together is half as fast once
// the state lies outside the cache. `vectors` is the length of a row if it is known: B and C then stay in registers.
template <int64_t vectors, typename State, typename Input>
void advance(const Head<State, Input> &head, int64_t P, int64_t N) {
    using Block = Lanes<State>;
    using Vector = typename Block::Vector;
    // a copy: the compiler need not think that a row which is written overlaps it
    const auto [state, inputs, size, decay, B, C, D, D_stride, y] = head;
    constexpr bool is_known = vectors != 0;
    const int64_t whole = is_known ? vectors : N / Block::count, tail = is_known ? 0 : N % Block::count;
    const Vector *const B_parts = reinterpret_cast<const Vector *>(B), *const C_parts = reinterpret_cast<const Vector *>(C);
    Vector b[is_known ? vectors : 1], c[is_known ? vectors : 1];
#pragma GCC unroll 8
    for (int64_t v = 0; v < vectors; ++v) b[v] = B_parts[v], c[v] = C_parts[v];
    for (int64_t p = 0; p < P; ++p) {
        State *const row = state + p * N;
        Vector *const parts = reinterpret_cast<Vector *>(row);
        const State x = widened(inputs[p]), gain = size * x;
        Vector sums[2] = {}; // an addition need not wait for the one before
#pragma GCC unroll 8
        for (int64_t v = 0; v < whole; ++v) {
            const Vector value = parts[v] * decay + (is_known ? b[v] : B_parts[v]) * gain;
            parts[v] = value;
            sums[v % 2] += value * (is_known ? c[v] : C_parts[v]);
        }
        State total = Block::sum(sums[0] + sums[1]);
        for (int64_t n = N - tail; n < N; ++n) {
            row[n] = row[n] * decay + gain * B[n];
            total += row[n] * C[n];
        }
        store(y + p, D ? total + D[p * D_stride] * x : total);
    }
}

template <typename State, typename Input> void step(const Arguments<State, Input> &given) {
    const int64_t H = given.H, P = given.P, N = given.N;
    // the state sizes in use get a loop of their own
    constexpr int64_t count = Lanes<State>::count;
    auto *const advance_head = N == 8 * count   ? advance<8, State, Input>
                               : N == 4 * count ? advance<4, State, Input>
                               : N == 2 * count ? advance<2, State, Input>
                                                : advance<0, State, Input>;
#pragma omp parallel num_threads(static_cast<int>(given.threads))
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
        for (int64_t index = 0; index < given.batch * H; ++index) {
            const int64_t entry = index / H, head = index % H, group = head / (H / given.G);
            State size = given.dt[entry * given.dt_stride + head] + (given.dt_bias ? given.dt_bias[head] : State(0));
            if (given.softplus && size <= State(40)) size = std::log1p(std::exp(size));
            const int64_t D_stride = given.D_per_head ? 0 : 1;
            advance_head({given.state + index * P * N, given.x + entry * given.x_stride + head * P, size,
                          std::exp(size * given.A[head]), ready(given.B + entry * given.B_stride + group * N, wide.data()),
                          ready(given.C + entry * given.C_stride + group * N, wide.data() + N),
                          given.D ? given.D + head * (D_stride ? P : 1) : nullptr, D_stride, given.y + index * P},
                         P, N);
        }
    }
}

} // namespace

extern "C" {
void step_float32(const Arguments<float, float> *given) { step(*given); }
void step_bfloat16(const Arguments<float, bfloat16> *given) { step(*given); }
void step_float64(const Arguments<double, double> *given) { step(*given); }
}
