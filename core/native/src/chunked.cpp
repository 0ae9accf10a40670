// Mamba-2's scan on a CPU, forward and backward, chunk by chunk, each chunk within the caches of one core.
//
// Letters: P head_dim, N state_dim, Q chunk_size, q tokens of this chunk (less than Q in the last one). Tokens of a
// chunk are i (reads the state) and j (wrote to it); L_ij = exp(c_i - c_j), c the running sum of dt A in the chunk.
//
//   y_i    = e^{c_i} C_i.h + sum_{j<=i} L_ij dt_j (C_i.B_j) x_j + D x_i
//   h_next = e^{c_q} h + sum_j e^{c_q - c_j} dt_j B_j x_j'
//
// A task is a few heads of one sequence (backward: heads of a group that share a sum). The order of operations of a head
// is fixed, so the result depends neither on the number of threads nor on the rest of the batch.
//
// All products use one micro-kernel, `accumulate`: a tile of ROWS x VECTORS registers. The right operand is stored in
// panels, [width / PANEL][length][PANEL], so that a panel is read sequentially; the left operand is broadcast.

#include "backward.h"
#include "forward.h"
#include "pages.h"

namespace {

template <typename T> bool forward(const Arguments& to) {
    const Index rows = (to.starts ? 1 : to.num_sequences) * to.num_tokens;
    want_large_pages<T>(to.y.data, rows * to.num_heads * to.head_dim);
    return run_all<Forward<T>>(to);
}
template <typename T> bool backward(const Arguments& to) {
    const Index rows = (to.starts ? 1 : to.num_sequences) * to.num_tokens;
    want_large_pages<T>(to.grad_x.data, rows * to.num_heads * to.head_dim);
    for (void* data : {to.grad_B.data, to.grad_C.data})
        want_large_pages<T>(data, to.num_lanes * rows * to.num_groups * to.state_dim);
    return run_all<Backward<T>>(to);
}

}  // namespace

extern "C" {
bool ssd_forward_float32(const Arguments* to) { return forward<float>(*to); }
bool ssd_forward_float64(const Arguments* to) { return forward<double>(*to); }
bool ssd_backward_float32(const Arguments* to) { return backward<float>(*to); }
bool ssd_backward_float64(const Arguments* to) { return backward<double>(*to); }
}
