"""Packed initializers survive the file."""

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from autocompress.compress.packed import packed_tensor
from autocompress.core.layer_rules import STORED_BITS


@given(st.data(), st.sampled_from([2, 3, 4, 6, 8]), hnp.array_shapes(min_dims=1, max_dims=4, max_side=5))
@settings(max_examples=80, deadline=None)
def test_integers_come_back_from_the_file(data: st.DataObject, bits: int, shape: tuple[int, ...]) -> None:
    bounds, kind = data.draw(
        st.sampled_from([((-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), np.int8), ((0, 2**bits - 1), np.uint8)])
    )
    values = data.draw(hnp.arrays(kind, shape, elements=st.integers(*bounds)))
    content = ir.to_proto(packed_tensor(values, bits, "w")).SerializeToString()
    proto = onnx.TensorProto.FromString(content)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(proto).astype(kind), values)
    assert len(proto.raw_data) == -(-values.size * STORED_BITS[bits] // 8)
