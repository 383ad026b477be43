// Symmetric InfoNCE with the logits never stored (src/ops/contrastive; tiles and splits: logits.cuh). All in f32.
//
//   L = tau a b^T, tau = exp(clip(logit_scale, 0, ln 100)), the pair of row i is column i + offset
//   lse_i = ln sum_j exp L_ij;  loss = weight * (sum over both directions of lse_i - L_i,pair);  weight = 1 / 2B
//   G_ij = weight (exp(L_ij - lse_row_i) + exp(L_ij - lse_col_j) - 2 [j = i + offset]);  da = tau G b
//   dlogit_scale = sum of G o L (zero where the clip holds it)
//
// Launches. Parameters in the order of the signatures below: pointers to f32 in global memory, `int` (rows, columns, width,
// offset, splits, blocks, accumulate) and `float` (weight), 4 bytes each.
// With one device rows = columns = B and offset = 0; with several, rows = B / devices, the columns are gathered, offset is
// the index of the device's first row, and weight is that of the whole batch, so that the devices' losses, counts and
// dlogit_scale add up; dimages and dtexts are complete.
//   tiles(n) = ceil(n / 128);  splits = clamp(264 / tiles(rows), 1, tiles(columns)), in whole numbers
//   (264 = two blocks on each of an H100's 132 SMs; a constant, so that sums have one order everywhere.)
//
// Forward; scratch: 2 P with P = (2 splits + 1) rows:
//   1. contrastive_lse_f32(images, texts, logit_scale, scratch, rows, columns, width, offset)
//   2. contrastive_lse_f32(texts, images, logit_scale, scratch + P, rows, columns, width, offset)
//      grid (tiles(rows), splits), block 256, no dynamic shared memory
//   3. contrastive_outcome_f32(scratch, lse_rows, lse_columns, outcome, rows, splits, weight): grid 1, block 1024
//
// Backward; scratch: tiles(rows) splits, rounded up to a multiple of 64 (`sums`), and then, if splits > 1,
// splits rows width (`parts`, at most 33,792 width; 16-byte aligned):
//   1. contrastive_gradient_f32(images, texts, logit_scale, lse_rows, lse_columns, to, sums, rows, columns, width, offset,
//      weight): grid (tiles(rows), splits), block 256, dynamic shared memory 98,304 bytes (opt in);
//      `to` is parts if splits > 1, else dimages
//   2. if splits > 1: add_partials(parts, dimages, splits, rows * width, 0) of reduce.cu
//   3. and 4. the same with (texts, images, lse_columns, lse_rows), null for sums, and dtexts
//   5. contrastive_dlogit_scale_f32(sums, logit_scale, dlogit_scale, tiles(rows) * splits, accumulate): grid 1, block 256
// lse_a has `rows` elements and lse_b `columns`: several devices gather both before the backward pass.
// With a width that is a multiple of 4, images, texts and `to` are 16-byte aligned; other widths are slower.
//
// FLOPs: 4 B^2 width forwards, 8 B^2 width backwards (4 of them S again). Bytes: a and b once per tile that they meet, from
// L2; da is read and written once per column tile of its block.
#include "logits.cuh"

struct InfoNce {
    static constexpr bool BIAS = false;
    const float* lse_rows;
    const float* lse_columns;

    // `sum` is the sum of exp(L - most).
    __device__ __forceinline__ void add(const float (&logits)[MICRO], int, float& most, float& sum) const {
        float larger = most, here = 0;
#pragma unroll
        for (int j = 0; j < MICRO; j++) larger = fmaxf(larger, logits[j]);
#pragma unroll
        for (int j = 0; j < MICRO; j++) here += __expf(logits[j] - larger);
        sum = sum * __expf(most - larger) + here;
        most = larger;
    }

    __device__ __forceinline__ void merge(float& most, float& sum, float most2, float sum2) const {
        float larger = fmaxf(most, most2);
        sum = sum * __expf(most - larger) + sum2 * __expf(most2 - larger);
        most = larger;
    }

    __device__ __forceinline__ float row(int row) const { return lse_rows[row]; }
    __device__ __forceinline__ float column(int column) const { return lse_columns[column]; }

    __device__ __forceinline__ float gradient(float logit, float lse_row, float lse_column, bool pair) const {
        return __expf(logit - lse_row) + __expf(logit - lse_column) - (pair ? 2.0f : 0.0f);
    }
};

extern "C" __global__ void __launch_bounds__(256, 2)
    contrastive_lse_f32(const float* a, const float* b, const float* logit_scale, float* parts, int rows, int columns,
                        int width, int offset) {
    forward_rows(InfoNce{}, a, b, logit_scale, parts, rows, columns, width, offset);
}

// outcome = [loss, image_correct, text_correct]; a row is correct if no column beats its pair.
extern "C" __global__ void __launch_bounds__(1024)
    contrastive_outcome_f32(const float* parts, float* lse_rows, float* lse_columns, float* outcome, int rows, int splits,
                            float weight) {
    __shared__ float scratch[32];
    float loss = 0, correct[2] = {};
#pragma unroll
    for (int side = 0; side < 2; side++) {
        float* lse = side == 0 ? lse_rows : lse_columns;
        for (int row = threadIdx.x; row < rows; row += 1024) {
            float most, sum, own;
            merge_row(InfoNce{}, parts, row, rows, splits, most, sum, own);
            float all = most + logf(sum);
            lse[row] = all;
            loss += all - own;
            correct[side] += own >= most ? 1.0f : 0.0f;
        }
        parts += (size_t)(2 * splits + 1) * rows;
    }
    float values[3] = {weight * block_sum<32>(loss, scratch), block_sum<32>(correct[0], scratch),
                       block_sum<32>(correct[1], scratch)};
    if (threadIdx.x == 0) outcome[0] = values[0], outcome[1] = values[1], outcome[2] = values[2];
}

extern "C" __global__ void __launch_bounds__(256, 2)
    contrastive_gradient_f32(const float* a, const float* b, const float* logit_scale, const float* lse_a,
                             const float* lse_b, float* da, float* sums, int rows, int columns, int width, int offset,
                             float weight) {
    gradient_rows(InfoNce{lse_a, lse_b}, a, b, logit_scale, da, sums, rows, columns, width, offset, weight);
}

extern "C" __global__ void __launch_bounds__(256)
    contrastive_dlogit_scale_f32(const float* sums, const float* logit_scale, float* dlogit_scale, int blocks,
                                 int accumulate) {
    add_up(sums, blocks, dlogit_scale, accumulate, clip_holds(*logit_scale));
}
