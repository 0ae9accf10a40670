// The gated delta rule on a CPU, forward and backward, chunk by chunk, each chunk within the caches of one core.
//
// Letters: K key_dim, V value_dim, Q chunk_size, q tokens of this chunk (less than Q in the last one). Tokens of a chunk
// are i (reads the state) and j (wrote to it); L_ij = exp(c_i - c_j), c the running sum of g in the chunk. S is the state,
// here with a row for each key channel.
//
//   x_i    = v_i - e^{c_i} S' k_i - sum_{j<i} L_ij (k_i.k_j) u_j,   u_i = beta_i x_i
//   y_i    = scale (e^{c_i} S' q_i + sum_{j<=i} L_ij (q_i.k_j) u_j)
//   S_next = e^{c_q} S + sum_j e^{c_q - c_j} k_j u_j'
//
// A task is a few heads of one sequence. The order of operations of a head is fixed, so the result depends neither on the
// number of threads nor on the rest of the batch.
//
// All products use one micro-kernel, `accumulate`: see chunked.cpp.

#include "delta_backward.h"
#include "delta_forward.h"
#include "pages.h"

namespace {

template <typename T> bool forward(const Arguments& to) {
    const Index rows = (to.starts ? 1 : to.num_sequences) * to.num_tokens;
    want_large_pages<T>(to.y.data, rows * to.num_heads * to.value_dim);
    return run_all<Forward<T>>(to);
}
template <typename T> bool backward(const Arguments& to) {
    const Index rows = (to.starts ? 1 : to.num_sequences) * to.num_tokens;
    const auto want = [&](const View& gradient, Index share, Index width) {
        const Index num_copies = std::max<Index>(1, share / to.heads_per_task);
        want_large_pages<T>(gradient.data, num_copies * rows * to.num_heads / share * width);
    };
    want(to.grad_q, to.q_share, to.key_dim);
    want(to.grad_k, to.k_share, to.key_dim);
    want(to.grad_v, to.v_share, to.value_dim);
    return run_all<Backward<T>>(to);
}

}  // namespace

extern "C" {
bool delta_rule_forward_float32(const Arguments* to) { return forward<float>(*to); }
bool delta_rule_forward_float64(const Arguments* to) { return forward<double>(*to); }
bool delta_rule_backward_float32(const Arguments* to) { return backward<float>(*to); }
bool delta_rule_backward_float64(const Arguments* to) { return backward<double>(*to); }
}
