"""The opcodes of cuTile's final IR and their fields, as of cuda-tile 1.7.

`opcode: operands / attributes / blocks`. A test compares this table with the classes of the
installed cuda-tile, and with the handlers: a new opcode, or a field that came, went or changed its
name, fails there and not inside a kernel.
"""

from __future__ import annotations

from typing import NamedTuple


class Fields(NamedTuple):
    """Names of what an op has."""

    operands: tuple[str, ...]
    attributes: tuple[str, ...]
    blocks: tuple[str, ...]


CUDA_TILE = "1.7"
"""The version whose IR this is."""

TABLE = """
address_space_cast: pointer / /
assert: cond / message /
assign: value / /
assume_bounded: x / lower_bound upper_bound /
assume_div_by: x / divisor /
break: values / /
continue: values / /
end_branch: outputs / /
fma: lhs rhs acc / rounding_mode flush_to_zero /
foreign_pointer_cast: pointer / /
get_array_list_item: x index / /
grid_dependency_control_launch_dependents: token / /
grid_dependency_control_wait: token / /
ifelse: cond / / then_block else_block
join_tokens: tokens / /
load_pointer: pointer mask padding_value token / latency /
loop: start stop step initial_values / / body
make_dummy: / /
make_gather_scatter_view: array / /
make_list_view: base_ptr length / /
make_partition_view: array / /
make_strided_view: array / /
make_tensor_view: base_ptr shape strides / /
make_token: / /
num_tiles: view / /
pointer_offset: pointer offset / /
raw_binary_arith: lhs rhs / fn rounding_mode flush_to_zero propagate_nan /
raw_binary_bitwise: lhs rhs / fn /
raw_bitwise_shift: lhs rhs / fn /
raw_cmp: lhs rhs / fn /
raw_fpowi: base exponent / /
raw_where: cond x y / /
reinterpret_pointer: pointer / /
return: / /
store_pointer: pointer value mask token / latency /
tile_arange: / /
tile_astype: x / rounding_mode /
tile_atomic_cas: pointer expected desired mask token / memory_order memory_scope /
tile_atomic_red_view: view index update token / mode memory_order memory_scope /
tile_atomic_rmw: pointer update mask token / mode memory_order memory_scope /
tile_bid: / axis /
tile_bitcast: x / /
tile_broadcast: x / /
tile_cat: x y / axis /
tile_extract: x index / shape /
tile_insert: x value index / /
tile_load: view index token / latency allow_tma memory_order memory_scope inbounds /
tile_mma: x y acc / use_fast_acc /
tile_mma_scaled: x x_scale y y_scale acc / /
tile_num_blocks: / axis /
tile_pack: x / /
tile_permute: x / axes /
tile_printf: args token / format /
tile_reduce: xs / identities axis / body
tile_reshape: x / /
tile_scan: xs / axis reverse identities / body
tile_store: view index tile token / latency allow_tma memory_order memory_scope inbounds /
tile_unpack: x / /
typed_const: / value /
unaryop: operand / fn rounding_mode flush_to_zero /
"""


ENUMS: dict[str, tuple[str, ...]] = {
    "RoundingMode": ("RN", "RZ", "RM", "RP", "RA", "FULL", "APPROX", "RZI"),
    "PaddingMode": ("UNDETERMINED", "ZERO", "NEG_ZERO", "NAN", "POS_INF", "NEG_INF"),
    "MemoryOrder": ("WEAK", "RELAXED", "ACQUIRE", "RELEASE", "ACQ_REL"),
    "AtomicRMWMode": (
        "BITWISE_AND",
        "BITWISE_OR",
        "BITWISE_XOR",
        "ADD_INT",
        "ADD_FLOAT",
        "MAX_SIGNED_INT",
        "MIN_SIGNED_INT",
        "MAX_UNSIGNED_INT",
        "MIN_UNSIGNED_INT",
        "EXCHANGE",
    ),
}
"""Members of the enumerations that attributes take their values from."""

TYPES: dict[str, tuple[str, ...]] = {
    "PartitionViewTy": ("array_ty", "tile_shape", "order", "padding_mode"),
    "StridedViewTy": ("array_ty", "tile_shape", "traversal_steps", "order", "padding_mode"),
    "GatherScatterViewTy": ("array_ty", "tile_shape", "sparse_dim", "padding_mode"),
    "LeafAnnotationNode": ("constant", "scalar", "array", "list"),
    "HomogeneousTupleNode": ("each",),
    "HeterogeneousTupleNode": ("items",),
}
"""Fields of the types of views, and of what parameters are annotated with."""


def _parse(table: str) -> dict[str, Fields]:
    found = {}
    for line in table.split("\n"):
        if line:
            opcode, _, rest = line.partition(":")
            operands, attributes, blocks = (tuple(part.split()) for part in rest.split("/"))
            found[opcode] = Fields(operands, attributes, blocks)
    return found


OPCODES = _parse(TABLE)
