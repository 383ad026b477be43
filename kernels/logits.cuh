// Tiles of logits L = tau a b^T, which are never stored: what contrastive.cu and sigmoid.cu share.
//
// Rows `a: [rows, width]` belong to this device, columns `b: [columns, width]` may be gathered from several; the pair of row
// i is column i + offset. A block of 256 threads computes tiles of 128 x 128 logits, 8 x 8 of them per thread, in f32 and
// with k in order. It keeps one tile of rows and walks over its share of the column tiles; the shares, and so every order of
// summation, follow from `splits`, which the launcher derives from rows and columns alone.
//
// A loss is a struct that says what a row sums up (`add`, `merge`) and what the gradient of a logit is (`row`, `column`,
// `gradient`).
//
// Registers: 64 sums, and the 36 operands of a step beside them, leave few of the 128 at which two blocks fit on an SM. So
// what is between the products goes through shared memory, row by row.
#pragma once
#include "common.cuh"
#include <cfloat>

constexpr int TILE = 128, THREADS = 256, MICRO = 8;
// k per step of the product a b^T, and columns per step of the product G b.
constexpr int STEP = 16, COLUMN_STEP = 32;
// f32 of a stage: what one step reads. There are two, so that one is filled while the other is used.
constexpr int STAGE = 2 * TILE * STEP;
static_assert(STAGE == COLUMN_STEP * TILE, "both products use the same stages");
// Bytes of dynamic shared memory of gradient_rows.
constexpr int GRADIENT_SHARED = (2 * STAGE + TILE * TILE) * 4;
static_assert(GRADIENT_SHARED == 98304, "the launchers' figure");
constexpr float MAX_LOGIT_SCALE = 4.6051702f; // ln 100

// Read again for each tile. NaN stays.
__device__ __forceinline__ float temperature(const float* logit_scale) {
    float raw = *logit_scale;
    return expf(raw < 0 ? 0 : raw > MAX_LOGIT_SCALE ? MAX_LOGIT_SCALE : raw);
}

// threadIdx.x, read anew where it is used: what follows from it would take registers that the products need.
__device__ __forceinline__ unsigned thread() {
    unsigned index;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
    return index;
}

// A thread's logits are those of rows y + 16 i and columns x + 16 j. A warp spans 8 neighbours along y and 4 along x.
__device__ __forceinline__ int thread_y() {
    unsigned index = thread();
    return index / 32 % 2 * 8 + index % 8;
}
__device__ __forceinline__ int thread_x() {
    unsigned index = thread();
    return index / 64 * 4 + index % 32 / 8;
}

// Column tiles first_tile(s) to first_tile(s + 1) are the share of split s.
__device__ __forceinline__ int first_tile(int tiles, int split, int splits) {
    return (int)((long long)tiles * split / splits);
}

// Fills 4 floats of shared memory, `count` of them from global memory, the others with 0. Returns before they are there.
__device__ __forceinline__ void copy_quad(float* to, const float* from, int count, bool aligned) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    if (aligned) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(count > 0 ? 16 : 0));
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++)
            asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(at + 4 * i), "l"(from + (i < count ? i : 0)),
                         "r"(i < count ? 4 : 0));
    }
}

// Waits for this thread's copies, then for everybody's.
__device__ __forceinline__ void copies_done() {
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
}

// k to k + STEP of the TILE rows from `first`. Quad q of row r lies at q ^ (r / 2 % 4): 8 rows that are neighbours meet all
// banks, whichever quad is read.
__device__ __forceinline__ void copy_rows(float* stage, const float* from, int first, int rows, int width, int k) {
    unsigned index = thread();
#pragma unroll
    for (int i = 0; i < TILE * STEP / 4 / THREADS; i++) {
        int row = (index + i * THREADS) / 4, quad = index % 4;
        int count = first + row < rows ? min(4, width - k - quad * 4) : 0;
        const float* source = count > 0 ? from + (size_t)(first + row) * width + k + quad * 4 : from;
        copy_quad(stage + row * STEP + (quad ^ row / 2 % 4) * 4, source, count, width % 4 == 0);
    }
}

// Columns `at` to at + TILE of the COLUMN_STEP rows from `first`.
__device__ __forceinline__ void copy_columns(float* stage, const float* from, int first, int rows, int width, int at) {
    unsigned index = thread();
#pragma unroll
    for (int i = 0; i < COLUMN_STEP * TILE / 4 / THREADS; i++) {
        int row = (index + i * THREADS) / (TILE / 4), quad = index % (TILE / 4);
        int count = first + row < rows ? min(4, width - at - quad * 4) : 0;
        const float* source = count > 0 ? from + (size_t)(first + row) * width + at + quad * 4 : from;
        copy_quad(stage + row * TILE + quad * 4, source, count, width % 4 == 0);
    }
}

__device__ __forceinline__ const float4& quad_at(const float* from) { return *reinterpret_cast<const float4*>(from); }

__device__ __forceinline__ void clear(float (&sums)[MICRO][MICRO]) {
#pragma unroll
    for (int i = 0; i < MICRO; i++)
#pragma unroll
        for (int j = 0; j < MICRO; j++) sums[i][j] = 0;
}

// The thread's part of a b^T for the tile at (row, column); rows and columns out of range give 0.
__device__ __forceinline__ void product_of_rows(const float* a, int row, int rows, const float* b, int column, int columns,
                                                int width, float* stages, float (&sums)[MICRO][MICRO]) {
    int y = thread_y(), x = thread_x();
    clear(sums);
    __syncthreads();
    copy_rows(stages, a, row, rows, width, 0);
    copy_rows(stages + TILE * STEP, b, column, columns, width, 0);
    for (int k = 0, stage = 0; k < width; k += STEP, stage ^= STAGE) {
        copies_done();
        if (k + STEP < width) {
            copy_rows(stages + (stage ^ STAGE), a, row, rows, width, k + STEP);
            copy_rows(stages + (stage ^ STAGE) + TILE * STEP, b, column, columns, width, k + STEP);
        }
        const float* at_a = stages + stage + y * STEP;
        const float* at_b = stages + stage + TILE * STEP + x * STEP;
#pragma unroll 1
        for (int quad = 0; quad < STEP / 4; quad++) {
            float4 u[MICRO];
#pragma unroll
            for (int i = 0; i < MICRO; i++) u[i] = quad_at(at_a + i * 16 * STEP + (quad ^ y / 2 % 4) * 4);
#pragma unroll
            for (int j = 0; j < MICRO; j++) {
                float4 v = quad_at(at_b + j * 16 * STEP + (quad ^ x / 2 % 4) * 4);
#pragma unroll
                for (int i = 0; i < MICRO; i++) {
                    sums[i][j] = fmaf(u[i].x, v.x, sums[i][j]);
                    sums[i][j] = fmaf(u[i].y, v.y, sums[i][j]);
                    sums[i][j] = fmaf(u[i].z, v.z, sums[i][j]);
                    sums[i][j] = fmaf(u[i].w, v.w, sums[i][j]);
                }
            }
        }
    }
}

// The thread's part of G b[column .. column + TILE, at .. at + TILE]: rows y + 16 i, columns 4 x + j (j < 4) and
// 64 + 4 x + j - 4. Quad q of row r of G lies at q ^ (r % 8).
__device__ __forceinline__ void product_with_columns(const float* g, const float* b, int column, int columns, int width,
                                                     int at, float* stages, float (&sums)[MICRO][MICRO]) {
    int y = thread_y(), x = thread_x(), count = min(TILE, columns - column);
    clear(sums);
    __syncthreads();
    copy_columns(stages, b, column, columns, width, at);
    for (int k = 0, stage = 0; k < count; k += COLUMN_STEP, stage ^= STAGE) {
        copies_done();
        if (k + COLUMN_STEP < count)
            copy_columns(stages + (stage ^ STAGE), b, column + k + COLUMN_STEP, columns, width, at);
        const float* at_g = g + y * TILE + k;
        const float* at_b = stages + stage + x * 4;
#pragma unroll 1
        for (int quad = 0; quad < COLUMN_STEP / 4; quad++) {
            float u[MICRO][4];
#pragma unroll
            for (int i = 0; i < MICRO; i++) load(at_g + i * 16 * TILE + (quad ^ y % 8) * 4, u[i]);
#pragma unroll
            for (int n = 0; n < 4; n++) {
                float v[MICRO];
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float4 four = quad_at(at_b + (quad * 4 + n) * TILE + half * 64);
                    v[half * 4] = four.x, v[half * 4 + 1] = four.y, v[half * 4 + 2] = four.z, v[half * 4 + 3] = four.w;
                }
#pragma unroll
                for (int i = 0; i < MICRO; i++)
#pragma unroll
                    for (int j = 0; j < MICRO; j++) sums[i][j] = fmaf(u[i][n], v[j], sums[i][j]);
            }
        }
    }
}

// For each row the largest logit and the loss's sum over the columns of split blockIdx.y, and the logit of its pair.
// Grid: (ceil(rows / 128), splits); block: 256. parts: [most: splits x rows, sum: splits x rows, own: rows].
template <typename Loss>
__device__ void forward_rows(const Loss& loss, const float* a, const float* b, const float* logit_scale, float* parts,
                             int rows, int columns, int width, int offset) {
    __shared__ float4 shared[2 * STAGE / 4];
    // What each thread knows of its rows: the largest logit and the sum.
    __shared__ float known[2][MICRO][THREADS];
    float* stages = reinterpret_cast<float*>(shared);
    int first = blockIdx.x * TILE, splits = gridDim.y, split = blockIdx.y;
    int tiles = (columns + TILE - 1) / TILE, end = first_tile(tiles, split + 1, splits);
#pragma unroll
    for (int i = 0; i < MICRO; i++) known[0][i][threadIdx.x] = -FLT_MAX, known[1][i][threadIdx.x] = 0;
    for (int tile = first_tile(tiles, split, splits); tile < end; tile++) {
        float sums[MICRO][MICRO];
        product_of_rows(a, first, rows, b, tile * TILE, columns, width, stages, sums);
        float tau = temperature(logit_scale);
        int y = thread_y(), x = thread_x(), left = columns - tile * TILE - x;
        // Half of the products at a time go through the stages, to be treated a row at a time.
        __syncthreads();
#pragma unroll
        for (int half = 0; half < MICRO; half += 4) {
            float* parked = stages + threadIdx.x * 4;
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < MICRO; j += 4)
                    store(parked + (i * MICRO + j) * THREADS, {sums[half + i][j], sums[half + i][j + 1],
                                                               sums[half + i][j + 2], sums[half + i][j + 3]});
#pragma unroll 1
            for (int i = half; i < half + 4; i++) {
                // The pair is the logit j with 16 j == pair.
                int row = first + y + 16 * i, pair = row + offset - tile * TILE - x;
                float fours[2][4], logits[MICRO];
#pragma unroll
                for (int j = 0; j < 2; j++) load(parked + ((i - half) * MICRO + j * 4) * THREADS, fours[j]);
#pragma unroll
                for (int j = 0; j < MICRO; j++) {
                    logits[j] = tau * fours[j / 4][j % 4];
                    if (16 * j >= left) logits[j] = -INFINITY;
                    if (16 * j == pair && row < rows) parts[(size_t)2 * splits * rows + row] = logits[j];
                }
                loss.add(logits, pair, known[0][i][threadIdx.x], known[1][i][threadIdx.x]);
            }
        }
    }
    float most[MICRO], sum[MICRO];
#pragma unroll
    for (int i = 0; i < MICRO; i++) most[i] = known[0][i][threadIdx.x], sum[i] = known[1][i][threadIdx.x];
    // Over the 4 lanes, then the 4 warps, that share a row.
#pragma unroll
    for (int i = 0; i < MICRO; i++) {
#pragma unroll
        for (int lanes = 8; lanes < 32; lanes *= 2)
            loss.merge(most[i], sum[i], __shfl_xor_sync(ALL_LANES, most[i], lanes),
                       __shfl_xor_sync(ALL_LANES, sum[i], lanes));
    }
    int y = thread_y();
    __syncthreads();
    float (*both)[4][TILE] = reinterpret_cast<float (*)[4][TILE]>(stages);
    if (threadIdx.x % 32 < 8) {
#pragma unroll
        for (int i = 0; i < MICRO; i++) {
            both[0][threadIdx.x / 64][y + 16 * i] = most[i];
            both[1][threadIdx.x / 64][y + 16 * i] = sum[i];
        }
    }
    __syncthreads();
    int row = first + threadIdx.x;
    if (threadIdx.x < TILE && row < rows) {
        float m = both[0][0][threadIdx.x], s = both[1][0][threadIdx.x];
#pragma unroll
        for (int warp = 1; warp < 4; warp++) loss.merge(m, s, both[0][warp][threadIdx.x], both[1][warp][threadIdx.x]);
        parts[(size_t)split * rows + row] = m;
        parts[(size_t)(splits + split) * rows + row] = s;
    }
}

// A row's parts, put together in the order of the splits.
template <typename Loss>
__device__ __forceinline__ void merge_row(const Loss& loss, const float* parts, int row, int rows, int splits, float& most,
                                          float& sum, float& own) {
    most = parts[row], sum = parts[(size_t)splits * rows + row], own = parts[(size_t)2 * splits * rows + row];
    for (int split = 1; split < splits; split++)
        loss.merge(most, sum, parts[(size_t)split * rows + row], parts[(size_t)(splits + split) * rows + row]);
}

// da (or its part of split blockIdx.y) = tau G b with G_ij = weight * loss.gradient, tile by tile: S, then G in shared
// memory, then G b for each 128 columns of da, added to what the tiles before left in global memory. With `sums`, also
// sums[0, block] = sum of G o L and, for a loss with a bias, sums[1, block] = sum of G over the block.
// Grid: (ceil(rows / 128), splits); block: 256; dynamic shared memory: GRADIENT_SHARED.
template <typename Loss>
__device__ void gradient_rows(const Loss& loss, const float* a, const float* b, const float* logit_scale, float* da,
                              float* sums, int rows, int columns, int width, int offset, float weight) {
    extern __shared__ float4 shared[];
    float* stages = reinterpret_cast<float*>(shared);
    float* g = stages + 2 * STAGE;
    int first = blockIdx.x * TILE, splits = gridDim.y, split = blockIdx.y;
    int tiles = (columns + TILE - 1) / TILE;
    int begin = first_tile(tiles, split, splits), end = first_tile(tiles, split + 1, splits);
    da += (size_t)split * rows * width;
    float along = 0, total = 0; // of G o L and of G
    for (int tile = begin; tile < end; tile++) {
        float part[MICRO][MICRO];
        product_of_rows(a, first, rows, b, tile * TILE, columns, width, stages, part);
        // The products become G in place, a row at a time.
        float tau = temperature(logit_scale);
        int y = thread_y(), x = thread_x(), left = columns - tile * TILE - x;
        auto place = [&](int i, int j) { return (y + 16 * i) * TILE + ((x / 4 + 4 * j) ^ y % 8) * 4 + x % 4; };
#pragma unroll
        for (int i = 0; i < MICRO; i++)
#pragma unroll
            for (int j = 0; j < MICRO; j++) g[place(i, j)] = part[i][j];
#pragma unroll 1
        for (int i = 0; i < MICRO; i++) {
            // The pair is the logit j with 16 j == pair.
            int row = first + y + 16 * i, pair = row + offset - tile * TILE - x;
            float by_row = row < rows ? loss.row(row) : 0;
#pragma unroll
            for (int j = 0; j < MICRO; j++) {
                float logit = tau * g[place(i, j)];
                float by_column = 16 * j < left ? loss.column(tile * TILE + x + 16 * j) : 0;
                float value = weight * loss.gradient(logit, by_row, by_column, 16 * j == pair);
                value = row < rows && 16 * j < left ? value : 0;
                along += value * logit;
                total += value;
                g[place(i, j)] = tau * value;
            }
        }
        for (int at = 0; at < width; at += TILE) {
            product_with_columns(g, b, tile * TILE, columns, width, at, stages, part);
            y = thread_y(), x = thread_x();
#pragma unroll
            for (int i = 0; i < MICRO; i++) {
                int row = first + y + 16 * i;
                if (row >= rows) continue;
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    int column = at + half * 64 + x * 4;
                    float* to = da + (size_t)row * width + column;
                    float v[4], before[4] = {};
                    if (width % 4 == 0 && column < width) {
                        if (tile > begin) load(to, before);
#pragma unroll
                        for (int j = 0; j < 4; j++) v[j] = before[j] + part[i][half * 4 + j];
                        store(to, v);
                    } else {
#pragma unroll
                        for (int j = 0; j < 4; j++)
                            if (column + j < width) to[j] = (tile > begin ? to[j] : 0) + part[i][half * 4 + j];
                    }
                }
            }
        }
    }
    if (!sums) return;
    int block = split * gridDim.x + blockIdx.x;
    along = block_sum<THREADS / 32>(along, stages);
    if (threadIdx.x == 0) sums[block] = along;
    if constexpr (Loss::BIAS) {
        total = block_sum<THREADS / 32>(total, stages);
        if (threadIdx.x == 0) sums[gridDim.x * splits + block] = total;
    }
}

// *to (+)= the sum over a block of 256 of `from`, or 0 where `held`.
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
