// What the processor can do at most: multiply-adds in registers, and reading and updating memory. Nothing else is measured
// here; benchmarks divide by these rates.

#include "pages.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <system_error>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

// Seconds from when all threads are ready until the last has finished work(thread); 0 if they cannot be started.
template <typename Work> double seconds_together(Index num_threads, const Work& work) {
    std::atomic<Index> num_ready{0};
    std::atomic<int> signal{0};  // 1: go, 2: give up
    std::vector<Clock::time_point> ends(num_threads);
    std::vector<std::thread> threads;
    const auto wait_and_work = [&](Index thread) {
        ++num_ready;
        while (!signal) std::this_thread::yield();
        if (signal == 1) work(thread);
        ends[thread] = Clock::now();
    };
    try {
        for (Index thread = 1; thread < num_threads; ++thread) threads.emplace_back(wait_and_work, thread);
    } catch (const std::system_error&) {
        signal = 2;
        for (std::thread& thread : threads) thread.join();
        return 0;
    }
    while (num_ready < num_threads - 1) std::this_thread::yield();
    const Clock::time_point start = Clock::now();
    signal = 1;
    wait_and_work(0);
    for (std::thread& thread : threads) thread.join();
    return std::chrono::duration<double>(*std::max_element(ends.begin(), ends.end()) - start).count();
}

// x <- x factor + summand in as many registers as a tile has: enough independent chains to hide the latency of one.
template <typename T> T multiply_add(Index num_steps, T factor, T summand) {
    Tile<T> sums;
    for_tile<VECTORS>([&](int r, int v) { sums[r][v] = Vector<T>{} + T(r * VECTORS + v); });
    const Vector<T> factors = Vector<T>{} + factor, summands = Vector<T>{} + summand;
    for (Index step = 0; step < num_steps; ++step)
        for_tile<VECTORS>([&](int r, int v) __attribute__((always_inline)) {
            sums[r][v] = sums[r][v] * factors + summands;
        });
    Vector<T> total = {};
    for_tile<VECTORS>([&](int r, int v) { total += sums[r][v]; });
    return sum<T>(total);
}

// Operations per second of all threads, a multiply-add as two: the best of several rounds within `seconds`, which
// are short, so that some are not disturbed by other processes.
template <typename T> double multiply_add_rate(Index num_threads, double seconds) {
    constexpr Index num_rounds = 64;
    constexpr double flops_per_step = 2.0 * ROWS * VECTORS * LANES<T>;
    std::vector<T> results(num_threads);
    // not known to the compiler; x tends to 1, so that no operand is subnormal or infinite
    const volatile T factor = T(0.5), summand = T(0.5);
    const auto round = [&](Index num_steps) {
        const T a = factor, b = summand;
        return seconds_together(num_threads, [&](Index thread) { results[thread] = multiply_add<T>(num_steps, a, b); });
    };
    // rounds of growing length, which also wake cores and wide units
    Index num_steps = 1 << 14;
    double took = round(num_steps);
    while (took > 0 && took < seconds / num_rounds) took = round(num_steps *= 2);
    if (took <= 0) return 0;
    for (Index k = 1; k < num_rounds; ++k) took = std::min(took, round(num_steps));
    return flops_per_step * double(num_steps) * double(num_threads) / took;
}

constexpr Index page = 4096, page_numbers = page / sizeof(float);

// Reads four streams at a time, as products of a few rows do: more requests are on their way than from one. As whole numbers:
// any bits may be read, and some floats take a processor long to add.
std::int32_t read(const void* numbers, Index count) {
    constexpr Index num_streams = 4;
    const Index length = count / num_streams;
    const auto* const from = static_cast<const char*>(numbers);
    IntVector<float> sums[2 * num_streams] = {};
    for (Index i = 0; i < length; i += 2 * LANES<float>) {
#pragma GCC unroll 8
        for (Index v = 0; v < 2 * num_streams; ++v) {
            IntVector<float> value;
            std::memcpy(&value, from + 4 * (v / 2 * length + i + v % 2 * LANES<float>), BYTES);
            sums[v] += value;
        }
    }
    for (Index v = 1; v < 2 * num_streams; ++v) sums[0] += sums[v];
    std::int32_t total = 0;
    for (Index lane = 0; lane < LANES<float>; ++lane) total += sums[0][lane];
    return total;
}

void update(float* numbers, Index count, float factor) {
    for (Index i = 0; i < count; i += LANES<float>) store(numbers + i, load(numbers + i) * factor);
}

}  // namespace

extern "C" {

double multiply_add_rate_float32(Index num_threads, double seconds) {
    return multiply_add_rate<float>(num_threads, seconds);
}
double multiply_add_rate_float64(Index num_threads, double seconds) {
    return multiply_add_rate<double>(num_threads, seconds);
}

// Bytes per second of all threads, the best of `num_rounds`: reading once, and reading and writing in place, which counts
// each byte twice. Returns false without memory or threads.
bool streaming_rates(Index num_bytes, Index num_threads, Index num_rounds, double* read_rate, double* update_rate) {
    const Index count = round_up(num_bytes / num_threads, page) / Index(sizeof(float)), total = count * num_threads;
    float* numbers = static_cast<float*>(std::aligned_alloc(page, size_t(total) * sizeof(float)));
    if (!numbers) return false;
    want_large_pages<float>(numbers, total);
    std::vector<std::int32_t> results(num_threads);
    const volatile float one = 1;
    const float factor = one;
    // each thread touches its part first, so that it is in the memory next to it
    const bool is_started = seconds_together(num_threads, [&](Index thread) {
        std::fill_n(numbers + thread * count, count, factor);
    }) > 0;
    double reading = 0, updating = 0;
    for (Index k = 0; is_started && k < num_rounds; ++k) {
        const double took = seconds_together(
            num_threads, [&](Index thread) { results[thread] = read(numbers + thread * count, count); });
        reading = k ? std::min(reading, took) : took;
    }
    for (Index k = 0; is_started && k < num_rounds; ++k) {
        const double took =
            seconds_together(num_threads, [&](Index thread) { update(numbers + thread * count, count, factor); });
        updating = k ? std::min(updating, took) : took;
    }
    std::free(numbers);
    if (reading <= 0 || updating <= 0) return false;
    const double bytes = double(total) * sizeof(float);
    *read_rate = bytes / reading;
    *update_rate = 2 * bytes / updating;
    return true;
}

// Asks for large pages for memory that nobody has written yet, and writes it, each thread the part that it will read.
void want_pages(float* numbers, Index count, Index num_threads) {
    want_large_pages<float>(numbers, count);
    const Index part = count / num_threads;
    seconds_together(num_threads, [&](Index thread) { std::fill_n(numbers + thread * part, part, 1.0f); });
}

// Reads some arrays once, one after the other, each thread its part of each of them in whole pages; what is left of an array
// is less than a page a thread. Returns false without threads.
bool read_once(const void* const* arrays, const Index* num_bytes, Index num_arrays, Index num_threads) {
    std::vector<std::int32_t> results(num_threads);
    return seconds_together(num_threads, [&](Index thread) {
        for (Index i = 0; i < num_arrays; ++i) {
            const Index part = num_bytes[i] / num_threads / page * page_numbers;
            results[thread] += read(static_cast<const float*>(arrays[i]) + thread * part, part);
        }
    }) > 0;
}
}
