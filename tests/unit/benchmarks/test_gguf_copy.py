"""Tests of the GGUF file that llama.cpp's contestant reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest

from benchmarks.gguf_copy import copy

if TYPE_CHECKING:
    from pathlib import Path

MATRIX = np.linspace(-1.0, 1.0, 64 * 2, dtype=np.float32).reshape(2, 64)
VECTOR = np.linspace(0.9, 1.1, 64, dtype=np.float32)


def write_source(file: Path) -> None:
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(2048)
    writer.add_token_list(["<s>", "a"])
    writer.add_tensor("blk.0.attn_q.weight", MATRIX)
    writer.add_tensor("output_norm.weight", VECTOR)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(("name", "largest_error"), [("BF16", 2**-8), ("Q8_0", 2**-7)])
def test_a_copy_has_the_same_fields_and_nearly_the_same_values(
    tmp_path: Path, name: str, largest_error: float
) -> None:
    write_source(tmp_path / "source.gguf")
    copy(tmp_path / "source.gguf", tmp_path / "target.gguf", gguf.GGMLQuantizationType[name])
    reader = gguf.GGUFReader(tmp_path / "target.gguf")
    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["llama.context_length"].contents() == 2048
    assert reader.fields["tokenizer.ggml.tokens"].contents() == ["<s>", "a"]
    tensors = {each.name: each for each in reader.tensors}
    matrix, vector = tensors["blk.0.attn_q.weight"], tensors["output_norm.weight"]
    assert matrix.tensor_type.name == name
    assert vector.tensor_type.name == "F32"
    values = gguf.dequantize(matrix.data, matrix.tensor_type)
    assert np.abs(values - MATRIX).max() <= largest_error
    assert np.array_equal(gguf.dequantize(vector.data, vector.tensor_type), VECTOR)
