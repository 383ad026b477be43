// The end of a tower (src/ops/pooled_norm): the last residual sum, its normalisation, and the mean over tokens.
//
//   s = x + delta;  n = (s - mean) rstd;  rstd = 1 / sqrt(var + eps);  m = sum over tokens of n / tokens;  y = m gamma + beta
//   g = dy gamma / tokens;  ds = rstd (g - mean(g) - n mean(g n));  dgamma = sum over samples of dy m;  dbeta = that of dy
//
// One warp per token, the row in its registers: PACKS packs of 16 bytes per lane, so width <= 32 PACKS SIZE, and width is a
// multiple of SIZE. x, delta, ds: [batch, tokens, width]; y, dy, m: [batch, width]; mean, rstd: [batch, tokens]; gamma, beta:
// [width]. Bytes moved: those of x and delta, backwards also of ds; per sample two rows of f32.
#include "common.cuh"

constexpr int WARPS = 4;

// Loads a row of s; returns this lane's part of its sum.
template <typename T, int PACKS>
__device__ __forceinline__ float load_sum(const T* x, const T* delta, float (&s)[PACKS][SIZE<T>], int lane, int width) {
    constexpr int N = SIZE<T>;
    float total = 0;
#pragma unroll
    for (int pack = 0; pack < PACKS; pack++) {
        int column = (pack * 32 + lane) * N;
        if (column < width) {
            float d[N];
            load(x + column, s[pack]);
            load(delta + column, d);
#pragma unroll
            for (int i = 0; i < N; i++) total += s[pack][i] += d[i];
        }
    }
    return total;
}

// Grid: batch, one block per sample; block: 128. A warp adds up every WARPS-th token, then one warp after the other.
template <typename T, int PACKS>
__device__ void forward(const T* x, const T* delta, const float* gamma, const float* beta, float* y, float* m, float* mean,
                        float* rstd, int tokens, int width, float eps) {
    constexpr int N = SIZE<T>, QUADS = N / 4;
    // Quads of a pack are 36 apart: 32 lanes, and half the banks further.
    __shared__ float4 sums[PACKS * QUADS][36];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float n[PACKS][N] = {};
    int end = (blockIdx.x + 1) * tokens;
    for (int row = blockIdx.x * tokens + warp; row < end; row += WARPS) {
        size_t start = (size_t)row * width;
        float s[PACKS][N];
        float mu = warp_sum(load_sum<T, PACKS>(x + start, delta + start, s, lane, width)) / width;
        float squares = 0;
#pragma unroll
        for (int pack = 0; pack < PACKS; pack++) {
            if ((pack * 32 + lane) * N < width) {
#pragma unroll
                for (int i = 0; i < N; i++) squares += (s[pack][i] - mu) * (s[pack][i] - mu);
            }
        }
        float r = rsqrtf(warp_sum(squares) / width + eps);
#pragma unroll
        for (int pack = 0; pack < PACKS; pack++) {
            if ((pack * 32 + lane) * N < width) {
#pragma unroll
                for (int i = 0; i < N; i++) n[pack][i] += (s[pack][i] - mu) * r;
            }
        }
        if (lane == 0) mean[row] = mu, rstd[row] = r;
    }
    for (int turn = 0; turn < WARPS; turn++) {
        if (turn == warp) {
#pragma unroll
            for (int quad = 0; quad < PACKS * QUADS; quad++) {
                const float* v = n[quad / QUADS] + quad % QUADS * 4;
                float4 before = turn == 0 ? make_float4(0, 0, 0, 0) : sums[quad][lane];
                sums[quad][lane] = make_float4(before.x + v[0], before.y + v[1], before.z + v[2], before.w + v[3]);
            }
        }
        __syncthreads();
    }
    float share = 1.0f / tokens;
    // Neighbouring threads have neighbouring columns.
    for (int at = threadIdx.x; at < width / 4; at += blockDim.x) {
        float4 sum = sums[at / (32 * QUADS) * QUADS + at % QUADS][at / QUADS % 32];
        float scale[4], shift[4], normal[4] = {sum.x * share, sum.y * share, sum.z * share, sum.w * share}, out[4];
        load_params(gamma + at * 4, scale);
        load_params(beta + at * 4, shift);
#pragma unroll
        for (int i = 0; i < 4; i++) out[i] = normal[i] * scale[i] + shift[i];
        size_t to = (size_t)blockIdx.x * width + at * 4;
        store_f32(m + to, normal);
        store_f32(y + to, out);
    }
}

// Grid: batch * ceil(tokens / TOKENS), so that a block has tokens of one sample, which share g; block: 128.
template <typename T, int PACKS>
__device__ void backward(const float* dy, const T* x, const T* delta, const float* gamma, const float* mean,
                         const float* rstd, T* ds, int tokens, int width) {
    constexpr int N = SIZE<T>, TOKENS = 16;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int parts = (tokens + TOKENS - 1) / TOKENS, first = blockIdx.x % parts * TOKENS, sample = blockIdx.x / parts;
    float g[PACKS][N] = {};
    float total = 0, share = 1.0f / tokens;
#pragma unroll
    for (int pack = 0; pack < PACKS; pack++) {
        int column = (pack * 32 + lane) * N;
        if (column < width) {
            float scale[N];
            load_params(dy + (size_t)sample * width + column, g[pack]);
            load_params(gamma + column, scale);
#pragma unroll
            for (int i = 0; i < N; i++) total += g[pack][i] *= scale[i] * share;
        }
    }
    // From here on g is g - mean(g): that has the same mean(g n), since the mean of n is 0.
    float mean_g = warp_sum(total) / width;
#pragma unroll
    for (int pack = 0; pack < PACKS; pack++) {
#pragma unroll
        for (int i = 0; i < N; i++) g[pack][i] -= mean_g;
    }
    int end = sample * tokens + min(first + TOKENS, tokens);
    for (int row = sample * tokens + first + warp; row < end; row += WARPS) {
        size_t start = (size_t)row * width;
        float mu = mean[row], r = rstd[row], along = 0;
        float n[PACKS][N];
        load_sum<T, PACKS>(x + start, delta + start, n, lane, width);
#pragma unroll
        for (int pack = 0; pack < PACKS; pack++) {
            if ((pack * 32 + lane) * N < width) {
#pragma unroll
                for (int i = 0; i < N; i++) along += g[pack][i] * (n[pack][i] = (n[pack][i] - mu) * r);
            }
        }
        float mean_gn = warp_sum(along) / width;
#pragma unroll
        for (int pack = 0; pack < PACKS; pack++) {
            int column = (pack * 32 + lane) * N;
            if (column < width) {
#pragma unroll
                for (int i = 0; i < N; i++) n[pack][i] = r * (g[pack][i] - n[pack][i] * mean_gn);
                store(ds + start + column, n[pack]);
            }
        }
    }
}

// partials[block] = the block's samples' sums of dy m and of dy, in order. A thread has four columns.
// Grid: (ceil(width / 512), blocks), blocks a function of batch alone; block: 128. partials: [blocks, 2, width].
extern "C" __global__ void __launch_bounds__(128) pooled_norm_parameters(const float* dy, const float* m, float* partials,
                                                                         int batch, int width) {
    int column = (blockIdx.x * 128 + threadIdx.x) * 4;
    if (column >= width) return;
    int each = (batch + gridDim.y - 1) / gridDim.y, end = min(batch, (int)(blockIdx.y + 1) * each);
    float gammas[4] = {}, betas[4] = {};
    for (int sample = blockIdx.y * each; sample < end; sample++) {
        float d[4], normal[4];
        load(dy + (size_t)sample * width + column, d);
        load(m + (size_t)sample * width + column, normal);
#pragma unroll
        for (int i = 0; i < 4; i++) gammas[i] += d[i] * normal[i], betas[i] += d[i];
    }
    float* to = partials + (size_t)blockIdx.y * 2 * width + column;
    store(to, gammas);
    store(to + width, betas);
}

#define KERNELS(TYPE, NAME, PACKS)                                                                                       \
    extern "C" __global__ void __launch_bounds__(128) pooled_norm_forward_##NAME##_##PACKS(                               \
        const TYPE* x, const TYPE* delta, const float* gamma, const float* beta, float* y, float* m, float* mean,         \
        float* rstd, int tokens, int width, float eps) {                                                                  \
        forward<TYPE, PACKS>(x, delta, gamma, beta, y, m, mean, rstd, tokens, width, eps);                                \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(128) pooled_norm_backward_##NAME##_##PACKS(                              \
        const float* dy, const TYPE* x, const TYPE* delta, const float* gamma, const float* mean, const float* rstd,      \
        TYPE* ds, int tokens, int width) {                                                                                \
        backward<TYPE, PACKS>(dy, x, delta, gamma, mean, rstd, ds, tokens, width);                                        \
    }

// The widths of layernorm.cu.
KERNELS(bf16, bf16, 1)
KERNELS(bf16, bf16, 2)
KERNELS(bf16, bf16, 3)
KERNELS(bf16, bf16, 4)
KERNELS(bf16, bf16, 5)
KERNELS(bf16, bf16, 8)
KERNELS(float, f32, 4)
KERNELS(float, f32, 8)
KERNELS(float, f32, 16)
