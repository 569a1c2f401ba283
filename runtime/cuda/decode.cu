// Read every point from its maps: one block a point, one layer of the grid a face.
#include "face.cuh"

#define THREADS 256
#define WARP 32
static_assert(EDGE * EDGE <= WARP, "a warp reads the cells around a peak at once");

// maps: (faces, 3 * points, cells); out: (faces, points, 3) x, y and score. Launched with THREADS threads a block.
extern "C" __global__ void decode_maps(const float* __restrict__ maps, const Region* __restrict__ regions,
                                       float* __restrict__ out, int points, int cells, int width, float stride) {
    __shared__ Peak best[THREADS / WARP];
    size_t face = blockIdx.y;
    int point = blockIdx.x;
    const float* own = maps + face * 3 * points * cells;
    const float* scores = own + (size_t)point * cells;

    // The first cell stands in where a thread has no cell of its own: it never beats itself.
    Peak peak = {scores[0], 0};
    for (int cell = threadIdx.x; cell < cells; cell += THREADS) {
        Peak here = {scores[cell], cell};
        peak = higher(peak, here);
    }
    for (int apart = WARP / 2; apart > 0; apart /= 2) {
        Peak other = {__shfl_down_sync(0xffffffffu, peak.score, apart),
                      __shfl_down_sync(0xffffffffu, peak.cell, apart)};
        peak = higher(peak, other);
    }
    if (threadIdx.x % WARP == 0) best[threadIdx.x / WARP] = peak;
    __syncthreads();
    if (threadIdx.x >= WARP) return;
    peak = best[0];
    for (int warp = 1; warp < THREADS / WARP; ++warp) peak = higher(peak, best[warp]);
    // The first warp has a lane for each cell around the peak.
    Say say = say_of(own, points, cells, width, point, peak, threadIdx.x);
    for (int apart = WARP / 2; apart > 0; apart /= 2) {
        Say other = {__shfl_down_sync(0xffffffffu, say.weight, apart), __shfl_down_sync(0xffffffffu, say.right, apart),
                     __shfl_down_sync(0xffffffffu, say.down, apart)};
        say = both(say, other);
    }
    if (threadIdx.x == 0)
        place_point(peak, say, width, stride, regions[face].back, out + (face * points + point) * 3);
}
