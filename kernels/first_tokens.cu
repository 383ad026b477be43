// The first token of each sequence (src/ops/first_tokens): y[b] = x[b, 0].
// x, dx: [batch, tokens, width]; y, dy: [batch, width]; width: a multiple of SIZE<T>. Grid: any; block: 256.
#include "common.cuh"

// One thread per pack of y. Bytes moved: y twice.
template <typename T> __device__ void forward(const T* x, T* y, int batch, int tokens, int width) {
    constexpr int N = SIZE<T>;
    size_t total = (size_t)batch * width;
    for (size_t at = thread_index() * N; at < total; at += thread_count() * N) {
        float v[N];
        load(x + at / width * tokens * width + at % width, v);
        store(y + at, v);
    }
}

// dx[b, 0] = dy[b], zero elsewhere. One thread per pack of dx. Bytes moved: dx and dy.
template <typename T> __device__ void backward(const T* dy, T* dx, int batch, int tokens, int width) {
    constexpr int N = SIZE<T>;
    size_t sample = (size_t)tokens * width;
    size_t total = batch * sample;
    for (size_t at = thread_index() * N; at < total; at += thread_count() * N) {
        float v[N] = {};
        if (at % sample < width) load(dy + at / sample * width + at % sample, v);
        store(dx + at, v);
    }
}

#define KERNELS(TYPE, NAME)                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                              \
        first_tokens_forward_##NAME(const TYPE* x, TYPE* y, int batch, int tokens, int width) {    \
        forward(x, y, batch, tokens, width);                                                       \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                              \
        first_tokens_backward_##NAME(const TYPE* dy, TYPE* dx, int batch, int tokens, int width) { \
        backward(dy, dx, batch, tokens, width);                                                    \
    }

KERNELS(bf16, bf16)
KERNELS(float, f32)
