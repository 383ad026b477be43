// Times a part of a graph (src/device/stopwatch.rs). An event that is recorded in a capture has no time.
#include "common.cuh"

// watch: [3], 8-byte aligned. The first two elements are the start in nanoseconds, an integer. Without `stop` it is
// written; with it, the last element becomes the seconds since the start. Grid: 1; block: 1.
extern "C" __global__ void stopwatch(float* watch, int stop) {
    unsigned long long now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    auto* start = reinterpret_cast<unsigned long long*>(watch);
    if (stop) watch[2] = 1e-9f * (float)(now - *start);
    else *start = now;
}
