// (T + mu I)^-1 B for a symmetric positive definite tridiagonal T and several shifts mu, by T + mu I = L D L'.
//
// Letters: k rows, m columns of B, R shifts. The recurrences run down the rows; all columns of a row advance together.

#include <cstdint>
#include <vector>

namespace {

using Index = int64_t;

// x = a x + b y
inline void combine(Index count, double *x, double a, double b, const double *y) {
    for (Index i = 0; i < count; ++i) x[i] = a * x[i] + b * y[i];
}

} // namespace

extern "C" void solve_tridiagonal(
    Index k, Index R, Index m,
    const double *diagonal, // [k]
    const double *beside,   // [k - 1]
    const double *shifts,   // [R]
    double *solutions       // [k, R, m], B for every shift; overwritten
) {
    std::vector<double> factors((k - 1) * R), inverses(k * R);
    for (Index r = 0; r < R; ++r) {
        double pivot = diagonal[0] + shifts[r];
        inverses[r] = 1 / pivot;
        for (Index i = 1; i < k; ++i) {
            const double factor = beside[i - 1] / pivot;
            factors[(i - 1) * R + r] = factor;
            pivot = diagonal[i] + shifts[r] - factor * beside[i - 1];
            inverses[i * R + r] = 1 / pivot;
        }
    }
    const auto row = [&](Index i, Index r) { return solutions + (i * R + r) * m; };
    for (Index i = 1; i < k; ++i)
        for (Index r = 0; r < R; ++r) combine(m, row(i, r), 1, -factors[(i - 1) * R + r], row(i - 1, r));
    for (Index r = 0; r < R; ++r) combine(m, row(k - 1, r), inverses[(k - 1) * R + r], 0, row(k - 1, r));
    for (Index i = k - 2; i >= 0; --i)
        for (Index r = 0; r < R; ++r) combine(m, row(i, r), inverses[i * R + r], -factors[i * R + r], row(i + 1, r));
}
