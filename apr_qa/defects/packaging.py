"""Files that are cut, padded, lost, misnamed or silent about where they came from."""

from __future__ import annotations

import functools
from typing import Any

from apr_qa.defects import Inexpressible, Plant, Specimen
from apr_qa.defects._editing import editing, opened, planted
from apr_qa.defects._editing_safetensors import SafetensorsImage
from apr_qa.defects._weight_file import weights

_ALL = ("safetensors", "gguf", "apr")
_FOLDER = ("safetensors",)

_planted = functools.partial(planted, "packaging")


def _cut(share: float, least: int) -> Plant:
    def plant(specimen: Specimen) -> None:
        file = weights(specimen)
        size = file.stat().st_size
        with file.open("r+b") as handle:
            handle.truncate(size - max(least, int(size * share)))

    return plant


for _name, _share, _least, _said in (
    ("truncated-file-tail", 0.1, 1, "the last tenth of a file is missing"),
    ("truncated-by-a-few-bytes", 0.0, 96, "the last 96 bytes of a file are missing"),
    ("truncated-in-the-header", 0.999, 1, "nearly all of a file is missing"),
):
    _planted(
        _name,
        _ALL,
        "paiml/aprender#658, ggml-org/llama.cpp#6885, Comfy-Org/ComfyUI#6744",
        description=_said,
    )(_cut(_share, _least))


def _emptied(begin: float, end: float) -> Plant:
    def plant(specimen: Specimen) -> None:
        image = opened(specimen)
        file = weights(specimen)
        held = [stored for stored in image.tensors.values() if stored.file == file]
        start = min(stored.offset for stored in held)
        stop = max(stored.offset + stored.size for stored in held)
        first, last = (start + int((stop - start) * share) for share in (begin, end))
        with file.open("r+b") as handle:
            handle.seek(first)
            left = last - first
            while left:
                piece = min(left, 1 << 20)
                handle.write(bytes(piece))
                left -= piece
        if specimen.format == "apr":
            _seal(image)

    return plant


def _seal(image: Any) -> None:
    from apr_qa.defects._editing_apr import seal

    if image.footer:
        seal(image.path)


for _name, _begin, _end, _said in (
    ("published-file-half-size", 0.5, 1.0, "the second half of a file never arrived and is zero"),
    ("file-with-a-hole", 0.501, 0.53, "a piece in the middle of a file never arrived and is zero"),
):
    _planted(_name, _ALL, "microsoft/BitNet#608", description=_said)(_emptied(_begin, _end))


@_planted("missing-shard", _FOLDER, "Neph0s/CoSER#3")
def _no_shard(specimen: Specimen) -> None:
    """The index names a file that is not there."""
    image = opened(specimen)
    if not isinstance(image, SafetensorsImage) or not specimen.path.is_dir():
        raise Inexpressible("needs a folder")
    if len(image.shards) == 1:
        names = [image.folder / f"model-{n:05d}-of-00002.safetensors" for n in (1, 2)]
        image.split(names)
        names[1].unlink()
    else:
        image.shards[-1].unlink()


def _without(*names: str) -> Plant:
    def plant(specimen: Specimen) -> None:
        if not specimen.path.is_dir():
            raise Inexpressible("needs a folder")
        present = [specimen.path / name for name in names if (specimen.path / name).is_file()]
        if not present:
            raise Inexpressible(f"needs {names[0]}")
        for file in present:
            file.unlink()

    return plant


_COMPANIONS = "paiml/aprender#198, paiml/aprender#182"
_planted("companion-files-missing", _FOLDER, _COMPANIONS, description="config.json is not shipped")(
    _without("config.json")
)
_planted("companion-tokenizer-missing", _FOLDER, _COMPANIONS, description="tokenizer.json is not shipped")(
    _without("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
)


def _replaced(content: bytes) -> Plant:
    def plant(specimen: Specimen) -> None:
        weights(specimen).write_bytes(content)

    return plant


for _name, _content, _said in (
    (
        "extension-or-magic-mismatch",
        b'{"version": "1.0", "truncation": null}\n',
        "the file is a JSON document",
    ),
    (
        "extension-of-a-page",
        b"<!DOCTYPE html><html><body>Not found</body></html>\n",
        "the file is a page of a server",
    ),
    (
        "extension-of-a-pointer",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 269060552\n",
        "the file is a pointer to another one",
    ),
    ("extension-of-nothing", b"", "the file is empty"),
):
    _planted(_name, _ALL, "paiml/aprender#196, paiml/aprender#2394", description=_said)(_replaced(_content))


@_planted("provenance-missing", ("apr",), "paiml/aprender#3910", expected="warn")
def _no_origin(specimen: Specimen) -> None:
    """Nothing records what the file was made from."""
    with editing(specimen) as image:
        held: Any = image
        for key in ("lineage", "source", "original_format", "provenance"):
            held.metadata.pop(key, None)
