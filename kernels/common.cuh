// Used by every kernel: 16-byte accesses, conversions, reductions in a fixed order.
#pragma once
#include <cuda_bf16.h>
#include <math_constants.h>
#include <cstdint>

typedef __nv_bfloat16 bf16;

constexpr unsigned ALL_LANES = 0xffffffffu;

// Elements of T in 16 bytes, the unit in which activations are read and written.
template <typename T> constexpr int SIZE = 16 / sizeof(T);

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { return __float2bfloat16_rn(x); }

// Loads 16 bytes at a multiple of 16. To keep several loads in flight, `fetch` all of them before unpacking the first.
template <typename T> __device__ __forceinline__ uint4 fetch(const T* from) {
    return *reinterpret_cast<const uint4*>(from);
}

// The 16 bytes as floats: four f32 or eight bf16.
__device__ __forceinline__ void unpack(uint4 raw, float (&v)[4]) {
    v[0] = __uint_as_float(raw.x), v[1] = __uint_as_float(raw.y), v[2] = __uint_as_float(raw.z),
    v[3] = __uint_as_float(raw.w);
}

__device__ __forceinline__ void unpack(uint4 raw, float (&v)[8]) {
    uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        // A bf16 is the upper half of an f32.
        v[2 * i] = __uint_as_float(words[i] << 16);
        v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
}

template <typename T> __device__ __forceinline__ void load(const T* from, float (&v)[SIZE<T>]) {
    unpack(fetch(from), v);
}

__device__ __forceinline__ uint32_t pack(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t*>(&pair);
}

__device__ __forceinline__ void store(float* to, const float (&v)[4]) {
    *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
}

__device__ __forceinline__ void store(bf16* to, const float (&v)[8]) {
    *reinterpret_cast<uint4*>(to) = make_uint4(pack(v[0], v[1]), pack(v[2], v[3]), pack(v[4], v[5]), pack(v[6], v[7]));
}

// N floats, N a multiple of 4.
template <int N> __device__ __forceinline__ void store_f32(float* to, const float (&v)[N]) {
#pragma unroll
    for (int i = 0; i < N; i += 4) *reinterpret_cast<float4*>(to + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
}

// v rounded to T.
template <typename T> __device__ __forceinline__ float rounded(float v) { return to_float(from_float<T>(v)); }

// f32 parameters (scales, biases, positions) for the SIZE<T> columns of a pack; `from` is a multiple of 16 bytes.
template <int N> __device__ __forceinline__ void load_params(const float* from, float (&v)[N]) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
        float4 raw = *reinterpret_cast<const float4*>(from + i);
        v[i] = raw.x, v[i + 1] = raw.y, v[i + 2] = raw.z, v[i + 3] = raw.w;
    }
}

// The sum over a warp, in every lane.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    return x;
}

// The sum over a block of WARPS warps, in every thread; `scratch` has WARPS floats. The warps' sums are added in order.
template <int WARPS> __device__ __forceinline__ float block_sum(float x, float* scratch) {
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    float total = 0;
#pragma unroll
    for (int warp = 0; warp < WARPS; warp++) total += scratch[warp];
    return total;
}

// partials[blockIdx.y, c] = the sum over a block's warps, in order, of `sums`: a thread's sums of N columns from
// (32 blockIdx.x + threadIdx.x) N on. Block: (32, 8); width: a multiple of N.
template <int N> __device__ __forceinline__ void store_column_sums(const float (&sums)[N], float* partials, int width) {
    constexpr int WARPS = 8;
    // Quads of a pack are 36 apart, not 32: two quads of a lane then lie in different halves of the banks.
    __shared__ float4 shared[WARPS][N / 4][36];
#pragma unroll
    for (int i = 0; i < N; i += 4)
        shared[threadIdx.y][i / 4][threadIdx.x] = make_float4(sums[i], sums[i + 1], sums[i + 2], sums[i + 3]);
    __syncthreads();
    // Each of the first threads sums one quad; neighbours have neighbouring columns.
    int own = threadIdx.y * 32 + threadIdx.x;
    int to = blockIdx.x * 32 * N + own * 4;
    if (own < 32 * N / 4 && to < width) {
        float4 total = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int warp = 0; warp < WARPS; warp++) {
            float4 v = shared[warp][own % (N / 4)][own / (N / 4)];
            total = make_float4(total.x + v.x, total.y + v.y, total.z + v.z, total.w + v.w);
        }
        *reinterpret_cast<float4*>(partials + (size_t)blockIdx.y * width + to) = total;
    }
}

// The index of this thread in the grid, and the number of threads.
__device__ __forceinline__ size_t thread_index() { return (size_t)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ size_t thread_count() { return (size_t)gridDim.x * blockDim.x; }
