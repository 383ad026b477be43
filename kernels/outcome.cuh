// The loss and the numbers of right answers, from the parts that forward_tiles left: the last step of the forward pass
// of contrastive.cu and sigmoid.cu.
#pragma once

#include "logits.cuh"

// Combines the parts of a row (or column), in the order of the shares.
template <typename Loss>
__device__ __forceinline__ void merge_parts(const Loss& loss, const float* maxima, const float* sums, int row, int rows,
                                            int shares, float& max_logit, float& sum) {
    max_logit = maxima[row], sum = sums[row];
#pragma unroll 2
    for (int share = 1; share < shares; share++)
        loss.merge(max_logit, sum, maxima[(size_t)share * rows + row], sums[(size_t)share * rows + row]);
}

// The loss of a row of images (side 0) or of texts (side 1), before the weight. A row is correct if no column beats its
// pair, whose logit is `own`.
template <typename Loss>
__device__ __forceinline__ float row_outcome(const Loss& loss, const float* maxima, const float* sums, float own,
                                             int row, int rows, int shares, int side, float* lse, float& correct) {
    float max_logit, sum;
    merge_parts(loss, maxima, sums, row, rows, shares, max_logit, sum);
    correct += own >= max_logit ? 1.0f : 0.0f;
    return loss.of_row(side, max_logit, sum, own, lse, row);
}

// outcome = [loss, image_correct, text_correct] of a whole batch. For a block of 1024.
template <typename Loss>
__device__ __forceinline__ void write_outcome(const Loss& formula, float* to, float* lse_rows, float* lse_columns,
                                              float* outcome, int rows, int row_shares, int column_shares,
                                              float weight) {
    __shared__ float scratch[32];
    Parts parts(to, rows, rows, row_shares, column_shares);
    float loss = 0, correct[2] = {};
    for (int row = threadIdx.x; row < rows; row += 1024) {
        float own = parts.own[row];
        loss +=
            row_outcome(formula, parts.row_max, parts.row_sum, own, row, rows, column_shares, 0, lse_rows, correct[0]);
        loss += row_outcome(formula, parts.column_max, parts.column_sum, own, row, rows, row_shares, 1, lse_columns,
                            correct[1]);
    }
    float values[3] = {weight * block_sum<32>(loss, scratch), block_sum<32>(correct[0], scratch),
                       block_sum<32>(correct[1], scratch)};
    if (threadIdx.x == 0) outcome[0] = values[0], outcome[1] = values[1], outcome[2] = values[2];
}

// The same for a part of a batch, in two launches whose shares add up: side 0 has images as rows and sets
// outcome[0 and 1], side 1 has texts as rows, adds to outcome[0] and sets outcome[2].
template <typename Loss>
__device__ __forceinline__ void write_side_outcome(const Loss& formula, float* to, float* lse, float* outcome, int rows,
                                                   int column_shares, int side, float weight) {
    __shared__ float scratch[32];
    Parts parts(to, rows, 0, 0, column_shares);
    float loss = 0, correct = 0;
    for (int row = threadIdx.x; row < rows; row += 1024) {
        loss += row_outcome(formula, parts.row_max, parts.row_sum, parts.own[row], row, rows, column_shares, side, lse,
                            correct);
    }
    loss = weight * block_sum<32>(loss, scratch);
    correct = block_sum<32>(correct, scratch);
    if (threadIdx.x == 0) outcome[0] = (side ? outcome[0] : 0) + loss, outcome[1 + side] = correct;
}
