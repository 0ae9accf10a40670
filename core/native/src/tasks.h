// Runs independent tasks on several threads, each with private memory.
#pragma once

#include <atomic>
#include <cstdlib>
#include <system_error>
#include <thread>
#include <vector>

#include "tile.h"

namespace {

// Bump allocator of one thread. Without memory, it only measures the size needed.
class Scratch {
  public:
    explicit Scratch(char* memory = nullptr) : memory_(memory) {}
    template <typename T> T* take(Index count) {
        const Index here = used_;
        used_ += round_up(count * Index(sizeof(T)), 64);
        return memory_ ? reinterpret_cast<T*>(memory_ + here) : nullptr;
    }
    Index used() const { return used_; }

  private:
    char* memory_;
    Index used_ = 0;
};

// Runs every task once, on the requested number of threads. Returns false if out of memory.
template <typename Work, typename Problem> bool run_all(const Problem& to) {
    const Index num_tasks = Work::num_tasks(to), num_threads = std::max<Index>(1, std::min(to.num_threads, num_tasks));
    Scratch measured;
    { Work counted(measured, to); }
    const Index stride = round_up(measured.used(), 4096);
    char* memory = static_cast<char*>(std::aligned_alloc(64, size_t(stride * num_threads)));
    if (!memory) return false;
    std::atomic<Index> next{0};
    const auto work = [&](Index thread) {
        Scratch scratch(memory + thread * stride);
        Work worker(scratch, to);
        for (Index task = next++; task < num_tasks; task = next++) worker.run(task);
    };
    std::vector<std::thread> threads;
    try {
        for (Index thread = 1; thread < num_threads; ++thread) threads.emplace_back(work, thread);
    } catch (const std::system_error&) {
        // no more threads can be started: continue with the existing ones
    }
    work(0);
    for (std::thread& thread : threads) thread.join();
    std::free(memory);
    return true;
}

}  // namespace
