"""Structure-only networks (random weights) of the tables that ship as reference latencies.

Written after the papers and the layer tables of the published models; what a table's model does besides its
convolutions (anchor decoding, non-maximum suppression) is left out. See README.md for which ones are approximate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(i: int, o: int, k: int = 1, s: int = 1, g: int = 1, act: type[nn.Module] | None = nn.ReLU) -> nn.Sequential:
    """Convolution, BatchNorm and activation, padded to keep the size at stride 1."""
    layers: list[nn.Module] = [nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*layers, *([act()] if act else []))


def eight(channels: float) -> int:
    """Channels rounded to a multiple of 8, as the MobileNets do."""
    found = max(8, int(channels + 4) // 8 * 8)
    return found + 8 if found < 0.9 * channels else found


class Gate(nn.Module):
    """Squeeze-and-excite."""

    def __init__(self, channels: int, hidden: int, gate: type[nn.Module]) -> None:
        super().__init__()
        self.fc1, self.fc2, self.gate = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1), gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))))


class Residual(nn.Module):
    """A body and its shortcut."""

    def __init__(self, body: nn.Module, skip: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.body, self.skip, self.last = body, skip, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x) + self.skip(x))


class Parallel(nn.Module):
    """Branches on one input, joined by channel."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Heads(nn.Module):
    """A backbone in stages whose outputs feed one head each."""

    def __init__(self, stages: Sequence[nn.Module], heads: Sequence[nn.Module | None]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList([head or nn.Identity() for head in heads])
        self.used = [head is not None for head in heads]

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for stage, head, used in zip(self.stages, self.heads, self.used, strict=True):
            x = stage(x)
            if used:
                found.append(head(x).flatten(1))
        return torch.cat(found, 1)


def classifier(channels: int, *hidden: int) -> list[nn.Module]:
    """Global pooling and fully connected layers."""
    layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    for size in hidden:
        layers += [nn.Linear(channels, size), nn.ReLU()]
        channels = size
    return [*layers, nn.Linear(channels, 1000)]


def inverted(
    i: int, hidden: int, o: int, k: int, s: int, act: type[nn.Module], gate: nn.Module | None = None
) -> nn.Module:
    """1x1 expansion, depthwise, gate, 1x1 projection."""
    layers = [] if hidden == i else [conv(i, hidden, act=act)]
    layers += [conv(hidden, hidden, k, s, hidden, act)] + ([gate] if gate else []) + [conv(hidden, o, act=None)]
    body = nn.Sequential(*layers)
    return Residual(body, nn.Identity(), nn.Identity()) if s == 1 and i == o else body


MOBILENET_V1 = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]


def mobilenet_v1_stages(width: float = 1.0) -> list[nn.Module]:
    channels = eight(32 * width)
    stages: list[nn.Module] = [conv(3, channels, 3, 2)]
    for wide, stride in MOBILENET_V1:
        o = eight(wide * width)
        stages.append(nn.Sequential(conv(channels, channels, 3, stride, channels), conv(channels, o)))
        channels = o
    return stages


def mobilenet_v1(width: float = 1.0) -> nn.Module:
    return nn.Sequential(*mobilenet_v1_stages(width), *classifier(eight(1024 * width)))


def mobilenet_v2(width: float = 1.0) -> nn.Module:
    channels = eight(32 * width)
    layers: list[nn.Module] = [conv(3, channels, 3, 2, act=nn.ReLU6)]
    for t, c, n, s in [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]:
        for index in range(n):
            o = eight(c * width)
            layers.append(inverted(channels, channels * t, o, 3, s if index == 0 else 1, nn.ReLU6))
            channels = o
    last = eight(1280 * max(1.0, width))
    return nn.Sequential(*layers, conv(channels, last, act=nn.ReLU6), *classifier(last))


V3_LARGE = [
    (3, 16, 16, 0, 0, 1),
    (3, 64, 24, 0, 0, 2),
    (3, 72, 24, 0, 0, 1),
    (5, 72, 40, 1, 0, 2),
    (5, 120, 40, 1, 0, 1),
    (5, 120, 40, 1, 0, 1),
    (3, 240, 80, 0, 1, 2),
    (3, 200, 80, 0, 1, 1),
    (3, 184, 80, 0, 1, 1),
    (3, 184, 80, 0, 1, 1),
    (3, 480, 112, 1, 1, 1),
    (3, 672, 112, 1, 1, 1),
    (5, 672, 160, 1, 1, 2),
    (5, 960, 160, 1, 1, 1),
    (5, 960, 160, 1, 1, 1),
]
V3_SMALL = [
    (3, 16, 16, 1, 0, 2),
    (3, 72, 24, 0, 0, 2),
    (3, 88, 24, 0, 0, 1),
    (5, 96, 40, 1, 1, 2),
    (5, 240, 40, 1, 1, 1),
    (5, 240, 40, 1, 1, 1),
    (5, 120, 48, 1, 1, 1),
    (5, 144, 48, 1, 1, 1),
    (5, 288, 96, 1, 1, 2),
    (5, 576, 96, 1, 1, 1),
    (5, 576, 96, 1, 1, 1),
]


def mobilenet_v3(large: bool, width: float = 1.0, minimalistic: bool = False) -> nn.Module:
    channels, swish = 16, nn.ReLU if minimalistic else nn.Hardswish
    layers: list[nn.Module] = [conv(3, channels, 3, 2, act=swish)]
    for k, hidden, o, squeeze, hard, s in V3_LARGE if large else V3_SMALL:
        wide = eight(hidden * width) if hidden != 16 else channels
        gate = Gate(wide, eight(wide / 4), nn.Hardsigmoid) if squeeze and not minimalistic else None
        layers.append(
            inverted(channels, wide, eight(o * width), 3 if minimalistic else k, s, swish if hard else nn.ReLU, gate)
        )
        channels = eight(o * width)
    last = eight((960 if large else 576) * width)
    return nn.Sequential(*layers, conv(channels, last, act=swish), *classifier(last, 1280 if large else 1024))


EFFICIENTNET = [
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
]


def efficientnet(width: float = 1.0, depth: float = 1.0, lite: bool = False) -> nn.Module:
    act: type[nn.Module] = nn.ReLU6 if lite else nn.SiLU
    channels = 32
    layers: list[nn.Module] = [conv(3, channels, 3, 2, act=act)]
    for number, (t, k, c, n, s) in enumerate(EFFICIENTNET):
        o = eight(c * width)
        for index in range(n if lite and number in (0, 6) else math.ceil(n * depth)):
            gate = None if lite else Gate(channels * t, max(1, channels // 4), nn.Sigmoid)
            layers.append(inverted(channels, channels * t, o, k, s if index == 0 else 1, act, gate))
            channels = o
    last = 1280 if lite else eight(1280 * width)
    return nn.Sequential(*layers, conv(channels, last, act=act), *classifier(last))


def efficientnet_v2_b0() -> nn.Module:
    act = nn.SiLU
    channels = 32
    layers: list[nn.Module] = [conv(3, channels, 3, 2, act=act)]
    for fused, t, o, n, s in [
        (1, 1, 16, 1, 1),
        (1, 4, 32, 2, 2),
        (1, 4, 48, 2, 2),
        (0, 4, 96, 3, 2),
        (0, 6, 112, 5, 1),
        (0, 6, 192, 8, 2),
    ]:
        for index in range(n):
            stride, hidden = s if index == 0 else 1, channels * t
            if fused:
                parts = (
                    [conv(channels, o, 3, stride, act=act)]
                    if t == 1
                    else [conv(channels, hidden, 3, stride, act=act), conv(hidden, o, act=None)]
                )
                body: nn.Module = nn.Sequential(*parts)
                layers.append(Residual(body, nn.Identity(), nn.Identity()) if stride == 1 and channels == o else body)
            else:
                layers.append(
                    inverted(channels, hidden, o, 3, stride, act, Gate(hidden, max(1, channels // 4), nn.Sigmoid))
                )
            channels = o
    return nn.Sequential(*layers, conv(channels, 1280, act=act), *classifier(1280))


def proxyless_mobile() -> nn.Module:
    """ProxylessNAS mobile (Cai et al. 2019), block by block."""
    channels = 16
    layers: list[nn.Module] = [conv(3, 32, 3, 2, act=nn.ReLU6), inverted(32, 32, 16, 3, 1, nn.ReLU6)]
    blocks = [
        (24, [(5, 3), (3, 3)], 2),
        (40, [(7, 3), (3, 3), (5, 3), (5, 3)], 2),
        (80, [(7, 6), (5, 3), (5, 3), (5, 3)], 2),
        (96, [(5, 6), (5, 3), (5, 3), (5, 3)], 1),
        (192, [(7, 6), (7, 6), (7, 3), (7, 3)], 2),
        (320, [(7, 6)], 1),
    ]
    for o, kinds, stride in blocks:
        for index, (k, t) in enumerate(kinds):
            layers.append(inverted(channels, channels * t, o, k, stride if index == 0 else 1, nn.ReLU6))
            channels = o
    return nn.Sequential(*layers, conv(channels, 1280, act=nn.ReLU6), *classifier(1280))


def regnet_y_400m() -> nn.Module:
    channels = 32
    layers: list[nn.Module] = [conv(3, channels, 3, 2)]
    for o, depth in [(48, 1), (104, 3), (208, 6), (440, 6)]:
        for index in range(depth):
            s = 2 if index == 0 else 1
            body = nn.Sequential(
                conv(channels, o),
                conv(o, o, 3, s, o // 8),
                Gate(o, max(1, channels // 4), nn.Sigmoid),
                conv(o, o, act=None),
            )
            skip = nn.Identity() if s == 1 and channels == o else conv(channels, o, 1, s, act=None)
            layers.append(Residual(body, skip, nn.ReLU()))
            channels = o
    return nn.Sequential(*layers, *classifier(channels))


def resnet(blocks: Sequence[int], bottleneck: bool) -> nn.Module:
    layers: list[nn.Module] = [conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, count in enumerate(blocks):
        for index in range(count):
            width, s = 64 * 2**stage, 2 if stage and not index else 1
            o = width * 4 if bottleneck else width
            body = (
                nn.Sequential(conv(channels, width), conv(width, width, 3, s), conv(width, o, act=None))
                if bottleneck
                else nn.Sequential(conv(channels, width, 3, s), conv(width, width, 3, act=None))
            )
            skip = nn.Identity() if s == 1 and channels == o else conv(channels, o, 1, s, act=None)
            layers.append(Residual(body, skip, nn.ReLU()))
            channels = o
    return nn.Sequential(*layers, *classifier(channels))


def vgg(counts: Sequence[int]) -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for width, count in zip((64, 128, 256, 512, 512), counts, strict=True):
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, 1, 1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(25088, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)]
    return nn.Sequential(*layers, *head)


def alexnet(caffe: bool) -> nn.Module:
    """Caffe's with groups (227 px), or the later one without (224 px)."""
    widths, g = ((96, 256, 384, 384, 256), 2) if caffe else ((64, 192, 384, 256, 256), 1)
    first = nn.Conv2d(3, widths[0], 11, 4, 0 if caffe else 2)
    rest: list[nn.Module] = []
    for i, o, k, groups, pool in zip(widths, widths[1:], (5, 3, 3, 3), (g, 1, g, g), (1, 0, 0, 1), strict=False):
        rest += [nn.Conv2d(i, o, k, 1, k // 2, groups=groups), nn.ReLU()] + ([nn.MaxPool2d(3, 2)] if pool else [])
    head = [nn.Flatten(), nn.Linear(9216, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)]
    return nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(3, 2), *rest, *head)


def fire(i: int, squeeze: int, expand: int) -> nn.Module:
    wide = [nn.Sequential(nn.Conv2d(squeeze, expand, k, 1, k // 2), nn.ReLU()) for k in (1, 3)]
    return nn.Sequential(nn.Conv2d(i, squeeze, 1), nn.ReLU(), Parallel(*wide))


def squeezenet(new: bool) -> nn.Module:
    pool = nn.MaxPool2d(3, 2, ceil_mode=True)
    if new:
        layers = [
            nn.Conv2d(3, 64, 3, 2),
            nn.ReLU(),
            pool,
            fire(64, 16, 64),
            fire(128, 16, 64),
            pool,
            fire(128, 32, 128),
            fire(256, 32, 128),
            pool,
            fire(256, 48, 192),
            fire(384, 48, 192),
            fire(384, 64, 256),
            fire(512, 64, 256),
        ]
    else:
        layers = [
            nn.Conv2d(3, 96, 7, 2),
            nn.ReLU(),
            pool,
            fire(96, 16, 64),
            fire(128, 16, 64),
            fire(128, 32, 128),
            pool,
            fire(256, 32, 128),
            fire(256, 48, 192),
            fire(384, 48, 192),
            fire(384, 64, 256),
            pool,
            fire(512, 64, 256),
        ]
    return nn.Sequential(*layers, nn.Conv2d(512, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def squeezenet_ssd() -> nn.Module:
    pool = nn.MaxPool2d(3, 2, ceil_mode=True)
    first = nn.Sequential(
        nn.Conv2d(3, 64, 3, 2),
        nn.ReLU(),
        pool,
        fire(64, 16, 64),
        fire(128, 16, 64),
        pool,
        fire(128, 32, 128),
        fire(256, 32, 128),
    )
    second = nn.Sequential(pool, fire(256, 48, 192), fire(384, 48, 192), fire(384, 64, 256), fire(512, 64, 256))
    stages = [
        first,
        second,
        nn.Sequential(pool, fire(512, 96, 384)),
        nn.Sequential(pool, fire(768, 96, 384)),
        nn.Sequential(conv(768, 128), conv(128, 256, 3, 2)),
        nn.Sequential(conv(256, 64), conv(64, 128, 3, 2)),
    ]
    heads = [nn.Conv2d(c, a * 25, 3, 1, 1) for c, a in ((256, 4), (512, 6), (768, 6), (768, 6), (256, 6), (128, 6))]
    return Heads(stages, heads)


def mobilenet_ssd() -> nn.Module:
    base = mobilenet_v1_stages()
    stages = [nn.Sequential(*base[:12]), nn.Sequential(*base[12:])]
    stages += [
        nn.Sequential(conv(i, m), conv(m, o, 3, 2))
        for i, m, o in ((1024, 256, 512), (512, 128, 256), (256, 128, 256), (256, 64, 128))
    ]
    heads = [nn.Conv2d(c, a * 25, 1) for c, a in ((512, 3), (1024, 6), (512, 6), (256, 6), (256, 6), (128, 6))]
    return Heads(stages, heads)


def shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleV1(nn.Module):
    """ShuffleNet's unit (Zhang et al. 2018)."""

    def __init__(self, i: int, o: int, s: int, g: int, first: bool) -> None:
        super().__init__()
        mid, out = o // 4 // g * g, o - i if s == 2 else o
        self.a = conv(i, mid, 1, 1, 1 if first else g)
        self.b = nn.Sequential(conv(mid, mid, 3, s, mid, None), conv(mid, out, 1, 1, g, None))
        self.s, self.g = s, g

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(shuffle(self.a(x), self.g))
        return F.relu(x + y) if self.s == 1 else F.relu(torch.cat([F.avg_pool2d(x, 3, 2, 1), y], 1))


def shufflenet_v1(g: int = 3) -> nn.Module:
    layers: list[nn.Module] = [conv(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 24
    for o, n in ((240, 4), (480, 8), (960, 4)):
        for index in range(n):
            layers.append(ShuffleV1(channels, o, 2 if index == 0 else 1, g, channels == 24))
            channels = o
    return nn.Sequential(*layers, *classifier(channels))


class ShuffleV2(nn.Module):
    """ShuffleNetV2's unit (Ma et al. 2018)."""

    def __init__(self, i: int, o: int, s: int) -> None:
        super().__init__()
        half = o // 2
        i2 = i if s == 2 else half
        self.right = nn.Sequential(conv(i2, half), conv(half, half, 3, s, half, None), conv(half, half))
        self.left = nn.Sequential(conv(i, i, 3, 2, i, None), conv(i, half)) if s == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1) if self.left is None else (self.left(x), x)
        return shuffle(torch.cat([left, self.right(right)], 1), 2)


def shufflenet_v2_stages(act: type[nn.Module] = nn.ReLU) -> list[nn.Module]:
    stages: list[nn.Module] = []
    channels = 24
    for o, n in ((116, 4), (232, 8), (464, 4)):
        units = [ShuffleV2(channels if index == 0 else o, o, 2 if index == 0 else 1) for index in range(n)]
        stages.append(nn.Sequential(*units))
        channels = o
    stages[0] = nn.Sequential(conv(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1), stages[0])
    return stages


def shufflenet_v2() -> nn.Module:
    return nn.Sequential(*shufflenet_v2_stages(), conv(464, 1024), *classifier(1024))


class NanoDet(nn.Module):
    """NanoDet-m: ShuffleNetV2, a pyramid of 96 channels, depthwise heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(shufflenet_v2_stages())
        self.lateral = nn.ModuleList([conv(c, 96, act=None) for c in (116, 232, 464)])
        self.heads = nn.ModuleList(
            nn.Sequential(*[m for _ in range(2) for m in (conv(96, 96, 3, 1, 96), conv(96, 96))], nn.Conv2d(96, 112, 1))
            for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        a, b, c = (lateral(m) for lateral, m in zip(self.lateral, maps, strict=True))
        b = b + F.interpolate(c, scale_factor=2.0, mode="bilinear")
        a = a + F.interpolate(b, scale_factor=2.0, mode="bilinear")
        b = b + F.interpolate(a, scale_factor=0.5, mode="bilinear")
        c = c + F.interpolate(b, scale_factor=0.5, mode="bilinear")
        return torch.cat([head(m).flatten(1) for head, m in zip(self.heads, (a, b, c), strict=True)], 1)


class Csp(nn.Module):
    """YOLOv4-tiny's cross-stage block."""

    def __init__(self, i: int) -> None:
        super().__init__()
        a = nn.LeakyReLU
        self.first, self.b, self.c = (
            conv(i, i, 3, act=a),
            conv(i // 2, i // 2, 3, act=a),
            conv(i // 2, i // 2, 3, act=a),
        )
        self.d = conv(i, i, act=a)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        b = self.b(x.chunk(2, 1)[1])
        return torch.cat([x, self.d(torch.cat([self.c(b), b], 1))], 1)


class Yolo4Tiny(nn.Module):
    """YOLOv4-tiny (Wang et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        a, pool = nn.LeakyReLU, nn.MaxPool2d(2)
        self.a = nn.Sequential(
            conv(3, 32, 3, 2, act=a), conv(32, 64, 3, 2, act=a), Csp(64), pool, Csp(128), pool, Csp(256)
        )
        self.b = nn.Sequential(pool, conv(512, 512, 3, act=a), conv(512, 256, act=a))
        self.big = nn.Sequential(conv(256, 512, 3, act=a), nn.Conv2d(512, 255, 1))
        self.up, self.small = conv(256, 128, act=a), nn.Sequential(conv(640, 256, 3, act=a), nn.Conv2d(256, 255, 1))

    def forward(self, x: Tensor) -> Tensor:
        mid = self.a(x)
        deep = self.b(mid)
        up = F.interpolate(self.up(deep), scale_factor=2.0)
        return torch.cat([self.big(deep).flatten(1), self.small(torch.cat([up, mid], 1)).flatten(1)], 1)


def blazeface() -> nn.Module:
    """BlazeFace, front camera (Bazarevsky et al. 2019)."""

    def block(i: int, o: int, s: int) -> nn.Module:
        body = nn.Sequential(conv(i, i, 3, s, i, None), conv(i, o, act=None))
        return Residual(body, nn.Identity(), nn.ReLU()) if s == 1 and i == o else nn.Sequential(body, nn.ReLU())

    widths = [
        (24, 1),
        (28, 1),
        (32, 2),
        (36, 1),
        (42, 1),
        (48, 2),
        (56, 1),
        (64, 1),
        (72, 1),
        (80, 1),
        (88, 1),
        (96, 2),
        *[(96, 1)] * 4,
    ]
    layers: list[nn.Module] = [nn.Conv2d(3, 24, 5, 2, 2), nn.ReLU()]
    channels = 24
    for o, s in widths:
        layers.append(block(channels, o, s))
        channels = o
    return Heads(
        [nn.Sequential(*layers[:13]), nn.Sequential(*layers[13:])], [nn.Conv2d(88, 34, 1), nn.Conv2d(96, 102, 1)]
    )


class DenseLayer(nn.Module):
    """BN-ReLU-1x1-BN-ReLU-3x3, joined to its input."""

    def __init__(self, i: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(i),
            nn.ReLU(),
            nn.Conv2d(i, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet(blocks: Sequence[int], growth: int = 32, stem: int = 64) -> nn.Module:
    layers: list[nn.Module] = [conv(3, stem, 7, 2), nn.MaxPool2d(3, 2, 1)]
    channels = stem
    for number, count in enumerate(blocks):
        for _ in range(count):
            layers.append(DenseLayer(channels, growth))
            channels += growth
        if number < 3:
            layers += [
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.Conv2d(channels, channels // 2, 1, bias=False),
                nn.AvgPool2d(2),
            ]
            channels //= 2
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(), *classifier(channels))


def googlenet() -> nn.Module:
    """Inception v1 (Szegedy et al. 2015)."""
    rows = [
        (192, 64, 96, 128, 16, 32, 32),
        (256, 128, 128, 192, 32, 96, 64),
        None,
        (480, 192, 96, 208, 16, 48, 64),
        (512, 160, 112, 224, 24, 64, 64),
        (512, 128, 128, 256, 24, 64, 64),
        (512, 112, 144, 288, 32, 64, 64),
        (528, 256, 160, 320, 32, 128, 128),
        None,
        (832, 256, 160, 320, 32, 128, 128),
        (832, 384, 192, 384, 48, 128, 128),
    ]
    pool = nn.MaxPool2d(3, 2, 1)
    layers: list[nn.Module] = [conv(3, 64, 7, 2), pool, conv(64, 64), conv(64, 192, 3), pool]
    for row in rows:
        if row is None:
            layers.append(pool)
            continue
        i, a, b1, b2, c1, c2, d = row
        layers.append(
            Parallel(
                conv(i, a),
                nn.Sequential(conv(i, b1), conv(b1, b2, 3)),
                nn.Sequential(conv(i, c1), conv(c1, c2, 3)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(i, d)),
            )
        )
    return nn.Sequential(*layers, *classifier(1024))


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = (p(x).view(n, t, self.heads, c // self.heads).transpose(1, 2) for p in (self.q, self.k, self.v))
        y = (q @ k.transpose(-1, -2) / math.sqrt(c // self.heads)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(n, t, c))


def vit_b32() -> nn.Module:
    """ViT-B/32 (Dosovitskiy et al. 2021), without its class token."""

    class Tokens(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(2).transpose(1, 2)

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(1)

    layers: list[nn.Module] = [nn.Conv2d(3, 768, 32, 32), Tokens()]
    for _ in range(12):
        layers.append(Residual(nn.Sequential(nn.LayerNorm(768), Attention(768, 12)), nn.Identity(), nn.Identity()))
        mlp = nn.Sequential(nn.LayerNorm(768), nn.Linear(768, 3072), nn.GELU(), nn.Linear(3072, 768))
        layers.append(Residual(mlp, nn.Identity(), nn.Identity()))
    return nn.Sequential(*layers, nn.LayerNorm(768), Mean(), nn.Linear(768, 1000))


LITE = {0: (1.0, 1.0, 224), 1: (1.0, 1.1, 240), 2: (1.1, 1.2, 260), 3: (1.2, 1.4, 280), 4: (1.4, 1.8, 300)}
Build = Callable[[], nn.Module]
#: Name of the workload -> (pixels, how to build it).
NETS: dict[str, tuple[int, Build]] = {
    "alexnet-caffe": (227, lambda: alexnet(True)),
    "alexnet": (224, lambda: alexnet(False)),
    "blazeface": (128, blazeface),
    "efficientnet-b0": (224, efficientnet),
    "efficientnet-v2-b0": (224, efficientnet_v2_b0),
    "mobilenet-ssd": (300, mobilenet_ssd),
    "mobilenet-v2-1.0-300": (300, mobilenet_v2),
    "nanodet-m": (320, NanoDet),
    "proxylessnas-mobile": (224, proxyless_mobile),
    "regnet-y-400m": (224, regnet_y_400m),
    "resnet18": (224, lambda: resnet((2, 2, 2, 2), False)),
    "resnet34": (224, lambda: resnet((3, 4, 6, 3), False)),
    "resnet50": (224, lambda: resnet((3, 4, 6, 3), True)),
    "resnet101": (224, lambda: resnet((3, 4, 23, 3), True)),
    "resnet152": (224, lambda: resnet((3, 8, 36, 3), True)),
    "shufflenet-v1-g3": (224, shufflenet_v1),
    "shufflenet-v2-1.0": (224, shufflenet_v2),
    "squeezenet-1.0": (224, lambda: squeezenet(False)),
    "squeezenet-1.1": (224, lambda: squeezenet(True)),
    "squeezenet-1.1-227": (227, lambda: squeezenet(True)),
    "squeezenet-ssd": (300, squeezenet_ssd),
    "vit-b32-384": (384, vit_b32),
    "yolov4-tiny-416": (416, Yolo4Tiny),
    "vgg11": (224, lambda: vgg((1, 1, 2, 2, 2))),
    "vgg13": (224, lambda: vgg((2, 2, 2, 2, 2))),
    "vgg16": (224, lambda: vgg((2, 2, 3, 3, 3))),
    "densenet121": (224, lambda: densenet((6, 12, 24, 16))),
    "densenet161": (224, lambda: densenet((6, 12, 36, 24), 48, 96)),
    "densenet169": (224, lambda: densenet((6, 12, 32, 32))),
    "densenet201": (224, lambda: densenet((6, 12, 48, 32))),
    "googlenet": (224, googlenet),
}
for _width in (0.25, 0.5, 0.75, 1.0):
    for _px in (128, 160, 192, 224):
        NETS[f"mobilenet-v1-{_width}-{_px}"] = (_px, lambda w=_width: mobilenet_v1(w))
for _width in (0.35, 0.5, 0.75, 1.0):
    for _px in (96, 128, 160, 192, 224):
        NETS[f"mobilenet-v2-{_width}-{_px}"] = (_px, lambda w=_width: mobilenet_v2(w))
for _width in (1.3, 1.4):
    NETS[f"mobilenet-v2-{_width}-224"] = (224, lambda w=_width: mobilenet_v2(w))
for _size in ("large", "small"):
    NETS[f"mobilenet-v3-{_size}-1.0"] = (224, lambda z=_size: mobilenet_v3(z == "large"))
    NETS[f"mobilenet-v3-{_size}-0.75"] = (224, lambda z=_size: mobilenet_v3(z == "large", 0.75))
    NETS[f"mobilenet-v3-{_size}-minimalistic-1.0"] = (224, lambda z=_size: mobilenet_v3(z == "large", 1.0, True))
for _number, (_w, _d, _px) in LITE.items():
    NETS[f"efficientnet-lite{_number}"] = (_px, lambda w=_w, d=_d: efficientnet(w, d, True))
