// Times a part of a graph, in which no CUDA event can be recorded for each replay (src/device/stopwatch.rs).
#include "common.cuh"

// watch: [3], 8-byte aligned. Its first two elements are the start in nanoseconds, an integer. With `stop`, the last one
// becomes the seconds since then. Grid: 1; block: 1.
extern "C" __global__ void stopwatch(float* watch, int stop) {
    unsigned long long now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    auto* start = reinterpret_cast<unsigned long long*>(watch);
    if (stop) watch[2] = 1e-9f * (float)(now - *start);
    else *start = now;
}
