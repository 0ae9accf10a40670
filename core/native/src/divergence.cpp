// The divergence of two next-token distributions, cross-entropy, and their gradient, row by row of the scores.
//
// Letters: V vocabulary, s and t scores of student and teacher, τ temperature, p_s and p_t their softmax at τ.
//
//   kl            = τ^2 sum_v p_t (log p_t - log p_s)
//   cross_entropy = -log softmax(s)[label]
//   gradient      = kl_weight τ (p_s - p_t) + cross_entropy_weight (softmax(s) - [v = label])
//
// A row is read from memory once and stays in cache for its three passes: the maxima; the exponentials, in place of the
// scores; the gradient. Threads share the rows, and a row's sums have a fixed order.

#include "parts.h"

#include <cmath>
#include <vector>

namespace {

template <typename T> struct Arrays {
    T *student, *teacher; // [rows, V], overwritten
    const int64_t *labels; // negative: none
    const T *kl_weight, *cross_entropy_weight; // null: no gradient
    T *kl, *cross_entropy;
    int64_t rows, vocabulary;
    T temperature;
};

// an exponent under which an entry vanishes
template <typename T> constexpr T gone = 2 * Format<T>::lowest;

// scores are summed in T for so many, then in double
constexpr int64_t block = 1024;

template <typename T> T largest(const T *scores, int64_t size) {
    Vector<T> highest = Vector<T>{} + scores[0];
    int64_t v = 0;
    for (; v + LANES<T> <= size; v += LANES<T>) {
        const Vector<T> value = load(scores + v);
        highest = value > highest ? value : highest;
    }
    T found = highest[0];
    for (int lane = 1; lane < LANES<T>; ++lane) found = std::max(found, T(highest[lane]));
    for (; v < size; ++v) found = std::max(found, scores[v]);
    return found;
}

// Exponentials in place of the scores, and what the divergence needs of them.
template <typename T> struct Sums {
    double student = 0, teacher = 0, gap = 0; // gap: teacher's exponentials times the difference of scaled scores

    void add(T *s, T *t, int64_t size, T highest_s, T highest_t, T inverse) {
        for (int64_t first = 0; first < size; first += block) {
            Vector<T> of_s{}, of_t{}, of_gap{};
            const int64_t end = std::min(first + block, size);
            for_vectors<T>(end - first, [&](Index d, Index left) {
                T *const at_s = s + first + d, *const at_t = t + first + d;
                const Vector<T> x = with_rest<T>((load_part(at_s, left) - highest_s) * inverse, left, gone<T>);
                const Vector<T> y = with_rest<T>((load_part(at_t, left) - highest_t) * inverse, left, gone<T>);
                const Vector<T> exp_s = exponential<T>(x), exp_t = exponential<T>(y);
                of_s += exp_s;
                of_t += exp_t;
                of_gap += exp_t * (y - x);
                store_part(at_s, exp_s, left);
                store_part(at_t, exp_t, left);
            });
            student += sum<T>(of_s), teacher += sum<T>(of_t), gap += sum<T>(of_gap);
        }
    }
};

// to[v] = e^(from[v] - highest); their sum.
template <typename T> double exponentials(const T *from, T *to, int64_t size, T highest) {
    double total = 0;
    for (int64_t first = 0; first < size; first += block) {
        Vector<T> sums{};
        const int64_t end = std::min(first + block, size);
        for_vectors<T>(end - first, [&](Index d, Index left) {
            const Vector<T> exponent = load_part(from + first + d, left) - highest;
            const Vector<T> value = exponential<T>(with_rest<T>(exponent, left, gone<T>));
            sums += value;
            store_part(to + first + d, value, left);
        });
        total += sum<T>(sums);
    }
    return total;
}

template <typename T> void one_row(const Arrays<T> &of, int64_t row, std::vector<T> &at_one) {
    const int64_t size = of.vocabulary, label = of.labels[row];
    T *const s = of.student + row * size, *const t = of.teacher + row * size;
    const T highest_s = largest(s, size), highest_t = largest(t, size);
    const T own = label < 0 ? T(0) : s[label] - highest_s;
    const bool is_scaled = of.temperature != T(1);
    double at_one_total = 0;
    if (label >= 0 && is_scaled) {
        at_one.resize(size_t(size));
        at_one_total = exponentials(s, at_one.data(), size, highest_s);
    }
    Sums<T> sums;
    sums.add(s, t, size, highest_s, highest_t, T(1) / of.temperature);
    if (!is_scaled) at_one_total = sums.student;
    const double square = double(of.temperature) * double(of.temperature);
    of.kl[row] = T(square * (sums.gap / sums.teacher - std::log(sums.teacher) + std::log(sums.student)));
    of.cross_entropy[row] = label < 0 ? T(0) : T(std::log(at_one_total) - double(own));
    if (!of.kl_weight) return;
    const T weight = of.kl_weight[row] * of.temperature, own_weight = label < 0 ? T(0) : of.cross_entropy_weight[row];
    const T from_s = T((double(weight) + (is_scaled ? 0.0 : double(own_weight))) / sums.student);
    const T from_t = T(double(weight) / sums.teacher);
    for (int64_t v = 0; v < size; ++v) s[v] = from_s * s[v] - from_t * t[v];
    if (label < 0) return;
    if (is_scaled) {
        const T from_one = T(double(own_weight) / at_one_total);
        for (int64_t v = 0; v < size; ++v) s[v] += from_one * at_one[size_t(v)];
    }
    s[label] -= own_weight;
}

template <typename T> void all_rows(const Arrays<T> &of, int threads) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        std::vector<T> at_one;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < of.rows; ++row) one_row(of, row, at_one);
    }
}

} // namespace

extern "C" {
void divergence_rows_float32(const Arrays<float> *of, int threads) { all_rows(*of, threads); }
void divergence_rows_float64(const Arrays<double> *of, int threads) { all_rows(*of, threads); }
}
