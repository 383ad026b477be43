// Multi-head self-attention on packed qkv, for short rows (src/ops/attention). Its kernels are compiled a head dim at a time
// (attention_d*.cu), so that a GPU's driver has only those to translate that a model needs.
//
//   S = Q K^T / sqrt(d);  P = softmax(S);  O = P V;  lse = log sum exp S
//   dP = dO V^T;  dS = P (dP - rowsum(dO O));  dV = P^T dO;  dQ = dS K / sqrt(d);  dK = dS^T Q / sqrt(d)
//
// qkv, dqkv: [batch, tokens, 3, heads, head_dim]; out, dout: [batch, tokens, heads, head_dim]; lse: [batch, heads, tokens].
// `causal`: query i sees the keys up to i. `scale` = 1 / sqrt(head_dim). Padded rows and columns exist only in shared memory:
// zeros there, and P = 0.
//
// What the launcher does. All grids and blocks are one-dimensional; B = batch * heads, N = tokens, D = head_dim, R = N in whole
// 16s, c = blocks for which an SM has shared memory (on Hopper 228 KB / (dynamic shared memory + 1 KB)).
//
//   kernel attention_...          | for              | grid                   | block      | dynamic shared memory, bytes
//   forward_bf16_dD_nP            | p < N <= P       | B (ahead: or less)     | 32 w       | (ahead: 5 P; else 2 P + 16 w) * 2 D
//   forward_bf16_dD_long          | any N            | B * ceil(N / 64)       | 128        | 640 D
//   backward_bf16_dD              | what fits        | B                      | 32 v       | R (6 D + 2 max(R + 8, D) + 8)
//   backward_bf16_dD_row          | 145 <= N <= 272  | B (D 64: or less)      | 256        | 2 D (2 a R + 384) + 144 (R + 16) + 512
//   backward_bf16_dD_long         | any N            | 2 B * ceil(N / (64 s)) | 128        | (256 s + 12 u) D + 8 max(u, 64 s)
//   simple_forward_T              | any D <= 256, N  | ceil(B N / 4), or less | 128        | 0
//   simple_backward_T             | any D <= 256, N  | ceil(B N / 4), or less | 128        | 0
//
//   D         32, 64, 80, 96, 128; T: f32, bf16
//   p, P      neighbours of: 0, 32, 64, 80, 112, 144, 208, 272 (D 64); 0, 32, 80, 112, 144, 208, 272 (D 80); 0, 64, 128
//             (others). Beyond, forward_long.
//   w         2 for P = 32, else 4
//   ahead     where the blocks meant to run together (attention_d*.cu), or three, fit an SM's 228 KB with that and 1 KB each:
//             as many go on from head to head
//   v         ceil(R / 16 / ceil(R / 16 / most)), with most = 4 for c >= 3, 6 for c = 2, 12 for c = 1; for D > 80: 4 for
//             c >= 2, else 8 (what the kernels are compiled for). Meant for c >= 2 (D 64: N <= 144); beyond, backward_row
//             where it serves and fits the GPU's shared memory, else backward_long.
//   a         (backward) 2 for D 64, where as many blocks as the GPU has SMs go on from head to head; 1 for D 80. There is no other D.
//   s, u      D 32 and 64: 2, 64; D 80 and 96: 1, 64; D 128: 1, 32
//
// Pointers are multiples of 16 bytes (simple: of T). More than 48 KB of dynamic shared memory must be asked for by the
// function's attribute.
// Every element of out, lse and dqkv is written, by one thread; sums have one order.
#pragma once
#include "attention_backward.cuh"
#include "attention_backward_row.cuh"
#include "attention_forward.cuh"
#include "attention_simple.cuh"

#define FORWARD(NAME, BODY, THREADS, BLOCKS)                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) NAME(const bf16* qkv, bf16* out, float* lse, int batch,          \
                                                                       int tokens, int heads, int causal, float scale) {           \
        BODY(qkv, out, lse, batch, tokens, heads, causal, scale);                                                                  \
    }
#define BACKWARD(NAME, BODY, THREADS, BLOCKS)                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                                  \
        NAME(const bf16* qkv, const bf16* out, const float* lse, const bf16* dout, bf16* dqkv, int batch, int tokens, int heads,    \
             int causal, float scale) {                                                                                            \
        BODY(qkv, out, lse, dout, dqkv, tokens, heads, causal, scale);                                                             \
    }
#define ROW(D)                                                                                                                   \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                                           \
        attention_backward_bf16_d##D##_row(const bf16* qkv, const bf16* out, const float* lse, const bf16* dout, bf16* dqkv,        \
                                           int batch, int tokens, int heads, int causal, float scale) {                            \
        backward_row<D>(qkv, out, lse, dout, dqkv, batch, tokens, heads, causal, scale);                                           \
    }
#define COMMA ,
#define WHOLE(D, BEYOND, N, WARPS, BLOCKS)                                                                                       \
    FORWARD(attention_forward_bf16_d##D##_n##N, forward<D COMMA BEYOND COMMA N COMMA WARPS COMMA BLOCKS>, 32 * WARPS, BLOCKS)
#define KERNELS(D, FORWARDS, WARPS, SLABS, STAGE)                                                                               \
    FORWARD(attention_forward_bf16_d##D##_long, forward_long<D>, 128, FORWARDS)                                                    \
    BACKWARD(attention_backward_bf16_d##D, backward<D>, 32 * WARPS, 1)                                                             \
    BACKWARD(attention_backward_bf16_d##D##_long, backward_long<D COMMA SLABS COMMA STAGE>, 128, 2)
#define SIMPLE(TYPE, NAME)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(128)                                                                              \
        attention_simple_forward_##NAME(const TYPE* qkv, TYPE* out, float* lse, int batch, int tokens, int heads, int head_dim,     \
                                        int causal, float scale) {                                                                 \
        simple_forward<TYPE>(qkv, out, lse, batch, tokens, heads, head_dim, causal, scale);                                        \
    }                                                                                                                              \
    extern "C" __global__ void __launch_bounds__(128)                                                                              \
        attention_simple_backward_##NAME(const TYPE* qkv, const TYPE* out, const float* lse, const TYPE* dout, TYPE* dqkv,          \
                                         int batch, int tokens, int heads, int head_dim, int causal, float scale) {                \
        simple_backward<TYPE>(qkv, out, lse, dout, dqkv, batch, tokens, heads, head_dim, causal, scale);                           \
    }
