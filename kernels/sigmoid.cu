// The sigmoid loss with the logits never stored (src/ops/pairwise; tiles and splits: logits.cuh). All in f32.
//
//   x_ij = tau a_i . b_j + bias, tau = exp(clip(logit_scale, 0, ln 100)), the pair of row i is column i + offset
//   loss = weight * sum_ij softplus(-z_ij x_ij), z = 1 on the pairs and -1 elsewhere;  weight = 1 / B
//   G_ij = weight (sigmoid(x_ij) - [j = i + offset]);  da = tau G b;  dbias = sum of G
//   dlogit_scale = sum of G o L (zero where the clip is active), L = x - bias
//
// Launches: types, halves, rows, columns, blocks, offset, tiles and shares as in contrastive.cu. The rows contain the
// whole loss, so a column needs only its largest logit; its sum is 0.
// Forward; scratch as there:
//   1. sigmoid_rows_f32(images, texts, logit_scale, bias, parts, rows, columns, blocks, offset, row_tiles,
//      column_tiles): grid (column_shares, row_shares), block 256, dynamic shared memory 98,304 bytes (opt in)
//   2. sigmoid_outcome_f32(parts, outcome, rows, row_shares, column_shares, weight), rows = columns: grid 1, block 1024
// For a part of a batch, as there: sigmoid_side_outcome_f32(parts, outcome, rows, column_shares, side, weight).
//
// Backward; scratch as there, with twice as many `sums`:
//   1. sigmoid_gradient_f32(images, texts, logit_scale, bias, to, sums, rows, columns, width, blocks, offset,
//      column_tiles, weight): grid (tiles(rows), column_shares), block 256, dynamic shared memory 98,304 bytes (opt
//      in); `to` is parts if column_shares > 1, else dimages
//   2. if column_shares > 1: add_partials(parts, dimages, column_shares, rows * width, 0) of reduce.cu
//   3. and 4. the same with (texts, images), null for sums, and dtexts
//   5. sigmoid_dscalars_f32(sums, logit_scale, dlogit_scale, dbias, tiles(rows) * column_shares, accumulate_scale,
//      accumulate_bias): grid 1, block 256
#include "outcome.cuh"

// ln(1 + e) for 0 <= e <= 1, within 2 units in the last place: 2 atanh(s) with s = e / (2 + e) <= 1/3.
__device__ __forceinline__ float log_1_plus(float e) {
    float s = __fdividef(e, 2 + e);
    float t = s * s;
    float p = fmaf(t, 1.0f / 13, 1.0f / 11);
    p = fmaf(t, p, 1.0f / 9);
    p = fmaf(t, p, 1.0f / 7);
    p = fmaf(t, p, 1.0f / 5);
    p = fmaf(t, p, 1.0f / 3);
    return 2 * fmaf(s * t, p, s);
}

struct Sigmoid {
    static constexpr bool BIAS = true;
    const float* bias;

    // `sum` is the row's loss; logit `pair` is that of the pair.
    __device__ __forceinline__ void add(const float (&logits)[MICRO], int pair, float& max_logit, float& sum) const {
        float larger = max_logit;
        float here = 0;
        float shift = *bias;
#pragma unroll
        for (int j = 0; j < MICRO; j++) {
            larger = fmaxf(larger, logits[j]);
            float x = logits[j] + shift;
            x = j == pair ? -x : x;
            // softplus: ln(1 + e^x); columns out of range are -infinity and give 0.
            here += fmaxf(x, 0) + log_1_plus(__expf(-fabsf(x)));
        }
        max_logit = larger;
        sum += here;
    }

    __device__ __forceinline__ void add_column(const float (&logits)[MICRO], float& max_logit, float&) const {
#pragma unroll
        for (int j = 0; j < MICRO; j++) max_logit = fmaxf(max_logit, logits[j]);
    }

    __device__ __forceinline__ void merge(float& max_logit, float& sum, float other_max, float other_sum) const {
        max_logit = fmaxf(max_logit, other_max);
        sum += other_sum;
    }

    // Each pair is in one row of images, and counted there.
    __device__ __forceinline__ float of_row(int side, float, float sum, float, float*, int) const {
        return side ? 0 : sum;
    }

    __device__ __forceinline__ float row(int) const { return 0; }
    __device__ __forceinline__ float column(int) const { return 0; }

    // -sigmoid(-x) for the pair, sigmoid(x) elsewhere: neither suffers from cancellation.
    __device__ __forceinline__ float gradient(float logit, float, float, bool pair) const {
        float x = pair ? -(logit + *bias) : logit + *bias;
        float p = __fdividef(1, 1 + __expf(-x));
        return pair ? -p : p;
    }
};

extern "C" __global__ void __launch_bounds__(256, 2)
    sigmoid_rows_f32(const void* a, const void* b, const float* logit_scale, const float* bias, float* parts, int rows,
                     int columns, int blocks, int offset, int row_tiles, int column_tiles) {
    forward_tiles(Sigmoid{bias}, a, b, logit_scale, parts, rows, columns, blocks, offset, row_tiles, column_tiles);
}

extern "C" __global__ void __launch_bounds__(1024)
    sigmoid_outcome_f32(float* to, float* outcome, int rows, int row_shares, int column_shares, float weight) {
    write_outcome(Sigmoid{}, to, nullptr, nullptr, outcome, rows, row_shares, column_shares, weight);
}

extern "C" __global__ void __launch_bounds__(1024)
    sigmoid_side_outcome_f32(float* to, float* outcome, int rows, int column_shares, int side, float weight) {
    write_side_outcome(Sigmoid{}, to, nullptr, outcome, rows, column_shares, side, weight);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    sigmoid_gradient_f32(const void* a, const void* b, const float* logit_scale, const float* bias, float* da,
                         float* sums, int rows, int columns, int width, int blocks, int offset, int column_tiles,
                         float weight) {
    gradient_rows(Sigmoid{bias}, a, b, logit_scale, da, sums, rows, columns, width, blocks, offset, column_tiles,
                  weight);
}

extern "C" __global__ void __launch_bounds__(256)
    sigmoid_dscalars_f32(const float* sums, const float* logit_scale, float* dlogit_scale, float* dbias, int blocks,
                         int accumulate_scale, int accumulate_bias) {
    add_up(sums, blocks, dlogit_scale, accumulate_scale, clip_holds(*logit_scale));
    add_up(sums + blocks, blocks, dbias, accumulate_bias, false);
}
