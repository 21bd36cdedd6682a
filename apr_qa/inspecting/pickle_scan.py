"""What a pickle would import if somebody loaded it, read from its opcodes; nothing is ever loaded.

A pickle is a program: ``GLOBAL`` and its kin import a name, ``REDUCE`` calls it. Weights need a handful of
names, which are listed here; every other name counts against the file. A pickle that breaks off counts too,
because the machine that runs it obeys every opcode before the break. Opcodes: CPython's ``pickletools``.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from apr_qa.containers.file_access import first_bytes, is_file

SUFFIXES = frozenset((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".sav", ".pt2"))
MAX_OPCODES = 5_000_000
MAX_PICKLE_BYTES = 256 << 20
MAX_STREAMS = 16
"""Pickles one after another: PyTorch before 1.6 wrote five, then raw storage."""
MAX_MEMBERS = 1 << 16

_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool", "Untyped")
_QUANTISED = ("QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4", "ComplexFloat", "ComplexDouble")
HARMLESS = frozenset(
    {
        *(("torch", f"{kind}Storage") for kind in (*_STORAGES, *_QUANTISED)),
        *(("torch.storage", name) for name in ("UntypedStorage", "TypedStorage", "_LegacyStorage")),
        *(("torch._utils", f"_rebuild_{kind}") for kind in ("tensor", "tensor_v2", "tensor_v3", "parameter")),
        ("torch._utils", "_rebuild_parameter_with_state"),
        ("torch._utils", "_rebuild_qtensor"),
        ("torch._utils", "_rebuild_sparse_tensor"),
        ("torch._tensor", "_rebuild_from_type_v2"),
        *(("torch", name) for name in ("Size", "device", "dtype", "Tensor")),
        *(
            ("torch", name)
            for name in ("float32", "float16", "bfloat16", "float64", "int64", "int32", "uint8")
        ),
        *(("torch", name) for name in ("int8", "int16", "bool", "float8_e4m3fn", "float8_e5m2")),
        ("torch.nn.parameter", "Parameter"),
        ("torch.serialization", "_get_layout"),
        *(("collections", name) for name in ("OrderedDict", "defaultdict", "Counter")),
        *(("builtins", name) for name in ("set", "frozenset", "dict", "list", "int", "float", "complex")),
        *(("__builtin__", name) for name in ("set", "frozenset", "dict", "list", "complex")),
        *(("builtins", name) for name in ("bytearray", "slice", "tuple", "str", "bytes", "bool", "range")),
        ("_codecs", "encode"),
        *((module, "_reconstructor") for module in ("copy_reg", "copyreg")),
        *((module, "object") for module in ("__builtin__", "builtins")),
        *(
            (f"{numpy}.multiarray", name)
            for numpy in ("numpy.core", "numpy._core")
            for name in ("_reconstruct", "scalar")
        ),
        *(("numpy", name) for name in ("dtype", "ndarray", "float64", "float32", "int64", "bool_")),
        *(("numpy.dtypes", f"{name}DType") for name in ("Float64", "Float32", "Int64", "UInt32", "Bool")),
        *(("datetime", name) for name in ("datetime", "timedelta")),
        ("argparse", "Namespace"),
        *(("pathlib", name) for name in ("PosixPath", "PurePosixPath", "WindowsPath")),
        ("transformers.training_args", "TrainingArguments"),
        ("transformers.training_args", "OptimizerNames"),
        ("transformers.training_args", "ParallelMode"),
        ("transformers.training_args_seq2seq", "Seq2SeqTrainingArguments"),
        *(
            ("transformers.trainer_utils", name)
            for name in ("IntervalStrategy", "SchedulerType", "HubStrategy", "SaveStrategy", "FSDPOption")
        ),
        ("transformers.trainer_utils", "EvaluationStrategy"),
        ("transformers.trainer_pt_utils", "AcceleratorConfig"),
        ("accelerate.state", "PartialState"),
        ("accelerate.utils.dataclasses", "DistributedType"),
    }
)
"""What weights, optimizer states and the settings of a training are made of; calling any of it has no effect."""

_IMPORTS = frozenset(("GLOBAL", "INST"))
_EXTENSIONS = frozenset(("EXT1", "EXT2", "EXT4"))
_TEXTS = frozenset(
    ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING")
)
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
_OPAQUE = {b"7z\xbc\xaf": "a 7z archive", b"Rar!": "a RAR archive", b"\x1f\x8b": "gzip", b"BZh": "bzip2"} | {
    b"\xfd7zX": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"\x78\x9c": "zlib",
    b"\x78\x01": "zlib",
    b"\x78\xda": "zlib",
}
_TAR = (257, b"ustar")
_IDENTIFIER = re.compile(r"[A-Za-z_][\w.]{0,100}\.[A-Za-z_]\w{0,100}")
_PICKLED_NAME = re.compile(r"\.(?:pkl|pickle)$|(?:^|/)data\.pkl$", re.IGNORECASE)


@dataclass
class Pickled:
    """What was found in one file."""

    streams: int = 0
    suspicious: list[str] = field(default_factory=list)
    """``module.name`` of everything imported that weights do not need."""
    unreadable: str = ""
    """Why it could not be looked through to its end; empty if it was."""
    other: bool = False
    """It is no pickle and nothing that holds one."""


def scan(path: Path) -> Pickled:
    """Look through a file that may be a pickle, or an archive of pickles; nothing is executed or unpacked to disk."""
    found = Pickled()
    if not is_file(path):
        found.unreadable = "not a regular file"
        return found
    start = first_bytes(path, 512)
    opaque = next((what for magic, what in _OPAQUE.items() if start.startswith(magic)), "")
    if start[_TAR[0] :].startswith(_TAR[1]):
        opaque = "a tar archive"
    if opaque:
        found.unreadable = f"{opaque}, which hides what it holds"
    elif not start:
        found.other = True
    elif start.startswith(_ZIP_STARTS):
        _scan_archive(path, found)
    else:
        with path.open("rb") as handle:
            _scan_streams(handle, found, sure=start[:1] == b"\x80")
    found.suspicious = sorted(set(found.suspicious))
    return found


def _scan_archive(path: Path, found: Pickled) -> None:
    """Look through every pickle in a zip file, which is what ``torch.save`` writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                found.unreadable = f"an archive of {len(members)} files"
                return
            for member in members:
                _scan_member(archive, member, found)
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError, EOFError) as error:
        found.unreadable = f"a damaged archive: {error}"[:200]
    found.other = not found.streams and not found.unreadable


def _scan_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, found: Pickled) -> None:
    named = bool(_PICKLED_NAME.search(member.filename))
    if member.flag_bits & 1:
        found.unreadable = f"{member.filename[:80]} is encrypted"
        return
    with archive.open(member) as handle:
        start = handle.read(2)
    # A payload of weights may begin with any byte; only a second pickle header after the first tells.
    if not named and not (
        start[:1] == b"\x80" and start[1:2] in b"\x00\x01\x02\x03\x04\x05" and "/data/" not in member.filename
    ):
        return
    if member.file_size > MAX_PICKLE_BYTES:
        found.unreadable = f"{member.filename[:80]} unpacks to {member.file_size} bytes"
        return
    with archive.open(member) as handle:
        _scan_streams(io.BytesIO(handle.read(MAX_PICKLE_BYTES)), found, sure=True)


def _scan_streams(handle: IO[bytes], found: Pickled, *, sure: bool) -> None:
    """Look through the pickles at the beginning of a stream; what follows them is raw storage."""
    left = MAX_OPCODES
    for number in range(MAX_STREAMS):
        at = handle.tell()
        if number and handle.read(1) != b"\x80":
            return
        handle.seek(at)
        names = _Names()
        used, fault = _run(handle, names, left)
        left -= used
        plausible = sure or any(_IDENTIFIER.fullmatch(name) for name in names.imported)
        if fault and not plausible and not number:
            found.other = True  # bytes of another kind, some of which happen to be opcodes
            return
        found.streams += 1
        found.suspicious += names.imported
        if fault:
            found.unreadable = fault
            return


def _run(handle: IO[bytes], names: _Names, limit: int) -> tuple[int, str]:
    """Follow the opcodes of one pickle; return how many, and why they cannot be followed to the end."""
    used = 0
    try:
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], _Bounded(handle))):
            used += 1
            if used > limit:
                return used, f"more than {MAX_OPCODES} opcodes"
            names.follow(opcode.name, argument)
    except (ValueError, EOFError, OverflowError, UnicodeError, AttributeError, IndexError) as error:
        return used, f"a broken pickle: {error}"[:200]
    return used, ""


class _Bounded:
    """A stream that gives no more at once than a pickle of weights needs, whatever the pickle asks for."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self.tell = handle.tell
        at = handle.tell()
        self._end = handle.seek(0, 2)
        handle.seek(at)

    def read(self, count: int) -> bytes:
        if count > MAX_PICKLE_BYTES:
            raise ValueError(f"an item of {count} bytes")
        # A buffered reader allocates what it is asked for, not what is there.
        return self._handle.read(min(count, self._end - self._handle.tell()))

    def readline(self) -> bytes:
        return self._handle.readline(1 << 16)


class _Names:
    """The texts on the stack, as far as importing needs them, and the names that were imported."""

    def __init__(self) -> None:
        self.imported: list[str] = []
        self._texts: list[str | None] = []
        self._memo: dict[int, str | None] = {}

    def follow(self, opcode: str, argument: Any) -> None:
        """Take note of one opcode."""
        if opcode in _IMPORTS:
            module, _, name = str(argument).partition(" ")
            self._import(module, name)
        elif opcode == "STACK_GLOBAL":
            self._import(*self._last_two())
        elif opcode in _EXTENSIONS:
            self.imported.append(f"extension {argument}")
        elif opcode in _TEXTS:
            self._push(str(argument))
        elif opcode in _PUTS or opcode == "MEMOIZE":
            number = len(self._memo) if opcode == "MEMOIZE" else int(argument)
            self._memo[number] = self._texts[-1] if self._texts else None
        elif opcode in _GETS:
            self._push(self._memo.get(int(argument)))
        elif opcode not in ("PROTO", "FRAME", "STOP"):
            self._push(None)

    def _push(self, text: str | None) -> None:
        self._texts = [*self._texts[-3:], text]

    def _last_two(self) -> tuple[str, str]:
        module, name = [None, None, *self._texts][-2:]
        # A name that is computed, or whose place on the stack is not plain to see, is hidden on purpose.
        return module or "?", name or "?"

    def _import(self, module: str, name: str) -> None:
        self._push(None)
        if (module, name) not in HARMLESS:
            self.imported.append(f"{module}.{name}"[:120])
