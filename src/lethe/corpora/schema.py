"""The row form of the input data."""

import pyarrow as pa

# FineWeb's nine columns, in its order (FineWeb data card, "Data Fields").
FINEWEB = pa.schema(
    [
        ("text", pa.string()),
        ("id", pa.string()),
        ("dump", pa.string()),
        ("url", pa.string()),
        ("date", pa.string()),
        ("file_path", pa.string()),
        ("language", pa.string()),
        ("language_score", pa.float64()),
        ("token_count", pa.int64()),
    ]
)
