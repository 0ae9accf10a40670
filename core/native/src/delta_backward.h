// The backward pass for heads of one sequence that accumulate into the same gradients.
//
// The states at the start of every chunk and the x of every token are recomputed, front to back; then the chunks are
// processed back to front with the gradient dS of the state after them. With L, c, x and u as in the forward pass, dy scaled:
//
//   du_j  = sum_{i>=j} L_ij (q_i.k_j) dy_i + e^{c_q - c_j} dS k_j
//   dr_j  = du_j - sum_{i>j} L_ij (k_i.k_j) dv_i,  dv_j = beta_j dr_j,  dbeta_j = dr_j.x_j
//   W_ij  = L_ij (dy_i.u_j) for j <= i,  G_ij = -L_ij (dv_i.u_j) for j < i
//   dq_i  = sum_j W_ij k_j + e^{c_i} S' dy_i
//   dk_i  = sum_j (W_ji q_j + G_ji k_j + G_ij k_j) - e^{c_i} S' dv_i + e^{c_q - c_i} dS' u_i
//   dS   <- e^{c_q} dS + sum_i e^{c_i} (dy_i q_i' - dv_i k_i')
//
// The gradient of the log decay of token t sums everything that passes from tokens before t to t or later. It is a sum of
// these terms only, never a difference of larger sums: accurate even where almost nothing passes.
#pragma once

#include "delta_arguments.h"

namespace {

template <typename T> class Backward {
  public:
    Backward(Scratch& scratch, const Arguments& arguments) : to(arguments), shape(arguments), powers(scratch, shape.Q_lanes) {
        const Index pairs = shape.Q_rows * shape.Q_lanes;
        for (T** buffer : {&k, &q, &k_into, &q_into}) *buffer = scratch.take<T>(shape.Q_rows * shape.K_rows);
        for (T** buffer : {&k_columns, &q_columns}) *buffer = scratch.take<T>(shape.K * shape.Q_lanes);
        for (T** buffer : {&k_panels, &q_panels}) *buffer = scratch.take<T>(shape.Q_rows * shape.K_rows);
        for (T** buffer : {&u, &dv}) *buffer = scratch.take<T>(shape.Q_rows * shape.V_rows);
        for (T** buffer : {&dy_columns, &dv_columns}) *buffer = scratch.take<T>(shape.V * shape.Q_lanes);
        for (T** buffer : {&dy_panels, &dv_panels}) *buffer = scratch.take<T>(shape.Q_rows * shape.V_rows);
        for (T** buffer : {&decay, &overlap, &mixing, &q_weights, &k_weights, &passed}) *buffer = scratch.take<T>(pairs);
        for (T** buffer : {&beta, &running}) *buffer = scratch.take<T>(shape.Q_lanes);
        for (T** buffer : {&read, &behind, &strength}) *buffer = scratch.take<T>(shape.Q_rows * LANES<T>);
        grad_decay = scratch.take<double>(shape.Q);
        written = scratch.take<T>(shape.Q_rows * PANEL<T>);
        for (T** buffer : {&dS, &dS_turned, &S_turned}) *buffer = scratch.take<T>(shape.state_size());
        states = scratch.take<T>(most_chunks(arguments) * shape.state_size());
        x = scratch.take<T>(most_chunks(arguments) * shape.Q_rows * shape.V_rows);
    }

    static Index num_tasks(const Arguments& to) { return to.num_sequences * (to.num_heads / to.heads_per_task); }

    void run(Index task) {
        const Index tasks_per_sequence = to.num_heads / to.heads_per_task;
        const Index first_head = task % tasks_per_sequence * to.heads_per_task;
        for (Index n = 0; n < to.heads_per_task; ++n) run_head(task / tasks_per_sequence, first_head + n);
    }

  private:
    // Where a head's gradient of q, k or v is written, and whether another head of the task has written there already.
    struct Target {
        Rows<T> rows;
        bool is_added = false;
        Target() = default;
        Target(const View& view, Index copy, const Sequence& sequence, Index head, Index share, Index per_task)
            : rows(Rows<T>(view, sequence.batch, sequence.first, head / share).moved(head % share / per_task * copy)),
              is_added(head % std::min(share, per_task) != 0) {}
    };

    void run_head(Index index, Index head) {
        const Sequence sequence(to, index);
        const Index offset = (index * to.num_heads + head) * shape.K * shape.V;
        const auto rows = [&](const View& view, Index of) {
            return Rows<const T>(view, sequence.batch, sequence.first, of);
        };
        q_rows = rows(to.q, head / to.q_share), k_rows = rows(to.k, head / to.k_share);
        v_rows = rows(to.v, head / to.v_share), dy_rows = rows(to.grad_y, head);
        g_rows = rows(to.g, head), beta_rows = rows(to.beta, head);
        dq = Target(to.grad_q, to.grad_q_copy, sequence, head, to.q_share, to.heads_per_task);
        dk = Target(to.grad_k, to.grad_k_copy, sequence, head, to.k_share, to.heads_per_task);
        dvalues = Target(to.grad_v, to.grad_v_copy, sequence, head, to.v_share, to.heads_per_task);
        const Rows<T> dg_rows(to.grad_g, sequence.batch, sequence.first, head);
        const Rows<T> dbeta_rows(to.grad_beta, sequence.batch, sequence.first, head);

        const T* initial = static_cast<const T*>(to.initial_state);
        const T* final = static_cast<const T*>(to.grad_final_state);
        initial = initial ? initial + offset : nullptr, final = final ? final + offset : nullptr;
        state_to_panels(dS, final, 1, shape.K, shape.K, shape.K_rows, shape.V);
        // key channels that only pad a panel must be finite: they are multiplied by zero
        for (T* turned : {dS_turned, S_turned}) std::fill(turned, turned + shape.state_size(), T(0));
        if (sequence.length) state_to_panels(states, initial, 1, shape.K, shape.K, shape.K_rows, shape.V);
        const Index num_chunks = (sequence.length + shape.Q - 1) / shape.Q;
        for (Index chunk = 0; chunk < num_chunks; ++chunk) recompute(chunk, sequence.length, chunk + 1 == num_chunks);
        for (Index chunk = num_chunks - 1; chunk >= 0; --chunk) {
            const Index first = chunk * shape.Q, length = std::min(shape.Q, sequence.length - first);
            differentiate(chunk, first, length);
            for (Index j = 0; j < length; ++j) {
                *dg_rows[first + j] = T(grad_decay[j]);
                *dbeta_rows[first + j] = sum<T>(load(strength + j * LANES<T>));
            }
        }
        state_from_panels(static_cast<T*>(to.grad_initial_state) + offset, 1, shape.K, dS, shape.K, shape.K_rows, shape.V);
    }

    T* state_of(Index chunk) const { return states + chunk * shape.state_size(); }
    T* x_of(Index chunk) const { return x + chunk * shape.Q_rows * shape.V_rows; }

    void measure(Index first, Index length) {
        powers.add_up(length, [&](Index i) { return double(*g_rows[first + i]); });
        for (Index i = 0; i < length; ++i) beta[i] = *beta_rows[first + i];
        std::fill(beta + length, beta + shape.Q_lanes, T(0));
    }

    void scale_rows(T* target, const T* from, const T* factors, T sign, Index length) const {
        for (Index j = 0; j < length; ++j) {
            const T factor = sign * factors[j];
            for (Index n = 0; n < shape.K_rows; ++n) target[j * shape.K_rows + n] = from[j * shape.K_rows + n] * factor;
        }
    }

    // x of the tokens of a chunk, and the state after it.
    void recompute(Index chunk, Index num_tokens, bool is_last) {
        const Index first = chunk * shape.Q, length = std::min(shape.Q, num_tokens - first);
        const Index num_tiles = round_up(length, ROWS) / ROWS;
        Ahead<T, 2> ahead({k_rows.from(first + shape.Q), v_rows.from(first + shape.Q)}, {shape.K, shape.V},
                          std::max<Index>(0, std::min(shape.Q, num_tokens - first - shape.Q)),
                          shape.V_panels * (num_tiles + (is_last ? 0 : shape.K_rows / ROWS)));
        measure(first, length);
        pack_rows<T>(k, k_rows.from(first), length, shape.K, shape.K_rows);
        transpose<T>(k_columns, shape.Q_lanes, k_rows.from(first), length, shape.K);
        clear_columns(k_columns, shape.Q_lanes, length, shape.K);
        multiply_pairs<T>(overlap, k, shape.K_rows, k_columns, shape.K, length, shape.Q_lanes);
        for (Index j = 0; j < length; ++j)
            for (Index i = j / ROWS * ROWS / LANES<T> * LANES<T>; i < length; i += LANES<T>) {
                T* here = overlap + j * shape.Q_lanes + i;
                store(here, -powers.between(i, j) * load(here));
            }
        scale_rows(k_into, k, powers.out, T(1), length);
        // the values share memory with the panels of dy, which come later
        pack_panels<T>(dy_panels, v_rows.from(first), length, shape.V, shape.Q_rows);
        for (Index panel = 0; panel < shape.V_panels; ++panel) {
            const T* v_panel = dy_panels + panel * PANEL<T> * shape.Q_rows;
            const T* state = state_of(chunk) + panel * PANEL<T> * shape.K_rows;
            for (Index i = 0; i < length; i += ROWS) {
                Tile<T> sums = {};
                accumulate<T, VECTORS>(sums, k_columns + i, 1, shape.Q_lanes, state, PANEL<T>, shape.K);
                for_tile<VECTORS>([&](int r, int v) __attribute__((always_inline)) {
                    sums[r][v] = load(v_panel + std::min(i + r, length - 1) * PANEL<T> + v * LANES<T>) -
                                 powers.into[i + r] * sums[r][v];
                });
                solve_tile<T>(sums, written, overlap, shape.Q_lanes, beta, i);
                T* rows = x_of(chunk) + i * shape.V_rows + panel * PANEL<T>;
                for_tile<VECTORS>([&](int r, int v) __attribute__((always_inline)) {
                    store(rows + r * shape.V_rows + v * LANES<T>, sums[r][v]);
                });
                ahead.touch();
            }
            if (is_last) continue;
            T* next = state_of(chunk + 1) + panel * PANEL<T> * shape.K_rows;
            for (Index n = 0; n < shape.K; n += ROWS) {
                advance(next + n * PANEL<T>, state + n * PANEL<T>, powers.total, k_into + n, shape.K_rows, written, length);
                ahead.touch();
            }
            std::fill(next + round_up(shape.K, ROWS) * PANEL<T>, next + shape.K_rows * PANEL<T>, T(0));
        }
    }

    void differentiate(Index chunk, Index first, Index length) {
        const Index num_tiles = round_up(length, ROWS) / ROWS, before = std::max<Index>(0, first - shape.Q);
        Ahead<T, 3> ahead({q_rows.from(before), k_rows.from(before), dy_rows.from(before)}, {shape.K, shape.K, shape.V},
                          first - before, num_tiles * (shape.V_panels + 2 * shape.K_panels) +
                                              shape.V_panels * shape.K_rows / ROWS);
        pack(chunk, first, length);
        mix(length);
        for (Index panel = 0; panel < shape.V_panels; ++panel)
            for (Index j = (num_tiles - 1) * ROWS; j >= 0; j -= ROWS)
                differentiate_v(chunk, panel, j, first, length), ahead.touch();
        transpose<T>(dv_columns, shape.Q_lanes, Rows<const T>(dv, shape.V_rows), length, shape.V);
        weigh(length);
        turn(S_turned, state_of(chunk)), turn(dS_turned, dS);
        for (Index panel = 0; panel < shape.K_panels; ++panel)
            for (Index i = 0; i < length; i += ROWS) {
                differentiate_q(panel, i, first, length), ahead.touch();
                differentiate_k(panel, i, first, length), ahead.touch();
            }
        double carried = 0;
        for (Index panel = 0; panel < shape.V_panels; ++panel) {
            const Index here = panel * shape.K_rows * PANEL<T>;
            Vector<T> total = {};
            for (Index n = here; n < here + shape.K * PANEL<T>; n += LANES<T>)
                total += load(state_of(chunk) + n) * load(dS + n);
            carried += sum<T>(total);
        }
        add_up_passing(grad_decay, length, passed, shape.Q_lanes, running, read,
                       [&](Index t) { return double(sum<T>(load(behind + t * LANES<T>))); }, carried * powers.total);
        for (Index panel = 0; panel < shape.V_panels; ++panel)
            for (Index n = 0; n < shape.K; n += ROWS) {
                T* rows = dS + (panel * shape.K_rows + n) * PANEL<T>;
                const Index right = panel * PANEL<T> * shape.Q_rows;
                Tile<T> sums;
                for_tile<VECTORS>([&](int r, int v) __attribute__((always_inline)) {
                    sums[r][v] = powers.total * load(rows + r * PANEL<T> + v * LANES<T>);
                });
                accumulate<T, VECTORS>(sums, q_into + n, 1, shape.K_rows, dy_panels + right, PANEL<T>, length);
                accumulate<T, VECTORS>(sums, k_into + n, 1, shape.K_rows, dv_panels + right, PANEL<T>, length);
                for_tile<VECTORS>([&](int r, int v) __attribute__((always_inline)) {
                    store(rows + r * PANEL<T> + v * LANES<T>, sums[r][v]);
                });
                ahead.touch();
            }
    }

    void pack(Index chunk, Index first, Index length) {
        measure(first, length);
        pack_rows<T>(k, k_rows.from(first), length, shape.K, shape.K_rows);
        pack_rows<T>(q, q_rows.from(first), length, shape.K, shape.K_rows);
        pack_panels<T>(k_panels, k_rows.from(first), length, shape.K, shape.Q_rows);
        pack_panels<T>(q_panels, q_rows.from(first), length, shape.K, shape.Q_rows);
        transpose<T>(k_columns, shape.Q_lanes, k_rows.from(first), length, shape.K);
        transpose<T>(q_columns, shape.Q_lanes, q_rows.from(first), length, shape.K);
        transpose<T>(dy_columns, shape.Q_lanes, dy_rows.from(first), length, shape.V);
        clear_columns(k_columns, shape.Q_lanes, length, shape.K);
        clear_columns(q_columns, shape.Q_lanes, length, shape.K);
        clear_columns(dy_columns, shape.Q_lanes, length, shape.V);
        clear_columns(dv_columns, shape.Q_lanes, length, shape.V);
        pack_panels<T>(dy_panels, dy_rows.from(first), length, shape.V, shape.Q_rows);
        const T scale = T(to.scale);
        for (Index n = 0; n < shape.V * shape.Q_lanes; ++n) dy_columns[n] *= scale;
        for (Index panel = 0; panel < shape.V_panels; ++panel) {
            T* rows = dy_panels + panel * PANEL<T> * shape.Q_rows;
            for (Index n = 0; n < length * PANEL<T>; ++n) rows[n] *= scale;
        }
        for (Index j = 0; j < length; ++j)
            for (Index n = 0; n < shape.V_rows; ++n)
                u[j * shape.V_rows + n] = beta[j] * x_of(chunk)[j * shape.V_rows + n];
        scale_rows(q_into, q, powers.into, T(1), length);
        scale_rows(k_into, k, powers.into, T(-1), length);
        for (T* sums : {read, behind, strength}) std::fill(sums, sums + shape.Q_rows * LANES<T>, T(0));
    }

    // L_ij, -L_ij k_i.k_j and L_ij q_i.k_j; zero for i < j in the tile that holds the diagonal
    void mix(Index length) {
        multiply_pairs<T>(overlap, k, shape.K_rows, k_columns, shape.K, length, shape.Q_lanes);
        multiply_pairs<T>(mixing, k, shape.K_rows, q_columns, shape.K, length, shape.Q_lanes);
        for (Index j = 0; j < length; ++j)
            for (Index i = j / ROWS * ROWS / LANES<T> * LANES<T>; i < length; i += LANES<T>) {
                const Index here = j * shape.Q_lanes + i;
                const Vector<T> L = powers.between(i, j);
                store(decay + here, L);
                store(overlap + here, -L * load(overlap + here));
                store(mixing + here, L * load(mixing + here));
            }
    }

    // du, then the transposed system, last tile first
    void differentiate_v(Index chunk, Index panel, Index j, Index first, Index length) {
        const T* dy_panel = dy_panels + panel * PANEL<T> * shape.Q_rows;
        T* dv_panel = dv_panels + panel * PANEL<T> * shape.Q_rows;
        Tile<T> sums = {};
        accumulate<T, VECTORS>(sums, k_columns + j, 1, shape.Q_lanes, dS + panel * shape.K_rows * PANEL<T>, PANEL<T>,
                               shape.K);
        for_tile<VECTORS>([&](int r, int v) __attribute__((always_inline)) { sums[r][v] *= powers.out[j + r]; });
        accumulate<T, VECTORS>(sums, mixing + j * shape.Q_lanes + j, shape.Q_lanes, 1, dy_panel + j * PANEL<T>, PANEL<T>,
                               length - j);
        const Index after = std::min(j + ROWS, length);
        accumulate<T, VECTORS>(sums, overlap + j * shape.Q_lanes + after, shape.Q_lanes, 1, dv_panel + after * PANEL<T>,
                               PANEL<T>, length - after);
        const T* x_rows = x_of(chunk) + panel * PANEL<T>;
        for (Index r = after - j - 1; r >= 0; --r) {
            add_dot(strength, sums[r], j + r, x_rows + (j + r) * shape.V_rows);
            for (int v = 0; v < VECTORS; ++v) {
                const Vector<T> solved = beta[j + r] * sums[r][v];
                store(dv_panel + (j + r) * PANEL<T> + v * LANES<T>, solved);
                store(dv + (j + r) * shape.V_rows + panel * PANEL<T> + v * LANES<T>, solved);
                for (Index earlier = 0; earlier < r; ++earlier)
                    sums[earlier][v] += overlap[(j + earlier) * shape.Q_lanes + j + r] * solved;
                sums[r][v] = solved;
            }
        }
        store_tile<T>(sums, dvalues.rows, first + j, length - j, panel * PANEL<T>, shape.V - panel * PANEL<T>,
                      dvalues.is_added);
    }

    // q_weights[j][i] = W_ij, k_weights[j][i] = G_ij, and what passes from j to i > j
    void weigh(Index length) {
        multiply_pairs<T>(q_weights, u, shape.V_rows, dy_columns, shape.V, length, shape.Q_lanes);
        multiply_pairs<T>(k_weights, u, shape.V_rows, dv_columns, shape.V, length, shape.Q_lanes);
        for (Index j = 0; j < length; ++j) {
            for (Index i = j / ROWS * ROWS / LANES<T> * LANES<T>; i < length; i += LANES<T>) {
                const Index here = j * shape.Q_lanes + i;
                const Vector<T> of_q = load(q_weights + here), of_k = load(k_weights + here), L = load(decay + here);
                store(q_weights + here, L * of_q);
                store(k_weights + here, -L * of_k);
                store(passed + here, of_q * load(mixing + here) + of_k * load(overlap + here));
            }
            k_weights[j * shape.Q_lanes + j] = 0;
        }
    }

    void differentiate_q(Index panel, Index i, Index first, Index length) {
        Tile<T> sums = {};
        accumulate<T, VECTORS>(sums, dy_columns + i, 1, shape.Q_lanes, S_turned + panel * shape.V_rows * PANEL<T>, PANEL<T>,
                               shape.V);
        for_tile<VECTORS>([&](int r, int v) __attribute__((always_inline)) { sums[r][v] *= powers.into[i + r]; });
        const Index num_rows = std::min<Index>(ROWS, length - i);
        for (Index r = 0; r < num_rows; ++r) add_dot(read, sums[r], i + r, q + (i + r) * shape.K_rows + panel * PANEL<T>);
        accumulate<T, VECTORS>(sums, q_weights + i, 1, shape.Q_lanes, k_panels + panel * PANEL<T> * shape.Q_rows, PANEL<T>,
                               std::min(i + ROWS, length));
        store_tile<T>(sums, dq.rows, first + i, length - i, panel * PANEL<T>, shape.K - panel * PANEL<T>, dq.is_added);
    }

    void differentiate_k(Index panel, Index i, Index first, Index length) {
        const T* k_panel = k_panels + panel * PANEL<T> * shape.Q_rows;
        const T* q_panel = q_panels + panel * PANEL<T> * shape.Q_rows;
        const Index num_rows = std::min<Index>(ROWS, length - i), turned = panel * shape.V_rows * PANEL<T>;
        const auto k_row = [&](Index r) { return k + (i + r) * shape.K_rows + panel * PANEL<T>; };
        Tile<T> before = {}, sums = {};
        accumulate<T, VECTORS>(before, dv_columns + i, 1, shape.Q_lanes, S_turned + turned, PANEL<T>, shape.V);
        for_tile<VECTORS>([&](int r, int v) __attribute__((always_inline)) { before[r][v] *= -powers.into[i + r]; });
        for (Index r = 0; r < num_rows; ++r) add_dot(read, before[r], i + r, k_row(r));
        accumulate<T, VECTORS>(sums, u + i * shape.V_rows, shape.V_rows, 1, dS_turned + turned, PANEL<T>, shape.V);
        for_tile<VECTORS>([&](int r, int v) __attribute__((always_inline)) { sums[r][v] *= powers.out[i + r]; });
        for (Index r = 0; r < num_rows; ++r) add_dot(behind, sums[r], i + r, k_row(r));
        for_tile<VECTORS>([&](int r, int v) __attribute__((always_inline)) { sums[r][v] += before[r][v]; });
        accumulate<T, VECTORS>(sums, q_weights + i * shape.Q_lanes + i, shape.Q_lanes, 1, q_panel + i * PANEL<T>, PANEL<T>,
                               length - i);
        accumulate<T, VECTORS>(sums, k_weights + i * shape.Q_lanes + i, shape.Q_lanes, 1, k_panel + i * PANEL<T>, PANEL<T>,
                               length - i);
        accumulate<T, VECTORS>(sums, k_weights + i, 1, shape.Q_lanes, k_panel, PANEL<T>, std::min(i + ROWS, length));
        store_tile<T>(sums, dk.rows, first + i, length - i, panel * PANEL<T>, shape.K - panel * PANEL<T>, dk.is_added);
    }

    // Converts a state from panels of value channels to panels of key channels.
    void turn(T* turned, const T* state) const {
        for (Index p = 0; p < shape.V; p += LANES<T>)
            for (Index n = 0; n < shape.K; n += LANES<T>)
                transpose_square(turned + (n / PANEL<T> * shape.V_rows + p) * PANEL<T> + n % PANEL<T>, PANEL<T>,
                                 state + (p / PANEL<T> * shape.K_rows + n) * PANEL<T> + p % PANEL<T>, PANEL<T>);
    }

    static void add_dot(T* sums, const Vector<T> (&left)[VECTORS], Index token, const T* right) {
        Vector<T> total = load(sums + token * LANES<T>);
        for (Index v = 0; v < VECTORS; ++v) total += left[v] * load(right + v * LANES<T>);
        store(sums + token * LANES<T>, total);
    }

    const Arguments& to;
    const Shape<T> shape;
    Powers<T> powers;
    T *k, *q, *k_into, *q_into, *k_columns, *q_columns, *k_panels, *q_panels;
    T *u, *dv, *dy_columns, *dv_columns, *dy_panels, *dv_panels;
    T *decay, *overlap, *mixing, *q_weights, *k_weights, *passed;
    T *beta, *running, *read, *behind, *strength;  // the last three: LANES partial sums per token, over the panels
    double* grad_decay;
    T *written, *dS, *dS_turned, *S_turned, *states, *x;
    Rows<const T> q_rows, k_rows, v_rows, dy_rows, g_rows, beta_rows;
    Target dq, dk, dvalues;
};

}  // namespace
