// L2 normalisation of rows (src/ops/l2norm): y = x / (|x| + 1e-8).
// Backward, with n = |x| and s = n + 1e-8: dx = dy / s - x (x . dy) / (n s^2), where the second term is zero if n is.
// One warp per row, one float per lane at a time: any width. Grid: any; block: 128. x, y, dy, dx: [rows, width]; norm:
// [rows].
#include "common.cuh"

constexpr float EPS = 1e-8f;

extern "C" __global__ void __launch_bounds__(128)
    l2norm_forward(const float* x, float* y, float* norm, int rows, int width) {
    int lane = threadIdx.x % 32;
    for (size_t row = thread_index() / 32; row < rows; row += thread_count() / 32) {
        const float* from = x + row * width;
        float squares = 0;
        for (int column = lane; column < width; column += 32) squares += from[column] * from[column];
        float n = sqrtf(warp_sum(squares));
        float factor = 1 / (n + EPS);
        for (int column = lane; column < width; column += 32) y[row * width + column] = from[column] * factor;
        if (lane == 0) norm[row] = n;
    }
}

extern "C" __global__ void __launch_bounds__(128)
    l2norm_backward(const float* dy, const float* x, const float* norm, float* dx, int rows, int width) {
    int lane = threadIdx.x % 32;
    for (size_t row = thread_index() / 32; row < rows; row += thread_count() / 32) {
        const float* from = x + row * width;
        const float* gradient = dy + row * width;
        float dot = 0;
        for (int column = lane; column < width; column += 32) dot += from[column] * gradient[column];
        float n = norm[row];
        float factor = 1 / (n + EPS);
        dot = warp_sum(dot);
        dot = n > 0 ? dot * factor * factor / n : 0.0f;
        for (int column = lane; column < width; column += 32)
            dx[row * width + column] = gradient[column] * factor - from[column] * dot;
    }
}
