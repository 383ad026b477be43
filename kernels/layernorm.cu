// Layer normalisation over rows, fused with the residual sum before it (src/ops/layernorm).
//
//   s = x + delta (or x);  y = (s - mean) rstd gamma + beta;  rstd = 1 / sqrt(var + eps)
//   g = dy gamma;  n = (s - mean) rstd;  ds = rstd (g - mean(g) - n mean(g n)) + dx_in
//   dgamma = sum dy n;  dbeta = sum dy
//
// One warp per row, with the row in registers: PACKS packs of 16 bytes per lane, so width <= 32 PACKS SIZE, and width
// is a multiple of SIZE. Bytes moved, in rows: forward 2 (4 with delta), backward 3 (4 if dx is added to).
#include "common.cuh"

constexpr int WARPS = 4;  // launcher
// float4s from one quad of a pack to the next in shared memory. Not 32: two quads of a lane then lie in different
// halves of the banks.
constexpr int STRIDE = 36;  // launcher

// Grid: any; block: 128. `delta` and `sum` are both null or both given.
// x, delta, sum, y: [rows, width]; gamma, beta: [width]; mean, rstd: [rows].
template <typename T, int PACKS>
__device__ void forward(const T* x, const T* delta, T* sum, const float* gamma, const float* beta, T* y, float* mean,
                        float* rstd, int rows, int width, float eps) {
    constexpr int N = SIZE<T>;
    int lane = threadIdx.x % 32;
    for (int row = blockIdx.x * WARPS + threadIdx.x / 32; row < rows; row += gridDim.x * WARPS) {
        size_t start = (size_t)row * width;
        float s[PACKS][N];
        float total = 0;
#pragma unroll
        for (int pack = 0; pack < PACKS; pack++) {
            int column = (pack * 32 + lane) * N;
            if (column < width) {
                load(x + start + column, s[pack]);
                if (delta) {
                    float d[N];
                    load(delta + start + column, d);
                    // Statistics of the rounded sum, which the backward pass reads.
#pragma unroll
                    for (int i = 0; i < N; i++) s[pack][i] = rounded<T>(s[pack][i] + d[i]);
                    store(sum + start + column, s[pack]);
                }
#pragma unroll
                for (int i = 0; i < N; i++) total += s[pack][i];
            }
        }
        float mu = warp_sum(total) / width;
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
            int column = (pack * 32 + lane) * N;
            if (column < width) {
                float scale[N], shift[N];
                load_params(gamma + column, scale);
                load_params(beta + column, shift);
#pragma unroll
                for (int i = 0; i < N; i++) s[pack][i] = (s[pack][i] - mu) * r * scale[i] + shift[i];
                store(y + start + column, s[pack]);
            }
        }
        if (lane == 0) mean[row] = mu, rstd[row] = r;
    }
}

// A lane's packs of a row, as they are in memory.
template <typename T, int PACKS> struct Row {
    uint4 packs[PACKS];

    __device__ __forceinline__ void fetch(const T* from, int row, int width) {
#pragma unroll
        for (int pack = 0; pack < PACKS; pack++) {
            int column = (pack * 32 + threadIdx.x % 32) * SIZE<T>;
            if (column < width) packs[pack] = ::fetch(from + (size_t)row * width + column);
        }
    }
    // Hides the values from the optimiser, so that they are unpacked again instead of keeping floats in registers.
    __device__ __forceinline__ void opaque() {
#pragma unroll
        for (int i = 0; i < PACKS; i++)
            asm volatile("" : "+r"(packs[i].x), "+r"(packs[i].y), "+r"(packs[i].z), "+r"(packs[i].w));
    }
};

// dy, x, dx: [rows, width]; partials: [blocks, 2, width], the block's sums for gamma and beta. `add`: dx holds the
// residual's gradient, and is added to.
// Grid: blocks, a function of rows alone, so that sums have one order; block: 128; dynamic shared memory:
// 2 * WARPS * PACKS * QUADS * STRIDE * 16 bytes.
template <typename T, int PACKS>
__device__ void backward(const T* dy, const T* x, const float* gamma, const float* mean, const float* rstd, T* dx,
                         int add, float* partials, int rows, int width) {
    constexpr int N = SIZE<T>;
    constexpr int QUADS = N / 4;
    // [warp][gamma, beta][pack][quad of the pack][lane]: lanes are neighbours, so that there are no bank conflicts.
    extern __shared__ float4 sums[];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float4* gammas = sums + warp * 2 * PACKS * QUADS * STRIDE + lane;
    float4* betas = gammas + PACKS * QUADS * STRIDE;
#pragma unroll
    for (int quad = 0; quad < 2 * PACKS * QUADS; quad++) gammas[quad * STRIDE] = make_float4(0, 0, 0, 0);
    // A block has neighbouring rows. If there are enough registers, the next row is read during the computation of this
    // one.
    constexpr bool AHEAD = PACKS <= 4;
    int each = (rows + gridDim.x - 1) / gridDim.x;
    int row = blockIdx.x * each + warp;
    int end = min(rows, (int)(blockIdx.x + 1) * each);
    Row<T, PACKS> next_dy, next_x;
    if (AHEAD && row < end) next_dy.fetch(dy, row, width), next_x.fetch(x, row, width);
    for (; row < end; row += WARPS) {
        float mu = mean[row], r = rstd[row];
        if (!AHEAD) next_dy.fetch(dy, row, width), next_x.fetch(x, row, width);
        Row<T, PACKS> now_dy = next_dy, now_x = next_x, old;
        if (AHEAD && add) old.fetch(dx, row, width);
        if (AHEAD && row + WARPS < end) next_dy.fetch(dy, row + WARPS, width), next_x.fetch(x, row + WARPS, width);
        // g and n of a pack.
        auto unpacked = [&](int pack, float (&d)[N], float (&g)[N], float (&n)[N]) {
            float scale[N];
            unpack(now_dy.packs[pack], d);
            unpack(now_x.packs[pack], n);
            load_params(gamma + (pack * 32 + lane) * N, scale);
#pragma unroll
            for (int i = 0; i < N; i++) n[i] = (n[i] - mu) * r, g[i] = d[i] * scale[i];
        };
        float sum_g = 0, sum_gn = 0;
#pragma unroll
        for (int pack = 0; pack < PACKS; pack++) {
            if ((pack * 32 + lane) * N < width) {
                float d[N], g[N], n[N];
                unpacked(pack, d, g, n);
#pragma unroll
                for (int i = 0; i < N; i++) sum_g += g[i], sum_gn += g[i] * n[i];
#pragma unroll
                for (int i = 0; i < N; i += 4) {
                    int quad = (pack * QUADS + i / 4) * STRIDE;
                    float4 a = gammas[quad], b = betas[quad];
                    gammas[quad] = make_float4(a.x + d[i] * n[i], a.y + d[i + 1] * n[i + 1], a.z + d[i + 2] * n[i + 2],
                                               a.w + d[i + 3] * n[i + 3]);
                    betas[quad] = make_float4(b.x + d[i], b.y + d[i + 1], b.z + d[i + 2], b.w + d[i + 3]);
                }
            }
        }
        float mean_g = warp_sum(sum_g) / width, mean_gn = warp_sum(sum_gn) / width;
        now_dy.opaque(), now_x.opaque();
        if (!AHEAD && add) old.fetch(dx, row, width);
#pragma unroll
        for (int pack = 0; pack < PACKS; pack++) {
            int column = (pack * 32 + lane) * N;
            if (column < width) {
                float d[N], g[N], n[N], out[N] = {};
                unpacked(pack, d, g, n);
                if (add) unpack(old.packs[pack], out);
#pragma unroll
                for (int i = 0; i < N; i++) out[i] += r * (g[i] - mean_g - n[i] * mean_gn);
                store(dx + (size_t)row * width + column, out);
            }
        }
    }
    __syncthreads();
    // Neighbouring threads have neighbouring columns.
    for (int i = threadIdx.x; i < 2 * PACKS * QUADS * 32; i += blockDim.x) {
        int which = i / (PACKS * QUADS * 32);
        int column = i % (PACKS * QUADS * 32) * 4;
        int quad = (which * PACKS + column / (32 * N)) * QUADS + i % QUADS;
        int from = column / N % 32;
        float4 total = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            float4 v = sums[(w * 2 * PACKS * QUADS + quad) * STRIDE + from];
            total = make_float4(total.x + v.x, total.y + v.y, total.z + v.z, total.w + v.w);
        }
        if (column < width)
            *reinterpret_cast<float4*>(partials + ((size_t)blockIdx.x * 2 + which) * width + column) = total;
    }
}

#define KERNELS(TYPE, NAME, PACKS)                                                                                  \
    extern "C" __global__ void __launch_bounds__(128) layernorm_forward_##NAME##_##PACKS(                           \
        const TYPE* x, const TYPE* delta, TYPE* sum, const float* gamma, const float* beta, TYPE* y, float* mean,   \
        float* rstd, int rows, int width, float eps) {                                                              \
        forward<TYPE, PACKS>(x, delta, sum, gamma, beta, y, mean, rstd, rows, width, eps);                          \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(128, PACKS <= 4 ? 4 : 1) layernorm_backward_##NAME##_##PACKS(      \
        const TYPE* dy, const TYPE* x, const float* gamma, const float* mean, const float* rstd, TYPE* dx, int add, \
        float* partials, int rows, int width) {                                                                     \
        backward<TYPE, PACKS>(dy, x, gamma, mean, rstd, dx, add, partials, rows, width);                            \
    }

#define BF16(PACKS) KERNELS(bf16, bf16, PACKS)
#define F32(PACKS) KERNELS(float, f32, PACKS)

// Widths up to 256, 512, 768, 1024, 1280 and 2048 in bf16; 512, 1024 and 2048 in f32.
BF16(1)  // launcher
BF16(2)  // launcher
BF16(3)  // launcher
BF16(4)  // launcher
BF16(5)  // launcher
BF16(8)  // launcher
F32(4)   // launcher
F32(8)   // launcher
F32(16)  // launcher
