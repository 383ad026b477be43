// Matrix products of one warp on bf16 (mma.sync m16n8k16, sm_80), on rows in shared memory.
//
// Fragments (PTX ISA, 9.7.14.5.8), for lane 4 g + t. A: rows g and g + 8, columns 2 t, 2 t + 1, 2 t + 8 and 2 t + 9. B:
// rows 2 t, 2 t + 1, 2 t + 8 and 2 t + 9 of column g. C: columns 2 t and 2 t + 1 of row g (values 0, 1) and of row g +
// 8 (values 2, 3). So two neighbouring tiles of C, rounded to bf16, are an A. docs/kernels.md draws them.
#pragma once
#include "common.cuh"

__device__ __forceinline__ uint32_t shared_address(const void* at) { return (uint32_t)__cvta_generic_to_shared(at); }

// Copies 16 bytes from global to shared memory asynchronously, or writes zeros if not `valid` (`from` must still be a
// valid address).
__device__ __forceinline__ void cp_async(uint32_t to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most PENDING groups of this thread's copies are unfinished. Other threads see the copies after a
// barrier.
template <int PENDING> __device__ __forceinline__ void cp_async_wait_group() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Loads a 16 x 16 tile as four 8 x 8 matrices, each transposed if TRANS. `at` is this lane's address in the tile and
// determines the order of the matrices: (top, left), (bottom, left), (top, right), (bottom, right) with a_order, and
// with the middle two swapped with b_order. The result is
//   a_order: the tile as A;                      a_order, TRANS: two B, whose rows are the tile's rows
//   b_order, TRANS: the transposed tile as A;    b_order: two B, whose columns are the tile's rows
// There are two orders because an operand of mma needs neighbouring registers; otherwise they would be moved.
template <bool TRANS> __device__ __forceinline__ void ldmatrix_x4(uint32_t (&m)[4], uint32_t at) {
    if constexpr (TRANS)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                     : "r"(at)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                     : "r"(at)
                     : "memory");
}

// c += a b, with a 16 x 16 and b 16 x 8.
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c += a b, with a and b 16 x 16.
__device__ __forceinline__ void mma(float (*c)[4], const uint32_t (&a)[4], const uint32_t (&b)[4]) {
    mma(c[0], a, b[0], b[1]);
    mma(c[1], a, b[2], b[3]);
}

// Two neighbouring 16 x 8 tiles of accumulators as A.
__device__ __forceinline__ void acc_to_a_frag(uint32_t (&a)[4], const float (*c)[4]) {
    a[0] = pack(c[0][0], c[0][1]), a[1] = pack(c[0][2], c[0][3]);
    a[2] = pack(c[1][0], c[1][1]), a[3] = pack(c[1][2], c[1][3]);
}

// 2^x
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Rows of WIDTH elements in shared memory, at a multiple of 128 bytes. The 16-byte chunks of a row are permuted by XOR
// with the row's number, so that ldmatrix, which reads one chunk of each of eight rows, meets all 32 banks. GROUP
// chunks are permuted among themselves; 8 / GROUP neighbouring rows have the same permutation, since they lie in
// different banks anyway.
template <int WIDTH> struct SwizzledTile {
    static constexpr int CHUNKS = WIDTH / 8;
    static constexpr int BYTES = WIDTH * 2;
    static constexpr int GROUP = CHUNKS % 8 == 0 ? 8 : CHUNKS % 4 == 0 ? 4 : 2;
    static_assert(WIDTH % 16 == 0);

    static __device__ __forceinline__ uint32_t offset(int row, int chunk) {
        return row * BYTES + (chunk ^ row / (8 / GROUP) % GROUP) * 16;
    }
    // The offset that this lane passes to ldmatrix for tile (0, 0), in the two orders.
    static __device__ __forceinline__ uint32_t a_order(int lane) { return offset(lane % 16, lane / 16); }
    static __device__ __forceinline__ uint32_t b_order(int lane) {
        return offset(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    }
    // The same for the tile at `row` (a multiple of 16) and column 16 k; `first`: this lane's address in tile (0, 0).
    static __device__ __forceinline__ uint32_t address(uint32_t first, int row, int k) {
        return (first ^ k % (GROUP / 2) * 32) + row * BYTES + k / (GROUP / 2) * (GROUP * 16);
    }

    // Starts copying `count` rows, `pitch` elements apart, with `threads` threads. Only the first `valid` (at least
    // one) exist; the others become zeros. Each 16 rows start `slab` bytes after the 16 before.
    static __device__ __forceinline__ void load_async(uint32_t to, const bf16* from, uint32_t pitch, int count,
                                                      int valid, int thread, int threads, int slab = 16 * BYTES) {
        __builtin_assume(0 <= thread && thread < threads);
        for (int i = thread; i < count * CHUNKS; i += threads) {
            int row = i / CHUNKS, chunk = i % CHUNKS;
            // A product of two 32-bit numbers is one instruction.
            const char* at =
                reinterpret_cast<const char*>(from + chunk * 8) + (size_t)min(row, valid - 1) * (pitch * 2);
            cp_async(to + row / 16 * slab + offset(row % 16, chunk), at, row < valid);
        }
    }
};

// Swaps `a` of the lanes that have `bit` with `b` of those that lack it.
__device__ __forceinline__ void swap_lanes(uint32_t& a, uint32_t& b, int bit) {
    bool odd = threadIdx.x & bit;
    uint32_t got = __shfl_xor_sync(ALL_LANES, odd ? a : b, bit);
    if (odd) a = got;
    else b = got;
}

// Stores 16 rows of TILES * 8 accumulators as bf16, rows 0 to 7 times `low` and 8 to 15 times `high`; only the first
// `rows` rows. Four lanes hold 16 bytes of each tile; they swap them, so that each lane stores 16 bytes and sectors are
// whole.
template <int TILES>
__device__ __forceinline__ void store_rows(bf16* to, size_t pitch, int rows, const float (&c)[TILES][4], float low,
                                           float high) {
    int g = threadIdx.x % 32 / 4;
    int t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float factor = half ? high : low;
        bool inside = g + 8 * half < rows;
        bf16* row = to + (g + 8 * half) * pitch;
        uint32_t w[TILES];
#pragma unroll
        for (int i = 0; i < TILES; i++) w[i] = pack(c[i][2 * half] * factor, c[i][2 * half + 1] * factor);
#pragma unroll
        for (int i = 0; i + 4 <= TILES; i += 4) {
            swap_lanes(w[i], w[i + 1], 1), swap_lanes(w[i + 2], w[i + 3], 1);
            swap_lanes(w[i], w[i + 2], 2), swap_lanes(w[i + 1], w[i + 3], 2);
            if (inside)
                __stcg(reinterpret_cast<uint4*>(row + (i + t) * 8), make_uint4(w[i], w[i + 1], w[i + 2], w[i + 3]));
        }
        if constexpr (TILES % 4 == 2) {
            constexpr int i = TILES - 2;
            swap_lanes(w[i], w[i + 1], 1);
            if (inside) __stcg(reinterpret_cast<uint2*>(row + (i + t % 2) * 8 + t / 2 * 4), make_uint2(w[i], w[i + 1]));
        }
    }
}
