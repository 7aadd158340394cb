"""The renderer of ``synthfaces``: identity and nuisance parameters in, faces out, all in vectorised torch.

A face is a stack of soft masks (background, hair, neck, ears, face, mouth, nose, eyes, brows, glasses, fringe, bar)
painted back to front, then lit, tinted and passed through a camera. Every image is a pure function of its own
parameters, so an image does not depend on the batch it is rendered in, and any size shows the same scene.

Legend: N images, S pixels a side. ``x`` grows to the right and ``y`` downwards, both from -1 to 1 over the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

RENDERER_VERSION = 1

# An identity: 36 coordinates, each uniform in [0, 1]. The order is part of the format of the ground truth.
IDENTITY = (
    "face_width", "face_length", "jaw_width", "chin", "skin_tone", "skin_warmth", "skin_saturation",
    "hair_tone", "hair_warmth", "hair_saturation", "hair_top", "hair_side", "hair_length", "hairline", "parting",
    "eye_spacing", "eye_height", "eye_width", "eye_opening", "eye_tilt", "iris_colour", "iris_size",
    "brow_thickness", "brow_tilt", "brow_gap", "nose_length", "nose_width", "mouth_width", "lip_fullness",
    "mouth_height", "lip_colour", "glasses", "glasses_shape", "beard", "ear_size", "cheeks",
)  # fmt: skip

# One image of that identity: 40 coordinates, each uniform in [0, 1].
NUISANCE = (
    "shift_x", "shift_y", "scale", "roll", "yaw", "pitch", "smile", "mouth_open", "brow_raise", "eyelids", "gaze_x",
    "gaze_y", "light_angle", "light_strength", "exposure", "contrast", "cast_red", "cast_green", "cast_blue",
    "shadow_angle", "shadow_strength", "background_red", "background_green", "background_blue", "background_angle",
    "background_step", "background_wave", "background_phase", "shoulder_red", "shoulder_green", "shoulder_blue",
    "occluder", "occluder_x", "occluder_y", "occluder_angle", "occluder_tone", "blur", "noise", "noise_x", "noise_y",
)  # fmt: skip

_BANK = 256  # side of the bank of sensor noise


def _noise_bank() -> Tensor:
    """A fixed field of sensor noise ``(3, _BANK + 256, _BANK + 256)``; an image takes a window of it."""
    generator = torch.Generator().manual_seed(20230901)
    return torch.randn(3, _BANK + 256, _BANK + 256, generator=generator)


def render(identity: Tensor, nuisance: Tensor, size: int, *, spread: float, strength: float, shift: float) -> Tensor:
    """Render faces.

    Args:
        identity: ``(N, 36)`` in [0, 1], the columns of :data:`IDENTITY`.
        nuisance: ``(N, 40)`` in [0, 1], the columns of :data:`NUISANCE`.
        size: pixels a side, 16 to 256.
        spread: how far identities lie from the mean face, 0 (all alike) to 1.
        strength: how strong pose, light, colour, occlusion and noise are; 1 is the standard world.
        shift: how far this camera's colours and exposure lie from the private ones, 0 (the same) to 1.

    Returns:
        float32 ``(N, 3, size, size)`` in [0, 1].
    """
    chunks = [
        _Painter(i, n, size, spread=spread, strength=strength, shift=shift).paint()
        for i, n in zip(identity.split(_chunk(size)), nuisance.split(_chunk(size)), strict=True)
    ]
    return torch.cat(chunks) if chunks else torch.empty(0, 3, size, size)


def _chunk(size: int) -> int:
    """Images painted together: the working set (about 16 planes) should stay within a core's cache."""
    return max(1, 64 * 64 * 32 // (size * size))


class _Painter:
    """Paints one chunk. Columns are looked up by name and stretched to the range that each means."""

    def __init__(
        self, identity: Tensor, nuisance: Tensor, size: int, *, spread: float, strength: float, shift: float
    ) -> None:
        self.size = size
        self.shift = shift
        self.strength = strength
        centred = (identity.float() - 0.5) * spread
        self._identity = {name: centred[:, k].view(-1, 1, 1) for k, name in enumerate(IDENTITY)}
        self._raw = {name: identity[:, k].float().view(-1, 1, 1) for k, name in enumerate(IDENTITY)}
        signed = nuisance.float() * 2 - 1
        self._nuisance = {name: signed[:, k].view(-1, 1, 1) for k, name in enumerate(NUISANCE)}
        self.edge = 2.4 / size  # width of an antialiased edge: a little over one pixel
        axis = (torch.arange(size, dtype=torch.float32) + 0.5) * (2 / size) - 1
        self.x0, self.y0 = axis.view(1, 1, -1), axis.view(1, -1, 1)

    def of(self, name: str, mean: float, full_range: float) -> Tensor:
        """An identity coordinate: ``mean`` plus or minus half of ``full_range`` at spread 1. ``(N, 1, 1)``."""
        return mean + self._identity[name] * full_range

    def vary(self, name: str, amount: float) -> Tensor:
        """A nuisance: plus or minus ``amount`` at strength 1. ``(N, 1, 1)``."""
        return self._nuisance[name] * (amount * self.strength)

    def inside(self, distance: Tensor) -> Tensor:
        """Coverage of pixels by the region where a signed distance is negative, in [0, 1]."""
        return (0.5 - distance / self.edge).clamp_(0, 1)

    def ellipse(self, dx: Tensor, dy: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
        """Coverage of an ellipse with half axes ``a`` and ``b`` about the origin of ``dx, dy``."""
        u, v = dx / a, dy / b
        r = (u * u + v * v).sqrt_()
        smaller = torch.minimum(torch.as_tensor(a), torch.as_tensor(b))
        return self.inside((r - 1) * smaller)

    def paint(self) -> Tensor:
        """All layers, light and camera."""
        of, vary = self.of, self.vary
        roll = vary("roll", 0.22)
        zoom = 1 / (1.16 + vary("scale", 0.13))
        x = self.x0 - vary("shift_x", 0.13)
        y = self.y0 - vary("shift_y", 0.11) - 0.08
        cos, sin = roll.cos() * zoom, roll.sin() * zoom
        x, y = x * cos + y * sin, y * cos - x * sin

        width = of("face_width", 0.50, 0.16)
        length = of("face_length", 0.66, 0.16)
        yaw, pitch = vary("yaw", 0.62), vary("pitch", 0.40)

        image = self.background()
        hair = self.hair_colour()
        skin = self.skin_colour()

        # the head turns: points near the middle of the face travel furthest, the outline hardly moves
        near = (1 - (x * x + y * y) * 0.9).clamp_(min=0.0)
        fx = x - yaw * 0.24 * near
        fy = y - pitch * 0.20 * near
        fx = fx * (1 + yaw.abs() * 0.12) + 0.10 * yaw * fx * fx.sign() * fx

        # hair behind the head, neck and shoulders
        top = of("hair_top", 0.13, 0.16)
        side = of("hair_side", 0.08, 0.13)
        fall = of("hair_length", 0.30, 0.95)
        crown = self.ellipse(x, y + 0.10, width + side, length + top)
        strand = self.inside(torch.maximum(x.abs() - (width + side) * 0.97, torch.maximum(y - fall, -y - 0.10)))
        image = torch.lerp(image, hair * 0.82, torch.maximum(crown * self.inside(y - fall - 0.1), strand).unsqueeze(1))
        neck = self.inside(torch.maximum(x.abs() - 0.23, 0.35 - y))
        image = torch.lerp(image, skin * 0.72, neck.unsqueeze(1))
        cloth = self.colour("shoulder", 0.45, 0.40)
        image = torch.lerp(image, cloth, self.ellipse(x, y - 1.28, 0.86, 0.42).unsqueeze(1))

        ear = of("ear_size", 0.115, 0.11)
        ears = self.ellipse((x + yaw * 0.05).abs() - width * 0.99, y - 0.02, ear * 0.62, ear * 1.25)
        image = torch.lerp(image, skin * 0.86, ears.unsqueeze(1))

        # the face: an ellipse whose lower half narrows to the jaw
        jaw = of("jaw_width", 0.80, 0.34)
        down = (y / length).clamp(0, 1)
        chin = of("chin", 2.0, 1.7)
        narrow = 1 - (1 - jaw) * down.pow(chin)
        face = self.ellipse(x / narrow, y, width, length)
        shade = self.light(x / width, y / length, fx)
        image = torch.lerp(image, skin * shade.unsqueeze(1), face.unsqueeze(1))

        image = self.cheeks_and_beard(image, fx, fy, face, hair)
        image = self.mouth(image, fx, fy, skin, face)
        image = self.nose(image, fx, fy, skin, face)
        image = self.eyes(image, fx, fy, hair, skin, face)

        # the fringe, over everything of the face
        line = of("hairline", -0.46, 0.26)
        part = of("parting", 0.0, 0.9)
        bend = line + 0.35 * (fx - part * 0.3) * part + 0.32 * fx * fx
        fringe = crown * self.inside(y - bend)
        temples = crown * self.inside(torch.maximum(y - fall * 0.7, width * 0.93 - x.abs()))
        sheen = 1 + 0.22 * torch.sin(9 * fx + 6 * part) * near
        image = torch.lerp(image, hair * sheen.unsqueeze(1), torch.maximum(fringe, temples).unsqueeze(1))
        image = self.occluder(image, x, y)
        return self.camera(image, x, y)

    def colour(self, name: str, mean: float, amount: float) -> Tensor:
        """A free colour of the scene ``(N, 3, 1, 1)`` from three nuisance coordinates."""
        parts = [mean + self._nuisance[f"{name}_{part}"] * amount for part in ("red", "green", "blue")]
        return torch.stack(parts, dim=1).clamp_(0.02, 1)

    def skin_colour(self) -> Tensor:
        """Skin ``(N, 3, 1, 1)``: tone from light to dark, warmth from red to olive."""
        tone = self.of("skin_tone", 0.40, 0.70)
        warmth = self.of("skin_warmth", 0.0, 0.10)
        deep = self.of("skin_saturation", 0.0, 0.10)
        red = 0.96 - 0.48 * tone + 0.4 * warmth
        green = 0.79 - 0.52 * tone - 0.5 * warmth - 0.3 * deep
        blue = 0.68 - 0.52 * tone - 0.5 * warmth - 1.0 * deep
        return torch.stack([red, green, blue], dim=1).clamp_(0.05, 1)

    def hair_colour(self) -> Tensor:
        """Hair ``(N, 3, 1, 1)``: from dark to fair, from ashen to red."""
        tone = self.of("hair_tone", 0.34, 0.60)
        warmth = self.of("hair_warmth", 0.10, 0.24)
        fair = self.of("hair_saturation", 0.10, 0.22)
        red = tone + 0.6 * warmth
        return torch.stack([red, tone * (0.86 - 0.5 * warmth), tone * (0.74 - warmth - fair)], dim=1).clamp_(0.03, 1)

    def background(self) -> Tensor:
        """Two tones across a soft edge with a wave; the public camera sees other rooms."""
        near = self.colour("background", 0.48 + 0.14 * self.shift, 0.36)
        near = 0.55 * near + 0.45 * near.mean(dim=1, keepdim=True)  # rooms are duller than paint
        angle = self._nuisance["background_angle"] * math.pi
        along = self.x0 * angle.cos() + self.y0 * angle.sin()
        wave = 0.5 + 0.5 * torch.sin(
            along * (3.5 + 2.5 * self._nuisance["background_wave"]) + 3 * self._nuisance["background_phase"]
        )
        step = self._nuisance["background_step"].unsqueeze(1) * (0.38 * self.strength)
        return (near + step * (wave - 0.5).unsqueeze(1)).clamp_(0, 1)

    def light(self, u: Tensor, v: Tensor, fx: Tensor) -> Tensor:
        """Shading of the head ``(N, S, S)``: a lamp that may stand anywhere in front, over an ellipsoid."""
        angle = self._nuisance["light_angle"] * math.pi
        power = (0.42 + 0.30 * self._nuisance["light_strength"]) * self.strength
        depth = (1 - u * u - v * v).clamp_(min=0.0).sqrt_()
        toward = u * angle.cos() * 0.95 + v * angle.sin() * 0.75 + depth * 0.55
        return 0.74 + power * toward - 0.20 * power

    def cheeks_and_beard(self, image: Tensor, fx: Tensor, fy: Tensor, face: Tensor, hair: Tensor) -> Tensor:
        """Blush on the cheeks, and a beard for about a third of the people."""
        blush = (-(((fx.abs() - 0.27) / 0.13) ** 2) - ((fy - 0.17) / 0.11) ** 2).exp_()
        amount = self.of("cheeks", 0.12, 0.34).clamp(min=0)
        tint = torch.tensor([0.86, 0.36, 0.34]).view(1, 3, 1, 1)
        image = torch.lerp(image, tint, (blush * amount * face).unsqueeze(1))
        dense = ((self._raw["beard"] - 0.62) / 0.38).clamp(0, 1)
        dense = (dense * 1.2 + 0.25 * (dense > 0)) * 0.8
        region = self.inside(0.30 - fy - 0.22 * fx.abs()) * (1 - 0.85 * self.ellipse(fx, fy - 0.385, 0.15, 0.055))
        return torch.lerp(image, hair * 0.78, (region * face * dense.clamp(max=0.9)).unsqueeze(1))

    def mouth(self, image: Tensor, fx: Tensor, fy: Tensor, skin: Tensor, face: Tensor) -> Tensor:
        """Lips that smile and open."""
        half = self.of("mouth_width", 0.185, 0.13) * (1 + 0.14 * self.vary("smile", 1.0))
        full = self.of("lip_fullness", 0.052, 0.062)
        height = self.of("mouth_height", 0.385, 0.11)
        curve = 0.025 + self.vary("smile", 0.075)
        gap = (self.vary("mouth_open", 0.05) + 0.008).clamp(min=0)
        across = (fx / half).clamp(-1, 1)
        dy = fy - height + curve * (across * across - 0.4) * 1.5
        taper = (1 - across * across).clamp_(min=0).sqrt_()
        lips = self.inside(dy.abs() - (full + gap) * taper) * self.inside(fx.abs() - half) * face
        hue = self.of("lip_colour", 0.5, 0.9)
        rose = torch.stack([0.74 - 0.10 * hue, 0.36 - 0.16 * hue, 0.36 - 0.04 * hue], dim=1)
        image = torch.lerp(image, skin * 0.45 + rose * 0.55, lips.unsqueeze(1))
        dark = self.inside(dy.abs() - (gap + 0.006) * taper) * self.inside(fx.abs() - half * 0.92) * face
        return torch.lerp(image, torch.tensor([0.25, 0.08, 0.08]).view(1, 3, 1, 1), (dark * 0.85).unsqueeze(1))

    def nose(self, image: Tensor, fx: Tensor, fy: Tensor, skin: Tensor, face: Tensor) -> Tensor:
        """A ridge with a lit and a dark side, and a base."""
        tip = self.of("nose_length", 0.18, 0.13)
        wide = self.of("nose_width", 0.085, 0.062)
        up = ((fy + 0.14) / (tip + 0.14)).clamp(0, 1)
        spread = wide * (0.35 + 0.65 * up * up)
        ridge = self.inside(torch.maximum(fy - tip, -fy - 0.14))
        angle = self._nuisance["light_angle"] * math.pi
        flank = (-(((fx + angle.cos() * spread * 0.7) / (spread * 0.6)) ** 2)).exp_() * ridge * face
        image = torch.lerp(image, skin * 0.55, (flank * 0.34).unsqueeze(1))
        base = self.ellipse(fx, fy - tip, wide, wide * 0.42) * face
        image = torch.lerp(image, skin * 0.74, (base * 0.55).unsqueeze(1))
        nostrils = self.ellipse(fx.abs() - wide * 0.52, fy - tip - wide * 0.14, wide * 0.27, wide * 0.17) * face
        return torch.lerp(image, skin * 0.25, (nostrils * 0.8).unsqueeze(1))

    def eyes(self, image: Tensor, fx: Tensor, fy: Tensor, hair: Tensor, skin: Tensor, face: Tensor) -> Tensor:
        """Eyes, brows and, for about a third of the people, glasses."""
        apart = self.of("eye_spacing", 0.225, 0.11)
        level = self.of("eye_height", -0.07, 0.13)
        half = self.of("eye_width", 0.098, 0.056)
        aspect = self.of("eye_opening", 0.50, 0.34)
        lids = (1 - 0.55 * (self.vary("eyelids", 1.0) - 0.35).clamp(min=0)).clamp(min=0.25)
        tilt = self.of("eye_tilt", 0.0, 0.55)
        mirrored = fx.abs() - apart  # both eyes at once: outwards is positive on either side
        ex, ey = mirrored, fy - level + tilt * mirrored
        socket = self.ellipse(ex, ey, half * 1.5, half * 1.25) * face
        image = torch.lerp(image, skin * 0.70, (socket * 0.40).unsqueeze(1))
        tall = half * aspect * lids
        white = self.ellipse(ex, ey, half, tall) * face
        image = torch.lerp(image, torch.tensor([0.93, 0.93, 0.92]).view(1, 3, 1, 1), white.unsqueeze(1))
        hue = self._raw["iris_colour"]
        iris_colour = torch.stack(
            [0.42 - 0.30 * hue, 0.22 + 0.28 * hue, 0.08 + 0.55 * hue], dim=1
        )  # brown, through green, to blue
        gx = (ex * fx.sign()) - self.vary("gaze_x", 0.030)
        gy = ey - self.vary("gaze_y", 0.016)
        radius = self.of("iris_size", 0.050, 0.026)
        iris = self.ellipse(gx, gy, radius, radius) * white
        image = torch.lerp(image, iris_colour, iris.unsqueeze(1))
        pupil = self.ellipse(gx, gy, radius * 0.45, radius * 0.45) * white
        image = torch.lerp(image, torch.tensor(0.03), pupil.unsqueeze(1))
        lid = self.inside((ey + tall).abs() - 0.013) * self.inside(ex.abs() - half) * face
        image = torch.lerp(image, hair * 0.35, (lid * 0.8).unsqueeze(1))

        thick = self.of("brow_thickness", 0.033, 0.040)
        gap = self.of("brow_gap", 0.155, 0.085) + self.vary("brow_raise", 0.025)
        slope = self.of("brow_tilt", 0.04, 0.56)
        by = fy - level + gap + slope * ex + 1.6 * ex * ex
        brow = self.inside(by.abs() - thick * (1.1 - 2.2 * ex.clamp(-0.2, 0.25))) * self.inside(ex.abs() - half * 1.45)
        image = torch.lerp(image, hair * 0.60, (brow * face * 0.92).unsqueeze(1))

        wears = (self._raw["glasses"] > 0.66).float()
        dark = ((self._raw["glasses"] - 0.66) / 0.34).clamp(0, 1)
        power = 2 + 3 * self._raw["glasses_shape"]  # round to square
        lens = 0.150 + 0.05 * self._raw["glasses_shape"]
        r = ((ex / (lens * 1.12)).abs().pow(power) + ((fy - level) / (lens * 0.92)).abs().pow(power)).pow(1 / power)
        rim = self.inside(((r - 1) * lens).abs() - 0.020)
        bridge = self.inside(torch.maximum((fy - level + 0.03).abs() - 0.014, fx.abs() - (apart - lens * 1.1)))
        frame = torch.maximum(rim, bridge) * wears
        tone = torch.stack([0.10 + 0.5 * dark, 0.09 + 0.2 * dark, 0.10 + 0.1 * dark], dim=1)
        return torch.lerp(image, tone, frame.unsqueeze(1))

    def occluder(self, image: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """A blurred bar (a hand, a scarf, a strand) across a part of the picture, in about one image of seven."""
        present = (self._nuisance["occluder"] > 1 - 0.3 * self.strength).float()
        angle = self._nuisance["occluder_angle"] * math.pi
        cx, cy = self._nuisance["occluder_x"] * 0.75, self._nuisance["occluder_y"] * 0.75
        along = (x - cx) * angle.cos() + (y - cy) * angle.sin()
        across = (y - cy) * angle.cos() - (x - cx) * angle.sin()
        bar = self.inside((across.abs() - 0.13) * 0.5) * self.inside((along.abs() - 0.42) * 0.5)
        tone = 0.45 + 0.35 * self._nuisance["occluder_tone"]
        colour = torch.stack([tone, tone * 0.86, tone * 0.78], dim=1)
        return torch.lerp(image, colour, (bar * present).unsqueeze(1))

    def camera(self, image: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Cast shadow, exposure, contrast, colour cast, blur and sensor noise."""
        angle = self._nuisance["shadow_angle"] * math.pi
        fall = (x * angle.cos() + y * angle.sin()) * (0.34 + 0.26 * self._nuisance["shadow_strength"]) * self.strength
        exposure = self.vary("exposure", 0.42) + 0.12 * self.shift
        gains = [
            (self.vary(f"cast_{part}", 0.27) + self.shift * bias + exposure).exp()
            for part, bias in (("red", 0.06), ("green", 0.0), ("blue", -0.08))
        ]
        image = image * torch.stack(gains, dim=1) * (1 + fall).clamp_(min=0.15).unsqueeze(1)
        contrast = (1 + self.vary("contrast", 0.30)).unsqueeze(1)
        image = ((image - 0.45) * contrast + 0.45).clamp_(0, 1)
        image = self.blur(image)
        sigma = (0.022 + 0.014 * self._nuisance["noise"]) * self.strength
        bank = _NOISE().unfold(1, self.size, 1).unfold(2, self.size, 1)
        ox = ((self._nuisance["noise_x"] * 0.5 + 0.5) * _BANK).long().clamp_(0, _BANK - 1).flatten()
        oy = ((self._nuisance["noise_y"] * 0.5 + 0.5) * _BANK).long().clamp_(0, _BANK - 1).flatten()
        return image.addcmul_(bank[:, oy, ox].transpose(0, 1), sigma.unsqueeze(1)).clamp_(0, 1)

    def blur(self, image: Tensor) -> Tensor:
        """A soft lens: mixes in the mean of the four neighbours at a distance that follows the size."""
        reach = max(1, round(self.size / 64))
        amount = (0.25 + 0.35 * self._nuisance["blur"] + 0.2 * self.shift).clamp(0, 0.8).unsqueeze(1)
        padded = torch.nn.functional.pad(image, (reach, reach, reach, reach), mode="replicate")
        size = self.size
        mean = padded[:, :, :size, reach : reach + size] + padded[:, :, 2 * reach :, reach : reach + size]
        mean += padded[:, :, reach : reach + size, :size]
        mean += padded[:, :, reach : reach + size, 2 * reach :]
        return torch.lerp(image, mean * 0.25, amount)


def _cached(make: Callable[[], Tensor]) -> Callable[[], Tensor]:
    store: list[Tensor] = []

    def get() -> Tensor:
        if not store:
            store.append(make())
        return store[0]

    return get


_NOISE = _cached(_noise_bank)
