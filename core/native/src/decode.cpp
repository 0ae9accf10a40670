// One token of a whole model: a list of steps over rows of floats, which all threads go through together. Weights are read in
// place, in their dtype; everything between them is in float32.

#include "decode_attention.h"
#include "decode_layers.h"
#include "decode_recurrence.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace {

enum Operation { embed, product, attend, operands, ssd, delta, gate };

struct Instruction {
    int64_t operation;
    int64_t is_meeting; // whether all threads have to be done with what is before
    const void *arguments;
};

template <typename Step> const Step &step_of(const Instruction &instruction) {
    return *static_cast<const Step *>(instruction.arguments);
}

template <typename Weight> void run(const Instruction &instruction, int64_t rows, const Worker &me) {
    switch (instruction.operation) {
    case embed: return step_of<Embed>(instruction).run<Weight>(rows, me);
    case product: return step_of<Product>(instruction).run<Weight>(rows, me);
    case attend: return step_of<Attend>(instruction).run<Weight>(rows, me);
    case operands: return step_of<Operands>(instruction).run<Weight>(rows, me);
    case ssd: return step_of<Ssd>(instruction).run<Weight>(rows, me);
    case delta: return step_of<Delta>(instruction).run<Weight>(rows, me);
    case gate: return step_of<Gate>(instruction).run<Weight>(rows, me);
    }
}

template <typename Weight> void run_all(const Instruction *instructions, int64_t count, int64_t rows, int threads) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#if defined(_OPENMP)
        const Worker me(omp_get_thread_num(), omp_get_num_threads());
#else
        const Worker me(0, 1);
#endif
        for (int64_t i = 0; i < count; ++i) {
            if (instructions[i].is_meeting) {
#pragma omp barrier
            }
            run<Weight>(instructions[i], rows, me);
        }
    }
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
