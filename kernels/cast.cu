// f32 to activations and back (src/ops/cast): y = x, rounded to nearest.
#include "common.cuh"

// One thread per element: such tensors have a row per sample. Grid: any; block: 256. Bytes moved: x and y.
template <typename FROM, typename TO> __device__ void cast(const FROM* x, TO* y, size_t len) {
    for (size_t at = thread_index(); at < len; at += thread_count()) y[at] = from_float<TO>(to_float(x[at]));
}

#define KERNELS(TYPE, NAME)                                                                                         \
    extern "C" __global__ void __launch_bounds__(256) cast_forward_##NAME(const float* x, TYPE* y, size_t len) {    \
        cast(x, y, len);                                                                                            \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(256) cast_backward_##NAME(const TYPE* dy, float* dx, size_t len) { \
        cast(dy, dx, len);                                                                                          \
    }

KERNELS(bf16, bf16)
KERNELS(float, f32)
