#!/usr/bin/env python3
"""Times PyTorch's kernels at the sizes, and under the names, of `cargo bench`: on the CPU, or on a CUDA device in
every precision. Each result is compared with double precision on the CPU before it is timed.
"""

import argparse
import json
import sys

import torch
import torch.nn.functional as F

import model
import timing

MATMULS = [(512, 512, 512), (1024, 1024, 1024), (788, 1152, 384), (788, 1536, 384), (788, 384, 1536)]
ATTENTIONS = [(4, 197, 6, 64), (16, 37, 6, 64)]
NORMS = [(788, 384), (12_608, 384), (3940, 1024)]
# Largest error of a result, ‖got − want‖ / ‖want‖, by precision; sums over rows (LayerNorm's gradients) need most.
TOLERANCES = {"f32": 1e-5, "tf32": 5e-3, "bf16": 1e-1, "fp16": 1.5e-2}


class Kernel:
    """A function of tensors, and of their gradients where `backward`."""

    def __init__(self, name, flops, function, shapes, backward=False, samples=9):
        self.name, self.flops, self.function, self.samples = name, flops, function, samples
        self.shapes, self.backward = shapes, backward

    def inputs(self, device, dtype):
        generator = torch.Generator().manual_seed(1)
        make = lambda shape: (torch.rand(shape, generator=generator) - 0.5).to(device, dtype)
        return [make(shape).requires_grad_(self.backward) for shape in self.shapes]

    def run(self, inputs, cotangent=None):
        """The result, followed by the inputs' gradients where they are wanted."""
        if not self.backward:
            with torch.no_grad():
                return [self.function(*inputs)]
        y = self.function(*inputs)
        cotangent = torch.ones_like(y) if cotangent is None else cotangent
        return [y, *torch.autograd.grad(y, inputs, cotangent)]


def attention(heads, length, dim):
    """Of packed queries, keys and values `[rows, 3·width]`, through PyTorch's fused kernel."""

    def function(qkv):
        q, k, v = qkv.view(-1, length, 3, heads, dim).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, heads * dim)

    return function


def block(images, length, width, head_dim):
    """A transformer block over `[images·length, width]`, and the shapes of its parameters."""
    # no values of its own: inputs take the place of its parameters
    module = model.Block(width, head_dim, 4, 1.0).to("meta")
    names = [name for name, _ in module.named_parameters()]

    def function(x, *parameters):
        y = torch.func.functional_call(module, dict(zip(names, parameters)), (x.view(images, length, width),))
        return y.view(-1, width)

    return function, [tuple(p.shape) for p in module.parameters()]


def kernels():
    """All of them, as in benches/kernels.rs."""
    for m, n, k in MATMULS:
        yield Kernel(f"matmul/{m}x{n}x{k}", 2 * m * n * k, lambda a, b: a @ b.T, [(m, k), (n, k)])
    for rows, columns in NORMS:
        norm = lambda x, g, b: F.layer_norm(x, x.shape[-1:], g, b, model.NORM_EPS)
        shapes, cells = [(rows, columns), (columns,), (columns,)], rows * columns
        yield Kernel(f"layernorm/forward {rows}x{columns}", 8 * cells, norm, shapes)
        yield Kernel(f"layernorm/forward+backward {rows}x{columns}", 24 * cells, norm, shapes, backward=True)
    cells = 788 * 384
    yield Kernel("softmax/forward 788x384", 5 * cells, lambda x: x.softmax(-1), [(788, 384)])
    yield Kernel("gelu/forward 788x384", 10 * cells, F.gelu, [(788, 384)])
    for count, length, heads, dim in ATTENTIONS:
        function, shapes = attention(heads, length, dim), [(count * length, 3 * heads * dim)]
        scores, name = count * heads * length * length, f"{count * heads}x{length}x{dim}"
        yield Kernel(f"attention/forward {name}", 4 * scores * dim, function, shapes)
        yield Kernel(f"attention/forward+backward {name}", 14 * scores * dim, function, shapes, backward=True)
    images, length, width, head_dim = 4, 197, 384, 64
    function, parameters = block(images, length, width, head_dim)
    rows, scores = images * length, images * (width // head_dim) * length * length
    flops = 3 * 2 * rows * 12 * width * width + 14 * scores * head_dim
    shapes = [(rows, width), *parameters]
    yield Kernel(f"block/forward+backward {images}x{length}x{width}", flops, function, shapes, backward=True)


def worst_error(kernel, inputs):
    """The largest relative error of the kernel's results against double precision on the CPU."""
    double = [x.detach().cpu().double().requires_grad_(kernel.backward) for x in inputs]
    relative = lambda got, want: ((got.cpu().double() - want).norm() / want.norm().clamp(min=1e-30)).item()
    with torch.no_grad():
        cotangent = torch.rand_like(kernel.function(*inputs)) - 0.5
    got, want = kernel.run(inputs, cotangent), kernel.run(double, cotangent.cpu().double())
    return max(relative(g.detach(), w.detach()) for g, w in zip(got, want, strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("filters", nargs="*", help="only kernels whose names contain one of these")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="cuda where there is one")
    parser.add_argument("--precision", choices=timing.PRECISIONS, action="append", help="only this one; on cuda alone")
    parser.add_argument("--threads", type=int, help="threads of PyTorch on the CPU")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    precisions = args.precision or (list(timing.PRECISIONS) if device == "cuda" else ["f32"])
    if device == "cpu" and precisions != ["f32"]:
        parser.error("other precisions than f32 are for --device cuda")
    times = {}
    if not args.json:
        print(timing.describe(device))
    for kernel in kernels():
        if args.filters and not any(text in kernel.name for text in args.filters):
            continue
        for precision in precisions:
            inputs = kernel.inputs(device, timing.set_precision(precision))
            error = worst_error(kernel, inputs)
            if not error <= TOLERANCES[precision]:
                sys.exit(f"{kernel.name} in {precision}: error {error:.1e}; not timed")
            seconds = timing.median(lambda: kernel.run(inputs), device, kernel.samples)
            times.setdefault(precision, {})[kernel.name] = seconds
            if not args.json:
                rate = kernel.flops / seconds / 1e9
                print(f"{kernel.name:<44} {precision:<5} {seconds * 1e3:9.3f} ms {rate:9.1f} GFLOP/s", flush=True)
    if args.json:
        print(json.dumps({"seconds": times, "device": timing.describe(device)}))


if __name__ == "__main__":
    main()
