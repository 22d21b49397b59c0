"""`boxwright bench op`: the call of `jobs.bench`."""

from __future__ import annotations

from collections.abc import Sequence

from boxwright.cli.flags import Parser
from boxwright.errors import UserError


def parser() -> Parser:
    made = Parser(
        "bench",
        "Measure what a module or a model costs: parameters, GFLOPs, memory, forward and backward time.",
        usage='%(prog)s op --op "Conv2d(64, 128, 3, padding=1)" --shape 1 64 80 80 [flags]',
    )
    made.add_argument("what", metavar="op", choices=("op",), help="op: any module or model")
    made.add_argument(
        "--op", metavar="MODULE", action="append", default=[], help="module of torch.nn or of ours; may be repeated"
    )
    made.add_argument(
        "--model", "--cfg", "--weights", dest="model", metavar="MODEL", default="", help="model or checkpoint"
    )
    made.add_argument(
        "--shape", metavar="N", nargs="+", type=int, default=[], help="sides of the input (default 1 3 640 640)"
    )
    made.add_argument("--repeats", metavar="N", type=int, default=10, help="timed passes (default 10)")
    made.add_argument(
        "--device", metavar="DEVICE", default="", help="cpu, or a GPU as 0 or cuda:0; none: the first GPU, else the CPU"
    )
    return made


def run(argv: Sequence[str]) -> int:
    given = parser().parse_strictly(argv)
    if given["repeats"] < 1:
        raise UserError(f"--repeats {given['repeats']}: at least one pass is timed")
    from boxwright.yolo.verbs.bench import bench_op

    return bench_op(
        given["op"],
        model=given["model"],
        shape=given["shape"],
        device=given["device"],
        repeats=given["repeats"],
    )
