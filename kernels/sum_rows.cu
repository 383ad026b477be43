// Sums over rows in the tree of the micro-batches' gradients (src/ops/sum_rows).
#include "common.cuh"

// Levels of the tree; a sum has fewer than 2^LEVELS rows.
constexpr int LEVELS = 12;  // launcher

// Sums that wait for their neighbour, as the digits of a binary counter.
struct Counter {
    // Zeros, since the compiler may read a sum before it knows whether it is needed.
    float sums[LEVELS][4] = {};

    // Adds `v`, the sum of the 2^LEVEL rows that follow the first `row`.
    template <int LEVEL> __device__ __forceinline__ void add(float (&v)[4], int row) {
#pragma unroll
        for (int level = LEVEL; level < LEVELS; level++) {
            bool waits = (row >> level) % 2 == 0;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (waits) sums[level][i] = v[i];
                else v[i] += sums[level][i];
            }
            if (waits) break;
        }
    }

    // The sum of all `rows`.
    __device__ __forceinline__ void all(float (&v)[4], int rows) {
        bool first = true;
#pragma unroll
        for (int level = 0; level < LEVELS; level++) {
            if ((rows >> level) % 2 == 0) continue;
#pragma unroll
            for (int i = 0; i < 4; i++) v[i] = first ? sums[level][i] : sums[level][i] + v[i];
            first = false;
        }
    }
};

// into = the sum over the rows of `parts`, [rows, len]; len is a multiple of 4. A thread adds up four columns, and
// loads four rows at once. Grid: any; block: 256. Bytes moved: 4 len (rows + 1).
extern "C" __global__ void __launch_bounds__(256) sum_rows(float* into, const float* parts, int rows, size_t len) {
    for (size_t at = 4 * thread_index(); at < len; at += 4 * thread_count()) {
        Counter counter;
        int row = 0;
        for (; row + 4 <= rows; row += 4) {
            float v[4][4];
#pragma unroll
            for (int i = 0; i < 4; i++) load(parts + (row + i) * len + at, v[i]);
#pragma unroll
            for (int i = 0; i < 4; i++) v[0][i] = (v[0][i] + v[1][i]) + (v[2][i] + v[3][i]);
            counter.add<2>(v[0], row);
        }
        float v[4] = {};
        for (; row < rows; row++) {
            load(parts + row * len + at, v);
            counter.add<0>(v, row);
        }
        counter.all(v, rows);
        store(into + at, v);
    }
}
