// One token of a whole model: a list of steps over rows of floats, whose tasks all threads share. Weights are read in place, in
// their dtype; everything between them is in float32.

#include "decode_attention.h"
#include "decode_layers.h"
#include "decode_recurrence.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace {

enum Operation { embed, product, attend, operands, ssd, delta, gate };

enum Order {
    any_time, // as soon as its turn comes
    meeting,  // all that is before has to be done
    joined,   // each of its tasks follows the same one of the step before, on the same thread
};

struct Instruction {
    int64_t operation, order;
    const void *arguments;
};

template <typename Step> const Step &step_of(const Instruction &instruction) {
    return *static_cast<const Step *>(instruction.arguments);
}

// use(step), the step in its type
template <typename Use> auto with_step(const Instruction &instruction, Use use) {
    switch (instruction.operation) {
    case embed: return use(step_of<Embed>(instruction));
    case product: return use(step_of<Product>(instruction));
    case attend: return use(step_of<Attend>(instruction));
    case operands: return use(step_of<Operands>(instruction));
    case ssd: return use(step_of<Ssd>(instruction));
    case delta: return use(step_of<Delta>(instruction));
    default: return use(step_of<Gate>(instruction));
    }
}

// What one thread takes at once of a step, and what is not worth more than one thread at all, in bytes.
constexpr int64_t LEAST_TAKEN = 1 << 15, LEAST_SHARED = 1 << 22;

template <typename Weight> struct Run {
    const Instruction *const instructions;
    const int64_t count, rows;
    std::vector<Tasks> &tasks;

    // Of weights and caches: what is not counted is little, or is done together with what is.
    int64_t bytes_of(const Instruction &instruction) const {
        if (instruction.operation == attend) return step_of<Attend>(instruction).template num_bytes<Weight>(rows);
        if (instruction.operation != product) return 0;
        return step_of<Product>(instruction).num_weights() * int64_t(sizeof(Weight));
    }

    // A piece of the rows is read once for a group of tiles.
    int64_t least_tasks(const Instruction &instruction) const {
        const bool is_product = instruction.operation == product;
        return is_product && Pieces<float>(nullptr, rows, step_of<Product>(instruction).inputs).are_several() ? GROUP_TILES : 1;
    }

    // Returns whether there is enough work for several threads.
    bool prepare() const {
        int64_t bytes = 0;
        for (int64_t i = 0; i < count; ++i) {
            const Instruction &instruction = instructions[i];
            const int64_t all = bytes_of(instruction);
            // what is joined to another step is done with it
            const int64_t total = instruction.order == joined ? 0 : with_step(instruction, [&](const auto &step) {
                return step.num_tasks(rows);
            });
            tasks[i].reset(total, std::max(all ? total * LEAST_TAKEN / all : 0, least_tasks(instruction)));
            bytes += all;
        }
        return bytes >= LEAST_SHARED;
    }

    // What one of the threads does, from the first step to the last.
    void go(int64_t threads) const {
        int64_t begun = 0; // the first step that may not be done
        for (int64_t i = 0, next; i < count; i = next) {
            for (next = i + 1; next < count && instructions[next].order == joined;) ++next;
            if (instructions[i].order == meeting)
                for (; begun < i; ++begun) tasks[begun].wait();
            bool is_first = true;
            tasks[i].take(threads, [&](int64_t first, int64_t stop) {
                const Share mine(first, stop, is_first);
                for (int64_t k = i; k < next; ++k)
                    with_step(instructions[k], [&](const auto &step) { step.template run<Weight>(rows, mine); });
                is_first = false;
            });
        }
    }
};

template <typename Weight> void run_all(const Instruction *instructions, int64_t count, int64_t rows, int threads) {
    // kept for the next token
    thread_local std::vector<Tasks> tasks;
    if (int64_t(tasks.size()) < count) tasks = std::vector<Tasks>(count);
    const Run<Weight> run{instructions, count, rows, tasks};
    if (!run.prepare()) threads = 1;
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads) if (threads > 1)
    run.go(omp_get_num_threads());
#else
    run.go(1);
#endif
}

} // namespace

// Returns false, doing nothing, if a token has no embedding. `is_narrow` says whether weights and caches are bfloat16.
extern "C" bool decode(const Instruction *instructions, int64_t count, int64_t rows, bool is_narrow, int threads) {
    for (int64_t i = 0; i < count; ++i)
        if (instructions[i].operation == embed && !step_of<Embed>(instructions[i]).is_known(rows))
            return false;
    (is_narrow ? run_all<bfloat16> : run_all<float>)(instructions, count, rows, threads);
    return true;
}
