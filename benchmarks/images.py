"""`make bench-images`: kernels of images against neural-tangents, interleaved in one run.

Writes docs/benchmarks/images.md and images.json. How a row is measured: see run.py.
"""

from run import Row, compare

ROWS = [
    Row("5 conv layers + global pooling, 16 pairs", "cnn-5", "neural-tangents", "cnn-5", 60, rounds=5),
    Row("20 conv layers + global pooling, 4 pairs", "cnn-20", "neural-tangents", "cnn-20", 60, rounds=3),
    Row("Myrtle-5, 16 pairs", "myrtle-5", "neural-tangents", "myrtle-5", 40, rounds=5),
    Row("5 conv layers + Flatten, 64 x 64 images", "flatten-5", "neural-tangents", "flatten-5", 5, rounds=9),
    Row("ResNet-18-like, 4 pairs", "resnet-18", "neural-tangents", "resnet-18", 30, rounds=3),
    Row("gelu in place of relu, 5 conv + global pooling", "cnn-5-gelu", "ntkit", "cnn-5", 4, at_most=True, rounds=5),
    Row("tanh in place of relu, 5 conv + global pooling", "cnn-5-tanh", "ntkit", "cnn-5", 4, at_most=True, rounds=1),
]


NOTE = (
    "Ours is `ntkit.gram(theta, x1, x2)`: NumPy array out. `first` are the seconds of the first call, compilation "
    "included. `error` is the largest deviation from our float64, relative."
)
ABOUT = ("Networks of images: speed", "make bench-images", "float32, images of 32 x 32 x 3", NOTE)

if __name__ == "__main__":
    compare("images", "ntkit_images_worker.py", ROWS, ABOUT)
