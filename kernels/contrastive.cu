// Symmetric InfoNCE with the logits never stored (src/ops/pairwise; tiles and splits: logits.cuh). All in f32.
//
//   L = tau a b^T, tau = exp(clip(logit_scale, 0, ln 100)), the pair of row i is column i + offset
//   lse_i = ln sum_j exp L_ij;  loss = weight * (sum over both directions of lse_i - L_i,pair);  weight = 1 / 2B
//   G_ij = weight (exp(L_ij - lse_row_i) + exp(L_ij - lse_col_j) - 2 [j = i + offset]);  da = tau G b
//   dlogit_scale = sum of G o L (zero where the clip is active)
//
// Launches. Parameters are those of the signatures below: pointers to global memory (images, texts: halves of split.cu;
// the others f32), `int` (rows, columns, width, offset, and counts) and `float` (weight). For a whole batch, rows =
// columns = B and offset = 0. For a part of it, rows is the number of its pairs, the columns are all B, offset is the
// index of its first pair, and weight is that of the whole batch, so that losses, counts and dlogit_scale of the parts
// add up; dimages and dtexts are complete. The first operand is then the halves from row `offset` on. The columns' sums
// of such a pass cover only the part's rows, so each side has a pass of its own, with its own rows.
//   tiles(n) = ceil(n / 128);  blocks = ceil(width / 32);  row_tiles, column_tiles: tiles of one block, chosen by the
//   launcher so that about 264 blocks share the work (two on each of an H100's 132 SMs; a constant, so that sums have
//   one order on all GPUs);  row_shares = ceil(tiles(rows) / row_tiles), column_shares = ceil(tiles(columns) /
//   column_tiles)
//
// Forward and backward start with split_halves(images, halves, rows, width) of split.cu, and the same of texts: 4 bytes
// per element.
//
// Forward; scratch in addition to the halves: parts = [max: column_shares x rows, sum: column_shares x rows, own: rows,
// max: row_shares x columns, sum: row_shares x columns]:
//   1. contrastive_lse_f32(images, texts, logit_scale, parts, rows, columns, blocks, offset, row_tiles, column_tiles):
//      grid (column_shares, row_shares), block 256, dynamic shared memory 98,304 bytes (opt in)
//   2. contrastive_outcome_f32(parts, lse_rows, lse_columns, outcome, rows, row_shares, column_shares, weight),
//      rows = columns: grid 1, block 1024
// For a part of a batch, 1. and then contrastive_side_outcome_f32(parts, lse, outcome, rows, column_shares, side,
// weight) with images as rows, side 0 and lse_rows, and both once more with the operands exchanged, side 1 and
// lse_columns: grid 1, block 1024.
//
// Backward; scratch in addition to the halves: tiles(rows) column_shares, rounded up to a multiple of 64 (`sums`), and
// then, if column_shares > 1, column_shares rows width (`parts`, at most 33,792 width):
//   1. contrastive_gradient_f32(images, texts, logit_scale, lse_rows, lse_columns, to, sums, rows, columns, width,
//      blocks, offset, column_tiles, weight): grid (tiles(rows), column_shares), block 256, dynamic shared memory
//      98,304 bytes (opt in); `to` is parts if column_shares > 1, else dimages; 8-byte aligned if width is even (odd
//      widths are slower)
//   2. if column_shares > 1: add_partials(parts, dimages, column_shares, rows * width, 0) of reduce.cu
//   3. and 4. the same with (texts, images, lse_columns, lse_rows), null for sums, and dtexts
//   5. contrastive_dlogit_scale_f32(sums, logit_scale, dlogit_scale, tiles(rows) * column_shares, accumulate): grid 1,
//      block 256
// lse_a has `rows` elements and lse_b `columns`: the backward pass of a part needs those of all parts.
//
// FLOPs: 2 B^2 width forward, 8 B^2 width backward (4 of them to recompute S), each three times on the tensor cores.
// Bytes: halves of a and b once per tile that uses them, from L2; da is read and written once per column tile of its
// block.
#include "outcome.cuh"

struct InfoNce {
    static constexpr bool BIAS = false;
    const float* lse_rows;
    const float* lse_columns;

    // `sum` is the sum of exp(L - max_logit).
    __device__ __forceinline__ void add(const float (&logits)[MICRO], int, float& max_logit, float& sum) const {
        float larger = max_logit;
        float here = 0;
#pragma unroll
        for (int j = 0; j < MICRO; j++) larger = fmaxf(larger, logits[j]);
#pragma unroll
        for (int j = 0; j < MICRO; j++) here += __expf(logits[j] - larger);
        sum = sum * __expf(max_logit - larger) + here;
        max_logit = larger;
    }
    __device__ __forceinline__ void add_column(const float (&logits)[MICRO], float& max_logit, float& sum) const {
        add(logits, 0, max_logit, sum);
    }

    __device__ __forceinline__ void merge(float& max_logit, float& sum, float other_max, float other_sum) const {
        float larger = fmaxf(max_logit, other_max);
        sum = sum * __expf(max_logit - larger) + other_sum * __expf(other_max - larger);
        max_logit = larger;
    }

    __device__ __forceinline__ float of_row(int, float max_logit, float sum, float own, float* lse, int row) const {
        float all = lse[row] = max_logit + logf(sum);
        return all - own;
    }

    __device__ __forceinline__ float row(int row) const { return lse_rows[row]; }
    __device__ __forceinline__ float column(int column) const { return lse_columns[column]; }

    __device__ __forceinline__ float gradient(float logit, float lse_row, float lse_column, bool pair) const {
        return __expf(logit - lse_row) + __expf(logit - lse_column) - (pair ? 2.0f : 0.0f);
    }
};

extern "C" __global__ void __launch_bounds__(256, 2)
    contrastive_lse_f32(const void* a, const void* b, const float* logit_scale, float* parts, int rows, int columns,
                        int blocks, int offset, int row_tiles, int column_tiles) {
    forward_tiles(InfoNce{}, a, b, logit_scale, parts, rows, columns, blocks, offset, row_tiles, column_tiles);
}

extern "C" __global__ void __launch_bounds__(1024)
    contrastive_outcome_f32(float* to, float* lse_rows, float* lse_columns, float* outcome, int rows, int row_shares,
                            int column_shares, float weight) {
    write_outcome(InfoNce{}, to, lse_rows, lse_columns, outcome, rows, row_shares, column_shares, weight);
}

extern "C" __global__ void __launch_bounds__(1024)
    contrastive_side_outcome_f32(float* to, float* lse, float* outcome, int rows, int column_shares, int side,
                                 float weight) {
    write_side_outcome(InfoNce{}, to, lse, outcome, rows, column_shares, side, weight);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    contrastive_gradient_f32(const void* a, const void* b, const float* logit_scale, const float* lse_a,
                             const float* lse_b, float* da, float* sums, int rows, int columns, int width, int blocks,
                             int offset, int column_tiles, float weight) {
    gradient_rows(InfoNce{lse_a, lse_b}, a, b, logit_scale, da, sums, rows, columns, width, blocks, offset,
                  column_tiles, weight);
}

extern "C" __global__ void __launch_bounds__(256)
    contrastive_dlogit_scale_f32(const float* sums, const float* logit_scale, float* dlogit_scale, int blocks,
                                 int accumulate) {
    add_up(sums, blocks, dlogit_scale, accumulate, clip_holds(*logit_scale));
}
