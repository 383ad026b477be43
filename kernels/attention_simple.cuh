// Attention for any head dim and in f32: one warp per row, up to eight numbers of it per lane.
#pragma once
#include "attention.cuh"

// Any number of tokens, in f32 arithmetic: for f32 activations, and for head dims without kernels of their own. A lane
// has the columns 32 i + lane. Grid: any, best ceil(batch * heads * tokens / 4); block: 128.
constexpr int MAX_HEAD_DIM = 256;  // launcher
constexpr int PARTS = MAX_HEAD_DIM / 32;

template <typename T> __device__ __forceinline__ void load_row(float (&v)[PARTS], const T* from, int head_dim) {
#pragma unroll
    for (int i = 0; i < PARTS; i++) {
        int column = 32 * i + threadIdx.x % 32;
        v[i] = column < head_dim ? to_float(from[column]) : 0;
    }
}
template <typename T>
__device__ __forceinline__ void store_row(T* to, const float (&v)[PARTS], float factor, int head_dim) {
#pragma unroll
    for (int i = 0; i < PARTS; i++) {
        int column = 32 * i + threadIdx.x % 32;
        if (column < head_dim) to[column] = from_float<T>(v[i] * factor);
    }
}
__device__ __forceinline__ float dot(const float (&a)[PARTS], const float (&b)[PARTS]) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < PARTS; i++) sum += a[i] * b[i];
    return warp_sum(sum);
}

template <typename T>
__device__ void simple_forward(const T* qkv, T* out, float* lse, int batch, int tokens, int heads, int head_dim,
                               int causal, float scale) {
    size_t rows = (size_t)batch * heads * tokens;
    for (size_t row = thread_index() / 32; row < rows; row += thread_count() / 32) {
        HeadOffset at(row / tokens, tokens, heads, head_dim);
        int query = row % tokens;
        float q[PARTS], o[PARTS] = {};
        float row_max = -INFINITY;
        float row_sum = 0;
        load_row(q, qkv + at.qkv + query * 3 * at.pitch, head_dim);
        int end = causal ? query + 1 : tokens;
        for (int key = 0; key < end; key++) {
            const T* from = qkv + at.qkv + at.width + key * 3 * at.pitch;
            float k[PARTS], v[PARTS];
            load_row(k, from, head_dim);
            load_row(v, from + at.width, head_dim);
            float s = dot(q, k) * scale;
            float new_max = fmaxf(row_max, s);
            float rescale = expf(row_max - new_max);
            float p = expf(s - new_max);
            row_max = new_max;
            row_sum = row_sum * rescale + p;
#pragma unroll
            for (int i = 0; i < PARTS; i++) o[i] = o[i] * rescale + p * v[i];
        }
        store_row(out + at.out + query * at.pitch, o, 1 / row_sum, head_dim);
        if (threadIdx.x % 32 == 0) lse[row] = row_max + logf(row_sum);
    }
}

// Each warp takes one row: as a query for dQ, and as a key for dK and dV.
template <typename T>
__device__ void simple_backward(const T* qkv, const T* out, const float* lse, const T* dout, T* dqkv, int batch,
                                int tokens, int heads, int head_dim, int causal, float scale) {
    size_t rows = (size_t)batch * heads * tokens;
    for (size_t row = thread_index() / 32; row < rows; row += thread_count() / 32) {
        HeadOffset at(row / tokens, tokens, heads, head_dim);
        int own = row % tokens;
        const T* from = qkv + at.qkv;
        float q[PARTS], k[PARTS], v[PARTS], d[PARTS], o[PARTS];
        float dq[PARTS] = {}, dk[PARTS] = {}, dv[PARTS] = {};
        load_row(q, from + own * 3 * at.pitch, head_dim);
        load_row(d, dout + at.out + own * at.pitch, head_dim);
        load_row(o, out + at.out + own * at.pitch, head_dim);
        float delta = dot(d, o);
        for (int key = 0; key < (causal ? own + 1 : tokens); key++) {
            load_row(k, from + at.width + key * 3 * at.pitch, head_dim);
            load_row(v, from + 2 * at.width + key * 3 * at.pitch, head_dim);
            float ds = expf(dot(q, k) * scale - lse[row]) * (dot(d, v) - delta);
#pragma unroll
            for (int i = 0; i < PARTS; i++) dq[i] += ds * k[i];
        }
        load_row(k, from + at.width + own * 3 * at.pitch, head_dim);
        load_row(v, from + 2 * at.width + own * 3 * at.pitch, head_dim);
        for (int query = causal ? own : 0; query < tokens; query++) {
            load_row(q, from + query * 3 * at.pitch, head_dim);
            load_row(d, dout + at.out + query * at.pitch, head_dim);
            load_row(o, out + at.out + query * at.pitch, head_dim);
            float p = expf(dot(q, k) * scale - lse[at.lse + query]);
            float ds = p * (dot(d, v) - dot(d, o));
#pragma unroll
            for (int i = 0; i < PARTS; i++) dk[i] += ds * q[i], dv[i] += p * d[i];
        }
        T* to = dqkv + at.qkv + own * 3 * at.pitch;
        store_row(to, dq, scale, head_dim);
        store_row(to + at.width, dk, scale, head_dim);
        store_row(to + 2 * at.width, dv, 1, head_dim);
    }
}
