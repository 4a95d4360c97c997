// Logits at stride 4 -> labels at full size, and how clear each decision is. One pass, no
// intermediate: the enlarged logits would be sixteen times what is read.
//
// The interpolation is bilinear with half-pixel centres (align_corners=False). At scale 4 the
// four pixels of a cell lie at -3/8, -1/8, 1/8 and 3/8 of a cell from its centre, so the weights
// are constants; beyond the border the nearest cell counts.
//
// decode.ptx is made from this file: make_ptx.py, which a test repeats.

#ifndef INFINITY  // NVRTC has no math.h
#define INFINITY __int_as_float(0x7f800000)
#endif

__device__ __constant__ const float NEXT[4] = {0.625f, 0.875f, 0.125f, 0.375f};  // of the right or lower cell

// logits (batch, classes, height, width) -> labels (batch, 4 height, 4 width); margin (batch, height,
// width), the best class's probability less the second's times 255, unless it is null. One thread
// for the four pixels of a cell in one row of labels: grid over (width, 4 height, batch).
extern "C" __global__ void decode(const float *__restrict__ logits,
                                  unsigned char *__restrict__ labels,
                                  unsigned char *__restrict__ margin,
                                  int classes, int height, int width)
{
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int line = blockIdx.y * blockDim.y + threadIdx.y;
    if (column >= width || line >= 4 * height)
        return;

    const size_t image = blockIdx.z, cells = (size_t)height * width;
    logits += image * classes * cells;
    labels += image * 16 * cells;
    if (margin != nullptr)
        margin += image * cells;

    const int cell = line / 4, phase = line % 4;
    const int above = phase < 2 ? max(cell - 1, 0) : cell;
    const int below = phase < 2 ? cell : min(cell + 1, height - 1);
    const int columns[3] = {max(column - 1, 0), column, min(column + 1, width - 1)};

    float best[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    unsigned char label[4] = {0, 0, 0, 0};
    // A running softmax at the cell's centre: the largest, the second, the sum of exponentials.
    const bool measures = margin != nullptr && phase == 0;
    float first = -INFINITY, second = -INFINITY, sum = 0.0f;

    for (int k = 0; k < classes; ++k) {
        const float *plane = logits + k * cells;
        float mixed[3];  // the three cells of this line, interpolated between the two rows
        for (int i = 0; i < 3; ++i)
            mixed[i] = (1.0f - NEXT[phase]) * plane[(size_t)above * width + columns[i]]
                     + NEXT[phase] * plane[(size_t)below * width + columns[i]];
        for (int r = 0; r < 4; ++r) {
            const int left = r < 2 ? 0 : 1;
            const float value = (1.0f - NEXT[r]) * mixed[left] + NEXT[r] * mixed[left + 1];
            if (value > best[r]) {  // strictly: the first of equal classes wins, as in argmax
                best[r] = value;
                label[r] = (unsigned char)k;
            }
        }
        if (measures) {
            const float value = plane[(size_t)cell * width + column];
            if (value > first) {
                sum = sum * expf(first - value) + 1.0f;
                second = first;
                first = value;
            } else {
                sum += expf(value - first);
                second = fmaxf(second, value);
            }
        }
    }

    *reinterpret_cast<uchar4 *>(labels + 4 * ((size_t)line * width + column)) =
        make_uchar4(label[0], label[1], label[2], label[3]);
    if (measures)
        margin[(size_t)cell * width + column] =
            (unsigned char)rintf((1.0f - expf(second - first)) / sum * 255.0f);
}
