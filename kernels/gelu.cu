// GELU where no epilogue of a matrix product applies it (src/ops/gelu).
//   tanh:  x/2 (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3);   exact:  x/2 (1 + erf(x / sqrt 2))
//   quick: x / (1 + exp(-1.702 x))
#include "common.cuh"

constexpr float SQRT_2_OVER_PI = 0.7978845608f, CUBIC = 0.044715f, QUICK_SLOPE = 1.702f;

enum Form { TANH, EXACT, QUICK };

template <Form FORM> __device__ __forceinline__ float value(float x) {
    if (FORM == QUICK) return x / (1 + expf(-QUICK_SLOPE * x));
    if (FORM == EXACT) return 0.5f * x * (1 + erff(x * CUDART_SQRT_HALF_F));
    return 0.5f * x * (1 + tanhf(SQRT_2_OVER_PI * (x + CUBIC * x * x * x)));
}

template <Form FORM> __device__ __forceinline__ float slope(float x) {
    if (FORM == QUICK) {
        float gate = 1 / (1 + expf(-QUICK_SLOPE * x));
        return gate + QUICK_SLOPE * x * gate * (1 - gate);
    }
    if (FORM == EXACT) return 0.5f * (1 + erff(x * CUDART_SQRT_HALF_F)) + x * 0.3989422804f * expf(-0.5f * x * x);
    float t = tanhf(SQRT_2_OVER_PI * (x + CUBIC * x * x * x));
    return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * (SQRT_2_OVER_PI * (1 + 3 * CUBIC * x * x));
}

// y = gelu(x), both [len]. One thread per pack; the last pack may be shorter. Grid: any; block: 256.
template <typename T, Form FORM> __device__ void forward(const T* x, T* y, size_t len) {
    constexpr int N = SIZE<T>;
    for (size_t at = thread_index() * N; at < len; at += thread_count() * N) {
        if (at + N <= len) {
            float v[N];
            load(x + at, v);
#pragma unroll
            for (int i = 0; i < N; i++) v[i] = value<FORM>(v[i]);
            store(y + at, v);
        } else {
            for (size_t i = at; i < len; i++) y[i] = from_float<T>(value<FORM>(to_float(x[i])));
        }
    }
}

// d *= gelu'(x). As `forward`.
template <typename T, Form FORM> __device__ void backward(const T* x, T* d, size_t len) {
    constexpr int N = SIZE<T>;
    for (size_t at = thread_index() * N; at < len; at += thread_count() * N) {
        if (at + N <= len) {
            float v[N], g[N];
            load(x + at, v);
            load(d + at, g);
#pragma unroll
            for (int i = 0; i < N; i++) g[i] *= slope<FORM>(v[i]);
            store(d + at, g);
        } else {
            for (size_t i = at; i < len; i++) d[i] = from_float<T>(to_float(d[i]) * slope<FORM>(to_float(x[i])));
        }
    }
}

#define KERNELS(TYPE, NAME, FORM_NAME, FORM)                                     \
    extern "C" __global__ void __launch_bounds__(256)                            \
        gelu_##FORM_NAME##_forward_##NAME(const TYPE* x, TYPE* y, size_t len) {  \
        forward<TYPE, FORM>(x, y, len);                                          \
    }                                                                            \
    extern "C" __global__ void __launch_bounds__(256)                            \
        gelu_##FORM_NAME##_backward_##NAME(const TYPE* x, TYPE* d, size_t len) { \
        backward<TYPE, FORM>(x, d, len);                                         \
    }

KERNELS(bf16, bf16, tanh, TANH)
KERNELS(bf16, bf16, exact, EXACT)
KERNELS(bf16, bf16, quick, QUICK)
KERNELS(float, f32, tanh, TANH)
KERNELS(float, f32, exact, EXACT)
KERNELS(float, f32, quick, QUICK)
