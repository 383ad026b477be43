// Sums in a fixed order: over partial sums, over columns, over everything.
#include "common.cuh"

// sums[c] (+)= sum over r of partials[r * stride + c]: each of 8 warps sums every eighth row, then the warps are added
// in order. The eight chains of loads hide each other's latency. Grid: ceil(width / 32); block: (32, 8).
extern "C" __global__ void __launch_bounds__(256)
    add_partials(const float* partials, float* sums, int rows, int width, int stride, int accumulate) {
    constexpr int WARPS = 8;
    __shared__ float shared[WARPS][32];
    int column = blockIdx.x * 32 + threadIdx.x;
    float total = 0;
    if (column < width) {
#pragma unroll 4
        for (int row = threadIdx.y; row < rows; row += WARPS) total += partials[(size_t)row * stride + column];
    }
    shared[threadIdx.y][threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.y > 0 || column >= width) return;
    total = accumulate ? sums[column] : 0;
#pragma unroll
    for (int warp = 0; warp < WARPS; warp++) total += shared[warp][threadIdx.x];
    sums[column] = total;
}

// partials[block, c] = sum of x[r, c] over the block's rows; row r starts at r * stride. A thread has a pack of columns
// and every WARPS-th row. Grid: (ceil(width / (32 SIZE)), blocks), blocks a function of rows alone; block: (32, 8).
// stride and width: multiples of SIZE. Bytes moved: x.
template <typename T> __device__ void column_sums(const T* x, float* partials, int rows, int width, size_t stride) {
    constexpr int N = SIZE<T>, WARPS = 8;
    int column = (blockIdx.x * 32 + threadIdx.x) * N;
    int each = (rows + gridDim.y - 1) / gridDim.y;
    int end = min(rows, (int)(blockIdx.y + 1) * each);
    float sums[N] = {};
    if (column < width) {
        for (int row = blockIdx.y * each + threadIdx.y; row < end; row += WARPS) {
            float v[N];
            load(x + row * stride + column, v);
#pragma unroll
            for (int i = 0; i < N; i++) sums[i] += v[i];
        }
    }
    store_column_sums(sums, partials, width);
}

// As `column_sums`, for any width and stride: a thread has one column and every WARPS-th row. Grid: (ceil(width / 32),
// blocks); block: (32, 8).
template <typename T> __device__ void column_sums_any(const T* x, float* partials, int rows, int width, size_t stride) {
    constexpr int WARPS = 8;
    __shared__ float shared[WARPS][32];
    int column = blockIdx.x * 32 + threadIdx.x;
    int each = (rows + gridDim.y - 1) / gridDim.y;
    int end = min(rows, (int)(blockIdx.y + 1) * each);
    float sum = 0;
    if (column < width) {
        int first = blockIdx.y * each + threadIdx.y;
        for (int row = first; row < end; row += WARPS) sum += to_float(x[row * stride + column]);
    }
    shared[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || column >= width) return;
    sum = 0;
#pragma unroll
    for (int warp = 0; warp < WARPS; warp++) sum += shared[warp][threadIdx.x];
    partials[(size_t)blockIdx.y * width + column] = sum;
}

extern "C" __global__ void __launch_bounds__(256)
    column_sums_bf16(const bf16* x, float* partials, int rows, int width, size_t stride) {
    column_sums(x, partials, rows, width, stride);
}
extern "C" __global__ void __launch_bounds__(256)
    column_sums_f32(const float* x, float* partials, int rows, int width, size_t stride) {
    column_sums(x, partials, rows, width, stride);
}
extern "C" __global__ void __launch_bounds__(256)
    column_sums_any_bf16(const bf16* x, float* partials, int rows, int width, size_t stride) {
    column_sums_any(x, partials, rows, width, stride);
}
extern "C" __global__ void __launch_bounds__(256)
    column_sums_any_f32(const float* x, float* partials, int rows, int width, size_t stride) {
    column_sums_any(x, partials, rows, width, stride);
}
