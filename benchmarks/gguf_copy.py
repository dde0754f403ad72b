"""Write a GGUF file's weights in one format, for llama.cpp's server.

    python -m benchmarks.gguf_copy SOURCE TARGET FORMAT

`FORMAT` is one of gguf's names, as BF16 or Q8_0. Vectors stay in float32, as in llama.cpp's own conversion.
The interpreter needs the package `gguf`, which is of the same project as llama.cpp.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np


def main() -> None:
    """Run the command line."""
    source, target, format_name = sys.argv[1:]
    copy(Path(source), Path(target), gguf.GGMLQuantizationType[format_name])


def copy(source: Path, target: Path, data_format: gguf.GGMLQuantizationType) -> None:
    """Write `source` to `target` with all matrices in `data_format`."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, str(architecture))
    # The writer writes these fields by itself.
    own = {"general.architecture", "general.file_type"}
    for name, field in reader.fields.items():
        if name not in own and not name.startswith("GGUF."):
            nested = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], nested)
    writer.add_file_type(int(gguf.LlamaFileType[f"MOSTLY_{data_format.name}"]))
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        kept = gguf.GGMLQuantizationType.F32 if values.ndim == 1 else data_format
        writer.add_tensor(tensor.name, gguf.quantize(np.ascontiguousarray(values), kept), raw_dtype=kept)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
