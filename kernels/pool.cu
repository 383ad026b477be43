// Mean over the tokens of each sequence, in f32 (src/ops/pool).
#include "common.cuh"

// y[b] = sum over t of x[b, t] / tokens, in order. One thread per pack of y. Grid: any; block: 128.
// x: [batch, tokens, width]; y: [batch, width]; width: a multiple of SIZE<T>.
template <typename T> __device__ void forward(const T* x, float* y, int batch, int tokens, int width) {
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
template <typename T> __device__ void backward(const float* dy, T* dx, int batch, int tokens, int width) {
    constexpr int N = SIZE<T>;
    size_t sample = (size_t)tokens * width;
    size_t total = batch * sample;
    float factor = 1.0f / tokens;
    for (size_t at = thread_index() * N; at < total; at += thread_count() * N) {
        float v[N];
        // 32-bit pack numbers, since a 64-bit division takes a hundred instructions.
        unsigned pack = at / N;
        load_params(dy + (size_t)(pack / (unsigned)(sample / N)) * width + pack % (unsigned)(width / N) * N, v);
#pragma unroll
        for (int i = 0; i < N; i++) v[i] *= factor;
        store(dx + at, v);
    }
}

#define KERNELS(TYPE, NAME)                                                                 \
    extern "C" __global__ void __launch_bounds__(128)                                       \
        pool_forward_##NAME(const TYPE* x, float* y, int batch, int tokens, int width) {    \
        forward(x, y, batch, tokens, width);                                                \
    }                                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                       \
        pool_backward_##NAME(const float* dy, TYPE* dx, int batch, int tokens, int width) { \
        backward(dy, dx, batch, tokens, width);                                             \
    }

KERNELS(bf16, bf16)
KERNELS(float, f32)
