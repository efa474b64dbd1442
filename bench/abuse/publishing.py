"""Attacks with keys that may publish adapters and store compositions."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors.torch import load, save

import zoo
from bench.abuse.attack import Attack

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_ADAPTER_MIB = 16
"""`--max-adapter-mib` of the attacked server."""


def publishing_attacks() -> Iterator[Attack]:
    """Yield all attacks on publishing; none may change what the server serves."""
    for name, data in _archives():
        yield Attack(
            f"publish {name}",
            "/v1/adapters/evil",
            data,
            "PUT",
            key="publisher",
            headers={"Content-Type": "application/octet-stream"},
        )
    for source in (
        *(
            "../../../etc",
            "/etc/passwd",
            "/",
            ".",
            "",
            "polite/../../..",
            "file:///etc",
            "x" * 100_000,
        ),
        *("http://127.0.0.1:9/a.zip", "hf://evil/model", "s3://evil/a", "polite\0", "https://[::1"),
    ):
        yield Attack(
            f"publish from {source[:40]!r}",
            "/v1/adapters/evil",
            {"source": source},
            "PUT",
            "publisher",
        )
    bodies: tuple[object, ...] = (
        {"merge": {"method": "sum", "adapters": [{"model": "polite"}] * 10_000}},
        {"merge": {"method": "sum", "adapters": ["polite"], "weights": [1e308]}},
        {"merge": {"method": "ties", "adapters": ["polite", "rude"], "density": float("nan")}},
        {"merge": {"method": "svd", "adapters": ["polite", "rude"], "rank": 2**40}},
        {"extract": {"model": "/etc"}},
        {"patch": {"adapter": "polite", "base": "../.."}},
        {"source": "polite", "merge": {}},
        {},
        [],
    )
    for body in bodies:
        yield Attack(f"publish {str(body)[:60]}", "/v1/adapters/evil", body, "PUT", "publisher")
    for alias in ("base", "auto", "..%2f..%2fx", "x" * 5_000, "a%00b", "chat+polite", "%0d%0aX: 1"):
        yield Attack(
            f"publish as {alias[:30]}",
            f"/v1/adapters/{alias}",
            {"source": "polite"},
            "PUT",
            "publisher",
        )
    yield Attack(
        "both files in one field", "/v1/adapters/evil", *_form(("file", CONFIG), ("file", CONFIG))
    )
    yield Attack("a form of 5,000 fields", "/v1/adapters/evil", *_form(*[("a", "b")] * 5_000))
    policy = {"keys": ["0" * 64] * 100_000}
    yield Attack("a policy of others", "/v1/adapters/polite/policy", policy, "PUT", "publisher")
    yield from _stored()


def _stored() -> Iterator[Attack]:
    path = "/v1/compositions/"
    plain: dict[str, Any] = {"members": [{"model": "chat"}]}
    stored: dict[str, object] = {
        "base": plain,
        "chat": plain,
        "..%2f..%2fetc": plain,
        "x" * 5_000: plain,
        "a%00b": plain,
        "endless": {"recipe": "endless"},
        "large": {"members": [{"model": "chat", "prompt": "x" * 30_000_000}]},
        "deep": json.loads("[" * 500 + "]" * 500),
        "unknown": {"members": [{"model": "nobody"}]},
        "secret": {"members": [{"model": "secret"}]},
    }
    for name, body in stored.items():
        yield Attack(
            f"store {name[:20]}", path + name, body, "PUT", "composer", harmless=name == "unknown"
        )
    yield Attack("delete another's", path + "none", None, "DELETE", "composer")


def _archives() -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of adapters that must be refused."""
    config = json.loads((zoo.ADAPTERS["polite"] / CONFIG).read_text(encoding="utf-8"))
    weights = (zoo.ADAPTERS["polite"] / WEIGHTS).read_bytes()
    tensors = load(weights)
    first = next(iter(tensors))

    def changed(value: float) -> bytes:
        return save({**tensors, first: torch.full_like(tensors[first], value)})

    for alpha in (1e308, 1e30, -1e308, float("inf"), float("nan"), 10**400):
        yield f"lora_alpha {str(alpha)[:10]}", packed({**config, "lora_alpha": alpha}, weights)
    for value in (float("nan"), float("inf"), 3e38, 1e20):
        yield f"weights of {value}", packed(config, changed(value))
    fields: dict[str, object] = {
        "r": 2**40,
        "target_modules": ["x"] * 100_000,
        "rank_pattern": {"(a+)+$": 7, "(" * 100: 1},
        "alpha_pattern": {"q_proj": 1e300},
        "peft_type": "PROMPT_TUNING",
        "modules_to_save": ["lm_head"],
        "use_dora": True,
    }
    for name, wrong in fields.items():
        yield f"{name} {str(wrong)[:20]}", packed({**config, name: wrong}, weights)
    header = struct.pack("<Q", 2**62)
    yield "weights with a header of 2**62", packed(config, header + b"{}")
    yield "weights that are not safetensors", packed(config, b"hello")
    yield "a pickle", packed(config, b"\x80\x04\x95cos\nsystem\n(S'true'\ntR.")
    huge = json.dumps(
        {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}
    ).encode()
    yield "weights of 2**80", packed(config, struct.pack("<Q", len(huge)) + huge + b"0000")
    yield (
        "a config that is deep",
        zipped({CONFIG: b"[" * 100_000 + b"]" * 100_000, WEIGHTS: weights}),
    )
    yield "a config of 10 MB", packed({**config, "x": "y" * 10_000_000}, weights)
    bomb = zipped({CONFIG: json.dumps(config).encode(), WEIGHTS: bytes(400 << 20)})
    yield "a zip that unpacks to 400 MiB", bomb
    yield "a zip that climbs", zipped({"../" + CONFIG: b"{}", WEIGHTS: weights})
    yield "100,000 members", zipped({f"f{i}": b"" for i in range(100_000)})
    yield "a tar with a link", _tar_with_link(weights)
    yield "nothing", b""
    yield "20 MiB of zeros", bytes(20 << 20)


def packed(config: Mapping[str, Any], weights: bytes) -> bytes:
    """Return an adapter as a zip."""
    return zipped({CONFIG: json.dumps(config).encode(), WEIGHTS: weights})


def zipped(files: Mapping[str, bytes]) -> bytes:
    """Return a zip of these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _tar_with_link(weights: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo(CONFIG)
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        member = tarfile.TarInfo(WEIGHTS)
        member.size = len(weights)
        archive.addfile(member, io.BytesIO(weights))
    return buffer.getvalue()


def _form(*fields: tuple[str, str]) -> tuple[bytes, str, str, dict[str, str]]:
    """Return body, method, key and headers of a form whose fields hold small files."""
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n\r\n{{}}\r\n'
        for name, file in fields
    ]
    content_type = {"Content-Type": "multipart/form-data; boundary=x"}
    return ("".join(parts) + "--x--\r\n").encode(), "PUT", "publisher", content_type
