"""PyTorch's CPU products on the shapes of benches/matmul.rs: python benches/peers/matmul.py"""

import time

import torch

SHAPES = [(1024, 1024, 1024), (2048, 128, 512), (2048, 576, 1536), (64, 576, 1536)]


def best(product, repeats=20):
    for _ in range(3):
        product()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        product()
        times.append(time.perf_counter() - started)
    return min(times)


print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, f32")
print(f"{'rows×inputs×outputs':>19} {'forward':>10} {'input gradient':>15} {'weight gradient':>15}  GFLOP/s")
for rows, inputs, outputs in SHAPES:
    x, dy, w = torch.rand(rows, inputs), torch.rand(rows, outputs), torch.rand(outputs, inputs)
    operations = 2 * rows * inputs * outputs / 1e9
    figures = [operations / best(product) for product in (lambda: x @ w.T, lambda: dy @ w, lambda: dy.T @ x)]
    print(f"{f'{rows}×{inputs}×{outputs}':>19} {figures[0]:>10.1f} {figures[1]:>15.1f} {figures[2]:>15.1f}")
