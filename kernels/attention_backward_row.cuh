// Attention, backward, where one head fills an SM: five products, with dK and dV in registers throughout.
#pragma once
#include "attention_backward.cuh"

// Tokens for which this kernel is used.
constexpr int ROW_MIN = 145;  // launcher
constexpr int ROW_MAX = 272;  // launcher

// Four groups of two warps own two to four slabs of 16 keys each. The first warp of a group computes P^T and dV, the
// second dP^T, dS^T and dK, so that what a warp loads of Q and dO serves all slabs of its group, whose K or V it has in
// registers. P^T reaches the second warp through the memory where dS^T will be. Where the number of slabs is a multiple
// of four plus one (197 and 257 tokens), the last slab, "the rest", is shared by all warps, so that all have the same
// amount of work.
//
// Queries (Q, dO, O) are streamed in blocks of 64. The next block is loaded meanwhile, which may be the next head's;
// then the next head's K and V are loaded too (PERSISTENT). When dS^T of a block is complete, each warp computes dQ of
// 16 queries and half of the dimensions. docs/kernels.md draws this.
//
// Grid: batch * heads, or fewer if PERSISTENT (HEAD_DIM 64); block: 256; dynamic shared memory, with R = tokens rounded
// up to 16: (4 R + 384) * 2 HEAD_DIM + 144 (R + 16) + 512 bytes, and 4 R HEAD_DIM less if HEAD_DIM is 80.
template <int HEAD_DIM> struct BackwardRow {
    typedef SwizzledTile<HEAD_DIM> Tile;
    static constexpr int STAGE = 64;
    static constexpr int GROUPS = 4;
    static constexpr int WARPS = 2 * GROUPS;
    static constexpr int THREADS = 32 * WARPS;
    static constexpr int DIMS = HEAD_DIM / 16;
    static constexpr int SLAB = 48 * Tile::BYTES;
    static constexpr bool PERSISTENT = HEAD_DIM <= 64;
    // A row of dS^T is an odd number of chunks long, so that neighbouring rows start at different banks.
    static constexpr int SCORE_ROW = (STAGE + 8) * 2;
    // 16 x 16 tiles of the rest's dK and dV per warp.
    static constexpr int SHARE = (2 * DIMS + WARPS - 1) / WARPS;

    const bf16 *qkv, *out, *dout;
    const float* lse;
    bf16* dqkv;
    int total_heads, tokens, heads;  // total_heads: batch * heads
    bool causal;
    float scale;
    int padded;       // tokens in whole slabs
    int rest;         // the first key of the rest, or `padded` if there is none
    uint32_t keys;    // K and V, twice if PERSISTENT
    uint32_t stages;  // Q, dO and O, twice; then the statistics, dS^T and the rest's P^T

    // Where the loop over heads and blocks of queries is.
    struct Position {
        int head, block;
        int turn, set;  // which of two stages, and of two sets of K and V
    };

    // What a warp keeps in registers, if its group owns SLABS slabs.
    template <int SLABS> struct Sums {
        // Slabs whose K or V are kept; there are no registers for more.
        static constexpr int KEPT = HEAD_DIM <= 64 ? SLABS < 3 ? SLABS : 3 : SLABS == 4 ? 0 : 2;
        uint32_t kept[KEPT ? KEPT : 1][DIMS][4];
        float own[SLABS][2 * DIMS][4];  // dV (first warp) or dK (second warp)
        float rest[SHARE][2][4];
    };

    // A warp's role, recomputed for each block to save registers.
    struct Role {
        int lane, group, key;  // key: the first of its group
        bool second;
        uint32_t a_order, b_order;
        uint32_t own;  // this lane's address in the group's K or V
    };

    // threadIdx.x, opaque to the optimiser, so that what depends on it is recomputed and not kept in registers.
    __device__ __forceinline__ static int thread() {
        int x;
        asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
        return x;
    }

    __device__ __forceinline__ void load_stage(int head, int row, int turn) const {
        HeadOffset at(head, tokens, heads, HEAD_DIM);
        uint32_t to = stages + turn * (3 * STAGE * Tile::BYTES);
        size_t from = at.out + row * at.pitch;
        Tile::load_async(to, qkv + at.qkv + row * 3 * at.pitch, 3 * at.pitch, STAGE, tokens - row, thread(), THREADS,
                         SLAB);
        Tile::load_async(to + 16 * Tile::BYTES, dout + from, at.pitch, STAGE, tokens - row, thread(), THREADS, SLAB);
        Tile::load_async(to + 32 * Tile::BYTES, out + from, at.pitch, STAGE, tokens - row, thread(), THREADS, SLAB);
    }
    // K (1) or V (2).
    __device__ __forceinline__ void load_keys(int head, int set, int part) const {
        HeadOffset at(head, tokens, heads, HEAD_DIM);
        uint32_t to = keys + (2 * set + part - 1) * padded * Tile::BYTES;
        Tile::load_async(to, qkv + at.qkv + part * at.width, 3 * at.pitch, padded, tokens, thread(), THREADS);
    }

    __device__ __forceinline__ uint32_t keys_of(int set) const {
        return keys + (PERSISTENT ? 2 * set * padded * Tile::BYTES : 0);
    }

    // The slabs of a group are neighbours. If they are not a multiple of four, the first groups have one more.
    __device__ __forceinline__ int slabs(int group) const { return rest / 16 / GROUPS + (group < rest / 16 % GROUPS); }
    __device__ __forceinline__ int first_slab(int group) const {
        return group * (rest / 16 / GROUPS) + min(group, rest / 16 % GROUPS);
    }

    // Stores a fragment, keys by queries, to shared memory.
    __device__ __forceinline__ static void put(uint32_t at, const uint32_t (&operand)[4]) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            asm volatile("st.shared.b32 [%0], %1;" ::"r"(at + i % 2 * 8 * SCORE_ROW + i / 2 * 16), "r"(operand[i])
                         : "memory");
    }
    // Loads it as accumulators, undoing `acc_to_a_frag`.
    __device__ __forceinline__ static void get(float (&c)[2][4], uint32_t at) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t pair;
            asm volatile("ld.shared.b32 %0, [%1];"
                         : "=r"(pair)
                         : "r"(at + i % 2 * 8 * SCORE_ROW + i / 2 * 16)
                         : "memory");
            c[i / 2][i % 2 * 2] = __uint_as_float(pair << 16);
            c[i / 2][i % 2 * 2 + 1] = __uint_as_float(pair & 0xffff0000u);
        }
    }

    // Stores P^T and dS^T of the rest and 16 queries to shared memory. `k`, `row`: this lane's addresses in the rest's
    // K and in Q.
    __device__ __forceinline__ void rest_scores(uint32_t k, uint32_t row, uint32_t score, const float2* statistics,
                                                int query) const {
        float s[1][2][4] = {}, dp[2][4] = {};
#pragma unroll
        for (int i = 0; i < DIMS; i++) {
            uint32_t a[4], b[4];
            ldmatrix_x4<false>(a, Tile::address(k, 0, i));
            ldmatrix_x4<false>(b, Tile::address(row, 0, i));
            mma(s[0], a, b);
            ldmatrix_x4<false>(a, Tile::address(k + padded * Tile::BYTES, 0, i));
            ldmatrix_x4<false>(b, Tile::address(row, 16, i));
            mma(dp, a, b);
        }
        Statistics of(statistics + 2 * (thread() % 4));
        of.probabilities(s, rest, query, tokens, causal, scale * LOG2E);
        of.gradients(dp, s[0]);
        uint32_t p[4], ds[4];
        acc_to_a_frag(p, s[0]);
        acc_to_a_frag(ds, dp);
        put(score, ds);
        put(score + 16 * SCORE_ROW, p);
    }

    // dQ of 16 queries: 16 TILES dimensions, from 16 FIRST on. `score`, `k`: this lane's addresses in dS^T and K.
    template <int FIRST, int TILES>
    __device__ __forceinline__ void half_queries(bf16* to, size_t pitch, int rows, uint32_t score, uint32_t k,
                                                 int end) const {
        float dq[2 * TILES][4] = {};
#pragma unroll 2
        for (int key = 0; key < end; key += 16, score += 16 * SCORE_ROW, k += 16 * Tile::BYTES) {
            uint32_t ds[4];
            ldmatrix_x4<true>(ds, score);
#pragma unroll
            for (int i = 0; i < TILES; i++) {
                uint32_t b[4];
                ldmatrix_x4<true>(b, Tile::address(k, 0, FIRST + i));
                mma(dq + 2 * i, ds, b);
            }
        }
        store_rows(to + 16 * FIRST, pitch, rows, dq, scale, scale);
    }

    // dQ of 16 queries, half of the dimensions in each of two warps.
    __device__ __forceinline__ void queries(const Position& position, uint32_t scores, int query, int lane,
                                            bool second) const {
        HeadOffset at(position.head, tokens, heads, HEAD_DIM);
        int first = position.block + query;
        int rows = tokens - first;
        bf16* to = dqkv + at.qkv + first * 3 * at.pitch;
        int end = causal ? first + 16 : padded;
        uint32_t score = scores + (lane / 16 * 8 + lane % 8) * SCORE_ROW + lane / 8 % 2 * 16 + query * 2;
        uint32_t k = keys_of(position.set) + Tile::a_order(lane);
        if (second) half_queries<(DIMS + 1) / 2, DIMS / 2>(to, 3 * at.pitch, rows, score, k, end);
        else half_queries<0, (DIMS + 1) / 2>(to, 3 * at.pitch, rows, score, k, end);
    }

    // Loads the kept fragments and zeroes the sums, at the first block of a head.
    template <int SLABS> __device__ __forceinline__ static void start(Sums<SLABS>& sums, uint32_t own) {
#pragma unroll
        for (int i = 0; i < Sums<SLABS>::KEPT * DIMS; i++)
            ldmatrix_x4<false>(sums.kept[i / DIMS][i % DIMS], Tile::address(own, i / DIMS * 16, i % DIMS));
#pragma unroll
        for (int i = 0; i < SLABS * HEAD_DIM / 2; i++) sums.own[i / 4 / (2 * DIMS)][i / 4 % (2 * DIMS)][i % 4] = 0;
#pragma unroll
        for (int i = 0; i < 8 * SHARE; i++) sums.rest[i / 8][i / 4 % 2][i % 4] = 0;
    }

    // S^T (first warp) or dP^T (second warp) of 16 queries, whose Q or dO is at `left`, becomes P^T or dS^T: in shared
    // memory at `score`, and as the operand of dV or dK.
    template <int SLABS>
    __device__ __forceinline__ void probabilities(uint32_t (&operand)[SLABS][4], const Sums<SLABS>& sums,
                                                  const Role& role, uint32_t left, uint32_t score,
                                                  const float2* statistics, int query) const {
        float c[SLABS][2][4] = {};
#pragma unroll
        for (int i = 0; i < DIMS; i++) {
            uint32_t b[4];
            ldmatrix_x4<false>(b, Tile::address(left, 0, i));
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++) {
                if (slab < Sums<SLABS>::KEPT) {
                    mma(c[slab], sums.kept[slab][i], b);
                } else {
                    uint32_t a[4];
                    ldmatrix_x4<false>(a, Tile::address(role.own, 16 * slab, i));
                    mma(c[slab], a, b);
                }
            }
        }
        Statistics of(statistics);
        if (!role.second) {
            of.probabilities(c, role.key, query, tokens, causal, scale * LOG2E);
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++) {
                acc_to_a_frag(operand[slab], c[slab]);
                put(score + 16 * slab * SCORE_ROW, operand[slab]);
            }
            pair_barrier(role.group);
        } else {
            pair_barrier(role.group);
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++) {
                float p[2][4];
                get(p, score + 16 * slab * SCORE_ROW);
                of.gradients(c[slab], p);
                acc_to_a_frag(operand[slab], c[slab]);
                put(score + 16 * slab * SCORE_ROW, operand[slab]);
            }
        }
    }

    // Adds a block of queries to dV and dK of the group's keys, and leaves dS^T of the group in `scores`.
    template <int SLABS>
    __device__ __forceinline__ void own_keys(Sums<SLABS>& sums, const Role& role, const Position& at, uint32_t scores,
                                             const float2* statistics) const {
        uint32_t row = stages + at.turn * (3 * STAGE * Tile::BYTES);
        int end = min(tokens - at.block, STAGE);
        int query = causal ? max(0, role.key - at.block) : 0;
        // This lane's addresses in the left operand (Q or dO), the right one (dO or Q), dS^T and the statistics.
        uint32_t left = row + query / 16 * SLAB + role.b_order + (role.second ? 16 * Tile::BYTES : 0);
        uint32_t right = row + query / 16 * SLAB + role.a_order + (role.second ? 0 : 16 * Tile::BYTES);
        uint32_t score = scores + (role.key + role.lane / 4) * SCORE_ROW + query * 2 + role.lane % 4 * 4;
        const float2* of_queries = statistics + query + 2 * (role.lane % 4);
#pragma unroll 1
        for (; query < end; query += 16, left += SLAB, right += SLAB, score += 32, of_queries += 16) {
            uint32_t operand[SLABS][4];
            probabilities(operand, sums, role, left, score, of_queries, at.block + query);
#pragma unroll
            for (int i = 0; i < DIMS; i++) {
                uint32_t b[4];
                ldmatrix_x4<true>(b, Tile::address(right, 0, i));
#pragma unroll
                for (int slab = 0; slab < SLABS; slab++) mma(sums.own[slab] + 2 * i, operand[slab], b);
            }
        }
    }

    // Adds queries `first` to `end` of a block to the warp's share of the rest's dK and dV. `row`: the block's first
    // slab.
    template <int SLABS>
    __device__ __forceinline__ void rest_keys(Sums<SLABS>& sums, uint32_t scores, uint32_t row, int first,
                                              int end) const {
#pragma unroll
        for (int i = 0; i < SHARE; i++) {
            int unit = thread() / 32 + WARPS * i;
            int lane = thread() % 32;
            int of_k = unit / DIMS;
            if (unit >= 2 * DIMS) continue;
            uint32_t a_at = scores + (rest + (of_k ? 0 : 16) + lane % 16) * SCORE_ROW + lane / 16 * 16;
            uint32_t b_at = Tile::address(row + Tile::a_order(lane), of_k ? 0 : 16, unit % DIMS);
#pragma unroll 1
            for (int query = first; query < end; query += 16) {
                uint32_t a[4], b[4];
                ldmatrix_x4<false>(a, a_at + query * 2);
                ldmatrix_x4<true>(b, b_at + query / 16 * SLAB);
                mma(sums.rest[i], a, b);
            }
        }
    }

    // Stores dK and dV of a head, after its last block of queries.
    template <int SLABS>
    __device__ __forceinline__ void store(const Sums<SLABS>& sums, const Position& position) const {
        HeadOffset at(position.head, tokens, heads, HEAD_DIM);
        size_t pitch = 3 * at.pitch;
        bf16* to = dqkv + at.qkv + at.width;
        int warp = thread() / 32;
        int key = 16 * first_slab(warp % GROUPS);
        bool second = warp >= GROUPS;
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++) {
            int row = key + 16 * slab;
            float factor = second ? scale : 1;
            store_rows(to + row * pitch + (second ? 0 : at.width), pitch, tokens - row, sums.own[slab], factor, factor);
        }
        if (rest == padded) return;
#pragma unroll
        for (int i = 0; i < SHARE; i++) {
            int unit = thread() / 32 + WARPS * i;
            int of_k = unit / DIMS;
            float factor = of_k ? scale : 1;
            // The rest starts at the same token as the last block of queries.
            bf16* first = to + position.block * pitch + (of_k ? 0 : at.width) + unit % DIMS * 16;
            if (unit < 2 * DIMS) store_rows(first, pitch, tokens - position.block, sums.rest[i], factor, factor);
        }
    }

    // The kernel for a warp whose group owns SLABS slabs. Warps with another number meet it at the same barriers.
    template <int SLABS> __device__ __forceinline__ void work() const {
        extern __shared__ __align__(128) uint4 shared[];
        Sums<SLABS> sums;
        Position at{(int)blockIdx.x, 0, 0, 0};
        // One loop over blocks and heads, so that what depends on the head is not kept in registers.
#pragma unroll 1
        while (true) {
            int next = at.head + gridDim.x;
            uint4* slabs = shared + (stages - keys) / 16;
            float2* statistics = reinterpret_cast<float2*>(slabs + 6 * STAGE * Tile::CHUNKS);
            auto arrive = [&] {
                cp_async_wait_group<0>();
                __syncthreads();
                if (at.block + STAGE < tokens) load_stage(at.head, at.block + STAGE, at.turn ^ 1);
                if (PERSISTENT && next < total_heads) {
                    if (at.block + STAGE >= tokens) load_stage(next, 0, at.turn ^ 1);
                    if (at.block <= STAGE) load_keys(next, at.set ^ 1, at.block == 0 ? 1 : 2);
                }
                cp_async_commit();
            };
            row_statistics<HEAD_DIM, 3>(statistics, lse + (size_t)at.head * tokens + at.block, nullptr, 0,
                                        slabs + at.turn * (3 * STAGE * Tile::CHUNKS), STAGE, tokens - at.block,
                                        thread(), THREADS, arrive);
            Role role;
            int warp = thread() / 32;
            role.lane = thread() % 32, role.group = warp % GROUPS, role.key = 16 * first_slab(role.group);
            role.second = warp >= GROUPS;
            role.a_order = Tile::a_order(role.lane), role.b_order = Tile::b_order(role.lane);
            role.own = keys_of(at.set) + role.a_order + (role.second ? padded + role.key : role.key) * Tile::BYTES;
            if (at.block == 0) start(sums, role.own);
            __syncthreads();

            uint32_t scores = stages + 6 * STAGE * Tile::BYTES + STAGE * sizeof(float2);
            own_keys(sums, role, at, scores, statistics);

            uint32_t row = stages + at.turn * (3 * STAGE * Tile::BYTES);
            int end = min(tokens - at.block, STAGE);
            // The first query that sees the rest.
            int rest_first = rest == padded ? end : causal ? max(0, rest - at.block) : 0;
            int query = thread() / 32 % GROUPS * 16;
            int lane = thread() % 32;
            bool second = thread() / 32 >= GROUPS;
            if (!second && rest_first <= query && query < end)
                rest_scores(keys_of(at.set) + Tile::a_order(lane) + rest * Tile::BYTES,
                            row + Tile::b_order(lane) + query / 16 * SLAB,
                            scores + (rest + lane / 4) * SCORE_ROW + query * 2 + lane % 4 * 4, statistics + query,
                            at.block + query);
            __syncthreads();
            if (query < end) queries(at, scores, query, lane, second);
            rest_keys(sums, scores, row, rest_first, end);
            at.turn ^= 1;
            if (at.block + STAGE < tokens) {
                at.block += STAGE;
                continue;
            }
            store(sums, at);
            if (!PERSISTENT || next >= total_heads) return;
            at.head = next, at.block = 0, at.set ^= 1;
        }
    }

    // A barrier for the two warps of a group.
    __device__ __forceinline__ static void pair_barrier(int group) {
        asm volatile("bar.sync %0, 64;" ::"r"(1 + group) : "memory");
    }
};

template <int HEAD_DIM>
__device__ __forceinline__ void backward_row(const bf16* qkv, const bf16* out, const float* lse, const bf16* dout,
                                             bf16* dqkv, int batch, int tokens, int heads, bool causal, float scale) {
    typedef BackwardRow<HEAD_DIM> Row;
    extern __shared__ __align__(128) uint4 shared[];
    Row row{qkv, out, dout, lse, dqkv, batch * heads, tokens, heads, causal, scale};
    row.padded = (tokens + 15) / 16 * 16;
    row.rest = row.padded % 64 == 16 ? row.padded - 16 : row.padded;
    row.keys = shared_address(shared);
    row.stages = row.keys + (Row::PERSISTENT ? 4 : 2) * row.padded * SwizzledTile<HEAD_DIM>::BYTES;
    row.load_keys(blockIdx.x, 0, 1);
    row.load_keys(blockIdx.x, 0, 2);
    row.load_stage(blockIdx.x, 0, 0);
    cp_async_commit();
    int slabs = row.slabs(threadIdx.x / 32 % Row::GROUPS);
    if (slabs == 4) row.template work<4>();
    else if (slabs == 3) row.template work<3>();
    else row.template work<2>();
}
