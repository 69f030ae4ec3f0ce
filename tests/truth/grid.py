"""Latent and in-distribution radii of smooth generators, from a dense grid of latents."""

from __future__ import annotations

import numpy as np
import torch


class Grid:
    """The labels and images of a dense grid on the ball |z| <= reach, and where its edges cross a boundary.

    Edges are bisected, so the crossings lie on the boundary itself, `spacing` apart: the distance to a smooth boundary
    is then right to second order, and `radii` refines it along the boundary.
    """

    def __init__(self, generator, classifier, reach: float = 6.0, cells: int = 600):
        self.generator, self.classifier, self.reach = generator, classifier, reach
        self.dim, self.spacing = generator.latent_dim, 2 * reach / cells
        assert self.dim in (1, 2), "a dense grid needs a latent dimension of 1 or 2"
        axis = np.linspace(-reach, reach, cells + 1)
        mesh = np.stack(np.meshgrid(*[axis] * self.dim, indexing="ij"), axis=-1)
        shape = mesh.shape[:-1]
        flat = mesh.reshape(-1, self.dim)
        inside = np.linalg.norm(flat, axis=1) <= reach
        label = np.full(len(flat), -1)
        self.points = flat[inside]
        self.images, label[inside] = self.look(self.points)
        self.label = label[inside]
        label = label.reshape(shape)
        ends = []
        for way in range(self.dim):
            before, after = np.moveaxis(label, way, 0)[:-1], np.moveaxis(label, way, 0)[1:]
            crossed = (before != after) & (before >= 0) & (after >= 0)
            first, second = np.moveaxis(mesh, way, 0)[:-1][crossed], np.moveaxis(mesh, way, 0)[1:][crossed]
            ends += [(before[crossed], first, second), (after[crossed], second, first)]
        self.owner, inner, outer = (np.concatenate(column) for column in zip(*ends, strict=True))
        self.crossings = self.bisect(self.owner, inner, outer)
        self.crossing_images = self.look(self.crossings)[0]

    def look(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images (n, m) and labels (n,) of latents (n, d)."""
        images, labels = [], []
        with torch.no_grad():
            for part in np.array_split(z, len(z) // 100_000 + 1):
                x = self.generator(torch.from_numpy(np.ascontiguousarray(part)))
                images.append(x.flatten(1).numpy())
                labels.append(self.classifier(x).argmax(1).numpy())
        return np.concatenate(images), np.concatenate(labels)

    def bisect(self, owner: np.ndarray, inner: np.ndarray, outer: np.ndarray) -> np.ndarray:
        """Points of another label than `owner` next to the boundary, on the way from `inner` to `outer`."""
        for _ in range(28):
            middle = (inner + outer) / 2
            out = (self.look(middle)[1] != owner)[:, None]
            inner, outer = np.where(out, inner, middle), np.where(out, middle, outer)
        return outer

    def radii(self, z) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """r_Z (n,), r_in (n,) and their witnesses (n, d), over the ball; `inf` and NaN where it has one label."""
        z = z.detach().double().numpy()
        image, label = self.look(z)
        latent = self._least(label, z, self.crossings, False)
        inner = self._least(label, image, self.crossing_images, True)
        return latent[0], inner[0], latent[1], inner[1]

    def _least(self, label: np.ndarray, centres: np.ndarray, at: np.ndarray, in_image: bool, starts: int = 4):
        """The least distances (n,) from `centres`, whose crossings lie `at`, and their latents (n, d)."""
        rows, begins = [], []
        for row, centre in enumerate(centres):
            own = self.owner == label[row]
            near = _apart(self.crossings[own], np.linalg.norm(at[own] - centre, axis=1), 4 * self.spacing, starts)
            rows += [row] * len(near)
            begins.append(near)
        rows = np.array(rows, dtype=int)
        found = [(rows, *self._along(label[rows], np.concatenate(begins), centres[rows], in_image))]
        if in_image:
            # In the image, the nearest point of another label need not lie at a boundary.
            rows = np.array([row for row in range(len(label)) if (self.label != label[row]).any()], dtype=int)
            nearest = [self.points[self._image_lengths(label[row], centres[row]).argmin()] for row in rows]
            found.append((rows, *self._inside(label[rows], np.reshape(nearest, (-1, self.dim)), centres[rows])))
        best, witness = np.full(len(label), np.inf), np.full((len(label), self.dim), np.nan)
        for row, length, point in zip(*map(np.concatenate, zip(*found, strict=True)), strict=True):
            if length < best[row]:
                best[row], witness[row] = length, point
        return best, witness

    def _image_lengths(self, label: int, centre: np.ndarray) -> np.ndarray:
        return np.where(self.label != label, np.square(self.images - centre).sum(1), np.inf)

    def _lengths(self, label: np.ndarray, points: np.ndarray, centre: np.ndarray, in_image: bool) -> np.ndarray:
        """How far `points` (k, d) are from `centre` (k, d or m); `inf` where they keep `label` or leave the ball."""
        images, labels = self.look(points)
        length = np.linalg.norm((images if in_image else points) - centre, axis=1)
        return np.where((labels != label) & (np.linalg.norm(points, axis=1) <= self.reach), length, np.inf)

    def _along(self, label: np.ndarray, starts: np.ndarray, centre: np.ndarray, in_image: bool):
        """The least lengths (k,) near the crossings `starts` (k, d), sought along the boundary, and where they are."""
        best, at = self._lengths(label, starts, centre, in_image), starts.copy()
        if self.dim == 1 or not len(at):
            return best, at
        span, offsets, rows = 3 * self.spacing, np.linspace(-1, 1, 21), np.arange(len(at))
        label_of, centre_of = (np.repeat(entry, len(offsets), axis=0) for entry in (label, centre))
        for _ in range(6):
            normal = self._normal(label, at)
            tangent = normal[:, ::-1] * [1, -1]
            line = (at[:, None] + span * offsets[:, None] * tangent[:, None]).reshape(-1, 2)
            out = 2 * span * np.repeat(normal, len(offsets), axis=0)
            ends = self.bisect(label_of, line - out, line + out)
            length = self._lengths(label_of, ends, centre_of, in_image).reshape(len(at), -1)
            nearest = length.argmin(1)
            better = length[rows, nearest] < best
            at = np.where(better[:, None], ends.reshape(*length.shape, 2)[rows, nearest], at)
            best, span = np.minimum(best, length[rows, nearest]), span / 5
        return best, at

    def _normal(self, label: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Unit vectors (k, d) along which the margins of the classes `label` (k,) fall."""
        z, own = torch.from_numpy(points.copy()).requires_grad_(), torch.from_numpy(label)[:, None]
        logits = self.classifier(self.generator(z))
        margin = logits.scatter(1, own, -torch.inf).amax(1) - logits.gather(1, own)[:, 0]
        gradient = torch.autograd.grad(margin.sum(), z)[0].numpy()
        return gradient / np.linalg.norm(gradient, axis=1, keepdims=True).clip(1e-300)

    def _inside(self, label: np.ndarray, starts: np.ndarray, centre: np.ndarray):
        """The least image lengths (k,) around the grid points `starts`, and where they are."""
        at, span, rows = starts, 2 * self.spacing, np.arange(len(starts))
        mesh = np.stack(np.meshgrid(*[np.linspace(-1, 1, 21)] * self.dim, indexing="ij"), -1).reshape(-1, self.dim)
        label_of, centre_of = (np.repeat(entry, len(mesh), axis=0) for entry in (label, centre))
        for _ in range(6):
            points = at[:, None] + span * mesh
            length = self._lengths(label_of, points.reshape(-1, self.dim), centre_of, True).reshape(len(at), -1)
            nearest = length.argmin(1)
            at, best, span = points[rows, nearest], length[rows, nearest], span / 5
        return best, at


def _apart(points: np.ndarray, lengths: np.ndarray, gap: float, count: int) -> np.ndarray:
    """The `count` points of least length of which no two are nearer to each other than `gap`."""
    chosen, left = [], np.argsort(lengths)
    while len(left) and len(chosen) < count:
        chosen.append(left[0])
        left = left[np.linalg.norm(points[left] - points[left[0]], axis=1) > gap]
    return points[chosen]


def grid_radii(generator, classifier, z, reach: float = 6.0, cells: int = 600):
    """r_Z (n,), r_in (n,) and their witnesses (n, d) over |z'| <= reach, for a latent dimension of 1 or 2."""
    return Grid(generator, classifier, reach, cells).radii(z)
