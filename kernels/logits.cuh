// Tiles of logits L = tau a b^T, which are never stored: shared by contrastive.cu and sigmoid.cu.
//
// Rows `a` belong to this device, columns `b` may be gathered from several; the pair of row i is column i + offset. A
// block of 256 threads computes tiles of 128 x 128 logits on tensor cores, a warp 64 x 32 of each.
//
// Accuracy as of f32: a number x is the sum of two f16, high = x rounded and low = the remainder, together 23 bits; a
// product is low high + high low + high high. Tensor cores truncate their sums, so they add up no more than 16 of k,
// and those sums are added in f32 (with one sum for all of k, errors at width 512 are ten times as large). split.cu
// splits a and b times 2^10: |x| < 64 fits (larger ones make the loss NaN), and errors of small ones are below 2^-35. G
// is within -2 and 2 and is split times 2^14: errors are below 2^-39.
//
// A row of halves is [width / 32, rounded up][high, low][32], zeros past `width`, so that a block, 32 of k, is 128
// bytes; rows of zeros fill the last tile. In shared memory operands are slabs: one block of each of 128 rows.
//
// The order of every sum follows from how many tiles a block has, which the launcher derives from rows and columns
// alone.
//
// A loss is a struct that says what a row or a column sums up (`add`, `add_column`, `merge`) and what the gradient of a
// logit is (`row`, `column`, `gradient`).
//
// Registers: two blocks fit an SM with 128 registers per thread. 64 sums, 24 for operands and up to 16 for sums over 16
// of k leave few, so what follows a product goes through shared memory.
#pragma once
#include "mma.cuh"
#include <cfloat>
#include <cuda_fp16.h>

constexpr int TILE = 128;     // launcher
constexpr int STEP = 32;      // launcher
constexpr int THREADS = 256;  // launcher
// A warp's part of a tile, in tiles of mma: 16 rows, 8 columns.
constexpr int ROW_TILES = 4;
constexpr int COLUMN_TILES = 4;
using Slab = SwizzledTile<2 * STEP>;
constexpr int SLAB = TILE * Slab::BYTES;
// Shared memory: stages of two slabs for a b^T; later the tile or G, four slabs, and two stages of one slab for G b.
constexpr int STAGES = 3;
constexpr int G_SLABS = TILE / STEP;
constexpr int SHARED = 96 * 1024;  // launcher
static_assert(SHARED == STAGES * 2 * SLAB && SHARED == (G_SLABS + 2) * SLAB);
// Logits of a row or a column that a loss sums at once.
constexpr int MICRO = 8;
// Factors before the split into halves.
constexpr float ROW_SCALE = 1024;
constexpr float GRADIENT_SCALE = 16384;
constexpr float MAX_LOGIT_SCALE = 4.6051702f;  // ln 100

// A warp's sums. Value v of tile (m, n) in lane 4 g + t: row 16 m + g + v / 2 * 8, column 8 n + 2 t + v % 2.
typedef float Sums[ROW_TILES][COLUMN_TILES][4];

// Read for each tile, to save a register. NaN stays NaN.
__device__ __forceinline__ float temperature(const float* logit_scale) {
    float raw = *logit_scale;
    return expf(raw < 0 ? 0 : raw > MAX_LOGIT_SCALE ? MAX_LOGIT_SCALE : raw);
}

// threadIdx.x, opaque to the optimiser: what depends on it is recomputed, since the products need the registers.
__device__ __forceinline__ unsigned thread() {
    unsigned index;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
    return index;
}
__device__ __forceinline__ int lane() { return thread() % 32; }
// The first row and column of this thread's warp in a tile.
__device__ __forceinline__ int warp_row() { return thread() / 128 * 64; }
__device__ __forceinline__ int warp_column() { return thread() / 32 % 4 * 32; }

// High and low f16 parts of x and y.
__device__ __forceinline__ void split(float x, float y, uint32_t& high, uint32_t& low) {
    half2 both = __floats2half2_rn(x, y);
    float2 held = __half22float2(both);
    half2 rest = __floats2half2_rn(x - held.x, y - held.y);
    high = *reinterpret_cast<uint32_t*>(&both), low = *reinterpret_cast<uint32_t*>(&rest);
}

// c += a b in f16, with a 16 x 16 and b 16 x 8.
__device__ __forceinline__ void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void clear(Sums& sums) {
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
        for (int n = 0; n < COLUMN_TILES; n++)
#pragma unroll
            for (int v = 0; v < 4; v++) sums[m][n][v] = 0;
}

// sums += a b over 32 of k. `a`, `b`: this lane's addresses in the warp's first tiles. A row of b holds k of one
// column, or with TRANS all columns of one k.
template <bool TRANS> __device__ __forceinline__ void multiply(Sums& sums, uint32_t a, uint32_t b) {
    // Not unrolled, to save registers.
#pragma unroll 1
    for (int half = 0; half < 2; half++) {
        uint32_t b_high[COLUMN_TILES / 2][4], b_low[COLUMN_TILES / 2][4];
#pragma unroll
        for (int n = 0; n < COLUMN_TILES / 2; n++) {
            ldmatrix_x4<TRANS>(b_high[n], TRANS ? Slab::address(b, 0, n) : Slab::address(b, 16 * n, 0));
            ldmatrix_x4<TRANS>(b_low[n], TRANS ? Slab::address(b, 0, n + 2) : Slab::address(b, 16 * n, 2));
        }
#pragma unroll
        for (int m = 0; m < ROW_TILES; m++) {
            uint32_t a_high[4], a_low[4];
            ldmatrix_x4<false>(a_high, Slab::address(a, 16 * m, 0));
            ldmatrix_x4<false>(a_low, Slab::address(a, 16 * m, 2));
#pragma unroll
            for (int n = 0; n < COLUMN_TILES; n++) {
                uint32_t (&high)[4] = b_high[n / 2], (&low)[4] = b_low[n / 2];
                int at = n % 2 * 2;
                float part[4] = {};
                mma_f16(part, a_low, high[at], high[at + 1]);
                mma_f16(part, a_high, low[at], low[at + 1]);
                mma_f16(part, a_high, high[at], high[at + 1]);
#pragma unroll
                for (int v = 0; v < 4; v++) sums[m][n][v] += part[v];
            }
        }
        // The next 16 of k.
        a = Slab::address(a, 0, 1), b = TRANS ? Slab::address(b, 16, 0) : Slab::address(b, 0, 1);
    }
}

// Rows of halves in global memory, padded with zeros to whole tiles.
struct Halves {
    const void* rows;
    int blocks;  // of 32 elements

    __device__ __forceinline__ unsigned pitch() const { return blocks * Slab::BYTES; }

    // The 16 bytes of block 0 that this thread copies, of 32 rows from `first` on.
    __device__ __forceinline__ const char* part(int first) const {
        return static_cast<const char*>(rows) + (size_t)(first + thread() / 8) * pitch() + thread() % 8 * 16;
    }
};

// Their offset in a slab.
__device__ __forceinline__ uint32_t part_of_slab() { return Slab::offset(thread() / 8, thread() % 8); }

// The origin of a block's tile is in shared memory, since the products leave no register for it.
__device__ __forceinline__ void publish_tile_origin(int& origin, int to) {
    __syncthreads();
    if (thread() == 0) origin = to;
    __syncthreads();
}

// a b^T for the tile at (row, column). Uses all of the shared memory.
__device__ __forceinline__ void product_of_rows(Sums& sums, const Halves& a, int row, const Halves& b, int column,
                                                uint32_t stages) {
    constexpr int STAGE = 2 * SLAB;
    const char* from_a = a.part(row);
    const char* from_b = b.part(column);
    auto load_stage = [&](uint32_t stage) {
        stage += part_of_slab();
#pragma unroll
        for (int i = 0; i < TILE / 32; i++) {
            cp_async(stage + i * 32 * Slab::BYTES, from_a + i * 32 * a.pitch(), true);
            cp_async(stage + SLAB + i * 32 * Slab::BYTES, from_b + i * 32 * b.pitch(), true);
        }
        from_a += Slab::BYTES, from_b += Slab::BYTES;
    };
    clear(sums);
#pragma unroll
    for (int block = 0; block < STAGES - 1; block++) {
        if (block < a.blocks) load_stage(stages + block * STAGE);
        cp_async_commit();
    }
    uint32_t stage = stages;
    uint32_t last = stages + (STAGES - 1) * STAGE;
#pragma unroll 1
    for (int left = a.blocks; left > 0; left--) {
        cp_async_wait_group<STAGES - 2>();
        __syncthreads();
        multiply<false>(sums, stage + warp_row() * Slab::BYTES + Slab::a_order(lane()),
                        stage + SLAB + warp_column() * Slab::BYTES + Slab::b_order(lane()));
        // Replaces the block before this one. Placed after the product, since its addresses take registers.
        if (left >= STAGES) load_stage(stage == stages ? last : stage - STAGE);
        cp_async_commit();
        stage = stage == last ? stages : stage + STAGE;
    }
    __syncthreads();
}

// The index of (row, column) in the tile of logits. Quads of columns are permuted by row, so that reads of 8
// neighbouring rows and stores of an mma tile by a warp meet all banks.
__device__ __forceinline__ int logit_index(int row, int column) {
    return row * TILE + (column / 4 ^ (row % 4 * 2 + row / 4 % 2)) * 4 + column % 4;
}

// Two floats as one store, which nvcc does not always emit.
__device__ __forceinline__ void store_pair(uint32_t at, float first, float second) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at), "f"(first), "f"(second) : "memory");
}

// Partial results of the forward pass: for each row and share of the columns, for each column and share of the rows,
// and the logit of each row's pair (`own`).
struct Parts {
    float *row_max, *row_sum, *own, *column_max, *column_sum;

    __device__ __forceinline__ Parts(float* parts, int rows, int columns, int row_shares, int column_shares)
        : row_max(parts),
          row_sum(row_max + (size_t)column_shares * rows),
          own(row_sum + (size_t)column_shares * rows),
          column_max(own + rows),
          column_sum(column_max + (size_t)row_shares * columns) {}
};

// Adds a tile's logits to the parts of its rows (one per thread of the first half) and of its columns (the second
// half). `below`, `behind`: whether the block has processed a tile above this one, or to the left of it.
template <typename Loss>
__device__ __forceinline__ void add_up_tile(const Loss& loss, const float* logits, const Parts& parts, int row,
                                            int rows, int column, int columns, int offset, bool below, bool behind) {
    int i = threadIdx.x % TILE;
    if (threadIdx.x < TILE && row + i < rows) {
        int pair = row + i + offset - column;
        int left = columns - column;
        size_t at = (size_t)blockIdx.x * rows + row + i;
        float max_logit = behind ? parts.row_max[at] : -FLT_MAX;
        float sum = behind ? parts.row_sum[at] : 0;
        float own = 0;
#pragma unroll 1
        for (int j = 0; j < TILE; j += MICRO) {
            float values[MICRO];
#pragma unroll
            for (int quad = 0; quad < MICRO; quad += 4) {
                float four[4];
                load(logits + logit_index(i, j + quad), four);
#pragma unroll
                for (int v = 0; v < 4; v++) {
                    own = j + quad + v == pair ? four[v] : own;
                    values[quad + v] = j + quad + v < left ? four[v] : -INFINITY;
                }
            }
            loss.add(values, pair - j, max_logit, sum);
        }
        parts.row_max[at] = max_logit, parts.row_sum[at] = sum;
        if (0 <= pair && pair < min(TILE, left)) parts.own[row + i] = own;
    } else if (threadIdx.x >= TILE && column + i < columns) {
        size_t at = (size_t)blockIdx.y * columns + column + i;
        float max_logit = below ? parts.column_max[at] : -FLT_MAX;
        float sum = below ? parts.column_sum[at] : 0;
#pragma unroll 1
        for (int j = 0; j < TILE; j += MICRO) {
            float values[MICRO];
#pragma unroll
            for (int v = 0; v < MICRO; v++) values[v] = row + j + v < rows ? logits[logit_index(j + v, i)] : -INFINITY;
            loss.add_column(values, max_logit, sum);
        }
        parts.column_max[at] = max_logit, parts.column_sum[at] = sum;
    }
}

// For each row, the largest logit and the loss's sum over the columns of share blockIdx.x; for each column, the same
// over the rows of share blockIdx.y; and the logit of each row's pair. One thread updates a part from tile to tile.
// Grid: (shares of the columns, shares of the rows), of `column_tiles` and `row_tiles` tiles; block: 256; dynamic
// shared memory: SHARED.
template <typename Loss>
__device__ void forward_tiles(const Loss& loss, const void* a_halves, const void* b_halves, const float* logit_scale,
                              float* to, int rows, int columns, int blocks, int offset, int row_tiles,
                              int column_tiles) {
    extern __shared__ __align__(128) float4 shared[];
    float* logits = reinterpret_cast<float*>(shared);
    __shared__ int row, column;
    int first_row = blockIdx.y * row_tiles * TILE, first_column = blockIdx.x * column_tiles * TILE;
    for (publish_tile_origin(row, first_row); row < first_row + row_tiles * TILE && row < rows;
         publish_tile_origin(row, row + TILE))
        for (publish_tile_origin(column, first_column); column < first_column + column_tiles * TILE && column < columns;
             publish_tile_origin(column, column + TILE)) {
            Sums sums;
            product_of_rows(sums, {a_halves, blocks}, row, {b_halves, blocks}, column, shared_address(shared));
            float tau = temperature(logit_scale) / (ROW_SCALE * ROW_SCALE);
            // This lane's two columns of tile (0, 0); those of column tile n are at the XOR with 32 n.
            uint32_t first = 4 * logit_index(warp_row() + lane() / 4, warp_column() + lane() % 4 * 2);
#pragma unroll
            for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
                for (int n = 0; n < COLUMN_TILES; n++)
#pragma unroll
                    for (int v = 0; v < 4; v += 2)
                        store_pair(shared_address(shared) + (first ^ 32 * n) + (16 * m + 4 * v) * TILE * 4,
                                   tau * sums[m][n][v], tau * sums[m][n][v + 1]);
            __syncthreads();
            add_up_tile(loss, logits, Parts(to, rows, columns, gridDim.y, gridDim.x), row, rows, column, columns,
                        offset, row > first_row, column > first_column);
        }
}

// Turns a tile's products into G, in shared memory. The products are first stored there, two neighbours where their
// halves will be, so that the loop over rows takes few registers. `sum_gl`, `sum_g`: each warp's sums of G o L and of
// G, without the weight.
template <typename Loss>
__device__ __forceinline__ void make_gradient(const Loss& loss, char* g, const Sums& sums, float tau, int first,
                                              int rows, int column, int columns, int offset, float* sum_gl,
                                              float* sum_g) {
    int y = warp_row() + lane() / 4;
    int x = warp_column() + lane() % 4 * 2;
    // This lane's two columns of chunk 0 of row y in its slab.
    g += warp_column() / STEP * SLAB;
    uint32_t at = Slab::offset(y, 0) + lane() % 4 * 4;
    auto high = [&](int n, int down) { return reinterpret_cast<uint32_t*>(g + (at ^ n * 16) + down * Slab::BYTES); };
    auto low = [&](int n, int down) { return high(n + STEP / 8, down); };
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
        for (int n = 0; n < COLUMN_TILES; n++)
#pragma unroll
            for (int v = 0; v < 4; v += 2) {
                *high(n, 16 * m + 4 * v) = __float_as_uint(sums[m][n][v]);
                *low(n, 16 * m + 4 * v) = __float_as_uint(sums[m][n][v + 1]);
            }
    float scale = tau / (ROW_SCALE * ROW_SCALE);
    float gl_here = 0, g_here = 0;
    int left = columns - column - x;
    float by_column[COLUMN_TILES][2];
#pragma unroll
    for (int n = 0; n < COLUMN_TILES; n++)
#pragma unroll
        for (int v = 0; v < 2; v++) by_column[n][v] = 8 * n + v < left ? loss.column(column + x + 8 * n + v) : 0;
#pragma unroll 1
    for (int down = 0; down < 16 * ROW_TILES; down += 8) {
        // The pair is the logit with 8 n + v == pair.
        int row = first + y + down;
        int pair = row + offset - column - x;
        float by_row = row < rows ? loss.row(row) : 0;
#pragma unroll
        for (int n = 0; n < COLUMN_TILES; n++) {
            float values[2] = {__uint_as_float(*high(n, down)), __uint_as_float(*low(n, down))};
#pragma unroll
            for (int v = 0; v < 2; v++) {
                float logit = scale * values[v];
                float value = loss.gradient(logit, by_row, by_column[n][v], 8 * n + v == pair);
                value = row < rows && 8 * n + v < left ? value : 0;
                gl_here += value * logit;
                g_here += value;
                values[v] = GRADIENT_SCALE * value;
            }
            split(values[0], values[1], *high(n, down), *low(n, down));
        }
    }
    gl_here = warp_sum(gl_here), g_here = warp_sum(g_here);
    if (lane() == 0) sum_gl[thread() / 32] += gl_here, sum_g[thread() / 32] += g_here;
}

// da of share blockIdx.y = scale * sums, or += if `more`. `row`, `column`: of this thread's first value.
__device__ __forceinline__ void store_gradient(float* da, const Sums& sums, float scale, int row, int rows, int column,
                                               int width, bool more) {
    da += ((size_t)blockIdx.y * rows + row) * width + column;
#pragma unroll
    for (int down = 0; down < 16 * ROW_TILES; down += 8, da += 8 * (size_t)width) {
        if (row + down >= rows) break;
#pragma unroll
        for (int n = 0; n < COLUMN_TILES; n++) {
            if (column + 8 * n >= width) break;
            float first = scale * sums[down / 16][n][down % 16 / 4];
            float second = scale * sums[down / 16][n][down % 16 / 4 + 1];
            if (width % 2 == 0) {
                float2* to = reinterpret_cast<float2*>(da + 8 * n);
                float2 before = more ? *to : make_float2(0, 0);
                *to = make_float2(before.x + first, before.y + second);
            } else {
                da[8 * n] = (more ? da[8 * n] : 0) + first;
                if (column + 8 * n + 1 < width) da[8 * n + 1] = (more ? da[8 * n + 1] : 0) + second;
            }
        }
    }
}

// da (or its part of share blockIdx.y) = tau G b with G_ij = weight * loss.gradient, tile by tile: S in registers, then
// G in shared memory, then G b for each 128 columns of da, added to the sums of earlier tiles in global memory. With
// `scalars`, also scalars[0, block] = sum of G o L and, for a loss with a bias, scalars[1, block] = sum of G over the
// block. Grid: (ceil(rows / 128), splits); block: 256; dynamic shared memory: SHARED.
template <typename Loss>
__device__ void gradient_rows(const Loss& loss, const void* a_halves, const void* b_halves, const float* logit_scale,
                              float* da, float* scalars, int rows, int columns, int width, int blocks, int offset,
                              int column_tiles, float weight) {
    extern __shared__ __align__(128) float4 shared[];
    uint32_t g = shared_address(shared);
    uint32_t stages = g + G_SLABS * SLAB;
    Halves a{a_halves, blocks}, b{b_halves, blocks};
    int first = blockIdx.x * TILE;
    int begin = blockIdx.y * column_tiles * TILE;
    int end = begin + column_tiles * TILE;
    __shared__ float sum_gl[THREADS / 32], sum_g[THREADS / 32];
    if (threadIdx.x < THREADS / 32) sum_gl[threadIdx.x] = 0, sum_g[threadIdx.x] = 0;
    __shared__ int column;
    for (publish_tile_origin(column, begin); column < end && column < columns;
         publish_tile_origin(column, column + TILE)) {
        Sums sums;
        product_of_rows(sums, a, first, b, column, g);
        // G b, for 128 columns of da at a time, in steps of 32 of k: slab `step` of G and, for each warp in a row of
        // warps, one block of 32 of b's rows.
        auto load_step = [&](int step) {
            int block = step / G_SLABS * (TILE / STEP);
            const char* from = b.part(column + step % G_SLABS * STEP) + block * Slab::BYTES;
            uint32_t to = stages + step % 2 * SLAB + part_of_slab();
#pragma unroll
            for (int n = 0; n < TILE / STEP; n++)
                if (block + n < blocks) cp_async(to + n * STEP * Slab::BYTES, from + n * Slab::BYTES, true);
            cp_async_commit();
        };
        load_step(0);
        make_gradient(loss, reinterpret_cast<char*>(shared), sums, temperature(logit_scale), first, rows, column,
                      columns, offset, sum_gl, sum_g);
        int steps = (width + TILE - 1) / TILE * G_SLABS;
#pragma unroll 1
        for (int step = 0; step < steps; step++) {
            auto at = [&] { return step / G_SLABS * TILE + warp_column(); };
            cp_async_wait_group<0>();
            __syncthreads();
            if (step + 1 < steps) load_step(step + 1);
            if (step % G_SLABS == 0) clear(sums);
            if (at() < width)
                multiply<true>(sums, g + step % G_SLABS * SLAB + warp_row() * Slab::BYTES + Slab::a_order(lane()),
                               stages + step % 2 * SLAB + warp_column() * Slab::BYTES + Slab::a_order(lane()));
            if (step % G_SLABS == G_SLABS - 1) {
                float scale = temperature(logit_scale) * weight / (ROW_SCALE * GRADIENT_SCALE);
                store_gradient(da, sums, scale, first + warp_row() + lane() / 4, rows, at() + lane() % 4 * 2, width,
                               column > begin);
            }
        }
    }
    // Thread 0 has the sum of G o L, thread 1 that of G.
    if (!scalars || threadIdx.x > Loss::BIAS) return;
    float sum = 0;
    for (int warp = 0; warp < THREADS / 32; warp++) sum += threadIdx.x ? sum_g[warp] : sum_gl[warp];
    scalars[(threadIdx.x * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x] = weight * sum;
}

// *to (+)= the sum of `from` by a block of 256, or 0 if `held`.
__device__ __forceinline__ void add_up(const float* from, int count, float* to, bool accumulate, bool held) {
    __shared__ float scratch[THREADS / 32];
    float sum = 0;
    for (int i = threadIdx.x; i < count; i += THREADS) sum += from[i];
    sum = block_sum<THREADS / 32>(sum, scratch);
    if (threadIdx.x == 0) *to = (accumulate ? *to : 0) + (held ? 0 : sum);
}

__device__ __forceinline__ bool clip_holds(float logit_scale) {
    return !(logit_scale >= 0 && logit_scale <= MAX_LOGIT_SCALE);
}
