"""PyTorch's products of a linear layer, for comparison with `cargo bench --bench matmul` and `graftling bench`.

Prints a table of GFLOP/s for a few shapes, or with --size N for N×N×N; with --json, one object in the format of `graftling bench`.

    python benches/peers/matmul.py [--size 1024] [--device cuda] [--precision bf16] [--json]
"""

import argparse
import json
import time

import torch

SHAPES = [(1024, 1024, 1024), (2048, 128, 512), (2048, 576, 1536), (64, 576, 1536)]
DIRECTIONS = ["forward", "input gradient", "weight gradient"]


def best(product, repeats=20):
    """Seconds of the fastest of several runs, each until the device has finished."""
    times = []
    for index in range(3 + repeats):
        started = time.perf_counter()
        product()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        if index >= 3:
            times.append(time.perf_counter() - started)
    return min(times)


def measure(shape, device, dtype):
    """GFLOP/s of the three products of a layer: y = x·Wᵀ, dx = dy·W, dW = dyᵀ·x."""
    rows, inputs, outputs = shape
    x, dy, w = (torch.rand(s, device=device).to(dtype) for s in ((rows, inputs), (rows, outputs), (outputs, inputs)))
    operations = 2 * rows * inputs * outputs / 1e9
    return [operations / best(product) for product in (lambda: x @ w.T, lambda: dy @ w, lambda: dy.T @ x)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, help="only N×N×N")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    torch.backends.cuda.matmul.allow_tf32 = False  # f32 means f32
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    shapes = [(args.size,) * 3] if args.size else SHAPES
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    products = []
    if not args.json:
        print(f"torch {torch.__version__}, {device}, {args.precision}")
        print(f"{'rows×inputs×outputs':>19} {'forward':>10} {'input gradient':>15} {'weight gradient':>15}  GFLOP/s")
    for shape in shapes:
        figures = measure(shape, args.device, dtype)
        if not args.json:
            print(f"{'×'.join(map(str, shape)):>19} {figures[0]:>10.1f} {figures[1]:>15.1f} {figures[2]:>15.1f}")
        rows, inputs, outputs = shape
        for direction, gflops in zip(DIRECTIONS, figures):
            sizes = {"m": rows, "n": outputs, "k": inputs}
            products.append(sizes | {"format": args.precision, "direction": direction, "gflops": gflops})
    if args.json:
        print(json.dumps({"peer": f"PyTorch {torch.__version__}", "device": device, "matmul": products}))


if __name__ == "__main__":
    main()
