// AdamW over the flat arena (src/ops/adamw): the gradients' norm in two steps, then one pass that clips, updates, and
// writes the compute copy of the weights.
//   g = scale grad;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
//   w -= lr (m correct1 / (sqrt(v correct2) + eps) + decay w)
// If the norm is not finite, some gradient is not, and nothing is changed. What changes from step to step is read from
// memory, so that the launch can be captured in a graph.
#include "common.cuh"

// The layout of src/ops/adamw's `Hyper`.
struct Hyper {
    float lr, beta1, beta2, eps, decay, correct1, correct2, clip;
};

// Gradients whose squares one block adds up.
constexpr int NORM_BLOCK = 128 * 128;  // launcher

// partials[block] = sum of x^2 over the block's NORM_BLOCK elements. Grid: ceil(len / NORM_BLOCK); block: 256. len: a
// multiple of 4.
extern "C" __global__ void __launch_bounds__(256) adamw_squares(const float* x, float* partials, size_t len) {
    __shared__ float scratch[8];
    float sum = 0;
    size_t first = size_t(blockIdx.x) * NORM_BLOCK;
    size_t end = min(first + NORM_BLOCK, len);
    for (size_t at = first + threadIdx.x * 4; at < end; at += 256 * 4) {
        float v[4];
        load(x + at, v);
        sum += (v[0] * v[0] + v[1] * v[1]) + (v[2] * v[2] + v[3] * v[3]);
    }
    float total = block_sum<8>(sum, scratch);
    if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

// norm[0] = the norm, norm[1] = the factor for gradients: less than 1 if they are clipped, NaN if the norm is not
// finite. order: where each of `count` partial sums is, or null if they are in order. Grid: 1; block: 256.
extern "C" __global__ void __launch_bounds__(256)
    adamw_scale(const float* partials, const int* order, float* norm, int count, const Hyper* hyper) {
    __shared__ float scratch[8];
    float sum = 0;
    float clip = hyper->clip;
    for (int i = threadIdx.x; i < count; i += 256) sum += partials[order ? order[i] : i];
    float n = sqrtf(block_sum<8>(sum, scratch));
    if (threadIdx.x == 0) {
        norm[0] = n;
        norm[1] = isfinite(n) ? (clip > 0 && n > clip ? clip / n : 1.0f) : CUDART_NAN_F;
    }
}

// Grid: any; block: 256. values, grads, m, v: [len], shadow: [len] or null, decays: [len / 64]; len: a multiple of 64.
// Bytes moved per parameter: 28, and 2 for the shadow.
extern "C" __global__ void __launch_bounds__(256)
    adamw_update(float* values, bf16* shadow, const float* grads, float* m, float* v, const uint8_t* decays,
                 const float* norm, size_t len, const Hyper* numbers) {
    Hyper hyper = *numbers;
    float scale = norm[1];
    if (isnan(scale)) return;
    for (size_t at = thread_index() * 4; at < len; at += thread_count() * 4) {
        float w[4], g[4], first[4], second[4];
        load(values + at, w);
        load(grads + at, g);
        load(m + at, first);
        load(v + at, second);
        float decay = decays[at / 64] ? hyper.decay : 0.0f;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float grad = g[i] * scale;
            first[i] = hyper.beta1 * first[i] + (1 - hyper.beta1) * grad;
            second[i] = hyper.beta2 * second[i] + (1 - hyper.beta2) * grad * grad;
            float direction = first[i] * hyper.correct1 / (sqrtf(second[i] * hyper.correct2) + hyper.eps);
            w[i] -= hyper.lr * (direction + decay * w[i]);
        }
        store(values + at, w);
        store(m + at, first);
        store(v + at, second);
        if (shadow) *reinterpret_cast<uint2*>(shadow + at) = make_uint2(pack(w[0], w[1]), pack(w[2], w[3]));
    }
}
