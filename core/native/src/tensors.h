// Reads torch tensors from their Python objects through torch's DLPack C exchange API. That takes a few hundredths of a
// microsecond per tensor; in Python, each of shape, strides, dtype, device and address takes a tenth. No torch or Python
// headers are needed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <numeric>

// from Python's stable ABI, provided by the process that loads this library
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

// kind and bits of a dtype, in DLPack's encoding
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

    // Whether this is a T [sizes] in CPU memory that is contiguous from axis `axis` on. An axis of length 1 may have any
    // stride, and so may all axes of an empty tensor.
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

// The exchange API, as passed from Python.
struct Exchange {
    int (*describe)(PyObject *, Tensor *); // returns non-zero and sets a Python error for tensors that DLPack cannot describe
    PyObject *tensor_type;
};

bool is_none(PyObject *object) { return object == &_Py_NoneStruct; }

// Whether this is a tensor that DLPack can describe.
bool read(const Exchange &exchange, PyObject *object, Tensor &tensor) {
    if (PyObject_IsInstance(object, exchange.tensor_type) == 1 && exchange.describe(object, &tensor) == 0) return true;
    PyErr_Clear();
    return false;
}

// Releases the GIL during its lifetime.
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
