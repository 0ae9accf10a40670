// The backward pass for heads of one sequence that accumulate into the same gradients of B and C.
//
// The states at the start of every chunk are recomputed, front to back; then the chunks are processed back to front with
// the gradient dh of the state after them. With L, c as in the forward pass and W_ij = dy_i.x_j:
//
//   dx_j = dt_j z_j + D dy_j,  z_j = sum_{i>=j} L_ij (C_i.B_j) dy_i + e^{c_q - c_j} dh B_j
//   dB_j = sum_{i>=j} L_ij dt_j W_ij C_i + e^{c_q - c_j} dt_j dh' x_j
//   dC_i = sum_{j<=i} L_ij dt_j W_ij B_j + e^{c_i} h' dy_i
//   dh  <- e^{c_q} dh + sum_i e^{c_i} dy_i C_i'
//
// The gradient of the log decay of token t sums everything that passes from tokens before t to t or later. It is a sum of
// these terms only, never a difference of larger sums: accurate even where almost nothing passes.
#pragma once

#include "buffers.h"

namespace {

template <typename T> class Backward {
  public:
    Backward(Scratch& scratch, const Arguments& arguments)
        : to(arguments), shape(arguments), decay(scratch, arguments, shape), x(scratch.take<T>(shape.Q_rows * shape.P_rows)),
          dy(scratch.take<T>(shape.Q * shape.P_rows)), dy_columns(scratch.take<T>(shape.P * shape.Q_lanes)),
          B(scratch.take<T>(shape.Q_rows * shape.N_rows)), B_panels(scratch.take<T>(shape.Q * shape.N_rows)),
          C(scratch.take<T>(shape.Q * shape.N_rows)), C_panels(scratch.take<T>(shape.Q * shape.N_rows)),
          C_columns(scratch.take<T>(shape.N * shape.Q_lanes)), mixing(scratch.take<T>(shape.Q_rows * shape.Q_lanes)),
          weights(scratch.take<T>(shape.Q_rows * shape.Q_lanes)), passed(scratch.take<T>(shape.Q * shape.Q_lanes)),
          running(scratch.take<T>(shape.Q_lanes)), read(scratch.take<T>(shape.Q * LANES<T>)),
          written(scratch.take<T>(shape.Q * LANES<T>)), stepped(scratch.take<T>(shape.Q * LANES<T>)),
          grad_decay(scratch.take<double>(shape.Q)), D(scratch.take<T>(shape.P_rows)), dD(scratch.take<T>(shape.P_rows)),
          dh(scratch.take<T>(shape.P_rows * shape.N_rows)), dh_turned(scratch.take<T>(shape.P_rows * shape.N_rows)),
          states(scratch.take<T>(most_chunks(arguments) * shape.P_rows * shape.N_rows)) {}

    static Index num_tasks(const Arguments& to) { return to.num_sequences * to.num_groups * to.num_lanes; }

    void run(Index task) {
        const Index lane = task % to.num_lanes, group = task / to.num_lanes % to.num_groups;
        const Index index = task / to.num_lanes / to.num_groups;
        const Index num_heads = to.num_heads / to.num_groups / to.num_lanes;
        for (Index k = 0; k < num_heads; ++k)
            run_head(index, group, lane, (group * to.num_lanes + lane) * num_heads + k, k > 0);
    }

  private:
    void run_head(Index index, Index group, Index lane, Index head_index, bool is_added) {
        const Sequence sequence(to, index);
        head = head_index, num_tokens = sequence.length;
        const Index offset = (index * to.num_heads + head) * shape.P * shape.N;
        const auto rows = [&](const View& view, Index of) {
            return Rows<const T>(view, sequence.batch, sequence.first, of);
        };
        x_rows = rows(to.x, head), dt_rows = rows(to.dt, head), dy_rows = rows(to.grad_y, head);
        B_rows = rows(to.B, group), C_rows = rows(to.C, group);
        dx_rows = Rows<T>(to.grad_x, sequence.batch, sequence.first, head);
        dB_rows = Rows<T>(to.grad_B, sequence.batch, sequence.first, group).moved(lane * to.grad_B_lane);
        dC_rows = Rows<T>(to.grad_C, sequence.batch, sequence.first, group).moved(lane * to.grad_C_lane);
        const Rows<T> ddt_rows(to.grad_dt, sequence.batch, sequence.first, head);
        const double A = static_cast<const T*>(to.A)[head];
        const Rows<const T> D_row(to.D, 0, 0, head);
        std::fill(D, D + shape.P_rows, T(0));
        std::fill(dD, dD + shape.P_rows, T(0));
        for (Index p = 0; p < shape.P && D_row.data; ++p) D[p] = *D_row[p];

        const T* initial = static_cast<const T*>(to.initial_state);
        const T* final = static_cast<const T*>(to.grad_final_state);
        initial = initial ? initial + offset : nullptr, final = final ? final + offset : nullptr;
        state_to_panels(dh, final, 1, shape.N, shape.N, shape.N_rows, shape.P);
        state_to_panels(dh_turned, final, shape.N, 1, shape.P, shape.P_rows, shape.N);
        if (sequence.length) state_to_panels(states, initial, shape.N, 1, shape.P, shape.P_rows, shape.N);
        const Index num_chunks = (sequence.length + shape.Q - 1) / shape.Q;
        for (Index chunk = 0; chunk + 1 < num_chunks; ++chunk) recompute(chunk);
        double dA = 0, dbias = 0;
        for (Index chunk = num_chunks - 1; chunk >= 0; --chunk) {
            const Index first = chunk * shape.Q, q = std::min(shape.Q, sequence.length - first);
            differentiate(chunk, first, q, is_added);
            const T* slopes = decay.slopes(q);
            for (Index j = 0; j < q; ++j) {
                const double grad_dt = sum<T>(load(stepped + j * LANES<T>)) + grad_decay[j] * A;
                *ddt_rows[first + j] = T(grad_dt * slopes[j]);
                dbias += grad_dt * slopes[j];
                dA += grad_decay[j] * decay.dt[j];
            }
        }
        state_from_panels(static_cast<T*>(to.grad_initial_state) + offset, 1, shape.N, dh, shape.N, shape.N_rows,
                          shape.P);
        static_cast<T*>(to.grad_A)[index * to.num_heads + head] = T(dA);
        static_cast<T*>(to.grad_dt_bias)[index * to.num_heads + head] = T(dbias);
        std::copy(dD, dD + shape.P, static_cast<T*>(to.grad_D) + (index * to.num_heads + head) * shape.P);
    }

    T* state_of(Index chunk) const { return states + chunk * shape.P_rows * shape.N_rows; }

    // The state after a whole chunk, from the one before it.
    void recompute(Index chunk) {
        const Index first = chunk * shape.Q, q = shape.Q;
        Ahead<T, 2> ahead({x_rows.from(first + q), B_rows.from(first + q)}, {shape.P, shape.N},
                          std::min(q, num_tokens - first - q), shape.N_panels * shape.P_rows / ROWS);
        decay.measure(dt_rows, head, first, q);
        pack_rows<T>(x, x_rows.from(first), q, shape.P, shape.P_rows);
        for (Index j = 0; j < q; ++j) {
            const T factor = decay.out[j] * decay.dt[j];
            for (Index p = 0; p < shape.P_rows; ++p) x[j * shape.P_rows + p] *= factor;
        }
        pack_panels<T>(B_panels, B_rows.from(first), q, shape.N, q);
        for (Index panel = 0; panel < shape.N_panels; ++panel)
            for (Index p = 0; p < shape.P; p += ROWS) {
                const Index here = (panel * shape.P_rows + p) * PANEL<T>;
                advance(state_of(chunk + 1) + here, state_of(chunk) + here, decay.total, x + p, shape.P_rows,
                        B_panels + panel * PANEL<T> * q, q);
                ahead.touch();
            }
    }

    void differentiate(Index chunk, Index first, Index q, bool is_added) {
        const Index num_tiles = round_up(q, ROWS) / ROWS, before = std::max<Index>(0, first - shape.Q);
        Ahead<T, 4> ahead(
            {x_rows.from(before), B_rows.from(before), C_rows.from(before), dy_rows.from(before)},
            {shape.P, shape.N, shape.N, shape.P}, first - before,
            num_tiles * (shape.P_panels + 2 * shape.N_panels) + shape.P_panels * shape.N_rows / ROWS);
        pack(first, q);
        mix(q);
        const T* state = state_of(chunk);
        for (Index panel = 0; panel < shape.P_panels; ++panel)
            for (Index j = 0; j < q; j += ROWS) differentiate_x(panel, j, first, q), ahead.touch();
        for (Index panel = 0; panel < shape.N_panels; ++panel) {
            for (Index j = 0; j < q; j += ROWS) differentiate_B(panel, j, first, q, is_added), ahead.touch();
            for (Index i = 0; i < q; i += ROWS) differentiate_C(panel, i, first, q, is_added, state), ahead.touch();
        }
        add_up_decay(q, state);
        for (Index panel = 0; panel < shape.P_panels; ++panel)
            for (Index n = 0; n < shape.N; n += ROWS) {
                T* rows = dh + (panel * shape.N_rows + n) * PANEL<T>;
                advance(rows, rows, decay.total, C + n, shape.N_rows, dy + panel * PANEL<T> * shape.Q, q);
                ahead.touch();
            }
        for (Index p = 0; p < shape.P; p += LANES<T>)
            for (Index n = 0; n < shape.N; n += LANES<T>)
                transpose_square(dh_turned + (n / PANEL<T> * shape.P_rows + p) * PANEL<T> + n % PANEL<T>, PANEL<T>,
                                 dh + (p / PANEL<T> * shape.N_rows + n) * PANEL<T> + p % PANEL<T>, PANEL<T>);
    }

    void pack(Index first, Index q) {
        decay.measure(dt_rows, head, first, q);
        pack_rows<T>(x, x_rows.from(first), q, shape.P, shape.P_rows);
        pack_rows<T>(B, B_rows.from(first), q, shape.N, shape.N_rows);
        pack_rows<T>(C, C_rows.from(first), q, shape.N, shape.N_rows);
        for (Index i = 0; i < q; ++i)
            for (Index n = 0; n < shape.N_rows; ++n) C[i * shape.N_rows + n] *= decay.into[i];
        pack_panels<T>(dy, dy_rows.from(first), q, shape.P, shape.Q);
        pack_panels<T>(B_panels, B_rows.from(first), q, shape.N, shape.Q);
        pack_panels<T>(C_panels, C_rows.from(first), q, shape.N, shape.Q);
        transpose<T>(C_columns, shape.Q_lanes, C_rows.from(first), q, shape.N);
        transpose<T>(dy_columns, shape.Q_lanes, dy_rows.from(first), q, shape.P);
        // tokens past the end take part in the sums over i of `passed`
        for (Index i = q; i < round_up(q, LANES<T>); ++i) {
            for (Index p = 0; p < shape.P; ++p) dy_columns[p * shape.Q_lanes + i] = 0;
            for (Index n = 0; n < shape.N; ++n) C_columns[n * shape.Q_lanes + i] = 0;
        }
        for (T* sums : {read, written, stepped}) std::fill(sums, sums + q * LANES<T>, T(0));
    }

    // mixing[j][i] = L_ij C_i.B_j, weights[j][i] = L_ij dt_j W_ij, and what passes from j to i > j
    void mix(Index q) {
        for (Index j = 0; j < q; j += ROWS)
            for (Index i = j / LANES<T> * LANES<T>; i < q; i += LANES<T>) {
                Vector<T> scores[ROWS][1] = {}, products[ROWS][1] = {};
                accumulate<T, 1>(scores, B + j * shape.N_rows, shape.N_rows, 1, C_columns + i, shape.Q_lanes, shape.N);
                accumulate<T, 1>(products, x + j * shape.P_rows, shape.P_rows, 1, dy_columns + i, shape.Q_lanes,
                                 shape.P);
                for (Index r = 0; r < std::min<Index>(ROWS, q - j); ++r) {
                    const Index here = (j + r) * shape.Q_lanes + i;
                    const Vector<T> L = decay.between(i, j + r), product = products[r][0] * decay.dt[j + r];
                    store(mixing + here, L * scores[r][0]);
                    store(weights + here, L * product);
                    store(passed + here, L * scores[r][0] * product);
                }
            }
    }

    void differentiate_x(Index panel, Index j, Index first, Index q) {
        const T* dy_panel = dy + (panel * shape.Q + j) * PANEL<T>;
        const Index num_rows = std::min<Index>(ROWS, q - j);
        Tile<T> z = {};
        accumulate<T, VECTORS>(z, B + j * shape.N_rows, shape.N_rows, 1, dh + panel * shape.N_rows * PANEL<T>, PANEL<T>,
                               shape.N);
        for (Index r = 0; r < ROWS; ++r)
            for (Index v = 0; v < VECTORS; ++v) z[r][v] *= decay.out[std::min(j + r, q - 1)];
        for (Index r = 0; r < num_rows; ++r) add_dot(written, z[r], j + r, x_at(panel, j + r));
        accumulate<T, VECTORS>(z, mixing + j * shape.Q_lanes + j, shape.Q_lanes, 1, dy_panel, PANEL<T>, q - j);
        for (Index r = 0; r < num_rows; ++r) {
            const T* x_row = x_at(panel, j + r);
            add_dot(stepped, z[r], j + r, x_row);
            for (Index v = 0; v < VECTORS; ++v) {
                const Index column = panel * PANEL<T> + v * LANES<T>;
                const Vector<T> dy_row = load(dy_panel + r * PANEL<T> + v * LANES<T>);
                z[r][v] = z[r][v] * decay.dt[j + r] + load(D + column) * dy_row;
                store(dD + column, load(dD + column) + load(x_row + v * LANES<T>) * dy_row);
            }
        }
        store_tile<T>(z, dx_rows, first + j, q - j, panel * PANEL<T>, shape.P - panel * PANEL<T>);
    }

    void differentiate_B(Index panel, Index j, Index first, Index q, bool is_added) {
        Tile<T> sums = {};
        accumulate<T, VECTORS>(sums, x + j * shape.P_rows, shape.P_rows, 1, dh_turned + panel * shape.P_rows * PANEL<T>,
                               PANEL<T>, shape.P);
        for (Index r = 0; r < ROWS; ++r) {
            const Index token = std::min(j + r, q - 1);
            for (Index v = 0; v < VECTORS; ++v) sums[r][v] *= decay.out[token] * decay.dt[token];
        }
        accumulate<T, VECTORS>(sums, weights + j * shape.Q_lanes + j, shape.Q_lanes, 1,
                               C_panels + (panel * shape.Q + j) * PANEL<T>, PANEL<T>, q - j);
        store_tile<T>(sums, dB_rows, first + j, q - j, panel * PANEL<T>, shape.N - panel * PANEL<T>, is_added);
    }

    void differentiate_C(Index panel, Index i, Index first, Index q, bool is_added, const T* state) {
        Tile<T> sums = {};
        accumulate<T, VECTORS>(sums, dy_columns + i, 1, shape.Q_lanes, state + panel * shape.P_rows * PANEL<T>, PANEL<T>,
                               shape.P);
        for (Index r = 0; r < ROWS; ++r)
            for (Index v = 0; v < VECTORS; ++v) sums[r][v] *= decay.into[std::min(i + r, q - 1)];
        for (Index r = 0; r < std::min<Index>(ROWS, q - i); ++r)
            add_dot(read, sums[r], i + r, C_panels + (panel * shape.Q + i + r) * PANEL<T>);
        accumulate<T, VECTORS>(sums, weights + i, 1, shape.Q_lanes, B_panels + panel * shape.Q * PANEL<T>, PANEL<T>,
                               std::min(i + ROWS, q));
        store_tile<T>(sums, dC_rows, first + i, q - i, panel * PANEL<T>, shape.N - panel * PANEL<T>, is_added);
    }

    void add_up_decay(Index q, const T* state) {
        double carried = 0;
        for (Index panel = 0; panel < shape.N_panels; ++panel) {
            const Index here = panel * shape.P_rows * PANEL<T>;
            Vector<T> total = {};
            for (Index k = here; k < here + shape.P * PANEL<T>; k += LANES<T>)
                total += load(state + k) * load(dh_turned + k);
            carried += sum<T>(total);
        }
        const auto behind = [&](Index t) { return decay.dt[t] * sum<T>(load(written + t * LANES<T>)); };
        add_up_passing(grad_decay, q, passed, shape.Q_lanes, running, read, behind, carried * decay.total);
    }

    const T* x_at(Index panel, Index j) const { return x + j * shape.P_rows + panel * PANEL<T>; }

    static void add_dot(T* sums, const Vector<T> (&left)[VECTORS], Index token, const T* right) {
        Vector<T> total = load(sums + token * LANES<T>);
        for (Index v = 0; v < VECTORS; ++v) total += left[v] * load(right + v * LANES<T>);
        store(sums + token * LANES<T>, total);
    }

    const Arguments& to;
    const Shape<T> shape;
    Decay<T> decay;
    T *x, *dy, *dy_columns, *B, *B_panels, *C, *C_panels, *C_columns, *mixing, *weights, *passed, *running;
    T *read, *written, *stepped;  // LANES partial sums per token, over the panels
    double* grad_decay;
    T *D, *dD, *dh, *dh_turned, *states;
    Index head = 0, num_tokens = 0;
    Rows<const T> x_rows, dt_rows, B_rows, C_rows, dy_rows;
    Rows<T> dx_rows, dB_rows, dC_rows;
};

}  // namespace
