// Tensors of torch, read from their Python objects by a function that torch hands out for it (DLPack's exchange in C).
// That takes some hundredths of a microsecond a tensor, where Python takes a tenth for each of shape, strides, dtype,
// device and address. No header of torch or Python is needed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <numeric>

// of Python's stable interface; the process that loads this library has them
extern "C" {
typedef struct _object PyObject;
extern PyObject _Py_NoneStruct;
PyObject *PyTuple_GetItem(PyObject *tuple, intptr_t index);
int PyObject_IsInstance(PyObject *object, PyObject *type);
void PyErr_Clear();
void *PyEval_SaveThread();
void PyEval_RestoreThread(void *thread);
}

namespace {

// a number's kind and bits, as DLPack writes them
template <typename T> constexpr int number_kind = 2; // floating point

// DLTensor of DLPack 1; strides count elements.
struct Tensor {
    void *data;
    struct {
        int32_t kind, index;
    } device;
    int32_t axes;
    struct {
        uint8_t kind, bits;
        uint16_t lanes;
    } number;
    const int64_t *shape, *strides;
    uint64_t offset_in_bytes;

    template <typename T> T *first() const { return reinterpret_cast<T *>(static_cast<char *>(data) + offset_in_bytes); }

    // Whether this is T [sizes] in the processor's memory, the axes from `axis` on in one piece. An axis of one entry may
    // have any stride, an empty tensor all.
    template <typename T> bool is(std::initializer_list<int64_t> sizes, int32_t axis = 0) const {
        constexpr int32_t in_memory = 1;
        const bool fits = device.kind == in_memory && number.kind == number_kind<T> && number.bits == 8 * sizeof(T) &&
                          std::equal(sizes.begin(), sizes.end(), shape, shape + axes);
        return fits && (size() == 0 || (data && is_one_piece(axis)));
    }

  private:
    int64_t size() const { return std::accumulate(shape, shape + axes, int64_t(1), std::multiplies<>()); }

    bool is_one_piece(int32_t axis) const {
        int64_t step = 1;
        for (int32_t i = axes; i-- > axis; step *= shape[i])
            if (shape[i] != 1 && strides[i] != step) return false;
        return true;
    }
};

// What Python hands over once.
struct Exchange {
    int (*describe)(PyObject *, Tensor *); // not 0, and an error is set in Python, for what DLPack has no words for
    PyObject *tensor_type;
};

bool is_none(PyObject *object) { return object == &_Py_NoneStruct; }

// Whether this is a tensor that can be described.
bool read(const Exchange &exchange, PyObject *object, Tensor &tensor) {
    if (PyObject_IsInstance(object, exchange.tensor_type) == 1 && exchange.describe(object, &tensor) == 0) return true;
    PyErr_Clear();
    return false;
}

// Other threads of Python run as long as this lives.
class OthersRun {
  public:
    OthersRun() : thread(PyEval_SaveThread()) {}
    ~OthersRun() { PyEval_RestoreThread(thread); }
    OthersRun(const OthersRun &) = delete;
    OthersRun &operator=(const OthersRun &) = delete;

  private:
    void *thread;
};

} // namespace
