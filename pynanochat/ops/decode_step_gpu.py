"""The GPU backend of decode_step: the kernel of csrc/cuda/decode_step.cu and what is made for it once from a Plan."""

import functools

import torch

from pynanochat import _C
from pynanochat.ops.gpu import cuda_stream

DTYPES = (torch.float32, torch.bfloat16)


@functools.cache
def multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


class Kernel:
    """A plan as the kernel reads it: the layers' addresses, sizes, room to work in, and the logits (1, V).

    Its blocks meet at a counter in the room to work in, so two launches must not run at one time: those on another
    stream wait for those before. A CUDA graph of a launch is replayed on one stream only, with no other launch beside.
    """

    def __init__(self, plan):
        check(plan)
        device, size = plan.embedding.device, plan.embedding.element_size()
        shape = (plan.embedding.size(1), plan.vocab, plan.heads, plan.kv_heads, plan.head_dim, size)
        launch = _C.launch_decode_step(*shape, multiprocessors(device))
        layers = torch.tensor([_addresses(layer) for layer in plan.layers])
        if device.type == "cuda":
            layers = layers.pin_memory()  # a plan may be made between steps that wait for nothing
        self.layers = layers.to(device, non_blocking=True)
        self.workspace = torch.empty(launch["workspace"], dtype=torch.float32, device=device)
        self.logits = torch.empty(1, plan.vocab, dtype=torch.float32, device=device)
        tensors = [plan.embedding, plan.head, plan.smear_gate, plan.smear_scale, plan.stream_scales]
        tensors += [plan.first_scales, plan.backout, plan.cos, plan.sin]
        gates = [layer.gate.size(1) for layer in plan.layers if layer.gate is not None]
        channels = (gates[0] if gates else 0, plan.smear_gate.size(1) if plan.smear_gate is not None else 0)
        sizes = (plan.heads, plan.kv_heads, plan.groups, plan.columns, plan.page, *channels)
        sizes += (plan.qk_scale, plan.eps, plan.softcap, multiprocessors(device))
        with cuda_stream("decode_step", self.layers):  # says where there is none
            self.step = _C.plan_cuda_decode_step(self.layers, tensors, sizes, self.workspace, self.logits[0])
        self.last = None  # the stream of the last launch

    def launch(self, numbers, drawn):
        self._follow()
        with cuda_stream("decode_step", self.layers) as stream:
            _C.cuda_decode_step(self.step, numbers, drawn, stream)
        return self.logits

    def _follow(self):
        """Have the current stream wait for the last launch, where that was on another."""
        if self.layers.device.type != "cuda" or torch.cuda.is_current_stream_capturing():
            return
        now = torch.cuda.current_stream(self.layers.device)
        if self.last is not None and self.last != now:
            now.wait_stream(self.last)
        self.last = now


def _addresses(layer) -> list[int]:
    """The words of csrc/cuda/decode_step.h's DecodeLayer."""
    weights = (layer.q, layer.k, layer.v, layer.out, layer.fc, layer.proj, layer.gate, layer.values)
    tensors = (*weights, layer.k_pages, layer.v_pages)
    return [0 if x is None else x.data_ptr() for x in tensors] + [layer.group, layer.k_pages.size(0), layer.window]


def check(plan) -> None:
    """Raises ValueError for dtypes, shapes and strides that the kernel does not take, or that do not fit each other."""
    dtype, device, width = plan.embedding.dtype, plan.embedding.device, plan.embedding.size(1)
    queries, keys, most = plan.heads * plan.head_dim, plan.kv_heads * plan.head_dim, len(plan.layers)
    _require(dtype in DTYPES, f"the weights are {dtype}; expected one of {', '.join(map(str, DTYPES))}")
    _C.launch_decode_step(width, plan.vocab, plan.heads, plan.kv_heads, plan.head_dim, plan.embedding.element_size(), 1)

    def expect(name, x, *shape, of=dtype):
        if x is None:
            return
        _require(x.dtype == of and x.device == device, f"{name} is {x.dtype} on {x.device}; expected {of} on {device}")
        _require(x.is_contiguous() and x.data_ptr() % 16 == 0, f"{name} must be dense and begin at 16 bytes")
        _require(tuple(x.shape) == shape, f"{name} has shape {tuple(x.shape)}; expected {shape}")

    for name, x in (("embedding", plan.embedding), ("head", plan.head)):
        _require(x.size(0) >= plan.vocab, f"{name} has fewer rows than the vocabulary")
        expect(name, x, x.size(0), width)
    for name, x in (("cos", plan.cos), ("sin", plan.sin)):
        expect(name, x, plan.cos.size(0), plan.head_dim // 2, of=torch.float32)
    for one, other in (("smear_gate", "smear_scale"), ("stream_scales", "first_scales")):
        _require(
            (getattr(plan, one) is None) == (getattr(plan, other) is None), f"{one} without {other}, or the reverse"
        )
    if plan.smear_gate is not None:
        expect("smear_gate", plan.smear_gate, 1, min(plan.smear_gate.size(1), width))
    for name, x, count in (
        ("smear_scale", plan.smear_scale, 1),
        ("stream_scales", plan.stream_scales, most),
        ("first_scales", plan.first_scales, most),
        ("backout", plan.backout, 1),
    ):
        expect(name, x, count)
    channels = {layer.gate.size(1) for layer in plan.layers if layer.gate is not None}
    _require(len(channels) <= 1 and max(channels, default=0) <= width, "the value gates read different channels")
    for layer in plan.layers:
        _require((layer.gate is None) == (layer.values is None), "a value gate without an embedding, or the reverse")
        _require(0 <= layer.group < plan.groups, f"group {layer.group} of {plan.groups}")
        for name, x, shape in (
            ("q", layer.q, (queries, width)),
            ("k", layer.k, (keys, width)),
            ("v", layer.v, (keys, width)),
            ("out", layer.out, (width, queries)),
            ("fc", layer.fc, (4 * width, width)),
            ("proj", layer.proj, (width, 4 * width)),
            ("gate", layer.gate, (plan.kv_heads, *channels)),
            ("values", layer.values, (layer.values.size(0) if layer.values is not None else 0, keys)),
            ("k_pages", layer.k_pages, (layer.k_pages.size(0), plan.page, plan.kv_heads, plan.head_dim)),
            ("v_pages", layer.v_pages, tuple(layer.k_pages.shape)),
        ):
            expect(name, x, *shape)


def _require(condition, message):
    if not condition:
        raise ValueError(message)


def fits(weight, vocab: int, heads: int, kv_heads: int, head_dim: int) -> bool:
    """Whether the kernel takes a model of these sizes, with `weight` (V or more, C) its embedding or head."""
    if weight.dtype not in DTYPES:
        return False
    try:
        _C.launch_decode_step(weight.size(1), vocab, heads, kv_heads, head_dim, weight.element_size(), 1)
    except ValueError:
        return False
    return True


def cuda(plan, numbers, drawn=None):
    if plan.kernel is None:
        plan.kernel = Kernel(plan)
    return plan.kernel.launch(numbers, drawn)
