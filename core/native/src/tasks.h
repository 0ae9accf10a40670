// Tasks that share nothing, on several threads, each with memory of its own.
#pragma once

#include <atomic>
#include <cstdlib>
#include <system_error>
#include <thread>
#include <vector>

#include "tile.h"

namespace {

// Memory of one thread, handed out front to back. Without memory it only counts.
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

// Runs every task once, on as many threads as were asked for. Returns false if there is no memory for them.
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
        // the process may start no more threads: those that it has do the work
    }
    work(0);
    for (std::thread& thread : threads) thread.join();
    std::free(memory);
    return true;
}

}  // namespace
