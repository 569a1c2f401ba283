// Crop the region of every face from the frame: one thread per pixel, grid.z counts the faces.
#include "face.cuh"

// crops: (faces, size, size, 3) uint8.
extern "C" __global__ void crop_regions(const View* __restrict__ view, const Region* __restrict__ regions,
                                        unsigned char* __restrict__ crops, int size) {
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= size || y >= size) return;
    size_t face = blockIdx.z;
    unsigned char rgb[3];
    crop_pixel(*view, regions[face], x, y, rgb);
    unsigned char* pixel = crops + ((face * size + y) * size + x) * 3;
    for (int channel = 0; channel < 3; ++channel) pixel[channel] = rgb[channel];
}
