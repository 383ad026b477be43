// L2 normalisation of rows (src/ops/l2norm): y = x / (|x| + 1e-8), in f32 for the loss.
// Backward, with n = |x| and s = n + 1e-8: dx = dy / s - x (x . dy) / (n s^2), the second term zero where n is.
// One warp per row. Grid: any; block: 128. x, dx: [rows, width] of T; y, dy: [rows, width]; norm: [rows];
// width: a multiple of SIZE<T>.
#include "common.cuh"

constexpr float EPS = 1e-8f;

template <typename T> __device__ void forward(const T* x, float* y, float* norm, int rows, int width) {
    constexpr int N = SIZE<T>;
    int lane = threadIdx.x % 32;
    for (size_t row = thread_index() / 32; row < rows; row += thread_count() / 32) {
        const T* from = x + row * width;
        float squares = 0;
        for (int column = lane * N; column < width; column += 32 * N) {
            float v[N];
            load(from + column, v);
#pragma unroll
            for (int i = 0; i < N; i++) squares += v[i] * v[i];
        }
        float n = sqrtf(warp_sum(squares)), factor = 1 / (n + EPS);
        for (int column = lane * N; column < width; column += 32 * N) {
            float v[N];
            load(from + column, v);
#pragma unroll
            for (int i = 0; i < N; i++) v[i] *= factor;
            store_f32(y + row * width + column, v);
        }
        if (lane == 0) norm[row] = n;
    }
}

template <typename T>
__device__ void backward(const float* dy, const T* x, const float* norm, T* dx, int rows, int width) {
    constexpr int N = SIZE<T>;
    int lane = threadIdx.x % 32;
    for (size_t row = thread_index() / 32; row < rows; row += thread_count() / 32) {
        float along = 0;
        for (int column = lane * N; column < width; column += 32 * N) {
            float v[N], d[N];
            load(x + row * width + column, v);
            load_params(dy + row * width + column, d);
#pragma unroll
            for (int i = 0; i < N; i++) along += v[i] * d[i];
        }
        float n = norm[row], factor = 1 / (n + EPS);
        along = warp_sum(along);
        along = n > 0 ? along * factor * factor / n : 0.0f;
        for (int column = lane * N; column < width; column += 32 * N) {
            float v[N], d[N];
            load(x + row * width + column, v);
            load_params(dy + row * width + column, d);
#pragma unroll
            for (int i = 0; i < N; i++) v[i] = d[i] * factor - v[i] * along;
            store(dx + row * width + column, v);
        }
    }
}

#define KERNELS(TYPE, NAME)                                                                                              \
    extern "C" __global__ void __launch_bounds__(128) l2norm_forward_##NAME(const TYPE* x, float* y, float* norm,         \
                                                                            int rows, int width) {                       \
        forward(x, y, norm, rows, width);                                                                                 \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(128) l2norm_backward_##NAME(                                             \
        const float* dy, const TYPE* x, const float* norm, TYPE* dx, int rows, int width) {                               \
        backward(dy, x, norm, dx, rows, width);                                                                           \
    }

KERNELS(bf16, bf16)
KERNELS(float, f32)
