// Each feature times a trained factor (src/ops/layer_scale): y = x * gamma.
// x, y, dy, dx: [rows, width]; gamma, dgamma: [width]; width: a multiple of SIZE<T>.
#include "common.cuh"

// One thread per pack. Grid: any; block: 256. Bytes moved: x and y.
template <typename T> __device__ void forward(const T* x, const float* gamma, T* y, int rows, int width) {
    constexpr int N = SIZE<T>;
    size_t total = (size_t)rows * width;
    for (size_t at = thread_index() * N; at < total; at += thread_count() * N) {
        float v[N], g[N];
        load(x + at, v);
        load_params(gamma + at % width, g);
#pragma unroll
        for (int i = 0; i < N; i++) v[i] *= g[i];
        store(y + at, v);
    }
}

// dx = dy * gamma, and partials[block, c] = sum of dy[r, c] * x[r, c] over the block's rows. A thread has a pack of
// columns and every WARPS-th row. Grid: (ceil(width / (32 SIZE)), blocks), blocks a function
// of rows alone; block: (32, 8). Bytes moved: dy, x and dx.
template <typename T>
__device__ void backward(const T* dy, const T* x, const float* gamma, T* dx, float* partials, int rows, int width) {
    constexpr int N = SIZE<T>, WARPS = 8;
    int column = (blockIdx.x * 32 + threadIdx.x) * N;
    int each = (rows + gridDim.y - 1) / gridDim.y;
    int end = min(rows, (int)(blockIdx.y + 1) * each);
    float sums[N] = {};
    if (column < width) {
        float g[N];
        load_params(gamma + column, g);
        for (int row = blockIdx.y * each + threadIdx.y; row < end; row += WARPS) {
            size_t at = (size_t)row * width + column;
            float d[N], v[N];
            load(dy + at, d);
            load(x + at, v);
#pragma unroll
            for (int i = 0; i < N; i++) {
                sums[i] += d[i] * v[i];
                d[i] *= g[i];
            }
            store(dx + at, d);
        }
    }
    store_column_sums(sums, partials, width);
}

#define KERNELS(TYPE, NAME)                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                        \
        layer_scale_forward_##NAME(const TYPE* x, const float* gamma, TYPE* y, int rows, int width) {        \
        forward(x, gamma, y, rows, width);                                                                   \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) layer_scale_backward_##NAME(                           \
        const TYPE* dy, const TYPE* x, const float* gamma, TYPE* dx, float* partials, int rows, int width) { \
        backward(dy, x, gamma, dx, partials, rows, width);                                                   \
    }

KERNELS(bf16, bf16)
KERNELS(float, f32)
