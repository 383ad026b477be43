// One row per sequence (src/ops/pool): the mean over tokens, or one token; rows are f32.
#include "common.cuh"

// y[b] = sum over t of x[b, t] / tokens, in order. One thread per pack of y. Grid: any; block: 128.
// x: [batch, tokens, width]; y: [batch, width]; width: a multiple of SIZE<T>.
template <typename T> __device__ void mean_forward(const T* x, float* y, int batch, int tokens, int width) {
    constexpr int N = SIZE<T>;
    size_t total = (size_t)batch * width;
    for (size_t at = thread_index() * N; at < total; at += thread_count() * N) {
        const T* from = x + at / width * tokens * width + at % width;
        float sum[N] = {};
        for (int token = 0; token < tokens; token++) {
            float v[N];
            load(from + (size_t)token * width, v);
#pragma unroll
            for (int i = 0; i < N; i++) sum[i] += v[i];
        }
#pragma unroll
        for (int i = 0; i < N; i++) sum[i] /= tokens;
        store_f32(y + at, sum);
    }
}

// dx[b, t] = dy[b] / tokens. One thread per pack of dx. Grid: any; block: 256.
template <typename T> __device__ void mean_backward(const float* dy, T* dx, int batch, int tokens, int width) {
    constexpr int N = SIZE<T>;
    size_t sample = (size_t)tokens * width, total = batch * sample;
    float factor = 1.0f / tokens;
    for (size_t at = thread_index() * N; at < total; at += thread_count() * N) {
        float v[N];
        load_params(dy + at / sample * width + at % width, v);
#pragma unroll
        for (int i = 0; i < N; i++) v[i] *= factor;
        store(dx + at, v);
    }
}

// y[b] = x[b, index[b]], token 0 where `index` is null.
template <typename T>
__device__ void token_forward(const T* x, const uint32_t* index, float* y, int batch, int tokens, int width) {
    constexpr int N = SIZE<T>;
    size_t total = (size_t)batch * width;
    for (size_t at = thread_index() * N; at < total; at += thread_count() * N) {
        size_t sample = at / width, token = index ? index[sample] : 0;
        float v[N];
        load(x + (sample * tokens + token) * width + at % width, v);
        store_f32(y + at, v);
    }
}

// dx is zero but for dx[b, index[b]] = dy[b].
template <typename T>
__device__ void token_backward(const float* dy, const uint32_t* index, T* dx, int batch, int tokens, int width) {
    constexpr int N = SIZE<T>;
    size_t total = (size_t)batch * tokens * width;
    for (size_t at = thread_index() * N; at < total; at += thread_count() * N) {
        size_t row = at / width, sample = row / tokens;
        float v[N] = {};
        if (row % tokens == (index ? index[sample] : 0)) load_params(dy + sample * width + at % width, v);
        store(dx + at, v);
    }
}

#define KERNELS(TYPE, NAME)                                                                                              \
    extern "C" __global__ void __launch_bounds__(128) pool_mean_forward_##NAME(const TYPE* x, float* y, int batch,         \
                                                                               int tokens, int width) {                  \
        mean_forward(x, y, batch, tokens, width);                                                                         \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(256) pool_mean_backward_##NAME(const float* dy, TYPE* dx, int batch,      \
                                                                                int tokens, int width) {                 \
        mean_backward(dy, dx, batch, tokens, width);                                                                      \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(256) pool_token_forward_##NAME(                                          \
        const TYPE* x, const uint32_t* index, float* y, int batch, int tokens, int width) {                                \
        token_forward(x, index, y, batch, tokens, width);                                                                 \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(256) pool_token_backward_##NAME(                                         \
        const float* dy, const uint32_t* index, TYPE* dx, int batch, int tokens, int width) {                              \
        token_backward(dy, index, dx, batch, tokens, width);                                                              \
    }

KERNELS(bf16, bf16)
KERNELS(float, f32)
