// Mean over the tokens of each sequence but the first `skip`, in f32, of x or of x + delta (src/ops/pool).
#include "common.cuh"

template <typename T>
__device__ __forceinline__ void add_tokens(const T* x, float (&sum)[SIZE<T>], int tokens, int width, int skip) {
    for (int token = skip; token < tokens; token++) {
        float v[SIZE<T>];
        load(x + (size_t)token * width, v);
#pragma unroll
        for (int i = 0; i < SIZE<T>; i++) sum[i] += v[i];
    }
}

// y[b] = sum over t >= skip of x[b, t] / (tokens - skip), in order, with RESIDUAL then also of delta. One thread per
// pack of y. Grid: any; block: 128. x, delta: [batch, tokens, width]; y: [batch, width]; width: a multiple of SIZE<T>.
template <typename T, bool RESIDUAL>
__device__ void forward(const T* x, const T* delta, float* y, int batch, int tokens, int width, int skip) {
    constexpr int N = SIZE<T>;
    size_t total = (size_t)batch * width;
    for (size_t at = thread_index() * N; at < total; at += thread_count() * N) {
        size_t first = at / width * tokens * width + at % width;
        float sum[N] = {};
        add_tokens(x + first, sum, tokens, width, skip);
        if (RESIDUAL) add_tokens(delta + first, sum, tokens, width, skip);
#pragma unroll
        for (int i = 0; i < N; i++) sum[i] /= tokens - skip;
        store_f32(y + at, sum);
    }
}

// dx[b, t] = dy[b] / (tokens - skip), zero for t < skip. One thread per pack of dx. Grid: any; block: 256.
template <typename T> __device__ void backward(const float* dy, T* dx, int batch, int tokens, int width, int skip) {
    constexpr int N = SIZE<T>;
    size_t sample = (size_t)tokens * width;
    size_t total = batch * sample;
    float factor = 1.0f / (tokens - skip);
    for (size_t at = thread_index() * N; at < total; at += thread_count() * N) {
        float v[N] = {};
        // 32-bit pack numbers, since a 64-bit division takes a hundred instructions.
        unsigned pack = at / N;
        unsigned packs = sample / N;
        unsigned in_sample = pack % packs;
        if (in_sample >= (unsigned)(skip * width / N)) {
            load_params(dy + (size_t)(pack / packs) * width + in_sample % (unsigned)(width / N) * N, v);
#pragma unroll
            for (int i = 0; i < N; i++) v[i] *= factor;
        }
        store(dx + at, v);
    }
}

#define KERNELS(TYPE, NAME)                                                                           \
    extern "C" __global__ void __launch_bounds__(128)                                                 \
        pool_forward_##NAME(const TYPE* x, float* y, int batch, int tokens, int width, int skip) {    \
        forward<TYPE, false>(x, nullptr, y, batch, tokens, width, skip);                              \
    }                                                                                                 \
    extern "C" __global__ void __launch_bounds__(128) pool_residual_forward_##NAME(                   \
        const TYPE* x, const TYPE* delta, float* y, int batch, int tokens, int width, int skip) {     \
        forward<TYPE, true>(x, delta, y, batch, tokens, width, skip);                                 \
    }                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                                 \
        pool_backward_##NAME(const float* dy, TYPE* dx, int batch, int tokens, int width, int skip) { \
        backward(dy, dx, batch, tokens, width, skip);                                                 \
    }

KERNELS(bf16, bf16)
KERNELS(float, f32)
